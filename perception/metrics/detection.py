"""Average precision of boxes and instance masks: matching by pycocotools, intervals by a bootstrap over drives.

COCOeval matches detections to objects image by image. What it then accumulates is a weighted sort, so a resample of
drives needs no new matching: every detection and object counts as often as its drive was drawn.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError
from perception.metrics.bootstrap import drive_weights, percentile_interval

OVERLAPS = np.linspace(0.5, 0.95, 10)  # IoU from which a detection is right: COCO's ten
RECALLS = np.linspace(0.0, 1.0, 101)
_ALL_AREAS, _MOST_DETECTIONS = (0.0, 1e10), 100


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """Hold the objects of one frame, or what was detected in it.

    boxes: (object, 4) float, x and y of the upper left and lower right corner in pixels; class_ids: (object,) integers;
    scores: (object,) float for detections; crowd: (object,) bool for labels, regions that excuse detections;
    masks: (object, height, width) bool, needed for the AP of masks.
    """

    boxes: NDArray[Any]
    class_ids: NDArray[Any]
    scores: NDArray[Any] | None = None
    crowd: NDArray[np.bool_] | None = None
    masks: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Hold AP by overlap and class: (overlap, class) float64 in [0, 1], NaN for a class without objects; intervals as AP."""

    by_class: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    ap: float  # mean over overlaps and classes: COCO's AP
    ap50: float
    ap75: float
    ap_interval: tuple[float, float]
    drives: int


@dataclass(frozen=True, eq=False)
class _Matched:
    """Hold one class's detections of all frames, best score first: which frame, and right or excused at each overlap."""

    frame: NDArray[np.int64]  # (detection,)
    right: NDArray[np.bool_]  # (overlap, detection)
    excused: NDArray[np.bool_]  # (overlap, detection)
    objects: NDArray[np.int64]  # (frame,) objects that are to be found


