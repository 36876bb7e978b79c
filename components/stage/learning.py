"""What the stages that train networks have in common: their parameters, and which frames each of them may learn from."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.stage.declaration import Paths
from components.stage.execution import TRAINING_STATE_VARIABLE
from components.stage.parameters import require

Network = TypeVar("Network")
COMMIT_VARIABLE, IMAGE_VARIABLE = "NIGHTDRIVE_COMMIT", "NIGHTDRIVE_IMAGE"  # set by the local engine, or by the image

if TYPE_CHECKING:
    import pandas as pd

    from perception.data.loading import Augment, FrameSet, LoadSettings
    from perception.models.erfnet import ERFNet
    from perception.training.loop import EpochRecord, Resume, TrainSettings


@dataclass(frozen=True, kw_only=True)
class FrameParameters:
    """Say where frames are and how they reach a network."""

    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: str  # the classes that networks learn: a table in perception/data/taxonomy_tables
    height_px: int  # frames are resized to this before a network sees them; a multiple of 8
    width_px: int
    seed: int  # of everything random in the stage
    # One, because a second thread that shares its core with another program costs more than it gives; sums round the same only
    # with the same number.
    threads: int = 1  # of the numerical libraries

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            value = getattr(self, name)
            require(
                0 < value <= 16384 and value % 8 == 0, name, value, "must be a positive multiple of 8, at most 16384"
            )
        require(0 <= self.seed < 2**63, "seed", self.seed, "must lie in 0..2^63 - 1")
        require(self.threads > 0, "threads", self.threads, "must be at least 1")

    def load_settings(self) -> "LoadSettings":
        """Return the size and the classes in which frames reach a network."""
        from perception.data.loading import LoadSettings

        return LoadSettings(height_px=self.height_px, width_px=self.width_px, taxonomy=self.taxonomy)

    def frame_set(self, frames: "pd.DataFrame", *, labels_required: bool = True) -> "FrameSet":
        """Open `frames` (rows of a manifest) as images and labels of the networks' size and classes."""
        from perception.data.loading import FrameSet
        from perception.data.store import open_store

        return FrameSet(frames, open_store(self.store), self.load_settings(), labels_required=labels_required)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes that networks learn."""
        from perception.data.taxonomies import load_taxonomy

        return load_taxonomy(self.taxonomy).classes

    def onnx_metadata(self) -> dict[str, str]:
        """Return what an exported network tells whoever runs it: its taxonomy, its classes and its input."""
        import json

        classes = json.dumps(self.class_names())
        return {"taxonomy": self.taxonomy, "classes": classes, "input": "RGB, float32 in [0, 1], frame x 3 x h x w"}

    def miou(self, network: Any, frames: "pd.DataFrame") -> float:
        """Return the network's mIoU on labelled manifest rows, at the labels' own resolution."""
        from perception.metrics.segmentation import evaluate_frames, torch_predictor

        score = evaluate_frames(self.frame_set(frames), frames, torch_predictor(network), len(self.class_names()))
        return score.miou()

    def prepare(self) -> None:
        """Fix the number of threads; equal sums need an equal split of the work."""
        import cv2
        import torch

        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)  # frames are loaded by threads that have one each to work on


@dataclass(frozen=True, kw_only=True)
class LearningParameters(FrameParameters):
    """Say how a network is trained."""

    network_width: float  # ERFNet's channels times this; 1.0 is the published network
    dropout: float = 0.3  # ERFNet's in its deep blocks, a tenth of it in its shallow ones; a short training wants none
    epochs: int  # passes of epoch_frames frames
    epoch_frames: int  # frames drawn in an epoch, in turn from a shuffled list
    batch_frames: int  # frames in one step
    learning_rate: float  # of Adam, falling to zero
    weight_decay: float = 1e-4  # of Adam
    least_zoom: float = 0.75  # training frames are zoomed by a factor between these two; a short training wants little
    greatest_zoom: float = 1.5  # above 1 a part of the frame is seen, below 1 it is padded
    color_jitter: float = 0.2  # brightness, contrast and saturation of training frames vary by this share at most
    mixed_precision: bool = True  # on a GPU: bfloat16 where it is safe; a processor always computes in float32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("network_width", "epochs", "epoch_frames", "learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(
            self.batch_frames >= 2, "batch_frames", self.batch_frames, "must be at least 2: normalisation needs a batch"
        )
        require(0.1 <= self.least_zoom <= 1, "least_zoom", self.least_zoom, "must be from 0.1 to 1")
        require(1 <= self.greatest_zoom <= 8, "greatest_zoom", self.greatest_zoom, "must be from 1 to 8")
        require(0 <= self.color_jitter < 1, "color_jitter", self.color_jitter, "must be at least 0 and below 1")

    def new_network(self) -> "ERFNet":
        """Build an untrained network for this stage's classes."""
        from perception.models.erfnet import ERFNet

        classes, dropout = len(self.class_names()), self.dropout
        return ERFNet(classes, width=self.network_width, dropout_quarter=dropout / 10, dropout_eighth=dropout)

    def augment(self) -> "Augment":
        """Return how training frames are varied."""
        from perception.data.loading import Augment

        return Augment(scale_range=(self.least_zoom, self.greatest_zoom), color_jitter=self.color_jitter)

    def train_settings(self, seed_offset: int = 0) -> "TrainSettings":
        """Return the training loop's settings; an offset gives an independent repetition."""
        from perception.training.loop import TrainSettings

        device = best_device()
        on_gpu = device.startswith("cuda")
        return TrainSettings(
            epochs=self.epochs,
            batch_frames=self.batch_frames,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule="poly",
            seed=self.seed + seed_offset,
            device=device,
            mixed_precision=on_gpu and self.mixed_precision,
            captured=on_gpu,  # a network this small would wait for its kernels to be launched
        )

    def train(
        self, network: Any, frames: "FrameSet", *, what: str, epochs: int = 0, seed_offset: int = 0, **options: Any
    ) -> "list[EpochRecord]":
        """Train `network` in place on `frames` with this stage's parameters; return the record of its epochs.

        epochs: in place of the stage's own, where above 0. Further `options` go to perception.training.loop.fit, such as a
        loss (by default cross-entropy with rare classes weighted up) or a step after every epoch.
        """
        from components.stage.records import log, progress_line
        from perception.data.loading import WaitingTime, count_batches, pixel_counts, shuffled_batches
        from perception.training.distributed import process_group
        from perception.training.loop import class_weights, fit

        settings = self.train_settings(seed_offset)
        settings = replace(settings, epochs=epochs) if epochs else settings
        waiting, augment = WaitingTime(), self.augment()

        def batches(epoch: int) -> Any:
            drawn = shuffled_batches(
                frames,
                self.batch_frames,
                seed=settings.seed,
                epoch=epoch,
                augment=augment,
                epoch_frames=self.epoch_frames,
                as_bytes=settings.device.startswith("cuda"),  # converted on the GPU
            )
            return waiting.over(drawn)

        options.setdefault("iterations_per_epoch", count_batches(len(frames), self.batch_frames, self.epoch_frames))
        if "loss" not in options:
            options["class_weights"] = class_weights(pixel_counts(frames))
        if (
            "after_epoch" not in options and "after_step" not in options
        ):  # what such a function keeps is in no state file
            options.setdefault("resume", training_state(f"{what}, {augment}", settings, frames.frame_ids))
        with process_group(settings.device):
            records = fit(network, batches, settings, progress=progress_line(what), **options)
        network.to("cpu")
        log(f"{what}: {waiting.share:.1%} of {waiting.total_seconds:.0f} s went on waiting for frames")
        return records


