"""adapt: learn from the simulator, then from what that says about unlabelled real frames."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log, progress_line
from components.learning import LearningParameters, read_frames, write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class AdaptParameters(LearningParameters):
    """Say how the two networks are trained and what becomes a pseudo-label."""

    pseudo_frames: int  # unlabelled real frames that get pseudo-labels
    student_epochs: int  # the network goes on for these with pseudo-labelled frames beside the simulator's
    keep_share: float = 0.6  # of each class the most confident share of its pixels becomes a pseudo-label
    minimum_confidence: float = 0.5  # and none below this

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pseudo_frames >= 1, "pseudo_frames", self.pseudo_frames, "must be at least 1")
        require(self.student_epochs >= 1, "student_epochs", self.student_epochs, "must be at least 1")
        require(0 < self.keep_share <= 1, "keep_share", self.keep_share, "must lie in (0, 1]")
        require(0 <= self.minimum_confidence < 1, "minimum_confidence", self.minimum_confidence, "must lie in [0, 1)")


def run(inputs: Paths, outputs: Paths, parameters: AdaptParameters) -> None:
    """Train on the simulator, pseudo-label real frames, train on both; write networks, pseudo-labels and figures."""
    from perception.adaptation.pseudo_pass import label_frames, write_pseudo_folder
    from perception.data.store import open_store
    from perception.metrics.confusion import mean_iou
    from perception.models.checkpoint import save_network
    from perception.models.erfnet import ERFNet
    from perception.training.loop import evaluate_segmentation

    parameters.prepare()
    folder, frames = outputs.one("adaptation"), read_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    test = parameters.frame_set(frames[frames.split == "test"])
    network = seeded(lambda: ERFNet(len(parameters.class_names()), width=parameters.network_width), parameters.seed)
    history = parameters.train(network, parameters.frame_set(simulator), what="adapt: simulator")
    confusion_source = evaluate_segmentation(network, test, parameters.batch_frames)
    save_network(network, folder / "source_only.safetensors", {"trained_on": "simulator"})

    pseudo = label_frames(
        network,
        parameters.frame_set(_to_label(frames, parameters), labels_required=False),
        open_store(parameters.store),
        keep_share=parameters.keep_share,
        minimum_confidence=parameters.minimum_confidence,
        batch_frames=parameters.batch_frames,
        progress=progress_line("adapt: pseudo-labels"),
    )
    write_pseudo_folder(pseudo, folder)
    figures = _precision(network, inputs, pseudo, parameters)
    together = parameters.frame_set(_concat(simulator, pseudo.manifest))
    history += parameters.train(network, together, epochs=parameters.student_epochs, seed_offset=1, what="adapt: with pseudo-labels")
    confusion_pseudo = evaluate_segmentation(network, test, parameters.batch_frames)
    save_network(network, folder / "student.safetensors", {"trained_on": "simulator and pseudo-labels"})
    figures |= {"miou_source_only": mean_iou(confusion_source), "miou_fused": None, "miou_pseudo": mean_iou(confusion_pseudo)}
    write_json(folder / "adaptation.json", figures | {"history": [record.loss for record in history]})
    log(f"mIoU on the test set: simulator alone {figures['miou_source_only']:.3f}, with pseudo-labels {figures['miou_pseudo']:.3f}")
