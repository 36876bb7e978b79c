"""Detection sets: KITTI, BDD100k and COCO files in their true form come out right, and broken ones are named."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.data.detection import (
    DetectionFrame,
    DetectionSet,
    read_bdd100k_boxes,
    read_coco,
    read_kitti,
    read_kitti_detections,
    write_coco,
    write_kitti_detections,
)
from perception.errors import InputError

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# --- KITTI: lines of the devkit's readme

KITTI = b"""Car 0.00 1 2.13 78.22 195.25 239.59 268.19 1.59 1.72 3.86 -11.46 2.22 18.60 1.58
Pedestrian 0.25 0 0.15 389.42 179.08 424.76 303.37 1.87 0.64 0.65 -3.21 1.97 11.22 -0.13
DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
"""


def kitti(root: Path) -> Path:
    for stem, lines in (("000000", KITTI), ("000001", b"")):
        put(root / "training" / "image_2" / f"{stem}.png", b"x")
        put(root / "training" / "label_2" / f"{stem}.txt", lines)
    return root


def test_kitti(tmp_path: Path) -> None:
    read = read_kitti(kitti(tmp_path))
    first, second = read.frames
    assert first.frame_id == "000000" and first.image_path.name == "000000.png"
    assert [read.classes[label] for label in first.labels] == ["Car", "Pedestrian", "DontCare"]
    assert first.boxes[0].tolist() == [78.22, 195.25, 239.59, 268.19]
    assert first.occluded.tolist() == [1, 0, -1] and first.truncated.tolist() == [0, 0.25, -1]
    assert first.ignored.tolist() == [False, False, True] and first.scores is None
    assert second.boxes.shape == (0, 4)


def test_kitti_detections_come_back(tmp_path: Path) -> None:
    truth = read_kitti(kitti(tmp_path))
    scored = [replace(frame, scores=np.linspace(0.9, 0.1, len(frame.boxes))) for frame in truth.frames]
    write_kitti_detections(DetectionSet(truth.classes, tuple(scored)), tmp_path / "results")
    again = read_kitti_detections(tmp_path / "results")
    assert np.array_equal(again.frames[0].boxes, truth.frames[0].boxes) and again.frames[1].boxes.shape == (0, 4)
    assert again.frames[0].scores is not None and again.frames[0].scores.tolist() == [0.9, 0.5, 0.1]
    assert again.frames[0].labels.tolist() == truth.frames[0].labels.tolist()
    with pytest.raises(InputError, match="frame 000000: has no score a box"):
        write_kitti_detections(truth, tmp_path / "results")
    with pytest.raises(InputError, match="class 'dog' is none of KITTI's"):
        write_kitti_detections(DetectionSet(("dog",), ()), tmp_path / "results")


LINE = KITTI.splitlines()[0]
BROKEN_LINES = {
    "columns": (LINE + b" 0.5 1", "line 2 has 17 columns, must have 15"),
    "class": (LINE.replace(b"Car", b"Cow"), "line 2 has class 'Cow', must be one of Car, Van"),
    "number": (LINE.replace(b"78.22", b"left"), "line 2 holds something that is no number"),
    "nan": (LINE.replace(b"78.22", b"nan"), "line 2: truncated must lie|must be finite"),
    "occluded": (LINE.replace(b" 1 2.13", b" 7 2.13"), "line 2: truncated must lie in 0..1 and occluded be 0, 1, 2 or 3"),
    "order": (LINE.replace(b"78.22", b"978.22"), "box 1 is 978.22, 195.25, 239.59, 268.19, must be finite with left <= right"),
    "bytes": (b"\xff\xfe", "it is no text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_broken_kitti_labels(name: str, tmp_path: Path) -> None:
    put(kitti(tmp_path) / "training" / "label_2" / "000000.txt", LINE + b"\n" + BROKEN_LINES[name][0])
    with pytest.raises(InputError, match=BROKEN_LINES[name][1]) as caught:
        read_kitti(tmp_path)
    assert "000000.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_kitti_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_2: folder is missing"):
        read_kitti(tmp_path)
    (kitti(tmp_path) / "training" / "label_2" / "000001.txt").unlink()
    with pytest.raises(InputError, match=r"000001.png: image without label"):
        read_kitti(tmp_path)


# --- BDD100k

BDD: list[dict[str, Any]] = [
    {
        "name": "b1c66a42-6f7d68ca.jpg", "attributes": {"weather": "overcast", "scene": "city street", "timeofday": "night"},
        "timestamp": 10000,
        "labels": [
            {
                "id": "0", "category": "traffic light", "attributes": {"occluded": False, "trafficLightColor": "G"},
                "box2d": {"x1": 1, "y1": 2.5, "x2": 3, "y2": 4},
            },
            {"id": "1", "category": "car", "attributes": {"crowd": True}, "box2d": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}},
            {"id": "2", "category": "trailer", "box2d": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}},
            {"id": "3", "category": "drivable area", "poly2d": [[0, 0]]},
        ],
    },
    {"name": "a1c66a42-6f7d68ca.jpg", "labels": None},
]  # fmt: skip


def bdd(root: Path, frames: Any = BDD) -> Path:
    put(root / "labels" / "det_20" / "det_val.json", frames)
    return root


def test_bdd100k_boxes(tmp_path: Path) -> None:
    read = read_bdd100k_boxes(bdd(tmp_path), "val")
    assert [frame.frame_id for frame in read.frames] == ["a1c66a42-6f7d68ca", "b1c66a42-6f7d68ca"]
    frame = read.frames[1]
    assert frame.image_path == tmp_path / "images" / "100k" / "val" / "b1c66a42-6f7d68ca.jpg"
    assert [read.classes[label] for label in frame.labels] == ["traffic light", "car"]
    assert frame.boxes.tolist() == [[1, 2.5, 3, 4], [0, 0, 9, 9]] and frame.ignored.tolist() == [False, True]
    assert (frame.time_of_day, frame.weather, frame.scene) == ("night", "cloudy", "urban")
    assert read.frames[0].boxes.shape == (0, 4) and read.frames[0].weather is None


def bdd_with(**label: Any) -> list[dict[str, Any]]:
    return [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 0, "y1": 0, "x2": 1, "y2": 1}} | label]}]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (bdd_with(category="dog"), "frame a.jpg: category is 'dog', must be one of pedestrian"),
        (bdd_with(category=["car"]), "category is .*car.*, must be one of"),
        (bdd_with(box2d={"x1": 1}), "box2d must have the numbers"),
        (bdd_with(box2d=[1, 2, 3, 4]), "box2d must have the numbers"),
        (bdd_with(box2d={"x1": 9, "y1": 0, "x2": 1, "y2": 1}), "box 0 is 9, 0, 1, 1, must be finite"),
        ([{"name": "../a.jpg", "labels": []}], "file '../a.jpg' leads out of the images' folder"),
        ([{"name": "a.jpg", "labels": [3]}], "labels must be a list"),
        (bdd_with(attributes=[1]), "attributes of a label must be named values"),
    ],
)
def test_broken_bdd100k(tmp_path: Path, frames: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_bdd100k_boxes(bdd(tmp_path, frames), "val")


def test_bdd100k_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"det_train.json: file is missing"):
        read_bdd100k_boxes(tmp_path, "train")
    with pytest.raises(InputError, match="part 'dev' is unknown"):
        read_bdd100k_boxes(tmp_path, "dev")


# --- COCO

RUNS = {"size": [4, 5], "counts": [6, 2, 2, 2, 8]}
COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 397133, "file_name": "000000397133.jpg", "width": 5, "height": 4},
        {"id": 37777, "file_name": "val/000000037777.jpg", "width": 5, "height": 4},
    ],
    "annotations": [
        {
            "id": 1, "image_id": 397133, "category_id": 3, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0,
            "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]],
        },
        {"id": 2, "image_id": 397133, "category_id": 1, "bbox": [1.5, 2, 2, 2], "area": 4, "iscrowd": 1, "segmentation": RUNS},
    ],
    "categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}, {"id": 1, "name": "person", "supercategory": "person"}],
}  # fmt: skip


def test_coco(tmp_path: Path) -> None:
    read = read_coco(put(tmp_path / "instances.json", COCO), tmp_path / "images")
    assert read.classes == ("person", "car")
    assert [frame.frame_id for frame in read.frames] == ["000000397133", "val_000000037777"]
    frame = read.frames[0]
    assert frame.boxes.tolist() == [[1, 1, 3, 3], [1.5, 2, 3.5, 4]] and frame.labels.tolist() == [1, 0]
    assert frame.ignored.tolist() == [False, True] and (frame.width_px, frame.height_px) == (5, 4)
    assert read.frames[1].boxes.shape == (0, 4)


def test_coco_comes_back_and_pycocotools_reads_it(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    read = read_coco(put(tmp_path / "instances.json", COCO), tmp_path / "images")
    write_coco(read, tmp_path / "again.json", tmp_path / "images")
    again = read_coco(tmp_path / "again.json", tmp_path / "images")
    for before, after in zip(read.frames, again.frames, strict=True):
        assert np.array_equal(before.boxes, after.boxes) and np.array_equal(before.labels, after.labels)
        assert before.masks == after.masks and np.array_equal(before.ignored, after.ignored)
    with redirect_stdout(io.StringIO()):
        theirs = coco.COCO(str(tmp_path / "again.json"))
    assert {each["name"] for each in theirs.cats.values()} == {"person", "car"} and len(theirs.anns) == 2
    mask = theirs.annToMask(theirs.anns[2])
    assert mask.sum() == 4 and mask[2:4, 1:3].all()
    with pytest.raises(InputError, match=r"must lie in .*elsewhere and have a size"):
        write_coco(read, tmp_path / "again.json", tmp_path / "elsewhere")


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(COCO))
    change(content)
    return content


BROKEN_COCO = {
    "category": (lambda each: each["annotations"][0].update(category_id=2), "an annotation has category_id 2, which is not there"),
    "image": (lambda each: each["annotations"][0].update(image_id=None), "an annotation has image_id None"),
    "image list": (lambda each: each["annotations"][0].update(image_id=[1]), "an annotation has image_id"),
    "id twice": (lambda each: each["images"][0].update(id=37777), "image has id 37777, must be a whole number or text that occurs once"),
    "name": (lambda each: each["images"][0].update(file_name="/etc/passwd"), "file '/etc/passwd' leads out"),
    "climbs": (lambda each: each["images"][0].update(file_name="a/../../b.jpg"), "leads out of the images' folder"),
    "size": (lambda each: each["images"][0].update(width="5"), "width and height are '5' and 4"),
    "bbox": (lambda each: each["annotations"][0].update(bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\], must be"),
    "negative": (lambda each: each["annotations"][0].update(bbox=[1, 2, -3, 1]), "must be finite with left <= right"),
    "class twice": (lambda each: each["categories"][0].update(name="person"), "two categories have one name"),
    "class name": (lambda each: each["categories"][0].update(name=3), "name is 3, must be text"),
    "file twice": (lambda each: each["images"][0].update(file_name="val_000000037777.jpg"), "two images are called val_000000037777"),
    "no categories": (lambda each: each.pop("categories"), "must hold a list called categories"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_COCO)
def test_broken_coco(name: str, tmp_path: Path) -> None:
    change, message = BROKEN_COCO[name]
    with pytest.raises(InputError, match=message) as caught:
        read_coco(put(tmp_path / "a.json", changed(change)), tmp_path)
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=5,
)
PLACES = [
    (kind, number, name)
    for kind in ("images", "annotations", "categories")
    for number in range(2)
    for name in COCO[kind][number]
]


@quick
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_anywhere_in_coco_is_refused_or_read(tmp_path: Path, place: tuple[str, int, str], value: Any) -> None:
    kind, number, name = place
    content = changed(lambda each: each[kind][number].update({name: value}))
    try:
        read_coco(put(tmp_path / "a.json", content), tmp_path)
    except InputError as error:
        assert "\n" not in str(error)


@quick
@given(
    name=st.sampled_from(["name", "labels", "attributes", "category", "box2d", "x1"]),
    value=JSON,
)
def test_any_value_anywhere_in_bdd100k_is_refused_or_read(tmp_path: Path, name: str, value: Any) -> None:
    frames: list[dict[str, Any]] = json.loads(json.dumps(BDD))
    label = frames[0]["labels"][0]
    target = {"name": frames[0], "labels": frames[0], "attributes": label, "category": label, "box2d": label}
    target.get(name, label["box2d"])[name] = value
    try:
        assert isinstance(read_bdd100k_boxes(bdd(tmp_path, frames), "val").frames[0], DetectionFrame)
    except InputError as error:
        assert "\n" not in str(error)
