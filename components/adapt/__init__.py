"""adapt: learn from the simulator, then from what that says about unlabelled real frames."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from components.stage.declaration import Paths, Port, Stage
from components.stage.learning import (
    LearningParameters,
    check_classes,
    class_names,
    curated_training_frames,
    load_settings,
    new_network,
    open_frames,
    read_frames,
    train,
    train_settings,
    training_needs,
    training_state,
    write_json,
)
from components.stage.records import log, progress_line
from perception.parameters import (
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    Positive,
    ShareFromZero,
    ShareToOne,
    checked,
)

if TYPE_CHECKING:
    import pandas as pd

    from components.adapt.figures import LabelEvidence
    from perception.adaptation.foreground import Foreground
    from perception.adaptation.judging import Judged
    from perception.adaptation.label_pool import Labeller, PseudoLabelled
    from perception.data.loading import FrameSet
    from perception.models.erfnet import ERFNet
    from perception.training.loop import TrainSettings


@checked
class AdaptParameters(LearningParameters):
    """Say how segmenter and detector are trained, how they are fused, and what becomes a pseudo-label."""

    pseudo_frames: Count  # unlabelled real frames that get pseudo-labels
    student_epochs: Count  # the network goes on for these with pseudo-labelled frames beside the simulator's
    kept_share: ShareToOne = 0.6  # of each class the most confident share of its pixels becomes a pseudo-label
    highest_threshold: ShareToOne = 0.9  # confidence that always suffices, so that a class which is sure keeps more
    simulator_share: ShareFromZero = 0.25  # of the frames that the student learns from, the rest has pseudo-labels
    target_statistics: bool = True  # the student's normalisation layers end with the averages of the pool's frames
    # below 1 the student meets frames with rare classes more often; 0: all alike
    rare_class_temperature: NotNegative = 0.0
    # above 0 the moving average of the weights is what labels and what is kept; 0: none
    average_decay: ShareFromZero = 0.0
    encoder_weights: str = ""  # file with a state dict that the segmenter's encoder starts from; empty: from scratch

    # passes over the simulator's frames with instances; 0: no detector, and nothing is fused
    detector_epochs: CountOrZero
    # the detector's channels times this; 1 is for one CPU core
    detector_width: Annotated[float, Field(ge=0.25, le=8)] = 1.0
    # frames in one step of the detector's training; normalisation needs more than one
    detector_batch_frames: Annotated[int, Field(ge=2)] = 8
    detector_learning_rate: Positive = 0.003  # of AdamW, falling to zero
    texture_share: Fraction = 0.5  # of the instances get a random texture, so that only their shape tells them
    score_threshold: Fraction = 0.0  # instances with a lower score are left out; the paper leaves none out
    class_score_thresholds: dict[str, Fraction] = Field(default_factory=dict)  # likewise by class name
    # foreground classes that pseudo-labels take from masks
    trust_detector: Literal["measured", "all", "none"] = "measured"
    least_precision: Fraction = 0.3  # with measured: the share of a class's mask pixels that must be right
    least_right_share: Fraction = 0.5  # likewise: right pixels of its masks, as a share of those of the segmentation

    def __post_init__(self) -> None:
        check_classes("class_score_thresholds", self.class_score_thresholds, self.taxonomy)


def segmenter_settings(parameters: AdaptParameters, *, seed_offset: int = 0) -> "TrainSettings":
    """Return the training loop's settings for the segmenter, with the moving average's decay."""
    from perception.training.setup import best_device

    settings = train_settings(parameters, device=best_device(), seed_offset=seed_offset)
    return replace(settings, average_decay=parameters.average_decay)


def detector_settings(parameters: AdaptParameters) -> "TrainSettings":
    """Return the training loop's settings for the detector."""
    from perception.training.setup import best_device

    return replace(
        train_settings(parameters, device=best_device()),
        epochs=parameters.detector_epochs,
        batch_frames=parameters.detector_batch_frames,
        learning_rate=parameters.detector_learning_rate,
        schedule="cosine",
        optimiser="adamw",
        max_grad_norm=10.0,
    )


