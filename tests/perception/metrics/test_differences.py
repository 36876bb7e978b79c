"""Paired differences against scipy's t test."""

import math

import pytest
from scipy import stats

from perception.metrics.differences import difference_in_words, paired_difference


def test_paired_difference_is_students_interval() -> None:
    found = paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    expected = stats.ttest_1samp([2.0, 3.0, 1.0], 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, expected.low, expected.high))
    assert found.words() == "+2.00 (-0.48 to +4.48)"


def test_a_single_pair_has_no_interval() -> None:
    found = paired_difference([1.0], [0.0])
    assert math.isnan(found.low) and found.words(1) == "+1.0 (one seed)"


def test_a_difference_of_shares_is_told_in_points_and_of_fewer_than_five_seeds_nothing() -> None:
    first, second = [0.25, 0.27, 0.26, 0.28, 0.24], [0.24, 0.25, 0.25, 0.25, 0.23]
    expected = stats.ttest_1samp([1.0, 2.0, 1.0, 3.0, 1.0], 0).confidence_interval(0.95)
    said = f"difference +1.6 ({expected.low:+.1f} to {expected.high:+.1f}) points over 5 seeds"
    assert difference_in_words(first, second) == said
    assert difference_in_words(first[:4], second[:4]) == "4 seeds: too few to say anything of the difference"
