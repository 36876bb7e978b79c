"""adapt: learn from the simulator, then from what that says about unlabelled real frames."""

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import (
    LearningParameters,
    best_device,
    curated_training_frames,
    read_frames,
    seeded,
    training_state,
    write_json,
)
from components.stage.parameters import require
from components.stage.records import log, progress_line

if TYPE_CHECKING:
    import pandas as pd

    from components.adapt.figures import LabelEvidence
    from perception.adaptation.foreground import Foreground
    from perception.adaptation.fusion import FusionSettings
    from perception.adaptation.judging import Judged
    from perception.adaptation.label_pool import Labeller, PseudoLabelled
    from perception.adaptation.trust import TrustRule
    from perception.data.loading import FrameSet
    from perception.models.erfnet import ERFNet
    from perception.training.loop import TrainSettings


@dataclass(frozen=True, kw_only=True)
class AdaptParameters(LearningParameters):
    """Say how segmenter and detector are trained, how they are fused, and what becomes a pseudo-label."""

    pseudo_frames: int  # unlabelled real frames that get pseudo-labels
    student_epochs: int  # the network goes on for these with pseudo-labelled frames beside the simulator's
    kept_share: float = 0.6  # of each class the most confident share of its pixels becomes a pseudo-label
    highest_threshold: float = 0.9  # confidence that always suffices, so that a class which is sure keeps more
    simulator_share: float = 0.25  # of the frames that the student learns from, the rest has pseudo-labels
    target_statistics: bool = True  # the student's normalisation layers end with the averages of the pool's frames
    rare_class_temperature: float = 0.0  # below 1 the student meets frames with rare classes more often; 0: all alike
    average_decay: float = 0.0  # above 0 the moving average of the weights is what labels and what is kept; 0: none
    encoder_weights: str = ""  # file with a state dict that the segmenter's encoder starts from; "": from scratch

    detector_epochs: int  # passes over the simulator's frames with instances; 0: no detector, and nothing is fused
    detector_width: float = 1.0  # the detector's channels times this; 1 is for one CPU core
    detector_batch_frames: int = 8  # frames in one step of the detector's training
    detector_learning_rate: float = 0.003  # of AdamW, falling to zero
    texture_share: float = 0.5  # of the instances get a random texture, so that only their shape tells them
    score_threshold: float = 0.0  # instances with a lower score are left out; the paper leaves none out
    class_score_thresholds: dict[str, float] = field(default_factory=dict)  # likewise by class name
    trust_detector: str = "measured"  # foreground classes that pseudo-labels take from masks: measured, all or none
    least_precision: float = 0.3  # with measured: the share of a class's mask pixels that must be right
    least_right_share: float = 0.5  # likewise: right pixels of its masks, as a share of those of the segmentation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pseudo_frames", "student_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("kept_share", "highest_threshold"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "must lie in (0, 1]")
        require(
            0 <= self.simulator_share < 1, "simulator_share", self.simulator_share, "must be at least 0 and below 1"
        )
        require(
            self.rare_class_temperature >= 0,
            "rare_class_temperature",
            self.rare_class_temperature,
            "must not be negative",
        )
        require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "must be at least 0 and below 1")
        self._check_detector()

    def _check_detector(self) -> None:
        require(self.detector_epochs >= 0, "detector_epochs", self.detector_epochs, "must not be negative")
        require(0.25 <= self.detector_width <= 8, "detector_width", self.detector_width, "must lie in [0.25, 8]")
        batch, rate = self.detector_batch_frames, self.detector_learning_rate
        require(batch >= 2, "detector_batch_frames", batch, "must be at least 2: normalisation needs a batch")
        require(rate > 0, "detector_learning_rate", rate, "must be above 0")
        for name in ("texture_share", "score_threshold", "least_precision", "least_right_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "must lie in [0, 1]")
        for name, value in self.class_score_thresholds.items():
            require(0 <= value <= 1, f"class_score_thresholds.{name}", value, "must lie in [0, 1]")
        ways = ("measured", "all", "none")
        require(self.trust_detector in ways, "trust_detector", self.trust_detector, f"must be one of {', '.join(ways)}")

    def train_settings(self, seed_offset: int = 0) -> "TrainSettings":
        """Return the training loop's settings, with the moving average's decay."""
        return replace(super().train_settings(seed_offset), average_decay=self.average_decay)

    def detector_settings(self) -> "TrainSettings":
        """Return the training loop's settings for the detector."""
        return replace(
            super().train_settings(),
            epochs=self.detector_epochs,
            batch_frames=self.detector_batch_frames,
            learning_rate=self.detector_learning_rate,
            schedule="cosine",
            optimiser="adamw",
            max_grad_norm=10.0,
        )

    def fusion(self) -> "FusionSettings":
        """Return which of the detector's instances are kept."""
        from perception.adaptation.foreground import score_thresholds
        from perception.adaptation.fusion import FusionSettings

        by_class = score_thresholds(self.class_score_thresholds, self.class_names())
        return FusionSettings(score_threshold=self.score_threshold, class_score_thresholds=by_class)

    def trust_rule(self) -> "TrustRule":
        """Return the rule by which classes are taken from the detector."""
        from perception.adaptation.trust import TrustRule

        return TrustRule(
            classes=self.trust_detector,  # type: ignore[arg-type]
            least_precision=self.least_precision,
            least_right_share=self.least_right_share,
        )

    def foreground_flags(self) -> tuple[bool, ...]:
        """Return for each class whether it is foreground."""
        from perception.data.taxonomies import load_taxonomy

        return load_taxonomy(self.taxonomy).foreground


def run(inputs: Paths, outputs: Paths, parameters: AdaptParameters) -> None:
    """Train segmenter and detector on the simulator, fuse them, pseudo-label real frames, and train on both; write it all."""
    from components.adapt.figures import all_figures, class_shares, gate_table, log_outcome

    parameters.prepare()
    folder, frames, curated = outputs.one("adaptation"), read_frames(inputs), curated_training_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    test = parameters.frame_set(frames[frames.split == "test"])
    names, flags = parameters.class_names(), parameters.foreground_flags()

    network, losses = _train_source(simulator, folder, parameters)
    detector, about_detector = _train_detector(simulator, folder, parameters)
    if detector is not None:
        about_detector |= _detector_figures(detector, frames[frames.split == "test"], parameters)
    alone, fused = _judge(network, detector, test, parameters)

    pool = _unlabelled(frames, curated, parameters)
    labeller, evidence = _labeller(network, detector, pool, parameters.frame_set(curated), parameters)
    pseudo = _pseudo_label(labeller, pool, folder, parameters)
    shares = class_shares(parameters.frame_set(simulator), names)
    gate_table(pseudo.table, evidence, names, flags).to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"reference_class_share": shares})

    losses += _train_student(network, simulator, pseudo.manifest, folder, parameters)
    judged = {"source_only": alone, "fused": fused, "pseudo": _judge(network, None, test, parameters)[0]}
    figures = all_figures(judged, evidence, about_detector, pseudo.table, shares, names)
    figures |= {"fusion": {name: getattr(parameters, name) for name in ("score_threshold", "class_score_thresholds")}}
    write_json(folder / "adaptation.json", figures | {"loss": losses, "pseudo_frames": len(pool)})
    log_outcome(figures)


