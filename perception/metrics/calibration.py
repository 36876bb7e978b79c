"""Calibration: is the network right as often as it is sure? Counted by bins of confidence, summed over frames."""

from itertools import count

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

BINS = 15
# of a frame, on a regular grid: exponentials of every logit at full size cost more than they tell
PIXELS_SAMPLED = 200_000


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


def calibration_error(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the expected calibration error: the mean of |accuracy - confidence| over bins, weighted by predictions.

    counts: (..., 3, bin) as reliability_counts makes them. Returns (...) float64 in [0, 1]; NaN without predictions.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    total = counts[..., 0, :].sum(axis=-1)
    gaps = np.abs(counts[..., 1, :] - counts[..., 2, :]).sum(axis=-1)
    return np.divide(gaps, total, out=np.full(total.shape, np.nan), where=total > 0)


def reliability_curve(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean confidence and accuracy of every bin: (bin,) float64 each, NaN in an empty bin."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[2] / counts[0], counts[1] / counts[0]


def sample_step(height: int, width: int) -> int:
    """Give the step in pixels of a regular grid that has at most PIXELS_SAMPLED points."""
    return next(step for step in count(1) if -(-height // step) * -(-width // step) <= PIXELS_SAMPLED)