def average_precision(
    labels: Sequence[Objects],
    detections: Sequence[Objects],
    drive_ids: Sequence[str],
    classes: int,
    *,
    masks: bool = False,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> AveragePrecision:
    """Give COCO's AP of boxes, or of masks, with intervals over drives.

    labels, detections: one entry a frame; drive_ids: the drive of each frame. The point figures equal pycocotools'
    COCOeval (area all, 100 detections a frame). Raises InputError for lengths that differ, detections without scores,
    and for class ids, boxes or scores that are none.
    """
    if not len(labels) == len(detections) == len(drive_ids) or not len(labels):
        raise InputError(
            f"labels, detections and drive_ids have lengths {len(labels)}, {len(detections)}, {len(drive_ids)}; "
            "give one of each a frame, and at least one frame"
        )
    for what, given in (("labels", labels), ("detections", detections)):
        for frame, each in enumerate(given):
            _check_objects(each, classes, f"{what} of frame {frame}")
    matched = [_of_class(found, len(labels)) for found in _match(labels, detections, classes, masks)]
    drives, drive_of = np.unique(np.asarray(drive_ids, str), return_inverse=True)
    point = _precision(matched, np.ones((1, len(labels))))[0]
    weights = drive_weights(len(drives), resamples, seed)[:, drive_of]
    resampled = _precision(matched, weights)
    lower, upper = percentile_interval(resampled, len(drives), confidence)
    known = ~np.isnan(point).all(axis=0)
    means = (
        np.nanmean(resampled[:, :, known].reshape(resamples, -1), axis=1) if known.any() else np.full(resamples, np.nan)
    )
    low, high = percentile_interval(means, len(drives), confidence)
    ap, ap50, ap75 = (float(np.nanmean(part)) if known.any() else float("nan") for part in (point, point[0], point[5]))
    return AveragePrecision(point, lower, upper, ap, ap50, ap75, (float(low), float(high)), len(drives))


def _check_objects(objects: Objects, classes: int, what: str) -> None:
    ids, boxes = np.asarray(objects.class_ids), np.asarray(objects.boxes, np.float64)
    outside = ids[~np.isin(ids, np.arange(classes))]
    if len(outside):
        raise InputError(f"{what} hold class id {outside[0]}, must be 0..{classes - 1}: count from 0")
    if not np.isfinite(boxes).all() or not (objects.scores is None or np.isfinite(objects.scores).all()):
        raise InputError(f"{what} hold a box or score that is no finite number; correct it")


def _match(labels: Sequence[Objects], detections: Sequence[Objects], classes: int, masks: bool) -> list[list[Any]]:
    """Let pycocotools match: for every class a list with one entry a frame, None where there is nothing at all."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    frames = [_frame_entry(number, each) for number, each in enumerate(labels, start=1)]
    kinds = [{"id": number} for number in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its times on the standard output
        for coco, given, scored in ((truth, labels, False), (found, detections, True)):
            coco.dataset = {"images": frames, "categories": kinds, "annotations": _annotations(given, masks, scored)}
            coco.createIndex()
        judge = COCOeval(truth, found, "segm" if masks else "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [list(_ALL_AREAS)], ["all"]
        judge.params.maxDets = [_MOST_DETECTIONS]
        judge.params.iouThrs = OVERLAPS
        judge.evaluate()
    number = len(labels)
    return [judge.evalImgs[each * number : (each + 1) * number] for each in range(classes)]


def _frame_entry(number: int, objects: Objects) -> dict[str, int]:
    height, width = objects.masks.shape[1:] if objects.masks is not None else (1, 1)  # only masks look at the size
    return {"id": number, "height": height, "width": width}


def _annotations(given: Sequence[Objects], masks: bool, scored: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for frame, objects in enumerate(given, start=1):
        if scored and len(objects.class_ids) and objects.scores is None:
            raise InputError(f"detections of frame {frame - 1} have no scores; AP ranks detections by them")
        for index, class_id in enumerate(objects.class_ids):
            left, top, right, bottom = (float(value) for value in objects.boxes[index])
            row: dict[str, Any] = {
                "id": len(rows) + 1, "image_id": frame, "category_id": int(class_id),
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                "iscrowd": int(objects.crowd is not None and not scored and bool(objects.crowd[index])),
            }  # fmt: skip
            if masks:
                row |= _mask_of(objects, index, frame)
            if scored:
                row["score"] = float(objects.scores[index])  # type: ignore[index]
            rows.append(row)
    return rows


def _mask_of(objects: Objects, index: int, frame: int) -> dict[str, Any]:
    from pycocotools import mask as run_lengths

    if objects.masks is None:
        raise InputError(f"objects of frame {frame - 1} have no masks; ask for the AP of boxes instead")
    encoded = run_lengths.encode(np.asfortranarray(objects.masks[index].astype(np.uint8)))
    return {"segmentation": encoded, "area": float(run_lengths.area(encoded))}


def _of_class(found: list[Any], frames: int) -> _Matched:
    present = [(number, each) for number, each in enumerate(found) if each is not None]
    objects = np.zeros(frames, np.int64)
    for number, each in present:
        objects[number] = int((np.asarray(each["gtIgnore"]) == 0).sum())
    scores = np.concatenate([np.zeros(0), *(np.asarray(each["dtScores"], np.float64) for _, each in present)])
    order = np.argsort(-scores, kind="mergesort")  # as COCOeval, so that ties fall as they do there
    empty = np.zeros((len(OVERLAPS), 0), bool)
    right = np.concatenate([empty, *(np.asarray(each["dtMatches"]) > 0 for _, each in present)], axis=1)
    excused = np.concatenate([empty, *(np.asarray(each["dtIgnore"], bool) for _, each in present)], axis=1)
    frame = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(each["dtScores"]), n, np.int64) for n, each in present)]
    )
    return _Matched(frame[order], right[:, order], excused[:, order], objects)


def _precision(matched: Sequence[_Matched], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision over COCO's recalls for every weighting of frames: (resample, overlap, class)."""
    result = np.full((len(weights), len(OVERLAPS), len(matched)), np.nan)
    for index, each in enumerate(matched):
        total = weights @ each.objects
        for overlap in range(len(OVERLAPS)):
            if each.objects.sum():
                result[:, overlap, index] = [
                    _interpolated(each, overlap, drawn, wanted) for drawn, wanted in zip(weights, total, strict=True)
                ]
    return result


def _interpolated(each: _Matched, overlap: int, drawn: NDArray[np.float64], wanted: float) -> float:
    """Average the envelope of precision at COCO's recalls; NaN where the resample has no object of the class."""
    if wanted <= 0:
        return float("nan")
    weight = drawn[each.frame] * ~each.excused[overlap]
    hits = np.cumsum(weight * each.right[overlap])
    seen = np.cumsum(weight)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(hits / wanted, RECALLS, side="left")].mean())
