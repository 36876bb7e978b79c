"""Outlines of what was seen can be drawn again, and are few."""

import cv2
import numpy as np
import pytest

from perception.data.annotation.outlines import draw_outlines, outlines_of
from tests.perception.data.annotation.batches import HEIGHT, WIDTH, Label, inner, seen


def patches(seed: int) -> Label:
    """Return a label of smooth regions in and around each other."""
    noise = np.random.default_rng(seed).normal(size=(4, 60, 80)).astype(np.float32)
    return np.argmax([cv2.GaussianBlur(each, (0, 0), 4) for each in noise], 0).astype(np.uint8)


def test_outlines_give_back_what_was_seen_in_the_order_in_which_it_lies() -> None:
    outlines = outlines_of(seen())
    np.testing.assert_array_equal(draw_outlines(outlines, (HEIGHT, WIDTH)), seen())
    assert len(outlines) == 4 and all(len(each.corners) == 4 for each in outlines[-2:])


@pytest.mark.parametrize("seed", range(4))
def test_outlines_of_any_regions_are_a_pixel_off_at_most(seed: int) -> None:
    label = patches(seed)
    drawn = draw_outlines(outlines_of(label), label.shape)
    here = inner(label) != 255
    assert (drawn[here] == label[here]).mean() > 0.99
    corners = sum(len(each.corners) for each in outlines_of(label))
    edges = int((label[1:] != label[:-1]).sum() + (label[:, 1:] != label[:, :-1]).sum())
    assert corners < edges / 3, "few enough to be moved by hand"


def test_specks_and_what_is_nothing_have_no_outline() -> None:
    label = np.full((HEIGHT, WIDTH), 255, np.uint8)
    label[3, 3:6] = 1
    assert outlines_of(label) == []
    label[10, 2:30] = 2  # a pole that lies
    (pole,) = outlines_of(label)
    assert (draw_outlines([pole], label.shape)[10, 2:30] == 2).all()
