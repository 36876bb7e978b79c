"""A label as polygons that a person can edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.data.taxonomies import IGNORE

_TOLERANCE_PX = 1.0  # how far an outline may be from the pixels' own: corners are moved by hand, so there should be few
_LEAST_SHARE = 5e-5  # of the image: smaller regions are quicker drawn than found and removed
_LEAST_PX = 6


@dataclass(frozen=True, eq=False)
class Outline:
    """Hold the outline of one region: its class id, and its corners (corner, 2) int32, x before y."""

    class_id: int
    corners: NDArray[np.int32]

    def points(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the corners as tools have them, where pixel 0 reaches from 0 to 1: the middles of the outermost pixels, or the edge of
        the image, whose (height, width) is `size`.
        """
        last = np.array(size[::-1]) - 1
        inside: NDArray[np.float64] = np.where(self.corners == 0, 0.0, np.where(self.corners == last, 1.0, 0.5))
        return inside + self.corners


def outlines_of(label: NDArray[np.uint8]) -> list[Outline]:
    """Return the outlines of a label's regions, in the order in which they are to be drawn: what lies in another comes after it.

    label: (height, width) uint8 class ids; 255, which is nothing's, has no outline.
    """
    least, found = max(_LEAST_PX, _LEAST_SHARE * label.size), []
    for class_id in np.unique(label[label != IGNORE]).tolist():
        # Of regions that touch by edges one lies within another or outside it, never across: drawing the larger first is exact.
        count, regions, facts, _ = cv2.connectedComponentsWithStats(
            (label == class_id).astype(np.uint8), connectivity=4
        )
        for region in range(1, count):
            if facts[region, cv2.CC_STAT_AREA] >= least:
                found.append(Outline(class_id, _outline(regions, region, facts[region])))
    return sorted(found, key=lambda each: -abs(cv2.contourArea(each.corners)))


def _outline(regions: NDArray[np.int32], region: int, facts: NDArray[np.int32]) -> NDArray[np.int32]:
    left, top, width, height = facts[: cv2.CC_STAT_AREA].tolist()
    here = (regions[top : top + height, left : left + width] == region).astype(np.uint8)
    (contour, *_), _ = cv2.findContours(here, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    corners = cv2.approxPolyDP(contour, _TOLERANCE_PX, closed=True)
    return np.asarray(corners if len(corners) >= 3 else cv2.boxPoints(cv2.minAreaRect(contour)), np.int32).reshape(
        -1, 2
    )


def draw_outlines(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw outlines in their order: (height, width) uint8 class ids, 255 where there is none."""
    label = np.full(size, IGNORE, np.uint8)
    for each in outlines:
        cv2.fillPoly(label, [each.corners], each.class_id)
    return label