def run(inputs: Paths, outputs: Paths, parameters: AdaptParameters) -> None:
    """Train segmenter and detector on the simulator, fuse them, pseudo-label real frames, and train on both; write it all."""
    from components.adapt.figures import all_figures, class_shares, gate_table, log_outcome
    from perception.data.taxonomies import load_taxonomy
    from perception.training.setup import set_threads

    set_threads(parameters.threads)
    folder, frames, curated = outputs.one("adaptation"), read_frames(inputs), curated_training_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    test = open_frames(frames[frames.split == "test"], parameters)
    taxonomy = load_taxonomy(parameters.taxonomy)
    names, flags = taxonomy.classes, taxonomy.foreground

    network, losses = _train_source(simulator, folder, parameters)
    detector, about_detector = _train_detector(simulator, folder, parameters)
    if detector is not None:
        about_detector |= _detector_figures(detector, frames[frames.split == "test"], parameters)
    alone, fused = _judge(network, detector, test, parameters)

    pool = _unlabelled(frames, curated, parameters)
    labeller, evidence = _labeller(network, detector, pool, open_frames(curated, parameters), parameters)
    pseudo = _pseudo_label(labeller, pool, folder, parameters)
    shares = class_shares(open_frames(simulator, parameters), names)
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
    from perception.training.setup import best_device, seeded

    network = seeded(partial(new_network, parameters), parameters.seed)
    _start_encoder(network, parameters.encoder_weights)
    settings = segmenter_settings(parameters)
    losses = _train(network, open_frames(simulator, parameters), settings, parameters, "adapt: simulator alone")
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
    network: "ERFNet", frames: "FrameSet", settings: "TrainSettings", parameters: AdaptParameters, what: str
) -> list[float]:
    """Train in place and return the losses; where an average of the weights is wanted, the network becomes it."""
    average = copy.deepcopy(network) if settings.average_decay else None
    records = train(network, frames, settings, parameters, what=what, average=average)
    if average is not None:
        network.load_state_dict(average.to("cpu").state_dict())
    return [record.loss for record in records]


def _train_detector(
    simulator: "pd.DataFrame", folder: Path, parameters: AdaptParameters
) -> tuple["Foreground | None", dict[str, Any]]:
    """Train the detector on the simulator's instances; return it and what is to be told of it, or nothing when it is off."""
    from perception.adaptation.detector import ForegroundDetector
    from perception.adaptation.detector_training import DetectionAugment
    from perception.adaptation.foreground import save_foreground, score_thresholds
    from perception.adaptation.foreground_training import train_foreground
    from perception.adaptation.fusion import FusionSettings
    from perception.adaptation.instance_frames import InstanceFrames, learnable_classes
    from perception.data.store import open_store
    from perception.training.distributed import process_group
    from perception.training.setup import best_device, seeded

    if not parameters.detector_epochs:
        log("adapt: detector_epochs = 0, so no detector is trained and nothing is fused")
        return None, {}
    frames = InstanceFrames(simulator, open_store(parameters.store), load_settings(parameters))
    class_ids, instances = learnable_classes(frames)
    network = seeded(partial(ForegroundDetector, len(class_ids), parameters.detector_width), parameters.seed)
    settings, augment = detector_settings(parameters), DetectionAugment(texture_share=parameters.texture_share)
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
    names = class_names(parameters.taxonomy)
    by_class = score_thresholds(parameters.class_score_thresholds, names)
    fusion = FusionSettings(score_threshold=parameters.score_threshold, class_score_thresholds=by_class)
    about = {"instances": {names[each]: int(instances[each]) for each in class_ids}, "frames": len(frames)}
    return replace(detector, fusion=fusion), about | {"loss": [record.loss for record in records]}


