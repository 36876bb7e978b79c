"""Adapt from the simulator to the street: train segmenter and detector, fuse them, pseudo-label, and train on both."""

import copy
import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn
from typing_extensions import TypedDict

from components.adapt.figures import (
    LabelEvidence,
    all_figures,
    class_shares,
    gate_table,
    log_outcome,
    precision_figures,
)
from components.adapt.parameters import AdaptParameters, SourceParameters
from components.stage.declaration import Paths
from components.stage.learning import (
    LearningParameters,
    check_network,
    class_names,
    curated_training_frames,
    deciding_frames,
    load_settings,
    networks_of,
    open_frames,
    read_frames,
    started_network,
    starting_weights,
    train,
    train_settings,
    training_state,
    write_json,
)
from components.stage.parameters import plain_values, shared_fields
from components.stage.records import log, progress_line
from components.stage.results import reuse
from components.stage.source_hash import package_hash
from perception.adaptation.detector import ForegroundDetector, PyramidDetector
from perception.adaptation.detector_quality import judge_detector
from perception.adaptation.detector_training import DetectionAugment
from perception.adaptation.foreground import Foreground, load_foreground, save_foreground, score_thresholds
from perception.adaptation.foreground_training import mixed_rows, rare_class_draw, train_foreground
from perception.adaptation.fusion import FusionSettings
from perception.adaptation.instance_frames import InstanceFrames, learnable_classes
from perception.adaptation.judging import Judged, judge_fusion
from perception.adaptation.label_pool import (
    Labeller,
    PseudoLabelled,
    count_by_drive,
    find_thresholds,
    label_frames,
    measure_quality,
)
from perception.adaptation.statistics import adapt_statistics
from perception.adaptation.trust import TrustRule, decide_trust
from perception.data.files import file_sha256
from perception.data.loading import FrameSet, image_batches
from perception.data.manifest import write_manifest
from perception.data.store import open_store
from perception.data.tables import read_record
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.registry import start_from
from perception.training.distributed import own_frames
from perception.training.loop import TrainSettings
from perception.training.setup import best_device, seeded


def segmenter_settings(parameters: SourceParameters, *, seed_offset: int = 0) -> TrainSettings:
    """Return the training loop's settings for the segmenter, with the moving average's decay."""
    settings = train_settings(parameters, seed_offset=seed_offset)
    return replace(settings, average_decay=parameters.average_decay)


def detector_settings(parameters: SourceParameters) -> TrainSettings:
    """Return the training loop's settings for the detector."""
    return replace(
        train_settings(parameters),
        epochs=parameters.detector_epochs,
        batch_frames=parameters.detector_batch_frames,
        learning_rate=parameters.detector_learning_rate,
        schedule="cosine",
        optimiser="adamw",
        max_grad_norm=10.0,
    )


def adapt(inputs: Paths, folder: Path, parameters: AdaptParameters) -> None:
    """Train segmenter and detector on the simulator, fuse them, pseudo-label real frames, and train on both; write it all."""
    check_network(parameters)
    frames, curated = read_frames(inputs), curated_training_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    deciding = deciding_frames(frames)
    val = open_frames(deciding, parameters)
    taxonomy = load_taxonomy(parameters.taxonomy)
    names, flags = taxonomy.classes, taxonomy.foreground

    taught = _taught_by_simulator(simulator, folder, parameters)
    network, detector = taught.network, taught.detector
    about_detector = dict(taught.told["detector"])
    if detector is not None:
        about_detector |= _detector_figures(detector, deciding, parameters)
    alone, fused = _judge(network, detector, val, parameters)

    pool = _unlabelled(frames, curated, parameters)
    labeller, evidence = _labeller(network, detector, pool, open_frames(curated, parameters), deciding, parameters)
    pseudo = _pseudo_label(labeller, pool, folder, parameters)
    shares = class_shares(open_frames(simulator, parameters), names)
    gate_table(pseudo.table, evidence, names, flags).to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"reference_class_share": shares})

    losses = taught.told["loss"] + _train_student(network, simulator, pseudo.manifest, folder, parameters)
    judged = {"source_only": alone, "fused": fused, "pseudo": _judge(network, None, val, parameters)[0]}
    figures = all_figures(judged, evidence, about_detector, pseudo.table, shares, names)
    figures |= {"fusion": {name: getattr(parameters, name) for name in ("score_threshold", "class_score_thresholds")}}
    figures |= {"started_from": taught.told["started_from"], "loss": losses, "pseudo_frames": len(pool)}
    write_json(folder / "adaptation.json", figures)
    log_outcome(figures)


# ---------------------------------------------------------------- the networks


