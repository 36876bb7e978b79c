"""Evaluate a segmentation network on labelled frames at the labels' own resolution, whole and by condition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from perception.data.loading import FrameSet
from perception.metrics.confusion import confusion_matrix, iou, mean_iou, pixel_accuracy

CONDITIONS = ("time_of_day", "weather", "scene")
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class SegmentationScore:
    """Hold what a network did on a set of labelled frames.

    confusion: (class, class) int64, rows = label. by_slice: the same for the frames of one condition, keyed `column=value`.
    frames: one row a frame: frame_id, drive_id, pixel_accuracy, miou (NaN where a frame shows no known class).
    """

    confusion: NDArray[np.int64]
    by_slice: dict[str, NDArray[np.int64]]
    frames_by_slice: dict[str, int]
    frames: pd.DataFrame

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur."""
        return mean_iou(self.confusion)

    def iou_by_class(self, classes: Sequence[str]) -> dict[str, float | None]:
        """Return IoU by class name, None for a class that does not occur."""
        values = iou(self.confusion)
        return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)}

    def miou_by_slice(self) -> dict[str, float]:
        """Return mean IoU by condition, over the classes that occur there."""
        return {name: mean_iou(confusion) for name, confusion in sorted(self.by_slice.items())}


def evaluate_frames(
    frames: FrameSet,
    about: pd.DataFrame,
    predict: Predict,
    classes: int,
    *,
    batch_frames: int = 8,
    on_prediction: Callable[[str, NDArray[np.uint8]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationScore:
    """Compare predictions with labels, frame after frame, in the memory of one batch.

    frames: what is loaded; the network sees its size, and its logits are resized to the label's own size (bilinear).
    about: the same frames' manifest rows, in the same order: drive_id and the condition columns.
    predict: (frame, 3, height, width) float32 in [0, 1] → logits (frame, class, height, width) float32.
    on_prediction: called with each frame_id and its prediction (height, width) uint8 at the label's size.
    """
    total = np.zeros((classes, classes), dtype=np.int64)
    by_slice: dict[str, NDArray[np.int64]] = {}
    counts: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for start in range(0, len(frames), batch_frames):
        indices = range(start, min(start + batch_frames, len(frames)))
        images = np.stack([frames.load(index)[0] for index in indices]).astype(np.float32) / np.float32(255)
        for index, logits in zip(indices, predict(images), strict=True):
            label = frames.full_label(index)
            shown = predicted_classes(logits, label.shape)
            confusion = confusion_matrix(label, shown, classes)
            total += confusion
            row = about.iloc[index]
            for name in slices_of(row):
                by_slice[name] = by_slice.get(name, 0) + confusion
                counts[name] = counts.get(name, 0) + 1
            rows.append(_frame_row(row, confusion))
            if on_prediction:
                on_prediction(str(row.frame_id), shown)
        if progress:
            progress(indices.stop, len(frames))
    return SegmentationScore(confusion=total, by_slice=by_slice, frames_by_slice=counts, frames=pd.DataFrame(rows))


def slices_of(row: "pd.Series[Any]") -> list[str]:
    """Return the condition slices that a manifest row belongs to, as `column=value`; an unknown condition is in none."""
    return [f"{column}={row[column]}" for column in CONDITIONS if isinstance(row[column], str)]


def predicted_classes(logits: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the class of greatest logit at every pixel of `size`.

    logits: (class, height, width) float32, resized bilinearly to (class, *size) first. Returns `size` uint8.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None]
    if logits.shape[1:] != tuple(size):
        tensor = torch.nn.functional.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)
    return tensor[0].argmax(0).to(torch.uint8).numpy()


def torch_predictor(network: torch.nn.Module) -> Predict:
    """Return the function that gives a network's logits, in eval mode and without gradients."""
    network.eval()

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(torch.from_numpy(images)).float().numpy()
        return logits

    return predict


def _frame_row(row: "pd.Series[Any]", confusion: NDArray[np.int64]) -> dict[str, Any]:
    known = confusion.sum() > 0
    return {
        "frame_id": str(row.frame_id),
        "drive_id": str(row.drive_id),
        "pixel_accuracy": pixel_accuracy(confusion) if known else float("nan"),
        "miou": mean_iou(confusion) if known else float("nan"),
        "condition": ", ".join(str(row[column]) for column in CONDITIONS if isinstance(row[column], str)),
    }
