import numpy as np
import pytest

from perception.quality.label_quality import label_doubt, worst_confusions


def test_doubt_equals_a_loop_over_pixels():
    random = np.random.default_rng(0)
    probs = random.dirichlet(np.ones(4), size=(5, 7)).transpose(2, 0, 1)
    label = random.integers(0, 4, (5, 7)).astype(np.uint8)
    label[0, :3] = 255
    doubts, sure, confusion = [], 0, np.zeros((4, 4), int)
    for y in range(5):
        for x in range(7):
            if label[y, x] == 255:
                continue
            column = probs[:, y, x]
            doubts.append(1 - column[label[y, x]])
            if column.argmax() != label[y, x] and column.max() >= 0.5:
                sure += 1
                confusion[label[y, x], column.argmax()] += 1
    found = label_doubt(probs, label)
    assert found.doubt == pytest.approx(np.mean(doubts))
    assert found.sure_otherwise == pytest.approx(sure / len(doubts))
    assert (found.confusion == confusion).all()
    assert sure > 0


def test_a_swapped_label_is_doubted_more_than_the_right_one():
    right = np.repeat([0, 1], 50).reshape(10, 10).astype(np.uint8)
    probs = np.where(np.arange(2)[:, None, None] == right, 0.9, 0.1)
    assert label_doubt(probs, right).doubt == pytest.approx(0.1)
    wrong = label_doubt(probs, (1 - right).astype(np.uint8))
    assert wrong.doubt == pytest.approx(0.9)
    assert wrong.sure_otherwise == 1.0
    assert worst_confusions(wrong.confusion, ["road", "sky"], 8) == [
        {"labelled": "road", "seen": "sky", "pixels": 50},
        {"labelled": "sky", "seen": "road", "pixels": 50},
    ]


def test_an_empty_label_says_nothing():
    found = label_doubt(np.full((2, 3, 3), 0.5), np.full((3, 3), 255, np.uint8))
    assert (found.doubt, found.sure_otherwise) == (None, None)
    assert worst_confusions(found.confusion, ["a", "b"], 5) == []
