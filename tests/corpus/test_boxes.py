"""Boxes and masks as the tools of the field write them are read to the same objects, as pycocotools reads them too."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from perception.data.detection import (
    DetectionFrame,
    DetectionSet,
    read_bdd100k_boxes,
    read_coco,
    read_kitti,
)
from perception.data.detection.coco import decode_mask
from perception.errors import InputError
from tests.corpus.boxes import COCO_TOOLS, FOLDERS, HEIGHT, NAMES, OWN_NAMES, TRUTH, WIDTH
from tests.corpus.layouts import Tree, plain_files
from tests.corpus.naming import cases, each
from tests.corpus.variants import byte_order_marks, hidden_files, other_tools_files, windows_line_ends

Json = dict[str, Any]
PEOPLE = ("person", "pedestrian")


def text_ids(content: Json) -> None:
    for image in content["images"]:
        image["id"] = f"{image['id']:07d}_02999_d"
    for entry in content["annotations"]:
        entry["image_id"] = f"{entry['image_id']:07d}_02999_d"


def sizes_with_a_point(content: Json) -> None:
    for image in content["images"]:
        image |= {"width": float(WIDTH), "height": float(HEIGHT)}


def without_boxes(content: Json) -> None:
    for entry in content["annotations"]:
        del entry["bbox"]


def backslashes(content: Json) -> None:
    for image in content["images"]:
        image["file_name"] = "images\\front\\" + PurePosixPath(image["file_name"]).name


def crowds(content: Json) -> None:
    for entry in content["annotations"]:
        entry["iscrowd"] = 1


def without_outlines(content: Json) -> None:
    for entry in content["annotations"]:
        entry["segmentation"] = None


CONTENTS: dict[str, Callable[[Json], Any]] = {
    "as published": lambda _content: None,
    "ids are text": text_ids,
    "sizes with a point": sizes_with_a_point,
    "no boxes": without_boxes,
    "backslashes": backslashes,
    "crowds": crowds,
    "no outlines": without_outlines,
    "other order": lambda content: [content[name].reverse() for name in ("images", "annotations", "categories")],
    "fields of another tool": lambda content: [
        entry.update(score=0.5, keypoints=[]) for entry in content["annotations"]
    ],
}


def has(tool: str, variant: str) -> bool:
    """Say whether a variant can come about with a tool: one that writes no outlines cannot leave the boxes out."""
    return variant != "no boxes" or "Roboflow" not in tool


def coco_file(root: Path, content: Json, indent: int | None = None) -> Path:
    path = root / "instances.json"
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    return path


def by_image(read: DetectionSet, root: Path) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Return class, box and whether it counts of every object, by the file's name."""
    return {str(frame.image_path.relative_to(root)): _objects(read, frame) for frame in read.frames}


def _objects(read: DetectionSet, frame: DetectionFrame) -> list[tuple[str, list[float], bool]]:
    named = zip(frame.labels, frame.boxes.tolist(), frame.ignored.tolist(), strict=True)
    return sorted((read.classes[label], box, ignored) for label, box, ignored in named)


