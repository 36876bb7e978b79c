"""Boundary IoU: overlap of the outlines' neighbourhoods, which a large object's inside cannot hide."""

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.data.taxonomies import IGNORE
from perception.errors import InputError

RATIO = 0.02  # the width of the band as a share of the image's diagonal: the paper's choice


def band_width_px(height: int, width: int, ratio: float = RATIO) -> int:
    """Give the width of the boundary band in pixels, at least 1 (Cheng et al., section 3)."""
    if not ratio > 0:
        raise InputError(f"ratio={ratio} must be above 0, for example {RATIO}")
    return max(1, round(ratio * float(np.hypot(height, width))))


def boundary_tallies(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], classes: int, ratio: float = RATIO
) -> NDArray[np.int64]:
    """Count each class's boundary pixels in labels, in predictions and in both.

    labels, predictions: (height, width) uint8 class ids, 255 in labels = not judged, in neither mask of any class.
    Returns (3, class) int64: in both, labelled, predicted; sums over frames give Boundary IoU by iou_of_tallies.

    A mask's boundary pixels are those of the mask within `band_width_px` of its outline (the image's edge counts as
    outline): mask minus its erosion by as many 3x3 steps. Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary
    IoU", CVPR 2021, equation 3.
    """
    if labels.shape != predictions.shape or labels.ndim != 2:
        raise InputError(f"labels are {labels.shape} and predictions {predictions.shape}; give both (height, width)")
    judged = labels != IGNORE
    seen = np.where(judged, predictions, np.uint8(IGNORE))
    width_px = band_width_px(labels.shape[0], labels.shape[1], ratio)
    in_label, in_seen = (_on_boundary(ids, width_px) & judged for ids in (labels, seen))
    both = in_label & in_seen & (labels == seen)
    counted = [(labels, both), (labels, in_label), (seen, in_seen)]
    return np.stack([np.bincount(ids[mask], minlength=256)[:classes] for ids, mask in counted]).astype(np.int64)


def _on_boundary(ids: NDArray[np.uint8], width_px: int) -> NDArray[np.bool_]:
    """Mark pixels that have another id, or the image's edge, within width_px rows and columns.

    One minimum and one maximum filter over ids find the boundaries of all classes at once: eroding each class's mask by
    `width_px` steps of 3x3 is eroding it by one square of 2 * width_px + 1.
    """
    size = 2 * width_px + 1
    square = np.ones((size, size), np.uint8)
    lowest = cv2.erode(ids, square, borderType=cv2.BORDER_REPLICATE)
    highest = cv2.dilate(ids, square, borderType=cv2.BORDER_REPLICATE)
    mixed = np.asarray(lowest != highest)
    mixed[:width_px], mixed[-width_px:] = True, True
    mixed[:, :width_px], mixed[:, -width_px:] = True, True
    return mixed
