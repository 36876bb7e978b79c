"""adapt: learn from the simulator, then from what that says about unlabelled real frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log, progress_line
from components.learning import LearningParameters, by_name, curated_training_frames, read_frames, seeded, write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd

    from perception.adaptation.label_pool import PseudoLabelled


COLLAPSED_RATIO = 0.1  # a class has collapsed when its share falls below this part of the source's


@dataclass(frozen=True, kw_only=True)
class AdaptParameters(LearningParameters):
    """Say how the two networks are trained and what becomes a pseudo-label."""

    pseudo_frames: int  # unlabelled real frames that get pseudo-labels
    student_epochs: int  # the network goes on for these with pseudo-labelled frames beside the simulator's
    kept_share: float = 0.6  # of each class the most confident share of its pixels becomes a pseudo-label
    highest_threshold: float = 0.9  # confidence that always suffices, so that a class which is sure keeps more

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pseudo_frames >= 1, "pseudo_frames", self.pseudo_frames, "must be at least 1")
        require(self.student_epochs >= 1, "student_epochs", self.student_epochs, "must be at least 1")
        require(0 < self.kept_share <= 1, "kept_share", self.kept_share, "must lie in (0, 1]")
        require(0 < self.highest_threshold <= 1, "highest_threshold", self.highest_threshold, "must lie in (0, 1]")


def run(inputs: Paths, outputs: Paths, parameters: AdaptParameters) -> None:
    """Train on the simulator, pseudo-label real frames, train on both; write networks, pseudo-labels and figures."""
    import pandas as pd

    from perception.models.checkpoint import save_network

    parameters.prepare()
    folder, frames = outputs.one("adaptation"), read_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    test = frames[frames.split == "test"].reset_index(drop=True)
    network = seeded(parameters.new_network, parameters.seed)
    history = parameters.train(network, parameters.frame_set(simulator), what="adapt: simulator alone")
    save_network(network, folder / "source_only.safetensors", {"trained_on": "simulator"})
    figures: dict[str, Any] = {"miou_source_only": parameters.miou(network, test), "miou_fused": None}

    pseudo = _pseudo_label(network, frames, folder, parameters)
    figures |= _quality(network, pseudo, inputs, parameters)
    figures |= {"collapsed_classes": _collapsed(pseudo, _class_shares(frames, parameters), parameters)}

    together = parameters.frame_set(pd.concat([simulator, pseudo.manifest], ignore_index=True))
    history += parameters.train(
        network, together, epochs=parameters.student_epochs, seed_offset=1, what="adapt: with pseudo-labels"
    )
    save_network(network, folder / "student.safetensors", {"trained_on": "simulator and pseudo-labels"})
    figures |= {"miou_pseudo": parameters.miou(network, test), "loss": [record.loss for record in history]}
    write_json(folder / "adaptation.json", figures)
    log(
        f"mIoU on the test set: simulator alone {figures['miou_source_only']:.3f}, with pseudo-labels {figures['miou_pseudo']:.3f}"
    )


def _pseudo_label(network: Any, frames: "pd.DataFrame", folder: Path, parameters: AdaptParameters) -> "PseudoLabelled":
    """Label a random part of the pool, write the manifest of it and the table that the gate judges."""
    from perception.adaptation.label_pool import label_frames
    from perception.data.manifest import write_manifest
    from perception.data.store import open_store

    pool = frames[frames.split == "pool"]
    rows = pool.sample(min(parameters.pseudo_frames, len(pool)), random_state=parameters.seed).sort_values(
        "frame_id", ignore_index=True
    )
    pseudo = label_frames(
        network,
        parameters.frame_set(rows, labels_required=False),
        rows,
        open_store(parameters.store),
        kept_share=parameters.kept_share,
        highest_threshold=parameters.highest_threshold,
        batch_frames=parameters.batch_frames,
        progress=progress_line("adapt: pseudo-labels"),
    )
    (folder / "pseudo").mkdir()
    write_manifest(pseudo.manifest, folder / "pseudo" / "manifest.parquet")
    pseudo.table.to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"reference_class_share": _class_shares(frames, parameters)})
    return pseudo


def _class_shares(frames: "pd.DataFrame", parameters: AdaptParameters) -> dict[str, float]:
    """Return the share of every class in the simulator's labels, which taught the network that gives the pseudo-labels."""
    from perception.adaptation.pseudo import class_prior
    from perception.data.loading import pixel_counts

    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    shares = class_prior(pixel_counts(parameters.frame_set(simulator)))
    return dict(zip(parameters.class_names(), shares.tolist(), strict=True))


def _collapsed(pseudo: "PseudoLabelled", reference: dict[str, float], parameters: AdaptParameters) -> list[str]:
    """Name the classes that the source labels hold and the pseudo-labels have all but lost."""
    from perception.adaptation.pseudo import class_prior, collapsed_classes

    names = parameters.class_names()
    counts = [int(pseudo.table[f"px_{name}"].sum()) for name in names]
    if not sum(counts):
        return [name for name, share in reference.items() if share > 0]
    lost = collapsed_classes([reference[name] for name in names], class_prior(counts), COLLAPSED_RATIO)
    return [names[index] for index in lost]


def _quality(network: Any, pseudo: "PseudoLabelled", inputs: Paths, parameters: AdaptParameters) -> dict[str, Any]:
    """Measure the pseudo-labels where the truth is known: on the curated frames, which the network has not learned from."""
    from perception.adaptation.label_pool import measure_quality

    curated = parameters.frame_set(curated_training_frames(inputs))
    quality = measure_quality(network, curated, pseudo.thresholds, parameters.batch_frames)
    names = parameters.class_names()
    return {
        "pseudo_frames": len(pseudo.manifest),
        "pseudo_coverage": quality.coverage,
        "pseudo_precision": quality.precision,
        "coverage_by_class": by_name(names, quality.coverage_by_class),
        "precision_by_class": by_name(names, quality.precision_by_class),
        "threshold_by_class": by_name(names, pseudo.thresholds),
    }


STAGE = Stage(
    name="adapt",
    summary="Learn from the simulator, then from confident predictions on unlabelled real frames.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames: simulator, pool and test set"),
        Port(name="curated", kind="version", about="the curated frames: known labels to measure pseudo-labels against"),
    ),
    outputs=(
        Port(name="adaptation", kind="network", about="both networks, the pseudo-labelled frames and their quality"),
    ),
    parameters=AdaptParameters,
    needs=Needs(
        image="torch",
        loads="torch",
        cpu_cores=2,
        memory_gib=8,
        gpu_count=1,
        timeout_minutes=480,
        shared_memory_gib=8,
        distributed=True,
    ),
    run=run,
)
