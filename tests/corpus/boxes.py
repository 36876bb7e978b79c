"""Two frames with three boxes, as the tools of the field write them: COCO by several tools, KITTI, BDD100K."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from tests.corpus.layouts import Tree

WIDTH, HEIGHT = 96, 64
Json = dict[str, Any]
# By frame: class and left, top, right, bottom of every object.
TRUTH: Mapping[str, list[tuple[str, tuple[int, int, int, int]]]] = {
    "a": [("car", (10, 12, 30, 40)), ("person", (50, 5, 60, 45))],
    "b": [("car", (0, 0, 20, 20))],
}
NAMES = {"a": "a", "b": "b"}  # how the frames' files are called
OWN_NAMES = {"a": "vorn links (1)", "b": "Straße_é"}


def polygon(box: tuple[int, int, int, int]) -> list[list[float]]:
    """Return a box as COCO's list of rings."""
    left, top, right, bottom = map(float, box)
    return [[left, top, right, top, right, bottom, left, bottom]]


def plain_runs(box: tuple[int, int, int, int]) -> Json:
    """Return a box as uncompressed run lengths, column after column."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [2]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def packed_runs(box: tuple[int, int, int, int]) -> Json:
    """Return a box as the run lengths that cocoapi packs."""
    packed = run_lengths.frPyObjects([polygon(box)[0]], HEIGHT, WIDTH)[0]
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def coco(
    names: Mapping[str, str],
    *,
    file: str,
    first_id: int,
    categories: list[Json],
    image: Json,
    annotation: Json,
    shape: Callable[[tuple[int, int, int, int]], Any],
) -> Json:
    """Return an instances file; image and annotation: what the tool writes into each entry besides."""
    ids = {category["name"]: category["id"] for category in reversed(categories)}
    content: Json = {"images": [], "annotations": [], "categories": categories, "info": {"description": ""}}
    for number, (frame, objects) in enumerate(TRUTH.items(), start=first_id):
        name = file.format(stem=names[frame])
        content["images"].append({"id": number, "width": WIDTH, "height": HEIGHT, "file_name": name, **image})
        for kind, box in objects:
            left, top, right, bottom = box
            entry = {"id": first_id + len(content["annotations"]), "image_id": number, "category_id": ids[kind]}
            sides = {
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            content["annotations"].append({**entry, **sides, "segmentation": shape(box), **annotation})
    return content


def _two(first: int, **more: Any) -> list[Json]:
    return [{"id": first, "name": "car", **more}, {"id": first + 1, "name": "person", **more}]


def roboflow(names: Mapping[str, str]) -> Json:
    """A root category that nothing has, sizes as whole numbers, no outlines of boxes."""
    root = [{"id": 0, "name": "traffic", "supercategory": "none"}]
    return coco(
        names, file="{stem}_jpg.rf.0123456789abcdef0123456789abcdef.jpg", first_id=0,
        categories=root + _two(1, supercategory="traffic"), annotation={}, shape=lambda _box: [],
        image={"license": 1, "date_captured": "2026-01-02T03:04:05+00:00", "extra": {"name": "a.jpg"}},
    )  # fmt: skip


def roboflow_one_class(names: Mapping[str, str]) -> Json:
    """A root category with the name of a class, as a project of that name has it."""
    content = roboflow(names)
    content["categories"][0]["name"] = "car"
    return content


def label_studio(names: Mapping[str, str]) -> Json:
    """Ids from 0, a prefix before every name."""
    return coco(
        names, file="images/3f2a1b7c-{stem}.jpg", first_id=0, categories=_two(0), image={},
        annotation={"ignore": 0}, shape=polygon,
    )  # fmt: skip


def x_anylabeling(names: Mapping[str, str]) -> Json:
    """Empty texts where nothing is known."""
    return coco(
        names, file="{stem}.jpg", first_id=1, categories=_two(1, supercategory=""), shape=polygon,
        image={"license": 0, "flickr_url": "", "coco_url": "", "date_captured": ""}, annotation={"ignore": 0},
    )  # fmt: skip


def cvat(names: Mapping[str, str]) -> Json:
    """Masks as uncompressed run lengths, attributes of every object."""
    return coco(
        names, file="{stem}.jpg", first_id=1, categories=_two(1, supercategory=""), shape=plain_runs,
        image={"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
        annotation={"attributes": {"occluded": False, "rotation": 0.0}},
    )  # fmt: skip


def labelme(names: Mapping[str, str]) -> Json:
    """A background category, nulls, images in a folder of their own."""
    background = [{"id": 0, "name": "_background_", "supercategory": None}]
    return coco(
        names, file="JPEGImages/{stem}.jpg", first_id=0, categories=background + _two(1, supercategory=None),
        image={"license": 0, "url": None, "date_captured": None}, annotation={}, shape=polygon,
    )  # fmt: skip


def cocoapi(names: Mapping[str, str]) -> Json:
    """Packed run lengths, ids far apart."""
    content = coco(
        names, file="{stem}.jpg", first_id=391895, categories=_two(89), image={}, annotation={}, shape=packed_runs
    )
    return content | {"licenses": [], "type": "instances"}


COCO_TOOLS: Mapping[str, Callable[[Mapping[str, str]], Json]] = {
    "COCO by Roboflow": roboflow,
    "COCO by Roboflow, one class": roboflow_one_class,
    "COCO by Label Studio": label_studio,
    "COCO by X-AnyLabeling": x_anylabeling,
    "COCO by CVAT": cvat,
    "COCO by labelme": labelme,
    "COCO by cocoapi": cocoapi,
}


# ---------------------------------------------------------------- KITTI and BDD100K


def kitti(more: str = "") -> Tree:
    """Return KITTI's folders; more: what a tool writes behind the fifteen columns."""
    tree = {}
    for number, objects in enumerate(TRUTH.values()):
        kinds = {"car": "Car", "person": "Pedestrian"}
        lines = [
            f"{kinds[kind]} 0.00 0 0.00 {' '.join(f'{side:.2f}' for side in box)} 0 0 0 0 0 0 0{more}\n"
            for kind, box in objects
        ]
        tree[f"training/image_2/{number:06d}.png"] = b"not opened"
        tree[f"training/label_2/{number:06d}.txt"] = "".join(lines).encode()
    return tree


