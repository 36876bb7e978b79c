"""Evaluate a segmentation network on labelled frames at the labels' own resolution, whole, by drive and by condition."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from perception.data.taxonomies import IGNORE
from perception.errors import InputError
from perception.metrics.boundary import boundary_tallies
from perception.metrics.calibration import reliability_counts, sample_step
from perception.metrics.confusion import confusion_matrix, iou, mean_iou, pixel_accuracy
from perception.metrics.slices import CONDITIONS, check_columns, column_slices
from perception.models.modes import evaluation_mode

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class LabelledFrames(Protocol):
    """Give frames by number: an image at the network's size, image and label at their own."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Load one frame: image (3, height, width) uint8, label at that size."""
        ...

    def full_label(self, index: int) -> NDArray[np.uint8]:
        """Load one frame's label at its own size: (height, width) uint8, 255 = not judged."""
        ...


@dataclass(frozen=True, eq=False)
class SegmentationScore:
    """Hold what a network did on a set of labelled frames.

    groups: one row a drive and combination of conditions: drive_id, the slice columns (None where unknown), frames.
    counts: (group, class, class) int64, row = label; every slice, drive and resample is a sum of these.
    boundary: (group, 3, class) int64 as boundary_tallies, or None; reliability: (group, 3, bin) float64 as
    reliability_counts, or None. frames: one row a frame: frame_id, drive_id, the slice columns, pixel_accuracy, miou
    (NaN where a frame shows no known class), condition in words.
    """

    groups: pd.DataFrame
    counts: NDArray[np.int64]
    frames: pd.DataFrame
    columns: tuple[str, ...] = CONDITIONS
    boundary: NDArray[np.int64] | None = None
    reliability: NDArray[np.float64] | None = None

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Return the confusion matrix of all frames: (class, class) int64, row = label."""
        total: NDArray[np.int64] = self.counts.sum(axis=0)
        return total

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur."""
        return mean_iou(self.confusion)

    def iou_by_class(self, classes: Sequence[str]) -> dict[str, float | None]:
        """Return IoU by class name, None for a class that does not occur."""
        values = iou(self.confusion)
        return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)}

    def miou_by_slice(self) -> dict[str, float]:
        """Return mean IoU by condition, over the classes that occur there."""
        cut = column_slices(self.groups, self.columns)
        return {each.name: mean_iou(self.counts[each.rows].sum(axis=0)) for each in cut}

    def frames_by_slice(self) -> dict[str, int]:
        """Return the number of frames by condition."""
        return {
            each.name: int(self.groups.frames[each.rows].sum()) for each in column_slices(self.groups, self.columns)
        }


@dataclass
class GroupSums:
    """Add up integer counts a group; the only state that grows with the test set is one matrix a drive and condition."""

    keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    frames: list[int] = field(default_factory=list)
    arrays: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, key: tuple[Any, ...], **counts: NDArray[Any]) -> None:
        """Add one frame's counts, any number of named arrays of fixed shapes, to the group `key`."""
        index = self.keys.setdefault(key, len(self.keys))
        if index == len(self.frames):
            self.frames.append(0)
            for name, values in counts.items():
                self.arrays.setdefault(name, []).append(np.zeros_like(values))
        self.frames[index] += 1
        for name, values in counts.items():
            self.arrays[name][index] += values


