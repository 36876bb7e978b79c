import itertools
import math

import numpy as np
import pytest

from perception.errors import InputError
from perception.selection.k_centre import Spread, k_centre


def slow_greedy(points, count, weights=None, labelled=(), first=None):
    """Choose by plain loops over all pairs, the lowest row of equal ones."""
    weights = [1.0] * len(points) if weights is None else list(weights)
    chosen = []
    for _ in range(count):
        best_row, best_value = None, -1.0
        for row, point in enumerate(points):
            centres = [*labelled, *(points[index] for index in chosen)]
            if row in chosen:
                continue
            if centres:
                value = weights[row] * min(math.dist(point, centre) for centre in centres)
            else:
                value = weights[row] if first is None else float(row == first)
            if value > best_value:
                best_row, best_value = row, value
        chosen.append(best_row)
    return chosen


def radius(points, centres):
    return max(min(math.dist(point, centre) for centre in centres) for point in points)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled_count", [0, 1, 7])
def test_equals_brute_force(seed, weighted, labelled_count):
    generator = np.random.default_rng(seed)
    points, labelled = generator.normal(size=(60, 5)), generator.normal(size=(labelled_count, 5))
    weights = generator.random(60) if weighted else None
    rows, _ = k_centre(points, 60, weights=weights, labelled=labelled)
    assert rows.tolist() == slow_greedy(points, 60, weights, labelled)


@pytest.mark.parametrize("first", [0, 11])
def test_starts_where_it_is_told(first):
    points = np.random.default_rng(0).normal(size=(30, 3))
    rows, _ = k_centre(points, 10, first=first)
    assert rows.tolist() == slow_greedy(points, 10, first=first)


def test_ties_go_to_the_lowest_row():
    grid = np.array(list(itertools.product(range(6), range(6))), dtype=float)
    rows, _ = k_centre(grid, 36)
    assert rows.tolist() == slow_greedy(grid, 36)


def test_never_repeats_even_when_frames_are_equal():
    rows, radii = k_centre(np.ones((50, 4)), 50)
    assert sorted(rows.tolist()) == list(range(50))
    assert radii.max() == 0


@pytest.mark.parametrize("seed", range(10))
def test_radius_is_at_most_twice_the_least_possible(seed):
    points = np.random.default_rng(seed).random((10, 2))
    for count in (1, 2, 3, 4):
        rows, radii = k_centre(points, count)
        best = min(radius(points, points[list(centres)]) for centres in itertools.combinations(range(10), count))
        assert radii[-1] <= 2 * best + 1e-12
        assert radii[-1] == pytest.approx(radius(points, points[rows]))


def test_scaling_scores_and_embeddings_changes_nothing():
    generator = np.random.default_rng(1)
    points, weights = generator.normal(size=(200, 8)), generator.random(200)
    rows, _ = k_centre(points, 40, weights=weights)
    scaled, _ = k_centre(points * 8, 40, weights=weights * 0.25)
    assert rows.tolist() == scaled.tolist()


@pytest.mark.parametrize("guesses", [1, 2, 16, 1000])
def test_guessing_the_next_centres_changes_nothing(guesses):
    generator = np.random.default_rng(2)
    points = np.concatenate([generator.normal(centre, 0.1, size=(60, 6)) for centre in range(5)])
    weights = generator.random(300)
    expected, _ = k_centre(points, 80, weights=weights)
    spread, found = Spread(points, weights, guesses), []
    row = int(weights.argmax())
    for _ in range(80):
        spread.add(row)
        found.append(row)
        row = int(spread.values().argmax())
    assert found == expected.tolist()


def test_frames_far_from_the_origin_are_told_apart():
    """Distances of 0.01 between embeddings of norm 10,000 are lost in float32."""
    generator = np.random.default_rng(3)
    points = 10_000 + np.cumsum(generator.random((30, 1)) * 0.01 + 0.01, axis=0)
    rows, _ = k_centre(points, 10)
    assert rows.tolist() == slow_greedy(points, 10)


def test_every_one_of_many_labelled_frames_is_kept_away_from():
    labelled = np.random.default_rng(4).normal(size=(700, 3))
    points = labelled + np.array([0.001, 0, 0])
    spread = Spread(points)
    spread.cover(labelled)
    np.testing.assert_allclose(spread.distances, 0.001, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 11])
def test_budget_that_does_not_fit_is_refused(count):
    with pytest.raises(InputError, match="does not fit a pool of 10"):
        k_centre(np.zeros((10, 2)), count)
