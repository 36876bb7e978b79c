"""Intervals over drives: frames of one drive are near-copies of each other, so whole drives are left out, never pixels.

A figure of summed counts is worked out again without each drive in turn (the jackknife, Efron and Stein 1981) and judged by
Student's t. Where few drives carry most of the spread it has fewer degrees of freedom than drives less one: as many as
normal values of which the squares scatter alike (Satterthwaite 1946, with the kurtosis that was seen).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from perception.errors import InputError

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]  # counts (..., part) to figures (..., figure)
LEAST_DRIVES = 2  # below, nothing is known about how drives differ
_EDGE = 1e-9  # a share of exactly 0 or 1 has no logit


@dataclass(frozen=True, eq=False)
class Spread:
    """Hold by how much figures scatter: standard error and degrees of freedom, (figure, ...) each; NaN where not known."""

    error: Floats
    freedom: Floats

    def half_width(self, confidence: float) -> Floats:
        """Return by how much a figure's bound lies beside it, one-sided at `confidence`."""
        half: Floats = special.stdtrit(self.freedom, confidence) * self.error
        return half


def leave_one_out(figure: Figure, counts: NDArray[Any]) -> Floats:
    """Return a figure of the sum of counts (drive, ...) without each drive in turn: (drive, ...)."""
    values: Floats = figure((counts.sum(axis=0) - counts).astype(np.float64))
    return values


def spread_of(left_out: Floats) -> Spread:
    """Return the spread of figures from their values without each drive, (drive, ...); NaN where one of those is."""
    drives = len(left_out)
    if drives < LEAST_DRIVES:
        return Spread(*(np.full(left_out.shape[1:], np.nan) for _ in range(2)))
    squares = (left_out - left_out.mean(axis=0)) ** 2
    total = squares.sum(axis=0)
    share = np.divide((squares**2).sum(axis=0), total**2, out=np.ones_like(total), where=total > 0)
    # of n normal values the squares' squares are 3 / n of their sum squared, and of the spread's square 2 / freedom is left
    freedom = np.clip(2.0 / np.maximum(share - 1.0 / drives, 1e-12), 1.0, drives - 1.0)
    return Spread(np.sqrt((drives - 1) / drives * total), freedom)


def share_interval(figure: Figure, counts: NDArray[Any], confidence: float) -> tuple[Floats, Floats]:
    """Give the two-sided interval over drives of figures that are shares, such as IoU.

    figure: of summed counts; counts: (drive, ...), a row a drive. Returns (lower, upper), float64 in [0, 1] and of the
    figure's shape; NaN with fewer than two drives, where all drives are alike, and where the figure does not exist without some
    one drive. The scale is the logit, on which the interval of a small share is not symmetric.
    """
    check_confidence(confidence)
    whole = special.logit(_inside(figure(counts.sum(axis=0)[None].astype(np.float64))[0]))
    found = spread_of(special.logit(_inside(leave_one_out(figure, counts))))
    half = np.where(found.error > 0, found.half_width((1.0 + confidence) / 2.0), np.nan)
    return special.expit(whole - half), special.expit(whole + half)


def check_confidence(confidence: float) -> None:
    """Raise InputError for a confidence that is none."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence={confidence} must lie strictly between 0 and 1, for example 0.95")


def _inside(shares: Floats) -> Floats:
    return np.clip(shares, _EDGE, 1.0 - _EDGE)
