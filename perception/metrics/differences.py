"""What several seeds say about two ways of doing the same: paired differences with their interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_SEEDS = 5  # that say something: with fewer the interval is wider than what a night could gain


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with a two-sided 95 % interval by Student's t; NaN ends for a single pair."""

    mean: float
    low: float
    high: float

    def words(self, decimals: int = 2, pair: str = "seed") -> str:
        """Write the mean and, where there is one, the interval; pair: what there is one of without."""
        if math.isnan(self.low):
            return f"{self.mean:+.{decimals}f} (one {pair})"
        return f"{self.mean:+.{decimals}f} ({self.low:+.{decimals}f} to {self.high:+.{decimals}f})"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return first - second, pair by pair: the same seed on both sides takes its share of the spread away."""
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    return Difference(mean, mean - half, mean + half)


def difference_in_words(first: Sequence[float], second: Sequence[float]) -> str:
    """Write first - second, shares, in points with their interval; that they say nothing where there are too few pairs."""
    seeds = "1 seed" if len(first) == 1 else f"{len(first)} seeds"
    if len(first) < LEAST_SEEDS:
        return f"{seeds}: too few to say anything of the difference"
    points = paired_difference([100 * share for share in first], [100 * share for share in second])
    return f"difference {points.words(1)} points over {seeds}"
