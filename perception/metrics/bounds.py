"""Bound how often something may fail, from how often it was seen to fail.

Trials are independent (binomial: Clopper and Pearson 1934), or frames of independent drives, which fail together; miles are
exposure (Poisson: Garwood 1936).
A change of the software starts the count again; fixing a failure and then counting from zero invalidates every bound.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from perception.errors import InputError

Counts = Sequence[int] | NDArray[np.generic]
_FAR = 12.0  # standard deviations from 0: a sum of gamma variables gets there once in a hundred thousand draws at most
_LOG_STEPS = np.linspace(
    -20.0, 14.0, 1701
)  # of the inversion; finer and wider changes a bound by less than a millionth


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence={confidence} must lie strictly between 0 and 1, for example 0.95")


def _check_counts(failures: int, trials: int) -> None:
    if trials < 0 or not 0 <= failures <= trials:
        raise InputError(f"failures={failures} of trials={trials}: failures must lie in 0..trials")


def failure_rate_upper(failures: int, trials: int, confidence: float) -> float:
    """Bound the failure probability per trial from above, one-sided and exact (Clopper-Pearson).

    Returns BetaInv(confidence; failures + 1, trials - failures) in [0, 1]; 1 for no trials: nothing is known then.
    """
    _check_confidence(confidence)
    _check_counts(failures, trials)
    if failures == trials:
        return 1.0
    if failures == 0:
        return zero_failure_bound(trials, confidence)
    return float(special.betaincinv(failures + 1, trials - failures, confidence))


def zero_failure_bound(trials: int, confidence: float) -> float:
    """Bound the failure probability after trials without failure: 1 - (1 - confidence) ** (1 / trials)."""
    _check_confidence(confidence)
    _check_counts(0, trials)
    return -math.expm1(math.log1p(-confidence) / trials) if trials else 1.0


def rate_upper(failures: int, miles: float, confidence: float) -> float:
    """Bound the failures per mile from above, one-sided and exact (Garwood): chi2(confidence; 2k + 2) / 2 / miles.

    Returns infinity for no miles: nothing is known then.
    """
    _check_confidence(confidence)
    if failures < 0 or not (miles >= 0 and math.isfinite(miles)):
        raise InputError(f"failures={failures} in miles={miles}: both must be finite and not negative")
    if failures and not miles:
        raise InputError(f"failures={failures} in miles=0: a failure needs exposure; correct the mileage")
    if not miles:
        return math.inf
    # gammaincinv(k + 1, C) = chi2 quantile(C; 2k + 2) / 2
    return float(special.gammaincinv(failures + 1, confidence)) / miles


def slice_confidence(confidence: float, slices: int) -> float:
    """Give the confidence each of `slices` bounds needs so that all hold at once with `confidence` (Bonferroni)."""
    _check_confidence(confidence)
    if slices < 1:
        raise InputError(f"slices={slices} must be at least 1")
    return 1.0 - (1.0 - confidence) / slices


def miles_needed(rate_per_mile: float, confidence: float) -> float:
    """Give the miles without failure that show at most `rate_per_mile`: -ln(1 - confidence) / rate."""
    _check_confidence(confidence)
    if not (rate_per_mile > 0 and math.isfinite(rate_per_mile)):
        raise InputError(f"rate_per_mile={rate_per_mile} must be positive and finite")
    return -math.log1p(-confidence) / rate_per_mile


def trials_needed(failure_rate: float, confidence: float) -> int:
    """Give the least number of trials without failure that shows at most `failure_rate` (success-run theorem)."""
    _check_confidence(confidence)
    if not 0.0 < failure_rate < 1.0:
        raise InputError(f"failure_rate={failure_rate} must lie strictly between 0 and 1")
    return math.ceil(math.log1p(-confidence) / math.log1p(-failure_rate))


def design_effect(frames_per_drive: float, correlation: float) -> float:
    """Give the factor by which frames of one drive overstate independent evidence: 1 + (m - 1) * ICC (Kish 1965)."""
    if not frames_per_drive >= 1.0:
        raise InputError(f"frames_per_drive={frames_per_drive} must be at least 1")
    if not 0.0 <= correlation <= 1.0:
        raise InputError(f"correlation={correlation} (intraclass) must lie in [0, 1]")
    return 1.0 + (frames_per_drive - 1.0) * correlation


def drives_failure_upper(failures: Counts, trials: Counts, confidence: float) -> float:
    """Bound the failure probability per trial from above where the trials of one drive may fail together.

    failures, trials: (drive,) whole numbers, of independent drives with at least one trial each. Drives are weighed as the
    Bayesian bootstrap weighs them (Rubin 1981), with one more that fails as often as the worst one seen; the bound is the
    quantile of that share, and never below what as many drives without a failure show. It never falls when a failure is
    added; where every drive has one trial it is that of Clopper and Pearson. That it holds for trials that hang together by
    whatever correlation is simulated in its tests. Returns a share in [0, 1]; 1 for no drive.
    """
    _check_confidence(confidence)
    if np.shape(failures) != np.shape(trials) or np.ndim(trials) != 1 or not np.all(trials):
        raise InputError(
            f"failures have shape {np.shape(failures)}, trials {np.shape(trials)}; give one of each a drive, at least one trial"
        )
    for failed, of in zip(failures, trials, strict=True):
        _check_counts(int(failed), int(of))
    clean = zero_failure_bound(len(trials), confidence)
    if not np.any(failures):
        return clean
    rows, repeats = np.unique(np.stack([failures, trials], axis=1).astype(np.float64), axis=0, return_counts=True)
    worst, size = float((rows[:, 0] / rows[:, 1]).max()), float(rows[:, 1] @ repeats / repeats.sum())
    rows, shape = np.vstack([rows, [worst * size, size]]), np.append(repeats, 1).astype(np.float64)
    if (rows[:, 0] / rows[:, 1] >= worst - 1e-12).all():  # all drives are alike, as bad as the worst
        return max(clean, worst)

    def excess(rate: float) -> float:
        return _surely_positive(rows[:, 0] - rate * rows[:, 1], shape) - (1.0 - confidence)

    return max(clean, float(optimize.brentq(excess, 0.0, worst, xtol=1e-9)))


def _surely_positive(scale: NDArray[np.float64], shape: NDArray[np.float64]) -> float:
    """Return the probability that a sum of gamma variables, each times its scale, is above 0 (inversion by Gil-Pelaez 1951)."""
    mean, deviation = float(scale @ shape), math.sqrt(float(scale**2 @ shape))
    if (scale >= 0).all() or (scale <= 0).all() or abs(mean) > _FAR * deviation:
        return float(mean > 0)
    steps = np.outer(np.exp(_LOG_STEPS) / deviation, scale)
    phase = np.arctan(steps) @ shape
    size = np.exp(-0.5 * (np.log1p(steps**2) @ shape))
    return 0.5 + float(np.trapezoid(np.sin(phase) * size, _LOG_STEPS)) / math.pi


def mixed_bound(uppers: Sequence[float], mix: Sequence[float]) -> float:
    """Weigh bounds of slices that hold together by an operating mix: their sum bounds the mixed rate as surely.

    mix: (slice,) shares of operation. Raises InputError where they do not sum to 1.
    """
    shares = np.asarray(mix, np.float64)
    if len(uppers) != len(shares) or not len(shares) or not (shares >= 0).all() or abs(shares.sum() - 1.0) > 1e-6:
        raise InputError(
            f"mix of {len(shares)} shares for {len(uppers)} slices sums to {shares.sum()}; give one a slice, each >= 0, summing to 1"
        )
    return float(min(1.0, shares @ np.asarray(uppers)))
