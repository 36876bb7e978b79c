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