def bdd100k(file: str, person: str, *, wrapped: bool = False) -> Tree:
    """Return a label file of BDD100K; wrapped: in Scalabel's object with a configuration."""
    frames = []
    for frame, objects in TRUTH.items():
        labels: list[Json] = [
            {"id": 9, "category": "lane", "poly2d": [{"vertices": [[0, 0], [1, 1]], "closed": False}]}
        ]
        for kind, box in objects:
            sides = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
            label = {"id": len(labels), "category": person if kind == "person" else kind, "box2d": sides}
            labels.append(label | {"attributes": {"occluded": False, "truncated": False, "trafficLightColor": "none"}})
        attributes = {"weather": "clear", "scene": "highway", "timeofday": "night"}
        frames.append({"name": f"{frame}.jpg", "attributes": attributes, "timestamp": 10000, "labels": labels})
    return {file: json.dumps({"frames": frames, "config": None} if wrapped else frames, indent=1).encode()}


FOLDERS: Mapping[str, Tree] = {
    "KITTI": kitti(),
    "KITTI by CVAT": kitti(" 1"),
    "BDD100K 2020": bdd100k("labels/det_20/det_val.json", "pedestrian"),
    "BDD100K 2020 by Scalabel": bdd100k("labels/det_20/det_val.json", "pedestrian", wrapped=True),
    "BDD100K 2018": bdd100k("labels/bdd100k_labels_images_val.json", "person"),
}
