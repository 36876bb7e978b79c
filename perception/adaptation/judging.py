"""Judge segmentation, and segmentation with instances fused in, on labelled frames: foreground and background apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from perception.adaptation.foreground import Foreground, at_size, instances_of
from perception.adaptation.fusion import fuse
from perception.data.loading import FrameSet, ordered_batches
from perception.metrics.confusion import confusion_matrix, iou, mean_iou
from perception.metrics.segmentation import predicted_classes
from perception.training.distributed import own_frames, sum_over_processes
from perception.training.loop import batch_logits


@dataclass(frozen=True)
class Judged:
    """Hold the confusion of labels with predictions, (class, class) int64, row = label, and which classes are foreground."""

    confusion: NDArray[np.int64]
    foreground: tuple[bool, ...]

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur."""
        return mean_iou(self.confusion)

    def foreground_miou(self) -> float:
        """Return the mean IoU over the foreground classes that occur; NaN when none does."""
        return self._mean(np.asarray(self.foreground, bool))

    def background_miou(self) -> float:
        """Return the mean IoU over the background classes that occur; NaN when none does."""
        return self._mean(~np.asarray(self.foreground, bool))

    def iou_by_class(self, classes: Sequence[str]) -> dict[str, float | None]:
        """Return IoU by class name, None for a class that is in neither labels nor predictions."""
        values = iou(self.confusion)
        return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)}

    def _mean(self, chosen: NDArray[np.bool_]) -> float:
        values = iou(self.confusion)[chosen]
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")


def judge_fusion(
    network: nn.Module,
    detector: Foreground | None,
    frames: FrameSet,
    foreground: tuple[bool, ...],
    batch_frames: int = 8,
) -> tuple[Judged, Judged]:
    """Judge the segmentation alone and with the detector's instances fused in, at the labels' own size, in one pass.

    foreground: one flag a class. The logits are resized to the label's size (bilinear), masks to its nearest pixels.
    Without a detector both are the same. Each process looks at its share of the frames, all return the sum.
    """
    classes = len(foreground)
    counts = np.zeros((2, classes, classes), np.int64)
    own = own_frames(len(frames), batch_frames)
    instances = instances_of(detector, frames, batch_frames)
    batches = ordered_batches(frames, batch_frames, own)
    frame_logits = (each for batch in batches for each in batch_logits(network, batch).float().cpu().numpy())
    for index, logits, found in zip(own, frame_logits, instances, strict=True):
        label = frames.full_label(index)
        alone = predicted_classes(logits, label.shape)
        counts[0] += confusion_matrix(label, alone, classes)
        counts[1] += confusion_matrix(label, fuse(alone, at_size(found, label.shape)), classes)
    counts = sum_over_processes(counts)
    return Judged(counts[0], foreground), Judged(counts[1], foreground)
