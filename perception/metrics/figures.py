"""Turn counts into the figures of an evaluation: IoU by class, category, condition and cell, with intervals over drives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.metrics.calibration import calibration_error, calibration_interval, reliability_curve
from perception.metrics.confusion import (
    frequency_weighted_iou,
    iou_of_tallies,
    mean_iou,
    mean_known,
    merge_classes,
    pixel_accuracy,
    tallies,
)
from perception.metrics.jackknife import share_interval
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.settings import IntervalSettings
from perception.metrics.slices import Slice, cell_slices, column_slices

Json = dict[str, Any]


def overall_figures(
    score: SegmentationScore,
    classes: Sequence[str],
    categories: Mapping[str, Sequence[int]],
    settings: IntervalSettings,
) -> Json:
    """Give the figures of all frames as plain values: each measure, and its interval over drives as [lower, upper] or None.

    categories: name → class ids.
    """
    counts = tallies(_by_drive(score, score.counts))
    lower, upper = share_interval(iou_of_tallies, counts, settings.confidence)
    values = iou_of_tallies(counts.sum(axis=0))
    confusion = score.confusion
    groups = {name: list(ids) for name, ids in categories.items()}
    merged = iou_of_tallies(tallies(merge_classes(confusion, list(groups.values())))) if groups else np.zeros(0)
    return {
        "frames": len(score.frames),
        "drives": len(counts),
        "miou": plain(mean_iou(confusion)),
        "miou_interval": _interval(*share_interval(_mean_iou, counts, settings.confidence)),
        "iou_by_class": named(classes, values),
        "iou_interval_by_class": {name: _interval(lower[k], upper[k]) for k, name in enumerate(classes)},
        "iou_by_category": named(list(groups), merged),
        "miou_category": plain(float(mean_known(merged[None])[0])) if groups else None,
        "frequency_weighted_iou": plain(frequency_weighted_iou(confusion)),
        "pixel_accuracy": plain(pixel_accuracy(confusion)),
        "pixels_by_class": {name: int(count) for name, count in zip(classes, confusion.sum(axis=1), strict=True)},
    }


def boundary_figures(score: SegmentationScore, classes: Sequence[str], settings: IntervalSettings) -> Json | None:
    """Give Boundary IoU, mean and by class, with the mean's interval; None where outlines were not counted."""
    if score.boundary is None:
        return None
    counts = _by_drive(score, score.boundary)
    values = iou_of_tallies(counts.sum(axis=0))
    return {
        "mean": plain(float(mean_known(values[None])[0])),
        "interval": _interval(*share_interval(_mean_iou, counts, settings.confidence)),
        "by_class": named(classes, values),
    }


def calibration_figures(score: SegmentationScore, settings: IntervalSettings) -> Json | None:
    """Give the calibration error with its interval and the reliability curve; None where confidence was not counted."""
    if score.reliability is None:
        return None
    counts = _by_drive(score, score.reliability)
    total = counts.sum(axis=0)
    sure, right = reliability_curve(total)
    shares = total[0] / max(1.0, total[0].sum())
    return {
        "error": _calibration_error(counts),
        "interval": _interval(*calibration_interval(counts, settings.confidence)),
        "accuracy": plain(float(total[1].sum() / max(1.0, total[0].sum()))),
        "confidence": plain(float(total[2].sum() / max(1.0, total[0].sum()))),
        "bins": [
            {"confidence": plain(float(c)), "accuracy": plain(float(a)), "share": plain(float(s))}
            for c, a, s in zip(sure, right, shares, strict=True)
        ],
    }


def slice_figures(score: SegmentationScore, settings: IntervalSettings) -> list[Json]:
    """Give one row a condition and one a cell of all columns: the worst first, those with too few frames or drives last.

    Each has name, where, cell (bool), frames, drives, known, miou, interval, calibration_error.
    """
    cut = [(each, False) for each in column_slices(score.groups, score.columns)]
    cut += [(each, True) for each in cell_slices(score.groups, score.columns)] if len(score.columns) > 1 else []
    rows = [_slice_row(score, each, cell, settings) for each, cell in cut]
    return sorted(rows, key=lambda row: (not row["known"], row["miou"] is None, row["miou"] or 0.0, row["name"]))


def _slice_row(score: SegmentationScore, each: Slice, cell: bool, settings: IntervalSettings) -> Json:
    by_drive = _by_drive(score, score.counts, each.rows)
    frames = int(score.groups.frames[each.rows].sum())
    sure = _by_drive(score, score.reliability, each.rows) if score.reliability is not None else None
    return {
        "name": each.name,
        "where": dict(each.where),
        "cell": cell,
        "frames": frames,
        "drives": len(by_drive),
        "known": frames >= settings.minimum_frames and len(by_drive) >= settings.minimum_drives,
        "miou": plain(mean_iou(by_drive.sum(axis=0))),
        "interval": _interval(*share_interval(_mean_iou, tallies(by_drive), settings.confidence)),
        "calibration_error": _calibration_error(sure) if sure is not None else None,
    }


def _by_drive(
    score: SegmentationScore, counts: NDArray[Any], rows: NDArray[np.bool_] | slice = slice(None)
) -> NDArray[Any]:
    """Sum counts of some groups by drive: (drive, ...)."""
    drives, place = np.unique(score.groups.drive_id[rows].to_numpy(str), return_inverse=True)
    summed = np.zeros((len(drives), *counts.shape[1:]), counts.dtype)
    np.add.at(summed, place, counts[rows])
    return summed


def _calibration_error(counts: NDArray[np.float64]) -> float | None:
    return plain(float(np.maximum(calibration_error(counts), 0.0)))


def _mean_iou(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean_known(iou_of_tallies(counts))


def plain(value: float) -> float | None:
    """Return a figure as JSON can hold it: None for one that does not exist."""
    return float(value) if math.isfinite(value) else None


def named(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return values by name, None for those that do not exist."""
    return {name: plain(float(value)) for name, value in zip(names, values, strict=True)}


def _interval(low: Any, high: Any) -> list[float] | None:
    return [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None
