import numpy as np
import pytest
from scipy import stats

from perception.errors import InputError
from perception.metrics.bootstrap import drive_weights, percentile_interval, resampled_sums, tail_share


def test_resampled_sums_equal_drawing_drives_one_by_one():
    counts = np.random.default_rng(0).integers(0, 1000, (7, 3, 4))
    weights = drive_weights(7, 50, seed=1)
    assert (weights.sum(axis=1) == 7).all()
    for drawn, total in zip(weights, resampled_sums(weights, counts), strict=True):
        copies = [counts[drive] for drive in range(7) for _ in range(int(drawn[drive]))]
        np.testing.assert_array_equal(total, np.sum(copies, axis=0))


def test_weights_depend_on_the_seed_alone():
    np.testing.assert_array_equal(drive_weights(5, 20, 3), drive_weights(5, 20, 3))
    assert (drive_weights(5, 20, 3) != drive_weights(5, 20, 4)).any()


def test_the_interval_covers_the_mean_as_often_as_it_says_even_with_ten_drives():
    random, covered, repeats = np.random.default_rng(2), 0, 600
    for repeat in range(repeats):
        drives = random.normal(size=10)
        values = resampled_sums(drive_weights(10, 800, repeat), drives) / 10
        low, high = percentile_interval(values, 10, 0.9)
        covered += low <= 0.0 <= high
    assert 0.87 <= covered / repeats <= 0.94  # plain percentiles cover 0.83 here


def test_the_tail_is_that_of_hesterberg():
    expected = stats.norm.cdf(stats.t.ppf(0.025, 9) * np.sqrt(10 / 9))
    assert tail_share(10, 0.025) == pytest.approx(expected, rel=1e-12)
    assert tail_share(10**6, 0.025) == pytest.approx(0.025, rel=1e-4)


def test_what_most_resamples_lack_has_no_interval():
    values = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, 5.0]])
    low, high = percentile_interval(values, 5, 0.5)
    assert 1.0 <= low[0] <= high[0] <= 3.0
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(percentile_interval(values, 1, 0.5)).all()


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="drives=0"):
        drive_weights(0, 5, 0)
    with pytest.raises(InputError, match="confidence"):
        percentile_interval(np.zeros((3, 1)), 3, 1.0)