# ---------------------------------------------------------------- the networks


def _train_source(simulator: "pd.DataFrame", folder: Path, parameters: AdaptParameters) -> tuple["ERFNet", list[float]]:
    """Train the segmenter on the simulator alone, from the encoder weights of a file where one is given."""
    from perception.models.checkpoint import save_network

    network = seeded(parameters.new_network, parameters.seed)
    _start_encoder(network, parameters.encoder_weights)
    losses = _train(network, parameters.frame_set(simulator), parameters, what="adapt: simulator alone")
    save_network(network, folder / "source_only.safetensors", {"trained_on": "simulator"})
    return network.to(best_device()), losses


def _start_encoder(network: "ERFNet", weights: str) -> None:
    """Copy what fits of a state dict into the network's encoder, and name in the log what does not."""
    from perception.models.partial_weights import read_state, take_weights

    if not weights:
        return
    done = take_weights(network.encoder, read_state(Path(weights)), "encoder.", weights)
    log(f"encoder: {len(done.taken)} tensors from {weights}")
    for what, names in (("does not fit", done.left_out), ("from scratch", done.untouched)):
        if names:
            log(f"encoder, {what}: {', '.join(names)}")


def _train(
    network: "ERFNet",
    frames: "FrameSet",
    parameters: AdaptParameters,
    *,
    what: str,
    epochs: int = 0,
    seed_offset: int = 0,
) -> list[float]:
    """Train in place and return the losses; where an average of the weights is wanted, the network becomes it."""
    average = copy.deepcopy(network) if parameters.average_decay else None
    options = {} if average is None else {"average": average}
    records = parameters.train(network, frames, what=what, epochs=epochs, seed_offset=seed_offset, **options)
    if average is not None:
        network.load_state_dict(average.to("cpu").state_dict())
    return [record.loss for record in records]