class _Told(TypedDict):
    """Hold source.json."""

    started_from: Literal["pretrained", "scratch"]
    loss: list[float]
    detector: dict[str, Any]  # instances by class, frames and losses; empty without one


@dataclass(frozen=True, kw_only=True)
class _Taught:
    network: nn.Module
    detector: Foreground | None
    told: _Told


def _taught_by_simulator(simulator: pd.DataFrame, folder: Path, parameters: AdaptParameters) -> _Taught:
    """Return the networks that the simulator alone teaches; nights with the same simulator, parameters and code have them in common.

    Writes source_only.safetensors, detector.safetensors where there is one, and source.json.
    """
    source = shared_fields(SourceParameters, parameters)
    depends_on = _what_decides(simulator, source)
    reuse(
        source.store, "adapt", "adapt: simulator alone", depends_on, folder, partial(_teach, simulator, folder, source)
    )
    network = load_network(folder / "source_only.safetensors", networks_of(parameters)).to(best_device())
    path = folder / "detector.safetensors"
    detector = load_foreground(path, _fusion(parameters)) if path.exists() else None
    if detector is not None:
        detector.network.to(best_device())
    return _Taught(network=network, detector=detector, told=read_record(folder / "source.json", _Told))


def _what_decides(simulator: pd.DataFrame, source: SourceParameters) -> dict[str, Any]:
    columns = ["frame_id", "image_sha256", "label_sha256", "label_taxonomy", "instances_uri"]
    frames = hashlib.sha256(simulator[columns].to_csv(index=False).encode()).hexdigest()
    given = {name: value for name, value in plain_values(source).items() if name not in ("store", "start_from")}
    weights, network = starting_weights(source), source.network.name
    return {
        "frames": frames,
        "parameters": given,
        "weights": file_sha256(weights) if weights else None,
        "network": package_hash(network.partition(":")[0]) if ":" in network else None,
    }


def _teach(simulator: pd.DataFrame, folder: Path, parameters: SourceParameters) -> None:
    """Train the networks that learn from the simulator alone, and write them."""
    told = _train_source(simulator, folder, parameters) | {"detector": _train_detector(simulator, folder, parameters)}
    write_json(folder / "source.json", told)


def _train_source(simulator: pd.DataFrame, folder: Path, parameters: SourceParameters) -> dict[str, Any]:
    """Train the segmenter, never from the champion: it is to have seen no real label; tell its start and its losses."""
    network, taken = seeded(partial(started_network, parameters), parameters.seed)
    settings = segmenter_settings(parameters)
    losses = _train(network, open_frames(simulator, parameters), settings, parameters, "adapt: simulator alone")
    save_network(network, folder / "source_only.safetensors", {"trained_on": "simulator"}, networks_of(parameters))
    return {"started_from": "pretrained" if taken else "scratch", "loss": losses}


def _train(
    network: nn.Module, frames: FrameSet, settings: TrainSettings, parameters: LearningParameters, what: str
) -> list[float]:
    """Train in place and return the losses; where an average of the weights is wanted, the network becomes it."""
    average = copy.deepcopy(network) if settings.average_decay else None
    records = train(network, frames, settings, parameters, what=what, average=average)
    if average is not None:
        network.load_state_dict(average.to("cpu").state_dict())
    return [record.loss for record in records]


def _train_detector(simulator: pd.DataFrame, folder: Path, parameters: SourceParameters) -> dict[str, Any]:
    """Train the detector on the simulator's instances; return what is to be told of it, nothing when it is off."""
    if not parameters.detector_epochs:
        log("adapt: detector_epochs = 0, so no detector is trained and nothing is fused")
        return {}
    frames = InstanceFrames(simulator, open_store(parameters.store), load_settings(parameters))
    class_ids, instances = learnable_classes(frames)
    network = seeded(partial(_new_detector, len(class_ids), parameters), parameters.seed)
    settings, augment = detector_settings(parameters), DetectionAugment(texture_share=parameters.texture_share)
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
    names = class_names(parameters.taxonomy)
    about = {"instances": {names[each]: int(instances[each]) for each in class_ids}, "frames": len(frames)}
    return about | {"loss": [record.loss for record in records]}


def _fusion(parameters: AdaptParameters) -> FusionSettings:
    """Return which of the detector's instances are kept."""
    by_class = score_thresholds(parameters.class_score_thresholds, class_names(parameters.taxonomy))
    return FusionSettings(score_threshold=parameters.score_threshold, class_score_thresholds=by_class)


