"""Average precision of boxes and instance masks: COCO's, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

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
    """Hold AP by overlap and class: (overlap, class) float64 in [0, 1], NaN for a class without objects.

    The overlaps are COCO's ten, 0.5 to 0.95. ap: the mean over overlaps and classes; ap50: at the first overlap.
    """

    by_class: NDArray[np.float64]
    ap: float
    ap50: float


def average_precision(
    labels: Sequence[Objects], detections: Sequence[Objects], classes: int, *, masks: bool = False
) -> AveragePrecision:
    """Give COCO's AP of boxes, or of masks: area all, 100 detections a frame.

    labels, detections: one entry a frame. Raises InputError for lengths that differ, detections without scores, and for
    class ids, boxes or scores that are none.
    """
    if len(labels) != len(detections) or not len(labels):
        raise InputError(
            f"labels and detections have lengths {len(labels)}, {len(detections)}; give one of each a frame, and at least "
            "one frame"
        )
    for what, given in (("labels", labels), ("detections", detections)):
        for frame, each in enumerate(given):
            _check_objects(each, classes, f"{what} of frame {frame}")
    precision = _precision(labels, detections, classes, masks)
    by_class = np.where(precision < 0, np.nan, precision).mean(axis=1)
    known = by_class[:, ~np.isnan(by_class).all(axis=0)]
    ap, ap50 = (float(part.mean()) if known.size else float("nan") for part in (known, known[0]))
    return AveragePrecision(by_class, ap, ap50)


def _check_objects(objects: Objects, classes: int, what: str) -> None:
    ids, boxes = np.asarray(objects.class_ids), np.asarray(objects.boxes, np.float64)
    outside = ids[~np.isin(ids, np.arange(classes))]
    if len(outside):
        raise InputError(f"{what} hold class id {outside[0]}, must be 0..{classes - 1}: count from 0")
    if not np.isfinite(boxes).all() or not (objects.scores is None or np.isfinite(objects.scores).all()):
        raise InputError(f"{what} hold a box or score that is no finite number; correct it")


def _precision(
    labels: Sequence[Objects], detections: Sequence[Objects], classes: int, masks: bool
) -> NDArray[np.float64]:
    """Let pycocotools match and accumulate: (overlap, recall, class) precision, -1 for a class without objects."""
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
        judge.evaluate()
        judge.accumulate()
    precision: NDArray[np.float64] = judge.eval["precision"][:, :, :, 0, 0]
    return precision


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
