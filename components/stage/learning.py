"""What the stages that train networks have in common: their parameters, and which frames each of them may learn from."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from components.stage.declaration import Needs, Paths, Run
from components.stage.execution import TRAINING_STATE_VARIABLE
from components.stage.records import log, progress_line
from perception.errors import did_you_mean
from perception.models.settings import NetworkChoice
from perception.parameters import BrokenRule, Count, NotNegative, Positive, Seed, ShareFromZero, ShareToOne, checked

ORACLE_NAME = "oracle"  # who labels the frames of a source that plays its own annotators
COMMIT_VARIABLE, IMAGE_VARIABLE = "NIGHTDRIVE_COMMIT", "NIGHTDRIVE_IMAGE"  # set by the local engine, or by the image

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from perception.data.loading import Augment, FrameSet, LoadSettings
    from perception.models.partial_weights import Taken
    from perception.models.registry import Networks
    from perception.training.loop import EpochRecord, Loss, Resume, TrainSettings


def _known_taxonomy(name: str) -> str:
    class_names(name)  # raises InputError where there is none
    return name


TAUGHT_FILE = "taught.parquet"  # beside a network: every frame that taught it
StartFrom = Literal["champion", "pretrained", "scratch"]  # what a network's weights come from before it is trained
Taxonomy = Annotated[str, AfterValidator(_known_taxonomy)]


def training_needs(timeout_minutes: int) -> Needs:
    """Return what a stage that trains needs: a GPU where there is one, and memory that its loading threads share."""
    return Needs(
        image="torch",
        loads="torch",
        cpu_cores=2,
        memory_gib=8,
        gpu_count=1,
        timeout_minutes=timeout_minutes,
        shared_memory_gib=8,
        distributed=True,
    )


@checked
class FrameParameters:
    """Say where frames are and how they reach a network."""

    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # the classes that networks learn: a table in perception/data/taxonomy_tables
    # frames are resized to this before a network sees them
    height_px: Annotated[int, Field(ge=8, le=16384, multiple_of=8)]
    width_px: Annotated[int, Field(ge=8, le=16384, multiple_of=8)]  # likewise
    seed: Seed  # of everything random in the stage
    # One, because a second thread that shares its core with another program costs more than it gives.
    threads: Count = 1  # of the numerical libraries; sums round the same only with the same number


@checked
class NetworkParameters(FrameParameters):
    """Say which network is built, or lies in the files that are read."""

    network: NetworkChoice = Field(default_factory=NetworkChoice)  # name, arguments and weights; below


@checked
class LearningParameters(NetworkParameters):
    """Say how a network is trained."""

    # champion: the released network where its structure fits (in adapt and compare never: these see no champion), else as
    # pretrained; pretrained: network.weights where they are given, else as scratch; scratch: weights drawn by the seed
    start_from: StartFrom = "champion"
    # neurons: what loses neurons is found before anything trains, or refused there; none: the network ships unpruned
    prune: Literal["neurons", "none"] = "neurons"
    epochs: Count  # passes of epoch_frames frames
    epoch_frames: Count  # frames drawn in an epoch, in turn from a shuffled list
    batch_frames: Annotated[int, Field(ge=2)]  # frames in one step; normalisation needs more than one
    learning_rate: Positive  # at the first step, falling to zero
    encoder_rate_share: ShareToOne = 1.0  # of the learning rate, for an encoder that starts from weights
    weight_decay: NotNegative = 1e-4  # added to the gradient by adam, taken from the weights themselves by adamw
    optimiser: Literal["adam", "adamw"] = "adam"  # adamw for a network that starts from weights
    channels_last: bool = False  # hold a pixel's channels side by side: on a CPU depthwise convolutions learn faster
    # training frames are zoomed by a factor from this; a short training wants little
    least_zoom: Annotated[float, Field(ge=0.1, le=1)] = 0.75
    # to this: above 1 a part of the frame is seen, below 1 it is padded
    greatest_zoom: Annotated[float, Field(ge=1, le=8)] = 1.5
    # brightness, contrast and saturation of training frames vary by this share at most
    color_jitter: ShareFromZero = 0.2
    mixed_precision: bool = True  # on a GPU: bfloat16 where it is safe; a processor always computes in float32


def by_all_processes(run: Run) -> Run:
    """Decorate the `run` of a stage that trains: the processes that torchrun started work on one call together."""

    @functools.wraps(run)
    def joined(inputs: Paths, outputs: Paths, parameters: Any) -> Any:
        from perception.training.distributed import process_group
        from perception.training.setup import best_device, set_threads

        set_threads(parameters.threads)
        with process_group(best_device()):
            return run(inputs, outputs, parameters)

    return joined


def load_settings(parameters: FrameParameters) -> "LoadSettings":
    """Return the size and the classes in which frames reach a network."""
    from perception.data.loading import LoadSettings

    return LoadSettings(height_px=parameters.height_px, width_px=parameters.width_px, taxonomy=parameters.taxonomy)


def open_frames(frames: "pd.DataFrame", parameters: FrameParameters, *, labels_required: bool = True) -> "FrameSet":
    """Return rows of a manifest opened as images and labels of the networks' size and classes."""
    from perception.data.loading import FrameSet
    from perception.data.store import open_store

    return FrameSet(frames, open_store(parameters.store), load_settings(parameters), labels_required=labels_required)


