"""Boxes and masks as other tools write them: COCO of pycocotools, Roboflow, VisDrone and others, KITTI of CVAT."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.data.decoding import BadFrame
from perception.data.detection import read_coco, read_kitti, read_kitti_detections, write_coco
from perception.data.detection.boxes import load_image
from perception.data.detection.coco import decode_mask
from perception.data.store import FolderStore
from perception.errors import InputError
from tests.perception.data.annotation.batches import HEIGHT, WIDTH, annotate, labels_in
from tests.perception.data.annotation.conftest import drop, store
from tests.perception.data.readers.layouts import picture, put

__all__ = ["drop", "store"]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 96, "height": 64}
SQUARE = [[10, 10, 30, 10, 30, 40, 10, 40]]
OBJECT = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], "iscrowd": 0, "segmentation": SQUARE}
CAR, PERSON = {"id": 1, "name": "car"}, {"id": 3, "name": "person"}


def coco(path: Path, images: list[Any], annotations: list[Any], categories: list[Any]) -> Path:
    put(path, json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode())
    return path


def test_ids_are_numbers_or_text_and_only_join(tmp_path: Path) -> None:
    name = "0000001_02999_d_0000005"
    path = coco(
        tmp_path / "a.json",
        [IMAGE | {"id": name}],
        [OBJECT | {"image_id": name, "category_id": "p"}],
        [CAR, PERSON | {"id": "p"}],
    )
    read = read_coco(path, tmp_path)
    assert read.classes == ("car", "person") and read.frames[0].labels.tolist() == [1]
    path = coco(tmp_path / "b.json", [IMAGE], [OBJECT | {"image_id": "1"}], [CAR, PERSON])
    with pytest.raises(InputError, match="image_id '1', which is not there"):
        read_coco(path, tmp_path)


def test_an_unused_category_of_a_class_name_is_left_out(tmp_path: Path) -> None:
    root = {"id": 0, "name": "car", "supercategory": "none"}
    read = read_coco(coco(tmp_path / "a.json", [IMAGE], [OBJECT | {"category_id": 1}], [root, CAR, PERSON]), tmp_path)
    assert read.classes == ("car", "person") and read.frames[0].labels.tolist() == [0]
    both = [OBJECT | {"category_id": 1}, OBJECT | {"id": 2, "category_id": 0}]
    with pytest.raises(InputError, match="two categories have one name"):
        read_coco(coco(tmp_path / "b.json", [IMAGE], both, [root, CAR]), tmp_path)


def test_an_object_without_a_box_gets_that_of_its_mask(tmp_path: Path) -> None:
    bare = {name: value for name, value in OBJECT.items() if name != "bbox"}
    (frame,) = read_coco(coco(tmp_path / "a.json", [IMAGE], [bare], [CAR, PERSON]), tmp_path).frames
    assert frame.boxes.tolist() == [[10, 10, 30, 40]]
    empty = bare | {"segmentation": {"size": [64, 96], "counts": [64 * 96]}}
    with pytest.raises(InputError, match="no bbox and an empty mask"):
        read_coco(coco(tmp_path / "b.json", [IMAGE], [empty], [CAR, PERSON]), tmp_path)
    with pytest.raises(InputError, match="bbox is None, must be"):
        read_coco(coco(tmp_path / "c.json", [IMAGE], [bare | {"segmentation": None}], [CAR, PERSON]), tmp_path)


def test_masks_as_pycocotools_gives_them(tmp_path: Path) -> None:
    api = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((64, 96)) > 0.5
    packed = api.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert isinstance(packed["counts"], bytes)
    for size in ([64, 96], (64, 96), [64.0, 96.0]):
        assert np.array_equal(decode_mask({"size": size, "counts": packed["counts"]}, 64, 96, "x"), mask)
    with pytest.raises(BadFrame, match=r"its size is \(96, 64\), its image's \[64, 96\]"):
        decode_mask({"size": (96, 64), "counts": packed["counts"]}, 64, 96, "x")
    text = OBJECT | {"segmentation": {"size": [64.0, 96.0], "counts": packed["counts"].decode()}}
    read = read_coco(
        coco(tmp_path / "a.json", [IMAGE | {"width": 96.0, "height": 64.0}], [text], [CAR, PERSON]), tmp_path
    )
    assert (read.frames[0].width_px, read.frames[0].height_px) == (96, 64)
    assert np.array_equal(decode_mask(read.frames[0].masks[0], 64, 96, "x"), mask)
    write_coco(read, tmp_path / "again.json", tmp_path)
    assert len(read_coco(tmp_path / "again.json", tmp_path).frames) == 1


def test_a_drop_takes_run_lengths_of_any_coding_and_compares_the_size(drop: Path, store: FolderStore) -> None:
    api = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 4:20] = 1
    counts = api.encode(np.asfortranarray(mask))["counts"].decode()
    annotate(
        drop, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}]
    )
    assert np.array_equal(labels_in(drop, store)["frame0"] == 0, mask == 1)
    content = json.loads((drop / "coco.json").read_text())
    for image in content["images"]:
        image |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    (drop / "coco.json").write_text(json.dumps(content))
    with pytest.raises(BadFrame, match="size 48x64 is not its image's 24x32"):
        labels_in(drop, store)


def test_a_score_behind_a_kitti_label_is_left_out(tmp_path: Path) -> None:
    line = b"Car 0 0 0 10 20 40 50 0 0 0 0 0 0 0"
    put(tmp_path / "training/image_2/0.png", picture("PNG"))
    put(tmp_path / "training/label_2/0.txt", line + b" 1\n" + line + b"\n")
    (frame,) = read_kitti(tmp_path).frames
    assert frame.scores is None and frame.boxes.tolist() == [[10, 20, 40, 50]] * 2
    put(tmp_path / "found/0.txt", line + b" 0.25\n")
    assert read_kitti_detections(tmp_path / "found").frames[0].scores is not None
    put(tmp_path / "found/0.txt", line + b"\n")
    with pytest.raises(InputError, match="line 1 has 15 columns, must have 16"):
        read_kitti_detections(tmp_path / "found")


def test_an_image_is_what_its_boxes_describe(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture("JPEG"))  # 6x4 px
    box = OBJECT | {"bbox": [1, 1, 2, 2]}
    right = coco(tmp_path / "a.json", [IMAGE | {"width": 6, "height": 4}], [box], [CAR, PERSON])
    assert load_image(read_coco(right, tmp_path).frames[0]).shape == (4, 6, 3)
    turned = coco(tmp_path / "b.json", [IMAGE | {"width": 4, "height": 6}], [box], [CAR, PERSON])
    with pytest.raises(BadFrame, match="image is 6x4 px, its labels say 4x6, must be equal"):
        load_image(read_coco(turned, tmp_path).frames[0])
    put(tmp_path / "training/image_2/0.png", picture("PNG"))
    put(tmp_path / "training/label_2/0.txt", b"Car 0 0 0 10 20 40 50 0 0 0 0 0 0 0\n")
    with pytest.raises(BadFrame, match=r"box \[10\.0, 20\.0, 40\.0, 50\.0\] lies outside its image of 6x4 px"):
        load_image(read_kitti(tmp_path).frames[0])
