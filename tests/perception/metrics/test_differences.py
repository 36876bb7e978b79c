"""Paired differences against scipy's t test."""

import math

import pytest
from scipy import stats

from perception.metrics.differences import paired_difference


def test_paired_difference_is_students_interval() -> None:
    found = paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    expected = stats.ttest_1samp([2.0, 3.0, 1.0], 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, expected.low, expected.high))
    assert found.words() == "+2.00 (-0.48 to +4.48)"


def test_a_single_pair_has_no_interval() -> None:
    found = paired_difference([1.0], [0.0])
    assert math.isnan(found.low) and found.words(1) == "+1.0 (one seed)"
