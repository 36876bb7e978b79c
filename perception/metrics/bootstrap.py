"""Bootstrap over drives: frames of one drive are near-copies of each other, so whole drives are drawn, never pixels."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from perception.errors import InputError

_LEAST_DRIVES = 2  # below, nothing is known about how drives differ


def drive_weights(drives: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw how often each drive is in each resample, drawn with replacement.

    Returns (resample, drive) float64 whole numbers; every row sums to `drives`.
    """
    if drives < 1 or resamples < 1:
        raise InputError(f"drives={drives}, resamples={resamples}: both must be at least 1")
    generator = np.random.default_rng(seed)
    return generator.multinomial(drives, np.full(drives, 1.0 / drives), size=resamples).astype(np.float64)


def resampled_sums(weights: NDArray[np.float64], counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """Sum per-drive counts over every resample at once.

    weights: (resample, drive); counts: (drive, ...). Returns (resample, ...) float64, one matrix product.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    return (weights @ flat).reshape(len(weights), *counts.shape[1:])


def percentile_interval(
    values: NDArray[np.float64], drives: int, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the two-sided percentile interval of resampled figures, widened for few drives.

    values: (resample, ...), NaN where a figure does not exist in a resample. Returns (lower, upper), each (...) float64;
    NaN with fewer than two drives or fewer than half of the resamples. The percentiles are those of Hesterberg's
    expanded interval (The American Statistician 69, 2015, section 4.5): with n drives the plain ones are too narrow by
    about sqrt((n - 1) / n) and by the ratio of Student's quantile to the normal one.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence={confidence} must lie strictly between 0 and 1, for example 0.95")
    nothing = np.full(values.shape[1:], np.nan)
    if drives < _LEAST_DRIVES:
        return nothing, nothing.copy()
    tail = tail_share(drives, (1.0 - confidence) / 2.0)
    known = np.isfinite(values).sum(axis=0) >= len(values) / 2
    filled = np.where(known, values, 0.0)
    lower, upper = np.nanquantile(filled, [tail, 1.0 - tail], axis=0)
    return np.where(known, lower, np.nan), np.where(known, upper, np.nan)


def tail_share(drives: int, tail: float) -> float:
    """Give the share of resamples to cut off at one end so that `tail` is left out with few drives (Hesterberg 2015)."""
    quantile = special.stdtrit(drives - 1, tail) * np.sqrt(drives / (drives - 1))
    return float(special.ndtr(quantile))
