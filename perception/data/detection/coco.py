"""COCO instances: read, write and draw (Lin et al., ECCV 2014); pycocotools.mask draws their masks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.detection.boxes import DetectionFrame, DetectionSet, checked_boxes, image_inside
from perception.data.files import name_key, relative_parts, replace_file
from perception.data.json_files import read_json
from perception.errors import InputError

Id = int | str


def read_coco(annotations: Path, images: Path) -> DetectionSet:
    """Read an instances JSON whose images lie in folder `images`; crowds are marked as ignored.

    Classes are in the order of their category ids; frames are sorted by file name, whose stem is the frame_id (folders
    joined by _). Ids, numbers or text, only join. Of two categories of one name, one that nothing uses is left out, as
    some tools write a root. An object without a box gets that of its mask. Images need not be there. Raises InputError
    for an entry that refers to nothing or has a wrong type.
    """
    content = read_json(annotations)
    parts = [_records(content, name, annotations) for name in ("images", "annotations", "categories")]
    frames = _by_id(parts[0], "image", annotations)
    names = {key: _text(each, "name", annotations) for key, each in _by_id(parts[2], "category", annotations).items()}
    used = {key for each in parts[1] if _is_id(key := each.get("category_id"))}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    order = sorted(
        (key for key in names if key in used or names[key] not in twice), key=lambda key: (str(type(key)), key)
    )
    classes = tuple(names[key] for key in order)
    places = {key: place for place, key in enumerate(order)}
    if len(set(classes)) != len(classes):
        raise InputError(f"{annotations}: two categories have one name; rename one")
    objects: dict[Id, list[dict[str, Any]]] = {key: [] for key in frames}
    for each in parts[1]:
        for name, known in (("image_id", objects), ("category_id", places)):
            if not _is_id(each.get(name)) or each[name] not in known:
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
    replace_file(path, json.dumps(content, allow_nan=False, default=bytes.decode).encode())


def decode_mask(segmentation: Any, height_px: int, width_px: int, where: str) -> NDArray[np.bool_]:
    """Draw a COCO segmentation, run lengths (compressed or not) or polygons, as cocoapi does: (height, width) bool.

    Raises BadFrame for one that does not fit the image.
    """
    from pycocotools import mask as cocoapi

    size, pixels = [height_px, width_px], height_px * width_px
    try:
        if not 0 < pixels <= limits.PIXELS:
            raise ValueError(f"its image has {pixels} pixels, more than {limits.PIXELS} or none")
        if isinstance(segmentation, list):
            return np.asarray(cocoapi.decode(cocoapi.merge(cocoapi.frPyObjects(segmentation, *size))), np.bool_)
        if list(segmentation["size"]) != size:
            raise ValueError(f"its size is {segmentation['size']}, its image's {size}")
        counts = segmentation["counts"]
        plain = isinstance(counts, list | tuple)
        if plain and not (all(_is_int(count) and count >= 0 for count in counts) and sum(counts) == pixels):
            raise ValueError("its run lengths do not add up to its pixels")
        packed = cocoapi.frPyObjects(segmentation, *size) if plain else {"size": size, "counts": counts}
        drawn = cocoapi.decode(packed)
        # cocoapi leaves to chance what too few run lengths do not reach: made again, compressed ones are not the same.
        told = counts.encode() if isinstance(counts, str) else counts
        if not plain and cocoapi.encode(drawn)["counts"] != told:
            raise ValueError("its run lengths do not add up to its pixels")
    except Exception as error:  # pycocotools raises many types, Exception itself among them
        raise BadFrame(where, f"a segmentation cannot be drawn: {error}", "export it as COCO again") from None
    return np.asarray(drawn, np.bool_)


# --- reading


def _records(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path}: must hold a list called {name}; give an instances file of COCO")
    return records


def _by_id(records: list[dict[str, Any]], kind: str, path: Path) -> dict[Id, dict[str, Any]]:
    by_id: dict[Id, dict[str, Any]] = {}
    for record in records:
        key = record.get("id")
        if not _is_id(key) or key in by_id:
            raise InputError(
                f"{path}: {kind} has id {key!r}, must be a whole number or text that occurs once; correct it"
            )
        by_id[key] = record
    return by_id


def _frame(
    image: dict[str, Any], objects: list[dict[str, Any]], places: dict[Id, int], folder: Path, path: Path
) -> DetectionFrame:
    name = _text(image, "file_name", path)
    where = f"{path}: image {name}"
    width, height = whole_number(image.get("width")), whole_number(image.get("height"))
    if not width or not height or width < 0 or height < 0:
        found = f"{image.get('width')!r} and {image.get('height')!r}"
        raise InputError(f"{where}: width and height are {found}, must be whole numbers; correct them")
    image_path = image_inside(folder, name, where)
    sides = np.array([_box(each, height, width, where) for each in objects], np.float64).reshape(-1, 4)
    boxes = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
    return DetectionFrame(
        frame_id=name_key("_".join(Path(*relative_parts(name)).with_suffix("").parts)),
        image_path=image_path,
        boxes=checked_boxes(boxes, where),
        labels=np.array([places[each["category_id"]] for each in objects], np.int64),
        ignored=np.array([each.get("iscrowd", 0) == 1 for each in objects], np.bool_),
        truncated=np.full(len(objects), -1.0),
        occluded=np.full(len(objects), -1, np.int64),
        masks=tuple(each.get("segmentation") or None for each in objects),
        width_px=width,
        height_px=height,
    )


def _box(annotation: dict[str, Any], height_px: int, width_px: int, where: str) -> list[float]:
    box = annotation.get("bbox")
    if not box and annotation.get("segmentation"):
        rows, columns = np.nonzero(decode_mask(annotation["segmentation"], height_px, width_px, where))
        if not len(rows):
            raise InputError(f"{where}: an object has no bbox and an empty mask; remove it")
        left, top = columns.min(), rows.min()
        return [float(side) for side in (left, top, columns.max() + 1 - left, rows.max() + 1 - top)]
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


def _is_id(value: Any) -> TypeGuard[Id]:
    return isinstance(value, str) or _is_int(value)


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def whole_number(value: Any) -> int | None:
    """Return a whole number as tools write it, 96 or 96.0; None for anything else."""
    whole = _is_int(value) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**63)
    return int(value) if whole else None


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
