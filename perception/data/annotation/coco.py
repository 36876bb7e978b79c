"""COCO of any tool and Cityscapes' polygons, as label drops hold them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from perception.data.annotation.answers import Answer, Shape, broken, label_of_shapes, no_outline, polygon, stated_size
from perception.data.decoding import BadFrame
from perception.data.detection.coco import decode_mask, whole_number

POLYGONS = "_polygons.json"  # how Cityscapes' files end, after the name of the image


def read_coco(content: dict[str, Any], path: Path, where: str) -> list[Answer]:
    """Return an answer for every image of an instances file that has annotations, drawn in the order of their ids.

    What is wrong with an annotation costs its own image. Raises BadFrame for a file that does not hold the three lists.
    """
    images, classes, annotations = (_objects(content, name, where) for name in ("images", "categories", "annotations"))
    names = {_id(each.get("id")): str(each.get("name")) for each in classes}
    known = {_id(each.get("id")): each for each in images}
    found: dict[int | str | None, list[dict[str, Any]]] = {}
    for each in sorted(annotations, key=lambda each: whole_number(each.get("id")) or 0):
        found.setdefault(_id(each.get("image_id")), []).append(each)
    return [
        _answer({"file_name": f"image {key}"} | known.get(key, {}), mine, names, path, where)
        for key, mine in found.items()
    ]


def _objects(content: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise BadFrame(where, f"{name} must be a list of objects", "export it as COCO again")
    return entries


def _id(value: object) -> int | str | None:
    return value if isinstance(value, str) else whole_number(value)


def _answer(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, str], path: Path, where: str
) -> Answer:
    name, size = str(image["file_name"]), stated_size(image.get("height"), image.get("width"))
    named = f"{where}: {name}"
    if any(whole_number(each.get("id")) is None for each in annotations):
        problem = BadFrame(named, "an annotation has no number as its id", "export it as COCO again")
        return broken(name, "COCO", path, problem)
    shapes = []
    for each in annotations:
        category = _id(each.get("category_id"))
        shapes.append(_shape(names.get(category, f"category {category}"), each.get("segmentation"), named))
    return Answer(image=name, kind="COCO", label=partial(label_of_shapes, shapes, size, named), files=(path,))


def _shape(class_name: str, segmentation: Any, where: str) -> Shape:
    if isinstance(segmentation, dict):
        return Shape(class_name, lambda size: decode_mask(segmentation, *size, where))
    if isinstance(segmentation, list) and segmentation:
        rings = [
            isinstance(ring, list) and [ring[at : at + 2] for at in range(0, len(ring), 2)] for ring in segmentation
        ]
        return polygon(class_name, rings, where)
    return no_outline(class_name, "an annotation without a segmentation", where)


def read_polygons(content: dict[str, Any], path: Path, where: str) -> list[Answer]:
    """Return the answer of a file of Cityscapes' polygons; none of one without objects. Raises BadFrame for what is none."""
    objects, size = content.get("objects"), stated_size(content.get("imgHeight"), content.get("imgWidth"))
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects) or size is None:
        raise BadFrame(where, "is no file of polygons", "save it again")
    shapes = _left(objects, where)
    name = PurePosixPath(path.name).name.removesuffix(POLYGONS)
    label = partial(label_of_shapes, shapes, size, where)
    return [Answer(image=name, kind="polygons", label=label, files=(path,))] if shapes else []


def _left(objects: Sequence[dict[str, Any]], where: str) -> list[Shape]:
    return [
        polygon(str(each.get("label")), [each.get("polygon")], where) for each in objects if not each.get("deleted")
    ]
