import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


def test_bounds_of_slices_are_weighed_by_the_mix():
    assert bounds.mixed_bound([0.1, 0.2, 1.0], [0.7, 0.2, 0.1]) == pytest.approx(0.07 + 0.04 + 0.1)


def test_with_one_frame_a_drive_the_bound_is_that_of_clopper_and_pearson():
    for failures, drives in ((0, 48), (1, 48), (3, 48), (4, 5), (5, 5), (40, 1000), (2, 2000), (900, 5000)):
        for confidence in (0.8, 0.95, 0.9993):
            failed = np.arange(drives) < failures
            expected = bounds.failure_rate_upper(failures, drives, confidence)
            assert bounds.drives_failure_upper(failed, np.ones(drives, int), confidence) == pytest.approx(
                expected, abs=5e-6
            )


def test_the_weights_of_drives_are_those_of_a_slow_draw():
    failures, frames = np.array([3, 0, 1, 0, 0, 2]), np.array([5, 9, 5, 7, 8, 5])
    drawn = np.random.default_rng(0).exponential(size=(400_000, 7))
    worse, size = 3 / 5, frames.mean()
    rates = drawn @ np.append(failures, worse * size) / (drawn @ np.append(frames, size))
    slow = max(1 - 0.2 ** (1 / 6), float(np.quantile(rates, 0.8)))
    assert bounds.drives_failure_upper(failures, frames, 0.8) == pytest.approx(slow, abs=2e-3)


DRIVES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)


@given(drives=DRIVES, where=st.integers(0, 11), confidence=st.sampled_from((0.8, 0.95, 0.999)))
@settings(max_examples=60, deadline=None)
def test_a_failure_more_never_lowers_the_bound(drives, where, confidence):
    failures = np.array([failed for failed, _ in drives])
    frames = np.array([failed + fine for failed, fine in drives]) + 1
    more = failures.copy()
    more[where % len(drives)] += 1
    before = bounds.drives_failure_upper(failures, frames, confidence)
    assert before <= bounds.drives_failure_upper(more, frames, confidence) + 1e-7
    assert before >= bounds.zero_failure_bound(len(frames), confidence) - 1e-12


def drawn_failures(random, repeats, drives, frames, rate, correlation):
    """Failures by drive of a beta-binomial: (repeat, drive)."""
    rates = np.full((repeats, drives), rate)
    if correlation:
        both = 1 / correlation - 1
        rates = np.nan_to_num(random.beta(rate * both, (1 - rate) * both, (repeats, drives)))
    return random.binomial(frames, rates)


def beta_binomial_below(drives, frames, correlation):
    """Return rates, and how likely at most so many failures are at each, at the true correlation: (rate,), (rate, failures)."""
    rates = np.concatenate([np.geomspace(1e-4, 0.03, 60), np.linspace(0.031, 0.5, 120)])
    counts, both = np.arange(frames + 1), 1 / correlation - 1 if correlation else np.inf
    below = []
    for rate in rates:
        one = stats.betabinom(frames, rate * both, (1 - rate) * both) if correlation else stats.binom(frames, rate)
        spectrum = np.fft.rfft(one.pmf(counts), drives * frames + 1) ** drives
        below.append(np.cumsum(np.fft.irfft(spectrum, drives * frames + 1)))
    return rates, np.array(below)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("drives", "frames"), [(48, 10), (240, 2)])
def test_bounds_of_rare_failures_hold_and_are_not_much_wider_than_exact_ones(drives, frames, correlation):
    random, repeats = np.random.default_rng(drives + int(10 * correlation)), 100
    rates, below = beta_binomial_below(drives, frames, correlation)
    clean = bounds.zero_failure_bound(drives, 0.95)
    for rate in (0.003, 0.03, 0.1):
        failures = drawn_failures(random, repeats, drives, frames, rate, correlation)
        sizes = np.full(drives, frames)
        upper = np.array([bounds.drives_failure_upper(each, sizes, 0.95) for each in failures])
        assert (upper >= rate).mean() >= 0.94 - 0.048  # two standard errors of so few repetitions
        exact = np.array([np.interp(-0.05, -below[:, total], rates) for total in failures.sum(axis=1)])
        assert np.mean(upper / np.maximum(exact, clean)) <= 1.2


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
        (lambda: bounds.mixed_bound([0.1], [0.5]), "sums to 0.5"),
        (lambda: bounds.mixed_bound([0.1], [0.5, 0.5]), "mix of 2 shares for 1 slices"),
        (lambda: bounds.mixed_bound([], []), "mix of 0 shares"),
        (lambda: bounds.drives_failure_upper([1, 0], [1], 0.9), "one of each a drive"),
        (lambda: bounds.drives_failure_upper([0], [0], 0.9), "at least one trial"),
        (lambda: bounds.drives_failure_upper([2], [1], 0.9), "failures=2"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_nothing_observed_bounds_nothing():
    assert bounds.failure_rate_upper(0, 0, 0.95) == 1.0
    assert bounds.rate_upper(0, 0.0, 0.95) == math.inf
