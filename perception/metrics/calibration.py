"""Calibration: is the network right as often as it is sure? Counted by bins of confidence, summed over frames."""

from itertools import count

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError
from perception.metrics.jackknife import LEAST_DRIVES, spread_of

BINS = 15
# of a frame, on a regular grid: exponentials of every logit at full size cost more than they tell
PIXELS_SAMPLED = 200_000
# Where a bin errs by chance alone both halves a and b count with each other's sign: (|a| + |b|)^2 is so much wider than a^2 + b^2.
_BY_SIGNS = np.sqrt(1.0 + 2.0 / np.pi)


def reliability_counts(
    confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = BINS
) -> NDArray[np.float64]:
    """Count predictions by confidence in bins of equal width.

    confidence: any shape, in [0, 1]; right: same shape. Returns (3, bin) float64: predictions, right ones, sum of
    confidence; sums of such counts are the counts of the union. A confidence of 1 belongs to the last bin.
    """
    if confidence.shape != right.shape:
        raise InputError(
            f"confidence has shape {confidence.shape} but right {right.shape}; give one of each a prediction"
        )
    if confidence.size and not (confidence.min() >= 0.0 and confidence.max() <= 1.0):
        raise InputError(f"confidence spans {confidence.min()}..{confidence.max()}; it must lie in [0, 1]")
    flat = confidence.reshape(-1).astype(np.float64)
    index = np.minimum((flat * bins).astype(np.int64), bins - 1)
    weights = (np.ones_like(flat), right.reshape(-1), flat)
    # without a single prediction bincount gives whole numbers, weights or not
    return np.stack([np.bincount(index, weights=each, minlength=bins) for each in weights], dtype=np.float64)


def calibration_error(counts: NDArray[np.float64]) -> float:
    """Give the expected calibration error: the mean of |accuracy - confidence| over bins, weighted by predictions.

    counts: (drive, 3, bin), as reliability_counts makes them, a row a drive. Which way a bin errs is taken from
    the other half of the drives, every second one, so that chance adds nothing: a calibrated network's mean is 0, where the plain
    sum of absolute values is always above it, and a figure may come out below 0. NaN with fewer than two drives and without predictions.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3; cross-fitted.
    """
    gaps, predictions = _gaps(counts)
    return float(gaps.sum() / predictions.sum()) if len(counts) >= LEAST_DRIVES and predictions.any() else float("nan")


def calibration_interval(counts: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Give the two-sided interval of the calibration error over drives; counts and NaN as there. Returns (lower, upper)."""
    gaps, predictions = _gaps(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = (gaps.sum() - gaps) / (predictions.sum() - predictions)
    half = _BY_SIGNS * float(spread_of(left_out).half_width((1.0 + confidence) / 2.0))
    error = calibration_error(counts)
    low, high = np.maximum([error - half, error + half], 0.0)
    return float(low), float(high)


def _gaps(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each drive adds to the error, and its predictions: (drive,) each."""
    gaps, others = counts[:, 1] - counts[:, 2], np.zeros_like(counts[:, 1])
    for half in range(2):
        others[half::2] = np.sign(gaps[1 - half :: 2].sum(axis=0))
    return (others * gaps).sum(axis=1), counts[:, 0].sum(axis=1)


def reliability_curve(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean confidence and accuracy of every bin: (bin,) float64 each, NaN in an empty bin."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[2] / counts[0], counts[1] / counts[0]


def sample_step(height: int, width: int) -> int:
    """Give the step in pixels of a regular grid that has at most PIXELS_SAMPLED points."""
    return next(step for step in count(1) if -(-height // step) * -(-width // step) <= PIXELS_SAMPLED)
