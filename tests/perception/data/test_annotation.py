"""Annotation batches go out whole and come back checked, attributed and drawn as the annotator saw them."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from perception.data.annotation import drop_label, labelled_ids, newest_labels, open_drops, write_batch
from perception.data.decoding import BadFrame, decode_label
from perception.data.manifest import empty_manifest
from perception.data.store import FolderStore
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError

HEIGHT, WIDTH = 24, 32
CLASSES = load_taxonomy("cityscapes19").classes
ROAD, CAR = CLASSES.index("road"), CLASSES.index("car")


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def chosen_frames(store: FolderStore, count: int = 3) -> pd.DataFrame:
    rows = []
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        blob = store.put(png(image), "png")
        row = {"frame_id": f"frame{index}", "drive_id": "drive", "domain": "real", "split": "pool"}
        row |= {"width_px": WIDTH, "height_px": HEIGHT, "image_uri": blob.uri, "image_sha256": blob.sha256}
        row |= {"label_source": "none", "source": "fleet", "rank": count - index, "reason": f"reason {index}"}
        rows.append(row)
    missing = {name: None for name in empty_manifest().columns if name not in rows[0]}
    return pd.DataFrame([row | missing for row in rows])


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    """A batch with its drop.json and no labels yet."""
    store, folder = FolderStore(tmp_path / "store"), tmp_path / "drops" / "first"
    write_batch(chosen_frames(store), store, folder, "cityscapes19")
    (folder / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    return folder


def outline(folder: Path, frame_id: str, objects: list[dict]) -> None:
    path = folder / "polygons" / f"{frame_id}_polygons.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"objects": objects}))


def annotate(folder: Path, annotations: list[dict]) -> None:
    path = folder / "coco.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": annotations}))


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def drawn(folder: Path, frame_id: str) -> np.ndarray:
    (opened,) = open_drops(folder)
    data = drop_label(opened, frame_id, (HEIGHT, WIDTH))
    return decode_label(data, "label", opened.taxonomy, (HEIGHT, WIDTH))


def test_a_batch_holds_the_very_images_and_both_templates(tmp_path: Path) -> None:
    store, folder = FolderStore(tmp_path / "store"), tmp_path / "batch"
    frames = chosen_frames(store)
    name = write_batch(frames, store, folder, "cityscapes19")
    batch = json.loads((folder / "batch.json").read_text())
    assert batch["batch"] == name and batch["classes"] == list(CLASSES) and batch["frames"] == 3
    for frame in frames.itertuples():
        image = (folder / "images" / f"{frame.frame_id}.png").read_bytes()
        assert hashlib.sha256(image).hexdigest() == frame.image_sha256
        polygons = json.loads((folder / "polygons" / f"{frame.frame_id}_polygons.json").read_text())
        assert polygons == {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": []}
    assert (folder / "frames.csv").read_text().splitlines()[:2] == [
        "frame_id,file,rank,reason",
        "frame2,images/frame2.png,1,reason 2",
    ]
    assert write_batch(frames[::-1], store, tmp_path / "again", "cityscapes19") == name


def test_the_coco_template_is_coco(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    store, folder = FolderStore(tmp_path / "store"), tmp_path / "batch"
    write_batch(chosen_frames(store), store, folder, "cityscapes19")
    read = coco.COCO(str(folder / "coco.json"))
    assert [each["name"] for each in read.loadCats(read.getCatIds())] == list(CLASSES)
    assert {each["file_name"] for each in read.loadImgs(read.getImgIds())} == {f"images/frame{i}.png" for i in range(3)}


def test_what_is_not_labelled_is_still_open(drop: Path) -> None:
    (opened,) = open_drops(drop.parent)
    assert labelled_ids(opened) == [] and list(newest_labels([opened])) == []
    outline(drop, "frame1", [{"label": "road", "polygon": box(0, 0, 9, 9)}])
    (opened,) = open_drops(drop.parent)
    assert labelled_ids(opened) == ["frame1"]
    assert opened.name == f"{opened.batch}/Ada/2026-02-01"


def test_polygons_are_drawn_in_their_order_and_the_rest_is_ignored(drop: Path) -> None:
    objects = [
        {"label": "road", "polygon": box(0, 8, 31, 23)},
        {"label": "cargroup", "polygon": box(4, 10, 11, 15)},
        {"label": "out of roi", "polygon": box(0, 20, 31, 23)},
        {"label": "person", "polygon": box(0, 0, 5, 5), "deleted": 1},
    ]
    outline(drop, "frame0", objects)
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[8:20] = ROAD
    expected[10:16, 4:12] = CAR
    np.testing.assert_array_equal(drawn(drop, "frame0"), expected)


def test_coco_polygons_and_runs_are_drawn_as_pycocotools_decodes_them(drop: Path) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (16, 12), 7, 1, -1)
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *changes, flat.size]).tolist()
    compressed = mask_tools.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
    np.testing.assert_array_equal(mask_tools.decode(compressed), mask)
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    square = [[0, 0, 31, 0, 31, 23, 0, 23]]
    annotate(
        drop,
        [
            {"id": 2, "image_id": 3, "category_id": CAR + 1, "segmentation": segmentation},
            {"id": 1, "image_id": 3, "category_id": ROAD + 1, "segmentation": square},
        ],
    )
    np.testing.assert_array_equal(drawn(drop, "frame0"), np.where(mask, CAR, ROAD))


def test_a_label_file_comes_back_as_it_is(drop: Path) -> None:
    label = np.random.default_rng(0).integers(0, 19, (HEIGHT, WIDTH), dtype=np.uint8)
    (drop / "labels").mkdir()
    (drop / "labels" / "frame2.png").write_bytes(png(label))
    np.testing.assert_array_equal(drawn(drop, "frame2"), label)


def test_the_newest_label_of_a_frame_counts(drop: Path) -> None:
    outline(drop, "frame0", [{"label": "road", "polygon": box(0, 0, 31, 23)}])
    outline(drop, "frame1", [{"label": "road", "polygon": box(0, 0, 31, 23)}])
    second = shutil.copytree(drop, drop.parent / "second")
    outline(second, "frame1", [])
    (second / "drop.json").write_text(json.dumps({"annotator": "Bob", "date": "2026-02-03"}))
    drops = open_drops(drop.parent)
    assert {frame.frame_id: each.annotator for each, frame in newest_labels(drops)} == {
        "frame0": "Bob",
        "frame1": "Ada",
    }
    (second / "drop.json").write_text(json.dumps({"annotator": "Bob", "date": "2026-02-01"}))
    with pytest.raises(InputError, match="labelled by two drops"):
        list(newest_labels(open_drops(drop.parent)))


@pytest.mark.parametrize(
    ("objects", "rule"),
    [
        ([{"label": "roda", "polygon": box(0, 0, 9, 9)}], "'roda' is no class"),
        ([{"label": "road", "polygon": [[0, 0], [1, 1]]}], "at least three"),
        ([{"label": "road", "polygon": "round"}], "at least three"),
        ([{"label": "road", "polygon": [[0, 0], [1, 1], [float("inf"), 2]]}], "Infinity is no JSON number"),
        ([{"label": "road"}], "at least three"),
    ],
)
def test_polygons_that_cannot_be_drawn_are_refused(drop: Path, objects: list[dict], rule: str) -> None:
    outline(drop, "frame0", objects)
    with pytest.raises(BadFrame) as refused:
        drawn(drop, "frame0")
    assert rule in refused.value.rule


@pytest.mark.parametrize(
    "segmentation", [None, [], {"size": [24, 32], "counts": "abc"}, {"size": [24, 32], "counts": [3]}]
)
def test_annotations_without_an_outline_are_refused(drop: Path, segmentation: object) -> None:
    annotate(drop, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": segmentation}])
    with pytest.raises(BadFrame):
        drawn(drop, "frame0")


def test_two_kinds_of_label_for_a_frame_are_refused(drop: Path) -> None:
    outline(drop, "frame0", [{"label": "road", "polygon": box(0, 0, 9, 9)}])
    annotate(drop, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    with pytest.raises(BadFrame) as refused:
        drawn(drop, "frame0")
    assert "polygons and as coco" in refused.value.rule


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"annotator": "Ada"}, "date"),
        ({"date": "2026-02-01"}, "annotator"),
        ({"annotator": "a/b", "date": "2026-02-01"}, "/"),
    ],
)
def test_a_drop_that_does_not_say_who_and_when_is_refused(drop: Path, said: dict, rule: str) -> None:
    (drop / "drop.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=rule):
        open_drops(drop.parent)


def test_labels_of_other_frames_and_edited_batches_are_refused(drop: Path) -> None:
    (drop / "labels").mkdir()
    (drop / "labels" / "stranger.png").write_bytes(png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    with pytest.raises(InputError, match="stranger"):
        labelled_ids(open_drops(drop)[0])
    batch = json.loads((drop / "batch.json").read_text())
    (drop / "batch.json").write_text(json.dumps(batch | {"batch": "batch-0123456789ab"}))
    with pytest.raises(InputError, match="does not belong"):
        open_drops(drop)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_drops(tmp_path / "absent")
