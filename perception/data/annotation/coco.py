"""COCO of any tool and Cityscapes' polygons, as label drops hold them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from perception.data.annotation.answers import Answer, Shape, label_of_shapes, no_outline, polygon, stated_size
from perception.data.decoding import BadFrame
from perception.data.detection.coco import decode_mask

POLYGONS = "_polygons.json"  # how Cityscapes' files end, after the name of the image


def read_coco(content: dict[str, Any], path: Path, where: str) -> list[Answer]:
    """Return an answer for every image of an instances file that has annotations, drawn in the order of their ids.

    Raises BadFrame for a file whose entries refer to nothing.
    """
    try:
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        found: dict[Any, list[Shape]] = {}
        for each in sorted(content["annotations"], key=lambda annotation: annotation["id"]):
            named = f"{where}: {images[each['image_id']]['file_name']}"
            found.setdefault(each["image_id"], []).append(
                _shape(names[each["category_id"]], each.get("segmentation"), named)
            )
        return [
            Answer(
                image=str(images[key]["file_name"]),
                kind="COCO",
                label=partial(
                    label_of_shapes, shapes, stated_size(images[key].get("height"), images[key].get("width")), where
                ),
                files=(path,),
            )
            for key, shapes in found.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFrame(where, f"an annotation lacks or misnames {error}", "export it as COCO again") from None


def _shape(class_name: str, segmentation: Any, where: str) -> Shape:
    if isinstance(segmentation, dict):
        return Shape(class_name, lambda size: decode_mask(segmentation, *size, where))
    if isinstance(segmentation, list) and segmentation:
        rings = [
            np.reshape(ring, (-1, 2)) if isinstance(ring, list) and len(ring) % 2 == 0 else None
            for ring in segmentation
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