def _train_detector(
    simulator: "pd.DataFrame", folder: Path, parameters: AdaptParameters
) -> tuple["Foreground | None", dict[str, Any]]:
    """Train the detector on the simulator's instances; return it and what is to be told of it, or nothing when it is off."""
    from perception.adaptation.detector import ForegroundDetector
    from perception.adaptation.detector_training import DetectionAugment
    from perception.adaptation.foreground import save_foreground
    from perception.adaptation.foreground_training import train_foreground
    from perception.adaptation.instance_frames import InstanceFrames, learnable_classes
    from perception.data.store import open_store
    from perception.training.distributed import process_group

    if not parameters.detector_epochs:
        log("adapt: detector_epochs = 0, so no detector is trained and nothing is fused")
        return None, {}
    frames = InstanceFrames(simulator, open_store(parameters.store), parameters.load_settings())
    class_ids, instances = learnable_classes(frames)
    network = seeded(partial(ForegroundDetector, len(class_ids), parameters.detector_width), parameters.seed)
    settings, augment = parameters.detector_settings(), DetectionAugment(texture_share=parameters.texture_share)
    with process_group(settings.device):
        detector, records = train_foreground(
            network,
            class_ids,
            frames,
            settings,
            augment,
            resume=training_state(f"adapt: detector of {class_ids}, {augment}", settings, frames.frame_ids),
            progress=progress_line("adapt: detector"),
        )
    save_foreground(detector, folder / "detector.safetensors", {"trained_on": "simulator"})
    network.to(best_device())
    names = parameters.class_names()
    about = {"instances": {names[each]: int(instances[each]) for each in class_ids}, "frames": len(frames)}
    return replace(detector, fusion=parameters.fusion()), about | {"loss": [record.loss for record in records]}


def _detector_figures(detector: "Foreground", test: "pd.DataFrame", parameters: AdaptParameters) -> dict[str, Any]:
    """Return the detector's average precision on the test frames whose instances are known; None where none are."""
    from components.adapt.figures import precision_figures
    from perception.adaptation.detector_quality import judge_detector
    from perception.adaptation.instance_frames import InstanceFrames
    from perception.data.store import open_store

    known = test[test.instances_uri.notna()]
    if not len(known):
        return precision_figures(None, ())
    frames = InstanceFrames(known, open_store(parameters.store), parameters.load_settings())
    quality = judge_detector(detector, frames, known.drive_id.tolist(), seed=parameters.seed)
    names = parameters.class_names()
    return precision_figures(quality, [names[class_id] for class_id in detector.class_ids])


def _train_student(
    network: "ERFNet", simulator: "pd.DataFrame", pseudo: "pd.DataFrame", folder: Path, parameters: AdaptParameters
) -> list[float]:
    """Let the network go on with the pseudo-labelled frames beside the simulator's; train_prune adds the human labels."""
    from perception.adaptation.foreground_training import mixed_rows, rare_class_draw
    from perception.models.checkpoint import save_network

    rows = mixed_rows(simulator, pseudo, parameters.simulator_share, parameters.seed)
    together = parameters.frame_set(rows)
    if parameters.rare_class_temperature:
        drawn = rare_class_draw(rows, together, parameters.rare_class_temperature, parameters.seed)
        together = parameters.frame_set(drawn)
    epochs = parameters.student_epochs
    losses = _train(network, together, parameters, what="adapt: with pseudo-labels", epochs=epochs, seed_offset=1)
    network.to(best_device())
    if parameters.target_statistics:
        _know_target(network, parameters.frame_set(pseudo), parameters)
    save_network(network, folder / "student.safetensors", {"trained_on": "simulator and pseudo-labels"})
    return losses


