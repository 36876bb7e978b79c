"""What tables say of several seeds, and of a classifier's trust in itself."""

from collections.abc import Sequence

import numpy as np


def mean_and_spread(values: Sequence[float], decimals: int = 2) -> str:
    """Write mean ± standard deviation over seeds; the mean alone where one measurement stands for all of them."""
    array = np.asarray(values, dtype=np.float64)
    spread = f" ± {array.std(ddof=1):.{decimals}f}" if len(array) > 1 and np.ptp(array) > 0 else ""
    return f"{array.mean():.{decimals}f}{spread}"


def count_of_seeds(seeds: int) -> str:
    """Write how many seeds a figure rests on."""
    return "one seed" if seeds == 1 else f"{seeds} seeds"


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
