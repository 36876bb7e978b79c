"""Batches go out whole, with what annotation tools open."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

from perception.data.annotation import batch_name
from perception.data.conditions import CONDITIONS
from perception.data.manifest import read_manifest
from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import CLASSES, HEIGHT, WIDTH, chosen_frames, hand_out, seen


def test_a_batch_holds_the_very_images_and_what_was_seen_in_them(tmp_path: Path) -> None:
    store, folder = FolderStore(tmp_path / "store"), tmp_path / "batch"
    known = hand_out(store, folder)
    batch = json.loads((folder / "batch.json").read_text())
    assert batch["batch"] == known.batch[0] == batch_name(known) == batch_name(chosen_frames(store)[::-1])
    assert batch["classes"] == list(CLASSES) and batch["frames"] == 3
    for frame in known.itertuples():
        image = (folder / "images" / f"{frame.frame_id}.png").read_bytes()
        assert hashlib.sha256(image).hexdigest() == frame.image_sha256
        mask = folder / "prelabels" / "masks" / f"{frame.frame_id}.png"
        assert store.get(frame.prelabel_uri) == mask.read_bytes()
        np.testing.assert_array_equal(np.array(Image.open(mask)), seen())
    assert (folder / "frames.csv").read_text().splitlines()[:2] == [
        "frame_id,file",
        "frame0,frame0.png",
    ]
    assert read_manifest(folder / "manifest.parquet").prelabel_uri.tolist() == known.prelabel_uri.tolist()
    again = tmp_path / "again"
    hand_out(store, again)
    for path in (each for each in folder.rglob("*") if each.is_file()):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path.name


def test_cvat_is_given_classes_image_tags_and_polygons(tmp_path: Path) -> None:
    hand_out(FolderStore(tmp_path / "store"), tmp_path / "batch")
    *labels, tags = json.loads((tmp_path / "batch" / "prelabels" / "cvat_labels.json").read_text())
    assert [each["name"] for each in labels] == list(CLASSES) and labels[0]["color"] == "#804080"
    assert tags["type"] == "tag"
    assert {each["name"]: tuple(each["values"][1:]) for each in tags["attributes"]} == CONDITIONS
    root = ElementTree.parse(tmp_path / "batch" / "prelabels" / "cvat.xml").getroot()
    images = {image.get("name"): image for image in root.iter("image")}
    assert list(images) == ["frame0.png", "frame1.png", "frame2.png"]
    depths = [int(each.get("z_order", "")) for each in images["frame0.png"].iter("polygon")]
    assert depths == [0, 1, 2, 3]
    sizes = {(image.get("height"), image.get("width")) for image in images.values()}
    assert sizes == {(str(HEIGHT), str(WIDTH))}


def test_label_studio_is_given_classes_choices_and_tasks(tmp_path: Path) -> None:
    known = hand_out(FolderStore(tmp_path / "store"), tmp_path / "batch")
    view = ElementTree.parse(tmp_path / "batch" / "prelabels" / "label_studio.xml").getroot()
    for kind in ("PolygonLabels", "BrushLabels"):
        assert [each.get("value") for each in view.findall(f"{kind}/Label")] == list(CLASSES)
    assert {each.get("name") for each in view.findall("Choices")} == set(CONDITIONS)
    first, *_ = json.loads((tmp_path / "batch" / "prelabels" / "label_studio.json").read_text())
    assert first["data"]["image"] == f"/data/local-files/?d={known.batch[0]}/images/frame0.png"
    points = np.array([point for each in first["predictions"][0]["result"] for point in each["value"]["points"]])
    assert points.min() == 0 and points.max() == 100


def test_a_batch_without_anything_seen_is_a_batch(tmp_path: Path) -> None:
    known: pd.DataFrame = hand_out(FolderStore(tmp_path / "store"), tmp_path / "batch", {})
    assert known.prelabel_uri.isna().all() and (tmp_path / "batch" / "prelabels" / "cvat.xml").exists()
