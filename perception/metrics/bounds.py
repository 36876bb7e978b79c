"""Bound how often something may fail, from how often it was seen to fail.

Trials are independent frames or clips (binomial: Clopper and Pearson 1934); miles are exposure (Poisson: Garwood 1936).
A change of the software starts the count again; fixing a failure and then counting from zero invalidates every bound.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from perception.errors import InputError


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


def effective_counts(failures: int, trials: int, effect: float) -> tuple[int, int]:
    """Deflate counts of correlated trials by a design effect; failures round up, trials down: (failures, trials)."""
    _check_counts(failures, trials)
    if not effect >= 1.0:
        raise InputError(f"effect={effect} must be at least 1; see design_effect")
    # A hair of slack keeps 10 / (1 + 1e-16) from rounding up to 11; both roundings stay on the safe side.
    fewer = math.ceil(failures / effect - 1e-9)
    return fewer, max(fewer, math.floor(trials / effect + 1e-9))


def slice_bounds(
    failures: Sequence[int], trials: Sequence[int], mix: Sequence[float], confidence: float
) -> tuple[NDArray[np.float64], float]:
    """Bound every slice at joint `confidence` (Bonferroni) and weigh the bounds by an operating mix.

    failures, trials: (slice,) counts; mix: (slice,) shares of operation, summing to 1. Returns the slices' bounds of
    the failure probability per trial, (slice,) float64, 1 without trials, and the bound under the mix: the joint bounds
    hold together, so their mix-weighted sum bounds the mixed rate with the same confidence.
    """
    if not len(failures) == len(trials) == len(mix) or not len(mix):
        raise InputError(
            f"failures, trials and mix have lengths {len(failures)}, {len(trials)}, {len(mix)}; "
            "give one of each per slice, and at least one slice"
        )
    shares = np.asarray(mix, np.float64)
    if not (shares >= 0).all() or abs(shares.sum() - 1.0) > 1e-6:
        raise InputError(
            f"mix sums to {shares.sum()} with least share {shares.min()}; shares must be >= 0 and sum to 1"
        )
    each = slice_confidence(confidence, len(shares))
    upper = np.array([failure_rate_upper(int(k), int(n), each) for k, n in zip(failures, trials, strict=True)])
    return upper, float(min(1.0, shares @ upper))
