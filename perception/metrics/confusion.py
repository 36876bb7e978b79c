"""Count a confusion matrix once per slice in integers; every segmentation figure is derived from it afterwards."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.data.taxonomies import IGNORE
from perception.errors import InputError

# OpenCV hands its counts over as float32, which is exact up to 2**24.
_CHUNK_PIXELS = 1 << 20


def _as_bytes(values: ArrayLike, what: str) -> NDArray[np.uint8]:
    """Flatten integer ids to uint8, refusing anything that uint8 would change."""
    array = np.asarray(values)
    if array.dtype == np.uint8:
        return array.reshape(-1)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} have dtype {array.dtype}; class ids must be integers: pass argmax over class, not scores"
        )
    if array.size and (array.min() < 0 or array.max() > IGNORE):
        raise InputError(f"{what} span {array.min()}..{array.max()}; class ids must lie in 0..{IGNORE}")
    return array.astype(np.uint8).reshape(-1)


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count how often each labelled class was predicted as each class.

    labels: any shape, integer ids 0..classes-1, or 255 where the pixel is not judged
    predictions: same shape, integer ids 0..classes-1 (also where the label is 255)
    Returns (class, class) int64: row = label, column = prediction; sums of such matrices are the matrix of the union.

    Raises InputError for different shapes and for ids outside their range.
    """
    if not 1 <= classes <= IGNORE:
        raise InputError(f"classes={classes} must lie in 1..{IGNORE} (255 marks pixels that are not judged)")
    if np.shape(labels) != np.shape(predictions):
        raise InputError(
            f"labels have shape {np.shape(labels)} but predictions {np.shape(predictions)}; resize one first"
        )
    label_ids, prediction_ids = _as_bytes(labels, "labels"), _as_bytes(predictions, "predictions")
    if prediction_ids.size and (highest := int(prediction_ids.max())) >= classes:
        raise InputError(f"predictions hold class {highest}; with {classes} classes ids must lie in 0..{classes - 1}")
    # One row for each of the 256 label values: unknown labels and 255 fall into rows of their own, so no mask is built.
    rows = np.zeros((256, classes), np.int64)
    for start in range(0, label_ids.size, _CHUNK_PIXELS):
        part = slice(start, start + _CHUNK_PIXELS)
        rows += _counted(label_ids[part], prediction_ids[part], classes)
    unknown = np.flatnonzero(rows[classes:IGNORE].any(axis=1))
    if unknown.size:
        raise InputError(
            f"labels hold value {classes + int(unknown[0])}; with {classes} classes labels must be "
            f"0..{classes - 1} or {IGNORE}: map them to the target taxonomy first"
        )
    return rows[:classes].copy()


def _counted(labels: NDArray[np.uint8], predictions: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count pairs of a label value and a class: (pixel,) and (pixel,) uint8 → (256, classes).

    In a street scene neighbours mostly hold the same pair, and each increment would wait for the one before. So each of
    the next pixels counts into a table of its own, as many as the values that a byte has left make room for.
    """
    stride = 1 << (classes - 1).bit_length()
    spread = cv2.add(predictions.reshape(1, -1), _offsets(stride)[:, : predictions.size])
    counts = cv2.calcHist([labels.reshape(1, -1), spread], [0, 1], None, [256, 256], [0, 256, 0, 256])
    return np.asarray(counts.reshape(256, -1, stride)[:, :, :classes].sum(axis=1, dtype=np.int64))


@cache
def _offsets(stride: int) -> NDArray[np.uint8]:
    """Return 0, stride, 2 stride, ... below 256, over and over: (1, _CHUNK_PIXELS) uint8."""
    return np.tile(np.arange(0, 256, stride, dtype=np.uint8), _CHUNK_PIXELS * stride // 256)[None]


def _checked(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(f"confusion has shape {confusion.shape}; it must be square, (class, class)")
    return confusion


def iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the intersection over union of each class.

    confusion: (class, class), row = label
    Returns (class,) float64 in [0, 1]; NaN where the class is in neither labels nor predictions.
    """
    return iou_of_tallies(tallies(_checked(confusion)))


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Average the IoU over the classes that are present in labels or predictions; NaN when none is.

    confusion: (class, class), row = label
    """
    values = iou(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Give the share of judged pixels whose prediction equals the label; NaN without pixels.

    confusion: (class, class), row = label
    """
    counts = _checked(confusion)
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


def frequency_weighted_iou(confusion: NDArray[np.int64]) -> float:
    """Average the IoU weighted by each class's share of labelled pixels; NaN without pixels.

    confusion: (class, class), row = label.  Source: Long, Shelhamer, Darrell 2015, section 5.
    """
    counts = _checked(confusion)
    frequency = counts.sum(axis=1)
    if not frequency.sum():
        return float("nan")
    labelled = frequency > 0
    return float((frequency[labelled] * iou(confusion)[labelled]).sum() / frequency.sum())


def tallies(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reduce confusion matrices to what IoU needs; sums of tallies are the tallies of the union.

    confusion: (..., class, class), row = label
    Returns (..., 3, class) int64: pixels that are right, labelled, predicted.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(axis=-1), confusion.sum(axis=-2)], axis=-2)


def iou_of_tallies(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Give the IoU of each class from tallies (..., 3, class), integers or weighted sums of them.

    Returns (..., class) float64; NaN where the class is in neither labels nor predictions.
    """
    right, labelled, predicted = (counts[..., part, :].astype(np.float64) for part in range(3))
    union = labelled + predicted - right
    return np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)


def mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the last axis, NaN left out; NaN where nothing is left."""
    known = np.isfinite(values)
    number = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def merge_classes(confusion: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Count groups of classes as one class each, such as the categories of Cityscapes.

    confusion: (class, class), row = label; groups: class ids, each class in at most one group; others are left out.
    Returns (group, group) int64.
    """
    listed = [class_id for group in groups for class_id in group]
    if len(set(listed)) != len(listed):
        raise InputError(f"groups {[list(group) for group in groups]} name a class twice; name each at most once")
    member = np.array([np.isin(np.arange(len(confusion)), group) for group in groups], np.int64)
    merged: NDArray[np.int64] = member @ confusion @ member.T
    return merged
