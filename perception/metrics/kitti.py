"""KITTI's average precision of 2-D boxes: easy, moderate and hard, by the rules of its development kit.

Source: Geiger, Lenz, Urtasun, "Are we ready for Autonomous Driving?", CVPR 2012, and evaluate_object.cpp of the kit; 40
recall positions since 2019 (Simonelli et al., "Disentangling Monocular 3D Object Detection", ICCV 2019), 11 before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

DIFFICULTIES = ("easy", "moderate", "hard")
LEAST_HEIGHT_PX = (40.0, 25.0, 25.0)
MOST_OCCLUSION = (0, 1, 2)
MOST_TRUNCATION = (0.15, 0.3, 0.5)
LEAST_OVERLAP = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
# Objects so like the class that finding one is no error, and missing one is none either.
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
DONT_CARE = "dontcare"
RECALL_POINTS = 41


@dataclass(frozen=True, eq=False, kw_only=True)
class KittiLabels:
    """Hold one frame's labels: kinds (object,) lower-case names; boxes (object, 4) x1 y1 x2 y2 in pixels; truncation
    (object,) in [0, 1]; occlusion (object,) 0 to 3. Regions of kind `dontcare` excuse detections."""

    kinds: Sequence[str]
    boxes: NDArray[np.float64]
    truncation: NDArray[np.float64]
    occlusion: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class KittiDetections:
    """Hold one frame's detections: kinds (detection,), boxes (detection, 4), scores (detection,)."""

    kinds: Sequence[str]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Frame:
    """Hold a frame as one class at one difficulty sees it: what counts (0), is excused (1) or is not there (removed)."""

    excused_label: NDArray[np.bool_]
    excused_detection: NDArray[np.bool_]
    scores: NDArray[np.float64]
    overlap: NDArray[np.float64]  # (label, detection) IoU
    in_region: NDArray[np.float64]  # (region, detection) share of the detection inside a dontcare region


def kitti_ap(
    labels: Sequence[KittiLabels], detections: Sequence[KittiDetections], kind: str, recall_positions: int = 40
) -> dict[str, float]:
    """Give the AP of `kind` (car, pedestrian or cyclist) by difficulty; NaN where no object counts.

    labels, detections: one entry a frame. recall_positions: 40 or 11. Raises InputError for other values and for detections
    that are no numbers.
    """
    if kind not in LEAST_OVERLAP or recall_positions not in (11, 40) or len(labels) != len(detections):
        raise InputError(
            f"kind={kind!r}, recall_positions={recall_positions}, {len(labels)} label and {len(detections)} detection "
            f"frames: kind is one of {', '.join(LEAST_OVERLAP)}, positions are 11 or 40, and frames are as many"
        )
    for frame, found in enumerate(detections):
        if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
            raise InputError(f"detections of frame {frame} hold a box or score that is no finite number; correct it")
    pairs = list(zip(labels, detections, strict=True))
    return {
        name: _ap([_seen(truth, found, kind, level) for truth, found in pairs], LEAST_OVERLAP[kind], recall_positions)
        for level, name in enumerate(DIFFICULTIES)
    }


def _seen(truth: KittiLabels, found: KittiDetections, kind: str, level: int) -> _Frame:
    """Sort out what counts, what is excused and what is not there for a class at a difficulty."""
    boxes = np.reshape(truth.boxes, (-1, 4)).astype(np.float64)
    kinds = np.array([str(each).lower() for each in truth.kinds])
    hidden = np.asarray(truth.occlusion) > MOST_OCCLUSION[level]
    cut = np.asarray(truth.truncation) > MOST_TRUNCATION[level]
    hard = hidden | cut | (boxes[:, 3] - boxes[:, 1] <= LEAST_HEIGHT_PX[level])
    own, near = kinds == kind, kinds == NEIGHBOURS.get(kind, "")
    there = own | near
    detected = np.reshape(found.boxes, (-1, 4)).astype(np.float64)
    # As in the kit, smallness comes first: a small detection of another class may be matched too, and excuses itself.
    small = np.abs(detected[:, 3] - detected[:, 1]).astype(np.int64) < LEAST_HEIGHT_PX[level]
    of_kind = np.array([str(each).lower() == kind for each in found.kinds], dtype=bool)
    kept = small | of_kind
    return _Frame(
        excused_label=(near | hard)[there],
        excused_detection=small[kept],
        scores=np.asarray(found.scores, np.float64)[kept],
        overlap=_shared(boxes[there], detected[kept], of_union=True),
        in_region=_shared(boxes[kinds == DONT_CARE], detected[kept], of_union=False),
    )


