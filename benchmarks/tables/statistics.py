"""What several seeds say: mean and spread, and paired differences with their interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with a two-sided 95 % interval by Student's t; NaN ends for a single pair."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = "one seed" if math.isnan(self.low) else f"{self.low:+.2f} to {self.high:+.2f}"
        return f"{self.mean:+.2f} ({ends})"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return first - second, pair by pair: the same seed on both sides takes its share of the spread away."""
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    return Difference(mean, mean - half, mean + half)


def mean_and_spread(values: Sequence[float]) -> str:
    """Write mean ± standard deviation over seeds, with two decimals."""
    array = np.asarray(values, dtype=np.float64)
    return f"{array.mean():.2f}" + (f" ± {array.std(ddof=1):.2f}" if len(array) > 1 else "")


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the mean |accuracy - confidence| over equal bins of confidence, weighted by their images (Guo et al. 2017).

    confidence: (image,) in [0, 1]. right: (image,) bool.
    """
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def area_under_rejection_curve(doubt: np.ndarray, right: np.ndarray) -> float:
    """Return the mean, over all shares of images kept when the most doubtful go first, of the accuracy of those kept.

    doubt: (image,) float, any order-preserving measure. right: (image,) bool. Higher is better: the network knows where
    it errs.
    """
    kept = np.argsort(doubt, kind="stable")
    return float((np.cumsum(right[kept]) / np.arange(1, len(kept) + 1)).mean())
