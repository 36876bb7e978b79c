"""COCO instances: read and write (Lin et al., ECCV 2014); pycocotools.mask draws their masks."""

import json
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from perception.data.detection.boxes import DetectionFrame, DetectionSet, checked_boxes, image_inside
from perception.data.files import replace_file
from perception.data.json_files import read_json
from perception.errors import InputError


def read_coco(annotations: Path, images: Path) -> DetectionSet:
    """Read an instances JSON whose images lie in folder `images`; crowds are marked as ignored.

    Classes are in the order of their category ids; frames are sorted by file name, whose stem is the frame_id (folders
    joined by _). Images need not be there. Raises InputError for an entry that refers to nothing or has a wrong type.
    """
    content = read_json(annotations)
    parts = [_records(content, name, annotations) for name in ("images", "annotations", "categories")]
    frames = _by_id(parts[0], "image", annotations)
    categories = _by_id(parts[2], "category", annotations)
    classes = tuple(_text(categories[number], "name", annotations) for number in sorted(categories))
    places = {number: place for place, number in enumerate(sorted(categories))}
    if len(set(classes)) != len(classes):
        raise InputError(f"{annotations}: two categories have one name; rename one")
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in frames}
    for each in parts[1]:
        for name, known in (("image_id", objects), ("category_id", places)):
            if not _is_int(each.get(name)) or each[name] not in known:
                raise InputError(
                    f"{annotations}: an annotation has {name} {each.get(name)!r}, which is not there; correct it"
                )
        objects[each["image_id"]].append(each)
    found = [_frame(frames[number], objects[number], places, images, annotations) for number in frames]
    _check_unique(found, annotations)
    return DetectionSet(classes, tuple(sorted(found, key=lambda frame: frame.frame_id)))


def write_coco(detections: DetectionSet, path: Path, images: Path) -> None:
    """Write an instances JSON: ids count from 1 in the set's order, file names are relative to `images`.

    The file appears whole or not at all. Raises InputError for an image outside the folder or of unknown size.
    """
    content: dict[str, Any] = {
        "images": [], "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(detections.classes, start=1)],
    }  # fmt: skip
    for number, frame in enumerate(detections.frames, start=1):
        if not frame.image_path.is_relative_to(images) or frame.width_px is None or frame.height_px is None:
            raise InputError(f"{frame.image_path}: must lie in {images} and have a size in pixels; give both")
        name = frame.image_path.relative_to(images).as_posix()
        content["images"].append({"id": number, "file_name": name, "width": frame.width_px, "height": frame.height_px})
        for place in range(len(frame.boxes)):
            entry = {"id": len(content["annotations"]) + 1, "image_id": number} | _annotation(frame, place)
            content["annotations"].append(entry)
    replace_file(path, json.dumps(content, allow_nan=False).encode())


# --- reading


def _records(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path}: must hold a list called {name}; give an instances file of COCO")
    return records


def _by_id(records: list[dict[str, Any]], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for record in records:
        number = record.get("id")
        if not _is_int(number) or number in by_id:
            raise InputError(f"{path}: {kind} has id {number!r}, must be a whole number that occurs once; correct it")
        by_id[int(number)] = record
    return by_id


def _frame(
    image: dict[str, Any], objects: list[dict[str, Any]], places: dict[int, int], folder: Path, path: Path
) -> DetectionFrame:
    name = _text(image, "file_name", path)
    where = f"{path}: image {name}"
    width, height = image.get("width"), image.get("height")
    if not (_is_int(width) and _is_int(height) and width > 0 and height > 0):
        raise InputError(f"{where}: width and height are {width!r} and {height!r}, must be whole numbers; correct them")
    sides = np.array([_box(each, where) for each in objects], np.float64).reshape(-1, 4)
    boxes = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
    return DetectionFrame(
        frame_id=Path(name).with_suffix("").as_posix().replace("/", "_"),
        image_path=image_inside(folder, name, where),
        boxes=checked_boxes(boxes, where),
        labels=np.array([places[each["category_id"]] for each in objects], np.int64),
        ignored=np.array([each.get("iscrowd", 0) == 1 for each in objects], np.bool_),
        truncated=np.full(len(objects), -1.0),
        occluded=np.full(len(objects), -1, np.int64),
        masks=tuple(each.get("segmentation") or None for each in objects),
        width_px=width,
        height_px=height,
    )


def _box(annotation: dict[str, Any], where: str) -> list[float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise InputError(f"{where}: bbox is {str(box)[:80]}, must be [left, top, width, height]; correct it")
    return box


def _text(record: dict[str, Any], name: str, path: Path) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: {name} is {value!r}, must be text; correct it")
    return value


def _check_unique(frames: list[DetectionFrame], path: Path) -> None:
    seen: set[str] = set()
    for frame in frames:
        if frame.frame_id in seen:
            raise InputError(f"{path}: two images are called {frame.frame_id}; rename one")
        seen.add(frame.frame_id)


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


# --- writing


def _annotation(frame: DetectionFrame, place: int) -> dict[str, Any]:
    left, top, right, bottom = frame.boxes[place].tolist()
    entry: dict[str, Any] = {
        "category_id": int(frame.labels[place]) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": int(frame.ignored[place]),
    }
    if frame.masks and frame.masks[place] is not None:
        entry["segmentation"] = frame.masks[place]
    if frame.scores is not None:
        entry["score"] = float(frame.scores[place])
    return entry