def evaluate_frames(
    frames: LabelledFrames,
    about: pd.DataFrame,
    predict: Predict,
    classes: int,
    *,
    network: str = "the network",
    batch_frames: int = 8,
    columns: Sequence[str] = CONDITIONS,
    boundary: bool = False,
    calibration: bool = False,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    on_frame: Callable[[str, NDArray[np.uint8]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationScore:
    """Compare predictions with labels, frame after frame, in the memory of one batch.

    frames: what is loaded; the network sees its size, and its logits are resized to the label's own size (bilinear).
    about: the same frames' manifest rows, in the same order: frame_id, drive_id and the slice columns.
    predict: (frame, 3, height, width) float32 in [0, 1] → logits (frame, class, height, width) float32; network: its name.
    boundary, calibration: also count outlines, and confidence against being right (on a grid of each frame's pixels).
    change: what happens to the images of a batch before the network sees them, such as a corruption.
    on_frame: called with each frame's frame_id and prediction, (height, width) uint8 at the label's size.
    Raises InputError for a column that `about` lacks, and for logits that are not numbers of these classes, with the
    frame.
    """
    check_columns(about, columns)
    sums, rows = GroupSums(), []
    for index, logits in _logits(frames, predict, batch_frames, change, progress):
        row = about.iloc[index]
        check_logits(logits, classes, f"{network} on frame {row.frame_id}")
        label = frames.full_label(index)
        resized = resized_logits(logits, label.shape)
        shown = resized.argmax(0).to(torch.uint8).numpy()
        confusion = confusion_matrix(label, shown, classes)
        conditions = tuple(row[column] if isinstance(row[column], str) else None for column in columns)
        extra: dict[str, NDArray[Any]] = {}
        if boundary:
            extra["boundary"] = boundary_tallies(label, shown, classes)
        if calibration:
            extra["reliability"] = _reliability(resized, label, shown)
        sums.add((str(row.drive_id), *conditions), counts=confusion, **extra)
        rows.append(_frame_row(row, confusion, columns, conditions))
        if on_frame:
            on_frame(str(row.frame_id), shown)
    return _score(sums, rows, columns, classes)


def _logits(
    frames: LabelledFrames,
    predict: Predict,
    batch_frames: int,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(frames), batch_frames):
        indices = range(start, min(start + batch_frames, len(frames)))
        images = np.stack([frames.load(index)[0] for index in indices]).astype(np.float32) / np.float32(255)
        yield from zip(indices, predict(change(images) if change else images), strict=True)
        if progress:
            progress(indices.stop, len(frames))


def _score(sums: GroupSums, rows: list[dict[str, Any]], columns: Sequence[str], classes: int) -> SegmentationScore:
    names = ["drive_id", *columns]
    groups = _with_none(pd.DataFrame(list(sums.keys), columns=names), names)
    stacked = {name: np.stack(values) for name, values in sums.arrays.items()}
    return SegmentationScore(
        groups=groups.assign(frames=sums.frames),
        counts=stacked.get("counts", np.zeros((0, classes, classes), np.int64)),
        frames=pd.DataFrame(rows),
        columns=tuple(columns),
        boundary=stacked.get("boundary"),
        reliability=stacked.get("reliability"),
    )


def write_score(score: SegmentationScore, folder: Path) -> None:
    """Write what a network did, but for outlines and reliability, into a folder: counts.npy, groups.parquet, frames.parquet."""
    np.save(folder / "counts.npy", score.counts)
    score.groups.to_parquet(folder / "groups.parquet", index=False)
    score.frames.to_parquet(folder / "frames.parquet", index=False)


def read_score(folder: Path, columns: Sequence[str]) -> SegmentationScore:
    """Return what write_score wrote of a network that was judged by these slice columns."""
    return SegmentationScore(
        groups=_with_none(pd.read_parquet(folder / "groups.parquet"), ["drive_id", *columns]),
        counts=np.load(folder / "counts.npy", allow_pickle=False),
        frames=_with_none(pd.read_parquet(folder / "frames.parquet"), columns),
        columns=tuple(columns),
    )


def _with_none(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    known = {name: table[name].astype(object).where(table[name].notna(), None) for name in names}
    return table.assign(**known)


def check_logits(logits: NDArray[Any], classes: int, what: str) -> None:
    """Refuse logits that are not finite numbers (class, height, width); raises InputError with what gave them."""
    if logits.ndim != 3 or len(logits) != classes:
        raise InputError(f"{what}: gives {logits.shape}, must be logits ({classes}, height, width); export these")
    if not np.isfinite(logits).all():
        share = 1 - np.isfinite(logits).mean()
        raise InputError(
            f"{what}: gives NaN or infinity in {share:.1%} of its logits, so it has no classes to compare; train or export it "
            "again"
        )


def resized_logits(logits: NDArray[np.float32], size: tuple[int, ...]) -> torch.Tensor:
    """Resize logits (class, height, width) float32 bilinearly to (class, *size)."""
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None]
    if logits.shape[1:] != tuple(size):
        tensor = torch.nn.functional.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)
    return tensor[0]


def predicted_classes(logits: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the class of greatest logit at every pixel of `size`.

    logits: (class, height, width) float32, resized bilinearly to (class, *size) first. Returns `size` uint8.
    """
    return resized_logits(logits, size).argmax(0).to(torch.uint8).numpy()


def torch_predictor(network: torch.nn.Module) -> Predict:
    """Return the function that gives a network's logits, in eval mode and without gradients; the network keeps its mode."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with evaluation_mode(network), torch.inference_mode():
            logits: NDArray[np.float32] = network(torch.from_numpy(images)).float().numpy()
        return logits

    return predict


def _reliability(logits: torch.Tensor, label: NDArray[np.uint8], shown: NDArray[np.uint8]) -> NDArray[np.float64]:
    step = sample_step(*label.shape)
    grid = (slice(None, None, step), slice(None, None, step))
    confidence = logits[(slice(None), *grid)].softmax(0).amax(0).numpy()
    judged = label[grid] != IGNORE
    return reliability_counts(confidence[judged].clip(0.0, 1.0), (label[grid] == shown[grid])[judged])


def _frame_row(
    row: "pd.Series[Any]", confusion: NDArray[np.int64], columns: Sequence[str], conditions: tuple[str | None, ...]
) -> dict[str, Any]:
    known = confusion.sum() > 0
    return {
        "frame_id": str(row.frame_id),
        "drive_id": str(row.drive_id),
        **dict(zip(columns, conditions, strict=True)),
        "pixel_accuracy": pixel_accuracy(confusion) if known else float("nan"),
        "miou": mean_iou(confusion) if known else float("nan"),
        "condition": ", ".join(value for value in conditions if value is not None),
    }