def class_names(taxonomy: str) -> tuple[str, ...]:
    """Return the names of a taxonomy's classes."""
    from perception.data.taxonomies import load_taxonomy

    return load_taxonomy(taxonomy).classes


def check_classes(name: str, by_class: Iterable[str], taxonomy: str) -> None:
    """Raise BrokenRule for a mapping by class that names one which the taxonomy does not have; name: of the parameter."""
    known = class_names(taxonomy)
    for each in by_class:
        if each not in known:
            raise BrokenRule(name, each, f"no class of {taxonomy}{did_you_mean(each, known)}")


def network_miou(network: Any, frames: "pd.DataFrame", parameters: FrameParameters) -> float:
    """Return the network's mIoU on labelled manifest rows, at the labels' own resolution; it ends on the CPU."""
    from perception.metrics.confusion import mean_iou
    from perception.training.loop import evaluate_segmentation
    from perception.training.setup import best_device

    network.to(best_device())
    counts = evaluate_segmentation(network, open_frames(frames, parameters), len(class_names(parameters.taxonomy)))
    network.to("cpu")
    return mean_iou(counts)


def new_network(parameters: LearningParameters) -> "nn.Module":
    """Return the chosen network for the stage's classes, untrained but for the weights that it starts from."""
    return started_network(parameters)[0]


def started_network(parameters: LearningParameters) -> "tuple[nn.Module, Taken | None]":
    """Return a new network, and what became of the weights that it starts from; None where it starts from none."""
    from perception.models.registry import choose_network, start_from

    network = choose_network(parameters.network, len(class_names(parameters.taxonomy)))
    weights = _weights(parameters)
    return network, start_from(network, weights) if weights else None


def starting_weights(parameters: LearningParameters) -> Path | None:
    """Return the file of the weights that a new network starts from; None where it starts from none."""
    from perception.models.registry import choose_network, weights_file

    weights = _weights(parameters)
    network = choose_network(parameters.network, len(class_names(parameters.taxonomy)))
    return weights_file(network, weights) if weights else None


def _weights(parameters: LearningParameters) -> str:
    return parameters.network.weights if parameters.start_from != "scratch" else ""


def networks_of(parameters: NetworkParameters) -> "Networks":
    """Return the networks that the files of this night may name."""
    from perception.models.registry import known_networks

    return known_networks(parameters.network)


def check_network(parameters: LearningParameters) -> None:
    """Raise InputError, before anything trains, for a network that gives no logits or that cannot be pruned as asked.

    The log tells which tensors start from weights, and which layers keep all their channels and why.
    """
    import torch

    from perception.models.registry import check_logits
    from perception.sparsity.groups import find_groups

    network, taken = started_network(parameters)
    check_logits(network, len(class_names(parameters.taxonomy)), parameters.height_px, parameters.width_px)
    if taken is not None:
        log(f"network: {len(taken.taken)} tensors from weights {parameters.network.weights}")
        for what, names in (("does not fit", taken.left_out), ("from scratch", taken.untouched)):
            if names:
                log(f"network, {what}: {', '.join(names)}")
    if parameters.prune == "none":
        return
    for entry in find_groups(network, torch.zeros(1, 3, parameters.height_px, parameters.width_px)).unprunable:
        log(f"network: {entry.layer} keeps {entry.channels} channels: {entry.reason}")