def _new_detector(classes: int, parameters: SourceParameters) -> nn.Module:
    """Return an untrained detector: on the segmenter's backbone, from its weights, where that has a pyramid; else of its own."""
    choice = parameters.network
    if choice.name != "efficientnet_lite":
        return ForegroundDetector(classes, parameters.detector_width)
    network = PyramidDetector(classes, **choice.arguments)
    weights = starting_weights(parameters)
    if weights:
        start_from(network, str(weights))
    return network


def _detector_figures(detector: Foreground, val: pd.DataFrame, parameters: AdaptParameters) -> dict[str, Any]:
    """Return the detector's average precision on the val frames whose instances are known; None where none are."""
    known = val[val.instances_uri.notna()]
    if not len(known):
        return precision_figures(None, ())
    frames = InstanceFrames(known, open_store(parameters.store), load_settings(parameters))
    quality = judge_detector(detector, frames)
    names = class_names(parameters.taxonomy)
    return precision_figures(quality, [names[class_id] for class_id in detector.class_ids])


def _train_student(
    network: nn.Module, simulator: pd.DataFrame, pseudo: pd.DataFrame, folder: Path, parameters: AdaptParameters
) -> list[float]:
    """Let the network go on with the pseudo-labelled frames beside the simulator's; train_prune adds the human labels."""
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
    about = {"trained_on": "simulator and pseudo-labels"}
    save_network(network, folder / "student.safetensors", about, networks_of(parameters))
    return losses


def _know_target(network: nn.Module, frames: FrameSet, parameters: AdaptParameters) -> None:
    """Let the normalisation layers know the pool's frames instead of a mixture of these and the simulator's."""
    device, batch_frames = best_device(), parameters.batch_frames
    batches = image_batches(frames, batch_frames, own_frames(len(frames), batch_frames))
    adapt_statistics(network, (images.to(device) for _, images in batches))


def _judge(
    network: nn.Module, detector: Foreground | None, val: FrameSet, parameters: AdaptParameters
) -> tuple[Judged, Judged | None]:
    """Judge the network on the val frames, alone and fused with the detector; the latter is None without one."""
    foreground = load_taxonomy(parameters.taxonomy).foreground
    alone, fused = judge_fusion(network, detector, val, foreground, parameters.batch_frames)
    return alone, fused if detector is not None else None


# ---------------------------------------------------------------- the pseudo-labels


def _unlabelled(frames: pd.DataFrame, curated: pd.DataFrame, parameters: AdaptParameters) -> pd.DataFrame:
    """Draw pool frames at random of which no label is known; raise InputError when none is left."""
    pool = frames[(frames.split == "pool") & ~frames.frame_id.isin(curated.frame_id)]
    if not len(pool):
        raise InputError(
            "frames: none of the pool is without a label, so there is nothing to pseudo-label; ingest more"
        )
    count = min(parameters.pseudo_frames, len(pool))
    return pool.sample(count, random_state=parameters.seed).sort_values("frame_id", ignore_index=True)


def _labeller(
    network: nn.Module,
    detector: Foreground | None,
    pool: pd.DataFrame,
    curated: FrameSet,
    val: pd.DataFrame,
    parameters: AdaptParameters,
) -> tuple[Labeller, LabelEvidence]:
    """Choose thresholds on the pool and, on curated frames, the classes that the detector is trusted with; judge them on val frames.

    Curated frames were chosen for doubt, and the trust was chosen on them: neither speaks for how often labels are right.
    """
    flags, batch = load_taxonomy(parameters.taxonomy).foreground, parameters.batch_frames
    unlabelled = open_frames(pool, parameters, labels_required=False)
    thresholds = find_thresholds(network, unlabelled, parameters.kept_share, parameters.highest_threshold, batch)
    known = detector.class_ids if detector else ()
    plain = Labeller(network, thresholds, (False,) * len(flags), detector)
    paper = replace(plain, trusted=tuple(class_id in known for class_id in range(len(flags))))
    of_plain, of_paper = measure_quality([plain, paper], curated, batch)
    rule = shared_fields(TrustRule, parameters, classes=parameters.trust_detector)
    trust = decide_trust(rule, known, flags, of_plain, of_paper)
    trusted = {each.class_id for each in trust if each.trusted}
    chosen = replace(plain, trusted=tuple(class_id in trusted for class_id in range(len(flags))))
    drive_of = np.unique(val.drive_id.to_numpy(str), return_inverse=True)[1]
    by_drive = count_by_drive([plain, paper, chosen], open_frames(val, parameters), drive_of, batch)
    return chosen, LabelEvidence(thresholds=thresholds, detector=of_paper, by_drive=by_drive, trust=trust)


def _pseudo_label(labeller: Labeller, pool: pd.DataFrame, folder: Path, parameters: AdaptParameters) -> PseudoLabelled:
    """Label the drawn part of the pool and write the manifest of it."""
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
