"""What the report says of the A/B comparison."""

from components.report.night import _comparison_in_words


def test_the_spread_over_seeds_and_the_paired_difference_are_told() -> None:
    words = _comparison_in_words([0.30, 0.32, 0.34], [0.29, 0.30, 0.34])
    assert words == "mIoU 32.0 ± 2.0 % against 31.0 ± 2.6 %; difference +1.0 (-1.5 to +3.5) points"


def test_one_seed_has_no_spread_and_a_missing_arm_no_comparison() -> None:
    assert _comparison_in_words([0.3], [0.2]) == ""
    assert _comparison_in_words([0.3, 0.4], None) == ""