def _know_target(network: "ERFNet", frames: "FrameSet", parameters: AdaptParameters) -> None:
    """Let the normalisation layers know the pool's frames instead of a mixture of these and the simulator's."""
    from components.stage.learning import image_batches
    from perception.adaptation.statistics import adapt_statistics

    device = best_device()
    adapt_statistics(network, (images.to(device) for _, images in image_batches(frames, parameters.batch_frames)))


def _judge(
    network: "ERFNet", detector: "Foreground | None", test: "FrameSet", parameters: AdaptParameters
) -> tuple["Judged", "Judged | None"]:
    """Judge the network on the test frames, alone and fused with the detector; the latter is None without one."""
    from perception.adaptation.judging import judge_fusion

    alone, fused = judge_fusion(network, detector, test, parameters.foreground_flags(), parameters.batch_frames)
    return alone, fused if detector is not None else None


# ---------------------------------------------------------------- the pseudo-labels


def _unlabelled(frames: "pd.DataFrame", curated: "pd.DataFrame", parameters: AdaptParameters) -> "pd.DataFrame":
    """Draw pool frames at random of which no label is known; raise InputError when none is left."""
    from perception.errors import InputError

    pool = frames[(frames.split == "pool") & ~frames.frame_id.isin(curated.frame_id)]
    if not len(pool):
        raise InputError(
            "frames: none of the pool is without a label, so there is nothing to pseudo-label; ingest more"
        )
    count = min(parameters.pseudo_frames, len(pool))
    return pool.sample(count, random_state=parameters.seed).sort_values("frame_id", ignore_index=True)


def _labeller(
    network: "ERFNet",
    detector: "Foreground | None",
    pool: "pd.DataFrame",
    curated: "FrameSet",
    parameters: AdaptParameters,
) -> tuple["Labeller", "LabelEvidence"]:
    """Choose thresholds on the pool and, on curated frames, the classes that the detector is trusted with."""
    from components.adapt.figures import LabelEvidence
    from perception.adaptation.label_pool import Labeller, find_thresholds, measure_quality
    from perception.adaptation.trust import decide_trust

    flags, batch = parameters.foreground_flags(), parameters.batch_frames
    unlabelled = parameters.frame_set(pool, labels_required=False)
    thresholds = find_thresholds(network, unlabelled, parameters.kept_share, parameters.highest_threshold, batch)
    known = detector.class_ids if detector else ()
    plain = Labeller(network, thresholds, (False,) * len(flags), detector)
    paper = replace(plain, trusted=tuple(class_id in known for class_id in range(len(flags))))
    of_plain, of_paper = measure_quality([plain, paper], curated, batch)
    trust = decide_trust(parameters.trust_rule(), known, flags, of_plain, of_paper)
    trusted = {each.class_id for each in trust if each.trusted}
    chosen = replace(plain, trusted=tuple(class_id in trusted for class_id in range(len(flags))))
    (of_chosen,) = measure_quality([chosen], curated, batch)
    return chosen, LabelEvidence(
        thresholds=thresholds, plain=of_plain, detector=of_paper, chosen=of_chosen, trust=trust
    )


def _pseudo_label(
    labeller: "Labeller", pool: "pd.DataFrame", folder: Path, parameters: AdaptParameters
) -> "PseudoLabelled":
    """Label the drawn part of the pool and write the manifest of it."""
    from perception.adaptation.label_pool import label_frames
    from perception.data.manifest import write_manifest
    from perception.data.store import open_store

    pseudo = label_frames(
        labeller,
        parameters.frame_set(pool, labels_required=False),
        pool,
        open_store(parameters.store),
        batch_frames=parameters.batch_frames,
        progress=progress_line("adapt: pseudo-labels"),
    )
    (folder / "pseudo").mkdir()
    write_manifest(pseudo.manifest, folder / "pseudo" / "manifest.parquet")
    return pseudo


STAGE = Stage(
    name="adapt",
    summary="Learn from the simulator, then from confident predictions on unlabelled real frames.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames: simulator, pool and test set"),
        Port(name="curated", kind="version", about="the curated frames: known labels to measure pseudo-labels against"),
    ),
    outputs=(
        Port(
            name="adaptation",
            kind="network",
            about="segmenter, detector and student, the pseudo-labelled frames and their quality",
            gate_table=True,
        ),
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