def _detector_figures(detector: "Foreground", test: "pd.DataFrame", parameters: AdaptParameters) -> dict[str, Any]:
    """Return the detector's average precision on the test frames whose instances are known; None where none are."""
    from components.adapt.figures import precision_figures
    from perception.adaptation.detector_quality import judge_detector
    from perception.adaptation.instance_frames import InstanceFrames
    from perception.data.store import open_store

    known = test[test.instances_uri.notna()]
    if not len(known):
        return precision_figures(None, ())
    frames = InstanceFrames(known, open_store(parameters.store), load_settings(parameters))
    quality = judge_detector(detector, frames, known.drive_id.tolist(), seed=parameters.seed)
    names = class_names(parameters.taxonomy)
    return precision_figures(quality, [names[class_id] for class_id in detector.class_ids])


def _train_student(
    network: "ERFNet", simulator: "pd.DataFrame", pseudo: "pd.DataFrame", folder: Path, parameters: AdaptParameters
) -> list[float]:
    """Let the network go on with the pseudo-labelled frames beside the simulator's; train_prune adds the human labels."""
    from perception.adaptation.foreground_training import mixed_rows, rare_class_draw
    from perception.models.checkpoint import save_network
    from perception.training.setup import best_device

    rows = mixed_rows(simulator, pseudo, parameters.simulator_share, parameters.seed)
    together = open_frames(rows, parameters)
    if parameters.rare_class_temperature:
        drawn = rare_class_draw(rows, together, parameters.rare_class_temperature, parameters.seed)
        together = open_frames(drawn, parameters)
    settings = replace(segmenter_settings(parameters, seed_offset=1), epochs=parameters.student_epochs)
    losses = _train(network, together, settings, parameters, "adapt: with pseudo-labels")
    network.to(best_device())
    if parameters.target_statistics:
        _know_target(network, open_frames(pseudo, parameters), parameters)
    save_network(network, folder / "student.safetensors", {"trained_on": "simulator and pseudo-labels"})
    return losses


def _know_target(network: "ERFNet", frames: "FrameSet", parameters: AdaptParameters) -> None:
    """Let the normalisation layers know the pool's frames instead of a mixture of these and the simulator's."""
    from perception.adaptation.statistics import adapt_statistics
    from perception.data.loading import image_batches
    from perception.training.setup import best_device

    device = best_device()
    adapt_statistics(network, (images.to(device) for _, images in image_batches(frames, parameters.batch_frames)))


def _judge(
    network: "ERFNet", detector: "Foreground | None", test: "FrameSet", parameters: AdaptParameters
) -> tuple["Judged", "Judged | None"]:
    """Judge the network on the test frames, alone and fused with the detector; the latter is None without one."""
    from perception.adaptation.judging import judge_fusion
    from perception.data.taxonomies import load_taxonomy

    foreground = load_taxonomy(parameters.taxonomy).foreground
    alone, fused = judge_fusion(network, detector, test, foreground, parameters.batch_frames)
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
    from perception.adaptation.trust import TrustRule, decide_trust
    from perception.data.taxonomies import load_taxonomy

    flags, batch = load_taxonomy(parameters.taxonomy).foreground, parameters.batch_frames
    unlabelled = open_frames(pool, parameters, labels_required=False)
    thresholds = find_thresholds(network, unlabelled, parameters.kept_share, parameters.highest_threshold, batch)
    known = detector.class_ids if detector else ()
    plain = Labeller(network, thresholds, (False,) * len(flags), detector)
    paper = replace(plain, trusted=tuple(class_id in known for class_id in range(len(flags))))
    of_plain, of_paper = measure_quality([plain, paper], curated, batch)
    rule = TrustRule(
        classes=parameters.trust_detector,
        least_precision=parameters.least_precision,
        least_right_share=parameters.least_right_share,
    )
    trust = decide_trust(rule, known, flags, of_plain, of_paper)
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
        open_frames(pool, parameters, labels_required=False),
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
    needs=training_needs(timeout_minutes=480),
    run=run,
)