def augment_settings(parameters: LearningParameters) -> "Augment":
    """Return how training frames are varied."""
    from perception.data.loading import Augment

    zoom = (parameters.least_zoom, parameters.greatest_zoom)
    return Augment(scale_range=zoom, color_jitter=parameters.color_jitter)


def train_settings(parameters: LearningParameters, *, device: str = "", seed_offset: int = 0) -> "TrainSettings":
    """Return the training loop's settings on a device (empty: the best here); an offset of the seed gives an independent
    repetition.
    """
    from perception.training.loop import TrainSettings
    from perception.training.setup import best_device

    device = device or best_device()
    on_gpu = device.startswith("cuda")
    return TrainSettings(
        epochs=parameters.epochs,
        batch_frames=parameters.batch_frames,
        learning_rate=parameters.learning_rate,
        weight_decay=parameters.weight_decay,
        optimiser=parameters.optimiser,
        encoder_rate_share=parameters.encoder_rate_share,
        channels_last=parameters.channels_last,
        schedule="poly",
        seed=parameters.seed + seed_offset,
        device=device,
        mixed_precision=on_gpu and parameters.mixed_precision,
        captured=on_gpu,  # a network this small would wait for its kernels to be launched
    )


def train(
    network: Any,
    frames: "FrameSet",
    settings: "TrainSettings",
    parameters: LearningParameters,
    *,
    what: str,
    keeps_state: bool = True,
    loss: "Loss | None" = None,
    after_epoch: Callable[..., None] | None = None,
    average: Any = None,
    kept: Any = None,
) -> "list[EpochRecord]":
    """Return the record of the epochs in which `network` was trained in place on `frames`; it ends on the CPU.

    parameters: how frames are drawn and varied; settings: everything else. what: the training's name in the log.
    keeps_state: where the step has a folder for it, go on after a kill. loss: cross-entropy with rare classes weighted up
    where None. after_epoch, average, kept: see perception.training.loop.fit.
    """
    from perception.data.loading import WaitingTime, count_batches, shuffled_batches
    from perception.training.distributed import own_share
    from perception.training.loop import fit
    from perception.training.losses import class_weights, pixel_counts

    waiting, augment = WaitingTime(), augment_settings(parameters)

    def batches(epoch: int) -> Any:
        drawn = shuffled_batches(
            frames,
            settings.batch_frames,
            seed=settings.seed,
            epoch=epoch,
            augment=augment,
            epoch_frames=parameters.epoch_frames,
            as_bytes=settings.device.startswith("cuda"),  # converted on the GPU
            share=own_share(),
        )
        return waiting.over(drawn)

    records = fit(
        network,
        batches,
        settings,
        loss=loss,
        class_weights=None if loss else class_weights(pixel_counts(frames)),
        after_epoch=after_epoch,
        average=average,
        kept=kept,
        resume=training_state(f"{what}, {parameters}", settings, frames.frame_ids) if keeps_state else None,
        iterations_per_epoch=count_batches(len(frames), settings.batch_frames, parameters.epoch_frames),
        progress=progress_line(what),
    )
    network.to("cpu")
    log(f"{what}: {waiting.share:.1%} of {waiting.total_seconds:.0f} s went on waiting for frames")
    return records


def training_state(what: str, settings: "TrainSettings", frame_ids: Sequence[str]) -> "Resume | None":
    """Return where a training keeps its state, in the folder that a cluster's step is given; None elsewhere."""
    from perception.training.loop import Resume

    folder = os.environ.get(TRAINING_STATE_VARIABLE)
    if not folder:
        return None
    same_anywhere = replace(settings, device="cpu", mixed_precision=False, captured=False)
    identity = hashlib.sha256("\n".join([what, repr(same_anywhere), *frame_ids]).encode()).hexdigest()
    return Resume(path=Path(folder) / f"{identity[:24]}.state", every_minutes=5, identity=identity)


def read_frames(inputs: Paths) -> "pd.DataFrame":
    """Return the night's manifest."""
    from perception.data.manifest import read_manifest

    return read_manifest(inputs.one("frames") / "manifest.parquet")