def _shared(first: NDArray[np.float64], second: NDArray[np.float64], *, of_union: bool) -> NDArray[np.float64]:
    """Give the area that every pair shares as a part of their union, or of the second box: (first, second)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    whole = areas[0][:, None] + areas[1][None] - shared if of_union else np.broadcast_to(areas[1][None], shared.shape)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _ap(frames: Sequence[_Frame], least: float, positions: int) -> float:
    wanted = sum(int((~frame.excused_label).sum()) for frame in frames)
    if not wanted:
        return float("nan")
    hits = np.concatenate([np.zeros(0), *(_scores_of_hits(frame, least) for frame in frames)])
    thresholds = recall_thresholds(hits, wanted)
    precision = np.zeros(RECALL_POINTS)
    for index, threshold in enumerate(thresholds):
        right, wrong = (sum(part) for part in zip(*(_count(frame, least, threshold) for frame in frames), strict=True))
        precision[index] = right / (right + wrong) if right + wrong else 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[1:].mean() if positions == 40 else envelope[::4].mean())


def recall_thresholds(scores: NDArray[np.float64], wanted: int) -> list[float]:
    """Choose the scores at which recall comes nearest to 0, 1/40, ... 1, as the kit's getThresholds.

    scores: (hit,) of detections that found an object; wanted: objects there are.
    """
    ordered = np.sort(scores)[::-1]
    chosen: list[float] = []
    recall = 0.0
    for index, score in enumerate(ordered):
        here = (index + 1) / wanted
        following = (index + 2) / wanted if index < len(ordered) - 1 else here
        if following - recall < recall - here and index < len(ordered) - 1:
            continue
        chosen.append(float(score))
        recall += 1.0 / (RECALL_POINTS - 1)
    return chosen[:RECALL_POINTS]


def _scores_of_hits(frame: _Frame, least: float) -> list[float]:
    """Give each object that counts the best-scored free detection that overlaps it; return those scores."""
    free = np.ones(len(frame.scores), bool)
    found = []
    for label, excused in enumerate(frame.excused_label):
        open_ones = np.flatnonzero(free & (frame.overlap[label] > least))
        if not len(open_ones):
            continue
        best = open_ones[np.argmax(frame.scores[open_ones])]
        free[best] = False
        if not excused and not frame.excused_detection[best]:
            found.append(float(frame.scores[best]))
    return found


def _count(frame: _Frame, least: float, threshold: float) -> tuple[int, int]:
    """Count right and wrong detections among those that score at least `threshold`."""
    shown = frame.scores >= threshold
    free = shown.copy()
    right = 0
    for label, excused in enumerate(frame.excused_label):
        close = free & (frame.overlap[label] > least)
        counting = np.flatnonzero(close & ~frame.excused_detection)
        if len(counting):
            best = counting[np.argmax(frame.overlap[label, counting])]
            right += not excused
        elif close.any():
            best = np.flatnonzero(close)[0]
        else:
            continue
        free[best] = False
    left = free & ~frame.excused_detection
    excused_by_region = (frame.in_region > least).any(axis=0) & left
    return right, int(left.sum() - excused_by_region.sum())
