"""Objects that a network misses."""

import numpy as np
import pytest
from scipy import ndimage

from perception.metrics.objects import count_objects

PERSON, CAR = 1, 2


def test_an_object_is_missed_when_too_little_of_it_is_seen() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[2:6, 2:6] = PERSON  # 16 px, of which 8 are seen
    label[10:14, 2:6] = PERSON  # 16 px, of which 7 are seen
    label[10:11, 18:19] = PERSON  # too small to count
    label[16:20, 10:20] = CAR  # found, but taken for persons
    shown = np.zeros_like(label)
    shown[2:4, 2:6] = PERSON
    shown[10:11, 2:6] = shown[11:12, 2:5] = PERSON
    shown[16:20, 10:20] = PERSON
    counts = count_objects(label, shown, (PERSON, CAR), 3, least_share=0.01, found_share=0.5)
    assert counts.tolist() == [[0, 2, 1], [0, 1, 1]]
    assert count_objects(label, shown, (CAR,), 3, least_share=0.01, found_share=0.5).tolist() == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_an_independent_count(seed: int) -> None:
    generator = np.random.default_rng(seed)
    label = ndimage.zoom(generator.integers(0, 4, (8, 8)), 4, order=0).astype(np.uint8)
    label[generator.random(label.shape) < 0.02] = 255
    shown = np.where(generator.random(label.shape) < 0.5, label, generator.integers(0, 4, label.shape)).astype(np.uint8)
    expected = np.zeros((2, 4), int)
    for class_id in (1, 3):
        marks, number = ndimage.label(label == class_id, np.ones((3, 3)))
        for each in range(1, number + 1):
            inside = marks == each
            if inside.sum() >= 0.02 * label.size:
                expected[0, class_id] += 1
                expected[1, class_id] += (shown[inside] == class_id).mean() < 0.6
    found = count_objects(label, shown, (1, 3), 4, least_share=0.02, found_share=0.6)
    assert found.tolist() == expected.tolist() and found[0].sum() > 0