def best_device() -> str:
    """Return the device that networks train on: this process's GPU where there is one."""
    import os

    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def training_state(what: str, settings: "TrainSettings", frame_ids: Sequence[str]) -> "Resume | None":
    """Return where a training keeps its state, in the folder that a cluster's step is given; None elsewhere."""
    import hashlib
    import os

    from perception.training.loop import Resume

    folder = os.environ.get(TRAINING_STATE_VARIABLE)
    if not folder:
        return None
    same_anywhere = replace(settings, device="cpu", mixed_precision=False, captured=False)
    identity = hashlib.sha256("\n".join([what, repr(same_anywhere), *frame_ids]).encode()).hexdigest()
    return Resume(path=Path(folder) / f"{identity[:24]}.state", every_minutes=5, identity=identity)


def by_name(names: Sequence[str], values: Iterable[float]) -> dict[str, float | None]:
    """Return values by class name; NaN, which says that there was nothing to measure, becomes None."""
    return {name: None if value != value else float(value) for name, value in zip(names, values, strict=True)}


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose first weights depend on `seed` alone, and leave the global generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def read_frames(inputs: Paths) -> "pd.DataFrame":
    """Return the night's manifest."""
    from perception.data.manifest import read_manifest

    return read_manifest(inputs.one("frames") / "manifest.parquet")


def labelled_so_far(inputs: Paths) -> "pd.DataFrame":
    """Return the real frames whose labels are known before tonight's selection: the base version and what came labelled.

    A label that came back from annotation takes the place of an earlier one of its frame.
    """
    import pandas as pd

    from perception.data.manifest import read_manifest

    frames = read_manifest(inputs.one("frames") / "manifest.parquet", split="train", domain="real")
    arrived = frames[frames.label_source == "human"]
    base = read_manifest(inputs.one("base") / "manifest.parquet", split="train")
    if not len(base):
        return arrived
    dropped = arrived[arrived.label_drop.notna()] if "label_drop" in arrived else arrived[:0]
    base = base[~base.frame_id.isin(dropped.frame_id)]
    return pd.concat([base, arrived[~arrived.frame_id.isin(base.frame_id)]], ignore_index=True)


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


def image_batches(frames: "FrameSet", batch_frames: int) -> Iterator[tuple[list[str], Any]]:
    """Yield frames in their order as (frame_ids, images), images (frame, 3, height, width) float32 in [0, 1]."""
    from perception.data.loading import ordered_batches

    for number, batch in enumerate(ordered_batches(frames, batch_frames)):
        start = number * batch_frames
        yield list(frames.frame_ids[start : start + len(batch.images)]), batch.images


def provenance(data_manifest: Path) -> dict[str, str | None]:
    """Return what a network came from: the data version's identity, the code commit and the image, as far as they are known."""
    import hashlib
    import os

    return {
        "data_manifest_sha256": hashlib.sha256(data_manifest.read_bytes()).hexdigest(),
        "code_commit": os.environ.get(COMMIT_VARIABLE),
        "image": os.environ.get(IMAGE_VARIABLE),
    }


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON with sorted keys."""
    import json

    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
