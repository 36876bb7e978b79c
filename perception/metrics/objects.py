"""Missed objects: connected regions of a class that a network hardly sees, in frames that may be right on nearly every pixel."""

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def count_objects(
    label: NDArray[np.uint8],
    shown: NDArray[np.uint8],
    class_ids: Collection[int],
    classes: int,
    *,
    least_share: float,
    found_share: float,
) -> Counts:
    """Count a frame's objects and those that were missed, by class: (2, class) int64.

    label, shown: (height, width) uint8 class ids. An object is a connected region (8 neighbours) of one of class_ids that fills at
    least `least_share` of the frame; touching objects of a class count as one. It is missed when the prediction has its class on less
    than `found_share` of its pixels.
    """
    counts = np.zeros((2, classes), np.int64)
    for class_id in class_ids:
        mask = label == class_id
        if not mask.any():
            continue
        number, marks = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        size = np.bincount(marks.ravel(), minlength=number)[1:]
        seen = np.bincount(marks[mask & (shown == class_id)], minlength=number)[1:]
        objects = size >= least_share * label.size
        counts[0, class_id] = objects.sum()
        counts[1, class_id] = (objects & (seen < found_share * size)).sum()
    return counts