def by_pycocotools(content: Json) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Return the same, as pycocotools reads it; where an entry has no box, the box of its mask."""
    theirs = _loaded(content)
    found = {}
    for image in theirs.imgs.values():
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=[image["id"]]))
        objects = [
            (theirs.cats[one["category_id"]]["name"], _sides(theirs, one), bool(one["iscrowd"])) for one in entries
        ]
        found[image["file_name"].replace("\\", "/")] = sorted(objects)
    return found


def _loaded(content: Json) -> COCO:
    theirs = COCO()
    theirs.dataset = content
    theirs.createIndex()
    return theirs


def _sides(theirs: COCO, entry: Json) -> list[float]:
    if "bbox" not in entry:
        rows, columns = np.nonzero(theirs.annToMask(entry))
        return [float(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    left, top, width, height = entry["bbox"]
    return [float(left), float(top), float(left + width), float(top + height)]


@cases((tool, variant) for tool in COCO_TOOLS for variant in CONTENTS if has(tool, variant))
def test_coco(name: str, variant: str, tmp_path: Path) -> None:
    content = COCO_TOOLS[name](NAMES)
    CONTENTS[variant](content)
    found = by_image(read_coco(coco_file(tmp_path, content), tmp_path), tmp_path)
    assert found == by_pycocotools(content)
    truth = [sorted((kind, [*map(float, box)], variant == "crowds") for kind, box in boxes) for boxes in TRUTH.values()]
    assert sorted(found.values()) == sorted(truth)


@cases((tool, variant) for tool in COCO_TOOLS for variant in ("byte order marks", "windows line ends"))
def test_coco_as_windows_saves_it(name: str, variant: str, tmp_path: Path) -> None:
    content = COCO_TOOLS[name](NAMES)
    path = coco_file(tmp_path, content, indent=2)
    change = {"byte order marks": byte_order_marks, "windows line ends": windows_line_ends}[variant]
    plain_files(change({path.name: path.read_bytes()}), tmp_path)
    assert by_image(read_coco(path, tmp_path), tmp_path) == by_pycocotools(content)


@each(COCO_TOOLS, "own names of files")
def test_coco_names_with_blanks_and_accents(name: str, tmp_path: Path) -> None:
    content = COCO_TOOLS[name](OWN_NAMES)
    assert by_image(read_coco(coco_file(tmp_path, content), tmp_path), tmp_path) == by_pycocotools(content)


@each((tool for tool in COCO_TOOLS if "Roboflow" not in tool), "masks")
def test_coco_masks(name: str, tmp_path: Path) -> None:
    content = COCO_TOOLS[name](NAMES)
    theirs = _loaded(content)
    expected = [theirs.annToMask(entry).astype(bool) for entry in content["annotations"]]
    frames = read_coco(coco_file(tmp_path, content), tmp_path).frames
    masks = [decode_mask(mask, HEIGHT, WIDTH, name) for frame in frames for mask in frame.masks]
    assert len(masks) == len(expected) and all(np.array_equal(*pair) for pair in zip(masks, expected, strict=True))


@each(COCO_TOOLS, "an annotation of no image")
def test_coco_reference_to_nothing(name: str, tmp_path: Path) -> None:
    content = COCO_TOOLS[name](NAMES)
    content["annotations"][0]["image_id"] = 77
    with pytest.raises(InputError, match=r"image_id 77, which is not there"):
        read_coco(coco_file(tmp_path, content), tmp_path)


# ---------------------------------------------------------------- KITTI and BDD100K


def read_folder(name: str, root: Path) -> DetectionSet:
    return read_kitti(root) if name.startswith("KITTI") else read_bdd100k_boxes(root, "val")


def blank_lines(tree: Tree) -> Tree:
    return {name: b"\n" + data + b"\n  \n" for name, data in tree.items()}


CHANGES: dict[str, Callable[[Tree], Tree]] = {
    "as published": lambda tree: tree,
    "hidden files": hidden_files,
    "byte order marks": byte_order_marks,
    "windows line ends": windows_line_ends,
    "blank lines": blank_lines,
    "files of other tools": other_tools_files,
}


@cases((name, variant) for name in FOLDERS for variant in CHANGES)
def test_folders_of_boxes(name: str, variant: str, tmp_path: Path) -> None:
    plain_files(CHANGES[variant](FOLDERS[name]), tmp_path)
    read = read_folder(name, tmp_path)
    assert len(read.frames) == len(TRUTH)
    for frame, objects in zip(read.frames, TRUTH.values(), strict=True):
        kinds = [
            "person" if read.classes[label].lower() in PEOPLE else read.classes[label].lower() for label in frame.labels
        ]
        assert kinds == [kind for kind, _ in objects]
        assert frame.boxes.tolist() == [[*map(float, box)] for _, box in objects]
        assert not frame.ignored.any()
    if name.startswith("BDD100K"):
        assert {(frame.time_of_day, frame.weather, frame.scene) for frame in read.frames} == {
            ("night", "clear", "freeway")
        }


@each((name for name in FOLDERS if name.startswith("KITTI")), "missing labels")
def test_kitti_without_a_label_is_told(name: str, tmp_path: Path) -> None:
    plain_files({path: data for path, data in FOLDERS[name].items() if not path.endswith("000001.txt")}, tmp_path)
    with pytest.raises(InputError, match=r"000001.png: image without label"):
        read_folder(name, tmp_path)
