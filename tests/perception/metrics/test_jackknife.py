import numpy as np
import pytest
from scipy import special, stats

from perception.errors import InputError
from perception.metrics.confusion import iou_of_tallies, mean_known
from perception.metrics.jackknife import leave_one_out, share_interval, spread_of


def share(counts):
    """Right of all: counts (..., 2) to (..., 1)."""
    with np.errstate(invalid="ignore"):
        return counts[..., :1] / counts[..., 1:]


def test_the_spread_is_that_of_the_mean_for_a_mean():
    values = np.random.default_rng(0).normal(size=30)
    found = spread_of(leave_one_out(lambda total: total / 29, values))
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert found.half_width(0.975) == pytest.approx(stats.t.ppf(0.975, found.freedom) * found.error)


def test_degrees_of_freedom_are_those_of_the_drives_that_carry_the_spread():
    alike, few = np.tile([1.0, -1.0], 20), np.zeros(40)
    few[:4] = (1.0, -1.0, 1.0, -1.0)
    assert spread_of(alike).freedom == 39
    assert spread_of(few).freedom == pytest.approx(2 / (1 / 4 - 1 / 40))
    assert spread_of(np.random.default_rng(1).normal(size=4000)).freedom == pytest.approx(3999, rel=0.15)
    assert spread_of(np.array([0.3, 0.4])).freedom == 1


def test_an_interval_needs_two_drives_that_differ():
    assert np.isnan(share_interval(share, np.array([[3, 10]]), 0.95)).all()
    assert np.isnan(share_interval(share, np.array([[3, 10], [6, 20]]), 0.95)).all()
    low, high = share_interval(share, np.array([[3, 10], [7, 20]]), 0.95)
    assert 0 < low < 10 / 30 < high < 1
    with pytest.raises(InputError, match="confidence"):
        share_interval(share, np.array([[3, 10], [7, 20]]), 1.0)


def test_a_figure_that_hangs_on_one_drive_has_no_interval():
    low, high = share_interval(iou_of_tallies, np.array([[[1], [2], [2]], [[0], [0], [0]], [[0], [0], [0]]]), 0.95)
    assert np.isnan([low, high]).all()


def drawn_tallies(random, drives):
    """Tallies of drives (drive, 3, class): five classes, the last in one drive of three, hard drives and easy ones."""
    shares = np.array([0.5, 0.3, 0.15, 0.04, 0.01]) * np.exp(random.normal(0, 0.7, (drives, 5)))
    shares[:, 4] *= random.random(drives) < 0.35
    labelled = random.multinomial(10_000, shares / shares.sum(axis=1, keepdims=True))
    logits = (
        np.array([2.6, 1.5, 0.8, 0.0, -0.6])
        + random.normal(0, 0.6, (drives, 5)) * 0.8
        + random.normal(0, 0.36, (drives, 1))
    )
    right = random.binomial(labelled, special.expit(logits))
    wrong = (labelled - right).sum(axis=1, keepdims=True)
    return np.stack([right, labelled, right + random.multinomial(wrong[:, 0], [0.3, 0.3, 0.2, 0.15, 0.05])], axis=1)


@pytest.mark.parametrize(("drives", "repeats"), [(2, 600), (5, 600), (10, 600), (50, 500), (500, 200)])
def test_intervals_cover_the_truth_as_often_as_they_say(drives, repeats):
    """At least 0.90 with fewer than ten drives, 0.93 to 0.99 from ten on, less two standard errors of the repetitions."""

    def figures(counts):
        values = iou_of_tallies(counts)
        return np.concatenate([values, mean_known(values)[..., None]], axis=-1)

    random = np.random.default_rng(drives)
    fleet = drawn_tallies(random, 40_000)
    truth, covered, given = figures(fleet.sum(axis=0)), np.zeros(6), np.zeros(6)
    for _ in range(repeats):
        low, high = share_interval(figures, fleet[random.integers(0, len(fleet), drives)], 0.95)
        covered += (low <= truth) & (truth <= high)
        given += np.isfinite(low)
    least = 0.90 if drives < 10 else 0.93
    assert (covered / given >= least - 2 * np.sqrt(0.06 / given)).all(), covered / given
    if drives >= 10:
        assert (covered / given <= 0.99 + 2 * np.sqrt(0.01 / given)).all(), covered / given
