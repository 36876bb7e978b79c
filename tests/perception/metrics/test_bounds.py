import math

import numpy as np
import pytest
from scipy import stats

from perception.errors import InputError
from perception.metrics import bounds

FATALITY, INJURY, CRASH = 1.09e-8, 77e-8, 190e-8  # per mile, human drivers (Kalra and Paddock 2016)


@pytest.mark.parametrize("failures", [0, 1, 2, 7, 50])
@pytest.mark.parametrize("trials", [50, 1000, 10**6])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_binomial_bounds_solve_their_defining_equation(failures, trials, confidence):
    upper = bounds.failure_rate_upper(failures, trials, confidence)
    if failures < trials:
        assert stats.binom.cdf(failures, trials, upper) == pytest.approx(1 - confidence, rel=1e-6)
    else:
        assert upper == 1.0


@pytest.mark.parametrize(
    ("failures", "multiplier"), [(0, 2.996), (1, 4.744), (2, 6.296), (3, 7.754), (5, 10.513), (10, 16.962)]
)
def test_one_sided_multipliers(failures, multiplier):
    assert bounds.rate_upper(failures, 1.0, 0.95) == pytest.approx(multiplier, abs=5e-4)
    assert bounds.rate_upper(failures, 1.0, 0.95) == pytest.approx(stats.chi2.ppf(0.95, 2 * failures + 2) / 2, rel=1e-9)
    assert bounds.failure_rate_upper(failures, 10**7, 0.95) * 1e7 == pytest.approx(multiplier, abs=1e-3)


def test_rule_of_three_for_a_million_clean_miles():
    assert bounds.zero_failure_bound(10**6, 0.95) == pytest.approx(2.996e-6, abs=5e-10)
    assert 1 / bounds.zero_failure_bound(10**6, 0.95) == pytest.approx(334_000, rel=1e-3)
    assert bounds.zero_failure_bound(1, 0.95) == pytest.approx(0.95)


def test_a_million_clean_miles_do_not_show_parity_with_human_crash_rate():
    assert bounds.miles_needed(CRASH, 0.95) == pytest.approx(1.58e6, rel=5e-3)
    assert bounds.rate_upper(0, 1e6, 0.95) > CRASH


@pytest.mark.parametrize(
    ("rate", "zero"),
    [(FATALITY, 275e6), (INJURY, 3.9e6), (CRASH, 1.6e6)],
)
def test_driving_to_safety_table(rate, zero):
    rounding = 0.04  # the table gives two figures
    assert bounds.miles_needed(rate, 0.95) == pytest.approx(zero, rel=rounding)


def test_miles_needed_is_where_the_bound_reaches_the_rate():
    assert bounds.rate_upper(0, bounds.miles_needed(2e-7, 0.99), 0.99) == pytest.approx(2e-7, rel=1e-12)


def test_trials_needed_is_the_least_that_suffices():
    needed = bounds.trials_needed(1e-3, 0.95)
    assert needed == 2995
    assert bounds.zero_failure_bound(needed, 0.95) <= 1e-3 < bounds.zero_failure_bound(needed - 1, 0.95)


def test_bonferroni_over_a_thousand_slices():
    each = bounds.slice_confidence(0.95, 1000)
    assert each == pytest.approx(1 - 5e-5)
    assert bounds.zero_failure_bound(1000, each) == pytest.approx(9.9e-3, rel=5e-3)
    assert bounds.miles_needed(1e-6, each) == pytest.approx(9.9e6, rel=5e-3)
    assert bounds.rate_upper(0, 1000.0, each) == pytest.approx(math.log(1000 / 0.05) / 1000)


def test_bounds_cover_the_true_rate_as_often_as_they_claim():
    rate, trials, repeats = 0.02, 200, 20_000
    failures = np.random.default_rng(0).binomial(trials, rate, repeats)
    by_count = {k: bounds.failure_rate_upper(int(k), trials, 0.9) for k in np.unique(failures)}
    covered = np.mean([by_count[k] >= rate for k in failures])
    assert covered >= 0.9


def test_design_effect_counts_drives_not_frames():
    assert bounds.design_effect(1, 0.7) == 1.0
    assert bounds.design_effect(30, 1.0) == 30.0
    assert bounds.effective_counts(0, 3000, bounds.design_effect(30, 1.0)) == (0, 100)
    assert bounds.effective_counts(7, 3000, 3.0) == (3, 1000)
    assert bounds.effective_counts(10, 10, 1.0) == (10, 10)
    assert bounds.effective_counts(5, 5, 2.0) == (3, 3)


def test_slices_without_trials_are_unknown_not_passed():
    upper, mix_upper = bounds.slice_bounds([0, 2, 0], [1000, 500, 0], [0.7, 0.2, 0.1], 0.95)
    each = 1 - 0.05 / 3
    expected = [1 - (1 - each) ** (1 / 1000), stats.beta.ppf(each, 3, 498), 1.0]
    np.testing.assert_allclose(upper, expected, rtol=1e-9)
    assert mix_upper == pytest.approx(np.dot([0.7, 0.2, 0.1], expected))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bounds.failure_rate_upper(3, 2, 0.95), "failures=3"),
        (lambda: bounds.failure_rate_upper(-1, 2, 0.95), "failures=-1"),
        (lambda: bounds.failure_rate_upper(0, 2, 1.0), "confidence=1.0"),
        (lambda: bounds.failure_rate_upper(0, 2, float("nan")), "confidence=nan"),
        (lambda: bounds.rate_upper(1, 0.0, 0.9), "needs exposure"),
        (lambda: bounds.rate_upper(1, float("nan"), 0.9), "miles=nan"),
        (lambda: bounds.miles_needed(0.0, 0.9), "rate_per_mile=0"),
        (lambda: bounds.trials_needed(1.0, 0.9), "failure_rate"),
        (lambda: bounds.slice_confidence(0.9, 0), "slices=0"),
        (lambda: bounds.design_effect(0.5, 0.1), "frames_per_drive"),
        (lambda: bounds.design_effect(2, 1.1), "correlation"),
        (lambda: bounds.effective_counts(1, 2, 0.5), "effect"),
        (lambda: bounds.slice_bounds([0], [1], [0.5], 0.95), "mix sums"),
        (lambda: bounds.slice_bounds([0], [1, 2], [0.5, 0.5], 0.95), "lengths"),
        (lambda: bounds.slice_bounds([], [], [], 0.95), "lengths"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_nothing_observed_bounds_nothing():
    assert bounds.failure_rate_upper(0, 0, 0.95) == 1.0
    assert bounds.rate_upper(0, 0.0, 0.95) == math.inf