def labelled_so_far(inputs: Paths) -> "pd.DataFrame":
    """Return the real frames whose labels are known before tonight's selection: the base version and what came labelled.

    A label that came back from annotation takes the place of an earlier one of its frame. Those that judge tonight's networks
    (fresh_evidence) are left out.
    """
    import pandas as pd

    from perception.data.manifest import read_manifest

    frames = read_manifest(inputs.one("frames") / "manifest.parquet", split="train", domain="real")
    arrived = frames[(frames.label_source == "human") & ~frames.frame_id.isin(_held_back(inputs))]
    base = read_manifest(inputs.one("base") / "manifest.parquet", split="train")
    if not len(base):
        return arrived
    dropped = arrived[arrived.label_drop.notna()] if "label_drop" in arrived else arrived[:0]
    base = base[~base.frame_id.isin(dropped.frame_id)]
    return pd.concat([base, arrived[~arrived.frame_id.isin(base.frame_id)]], ignore_index=True)


def fresh_evidence(inputs: Paths) -> "pd.DataFrame":
    """Return the frames that were drawn uniformly and got their label since the last night: no network has learned from them."""
    from perception.data.manifest import read_manifest

    frames = read_manifest(inputs.one("frames") / "manifest.parquet", split="train", domain="real")
    return frames[frames.frame_id.isin(_held_back(inputs))].reset_index(drop=True)


def _held_back(inputs: Paths) -> "pd.Series[str]":
    from perception.data.tables import read_table

    return read_table(inputs.one("frames") / "fresh.parquet", {"frame_id": "text"}, key="frame_id").frame_id


def deciding_frames(frames: "pd.DataFrame") -> "pd.DataFrame":
    """Return the labelled frames by which a night decides before evaluate opens the frozen test set: the val frames.

    A night whose sources have none decides on the test frames, and says so.
    """
    val = frames[frames.split == "val"]
    if not len(val):
        log(
            "no source has split val: what is decided here is decided on the test frames, which so judge their own choice"
        )
        val = frames[frames.split == "test"]
    return val.reset_index(drop=True)


def curated_training_frames(inputs: Paths) -> "pd.DataFrame":
    """Return the frames of tonight's version that networks learn from; its val and test frames are left out."""
    from perception.data.manifest import read_manifest

    return read_manifest(inputs.one("curated") / "version" / "manifest.parquet", split="train")


def open_pool(inputs: Paths, drives: Collection[str] | None = None) -> "pd.DataFrame":
    """Return the frames that may be selected tonight: the pool without what the base version already holds.

    drives: read the frames of these drives alone.
    """
    from perception.data.manifest import read_manifest

    frames = read_manifest(inputs.one("frames") / "manifest.parquet", split="pool", drives=drives)
    base = read_manifest(inputs.one("base") / "manifest.parquet", columns=["frame_id"])
    return frames[~frames.frame_id.isin(base.frame_id)]


def shard_frames(inputs: Paths, shard: int, shard_count: int) -> "pd.DataFrame":
    """Return one shard's part of the open pool and, after it, of what is labelled so far; no more of the pool is held."""
    import pandas as pd

    from perception.data.manifest import read_drives
    from perception.selection.shards import in_shard

    pool_drives = pd.Series(read_drives(inputs.one("frames") / "manifest.parquet", split="pool"), dtype=object)
    pool = open_pool(inputs, set(pool_drives[in_shard(pool_drives, shard, shard_count)]))
    labelled = labelled_so_far(inputs)
    return pd.concat([pool, labelled[in_shard(labelled.drive_id, shard, shard_count)]], ignore_index=True)


def provenance(data_manifest: Path) -> dict[str, str | None]:
    """Return what a network came from: the data version's identity, the code commit and the image, as far as they are known."""
    return {
        "data_manifest_sha256": hashlib.sha256(data_manifest.read_bytes()).hexdigest(),
        "code_commit": os.environ.get(COMMIT_VARIABLE),
        "image": os.environ.get(IMAGE_VARIABLE),
    }


def gate_rows(stage: str, *rows: tuple[str, float, float, float]) -> "pd.DataFrame":
    """Return the table of figures that a stage's gate judges, from rows of (metric, value, lower, upper)."""
    from perception.quality.metrics_table import metric_rows

    names = ("metric", "value", "lower", "upper")
    return metric_rows({"stage": stage} | dict(zip(names, row, strict=True)) for row in rows)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
