"""BDD100k's boxes: labels/det_20/det_SPLIT.json, or the first release's file, over images/100k/SPLIT."""

from pathlib import Path
from typing import Any

import numpy as np

from perception.data.detection.boxes import DetectionFrame, DetectionSet, checked_boxes, image_inside
from perception.data.files import named_stem
from perception.data.readers.bdd100k import BOXES_2018, frame_list, read_attributes, video_of
from perception.errors import InputError

BDD100K_CLASSES = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign",
)  # fmt: skip
# What the label files hold besides: older names of evaluated classes, and what is not evaluated.
_OLDER_NAMES = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"}
_IGNORED = ("other person", "other vehicle", "trailer")


def read_bdd100k_boxes(root: Path, part: str) -> DetectionSet:
    """Read the boxes and conditions of `train` or `val`; crowds are marked as ignored, classes not evaluated left out.

    A frame without objects has no boxes; lanes and areas, which have no box, are skipped. Raises InputError.
    """
    if part not in ("train", "val", "test"):
        raise InputError(f"part {part!r} is unknown; use one of train, val, test")
    path, first = (root / name.format(part) for name in ("labels/det_20/det_{}.json", BOXES_2018))
    path = first if first.exists() and not path.exists() else path
    conditions = read_attributes([path]) if path.exists() else {}
    frames = [_frame(frame, root / "images" / "100k" / part, conditions, path) for frame in frame_list(path)]
    return DetectionSet(BDD100K_CLASSES, tuple(sorted(frames, key=lambda frame: frame.frame_id)))


def _frame(frame: dict[str, Any], images: Path, conditions: dict[str, dict[str, Any]], path: Path) -> DetectionFrame:
    where = f"{path}: frame {frame['name']}"
    stem = named_stem(frame["name"])
    labels = frame.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise InputError(f"{where}: labels must be a list; correct it")
    boxed = [label for label in labels if label.get("box2d") is not None and label.get("category") not in _IGNORED]
    sides = [_sides(label["box2d"], where) for label in boxed]
    return DetectionFrame(
        frame_id=stem,
        image_path=image_inside(images, frame["name"], where),
        boxes=checked_boxes(np.array(sides, np.float64).reshape(-1, 4), where),
        labels=np.array([_class(label, where) for label in boxed], np.int64),
        ignored=np.array([_is_crowd(label, where) for label in boxed], np.bool_),
        truncated=np.full(len(boxed), -1.0),
        occluded=np.full(len(boxed), -1, np.int64),
        drive_id=video_of(stem),
        **conditions.get(stem, {}),
    )


def _class(label: dict[str, Any], where: str) -> int:
    category = label.get("category")
    name = _OLDER_NAMES.get(category, category) if isinstance(category, str) else None
    if name not in BDD100K_CLASSES:
        known = ", ".join(BDD100K_CLASSES)
        raise InputError(f"{where}: category is {category!r}, must be one of {known}; correct it")
    return BDD100K_CLASSES.index(name)


def _sides(box: Any, where: str) -> list[float]:
    sides = [box.get(name) for name in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else []
    numbers = [side for side in sides if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(numbers) != 4:
        raise InputError(f"{where}: box2d must have the numbers x1, y1, x2, y2; correct it")
    return numbers


def _is_crowd(label: dict[str, Any], where: str) -> bool:
    attributes = label.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise InputError(f"{where}: attributes of a label must be named values; correct it")
    return attributes.get("crowd") is True
