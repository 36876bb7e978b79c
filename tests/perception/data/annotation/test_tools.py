"""Batches and label drops against the tools' own converters: datumaro, which CVAT imports and exports with, and Label Studio's SDK.

Both hold OpenCV below 5, so they cannot be installed beside this package: these tests run where they are (docs/annotation.md).
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import (
    CAR,
    CLASSES,
    HEIGHT,
    TAXONOMY,
    WIDTH,
    Label,
    hand_out,
    inner,
    labels_in,
    seen,
)

FRAMES = ["frame0", "frame1", "frame2"]


@pytest.fixture
def known(tmp_path: Path, store: FolderStore) -> pd.DataFrame:
    return hand_out(store, tmp_path / "batch")


def zipped(folder: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for each in sorted(folder.rglob("*")):
            archive.write(each, each.relative_to(folder))


def relabelled() -> Label:
    """Return what an annotator makes of what was seen: another car in the sky."""
    label = seen()
    label[1:8, 3:14] = CAR
    return label


# ---------------------------------------------------------------- CVAT


def opened_in_cvat(tmp_path: Path) -> Any:
    datumaro = pytest.importorskip("datumaro")
    task = tmp_path / "task"
    (task / "images").mkdir(parents=True)
    for image in (tmp_path / "batch" / "images").iterdir():
        (task / "images" / image.name).write_bytes(image.read_bytes())
    (task / "default.xml").write_bytes((tmp_path / "batch" / "prelabels" / "cvat.xml").read_bytes())
    return datumaro.Dataset.import_from(str(task), "cvat")


def export(dataset: Any, folder: Path, format: str) -> None:
    """Export as CVAT does: segmentation masks are drawn from the shapes first."""
    if format != "voc_segmentation":
        dataset.export(str(folder), format)
        return
    drawn = type(dataset).from_extractors(dataset).transform("polygons_to_masks").transform("merge_instance_segments")
    colors = {"background": [0, 0, 0], **dict(zip(CLASSES, TAXONOMY.colors.tolist(), strict=True))}
    labels = {name: [tuple(color), [], []] for name, color in colors.items()}
    drawn.export(str(folder), format, apply_colormap=True, label_map=labels)


@pytest.mark.usefixtures("known")
def test_cvat_reads_the_batch_as_it_was_seen(tmp_path: Path) -> None:
    dataset = opened_in_cvat(tmp_path)
    from datumaro.components.annotation import AnnotationType, Polygon

    names = [label.name for label in dataset.categories()[AnnotationType.label].items]
    assert names == [*CLASSES, "image_tags"]
    assert sorted(item.id for item in dataset) == FRAMES
    for item in dataset:
        assert item.media.size == (HEIGHT, WIDTH)
        label = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for shape in sorted(item.annotations, key=lambda each: each.z_order):
            assert isinstance(shape, Polygon)
            from pycocotools import mask

            runs = mask.merge(mask.frPyObjects([shape.points], HEIGHT, WIDTH))
            label[mask.decode(runs).astype(bool)] = shape.label
        here = inner(seen()) != 255
        np.testing.assert_array_equal(label[here], seen()[here])


@pytest.mark.parametrize("format", ["cvat", "coco_instances", "voc_segmentation"])
def test_what_cvat_exports_comes_back(tmp_path: Path, store: FolderStore, known: pd.DataFrame, format: str) -> None:
    dataset = opened_in_cvat(tmp_path)
    from datumaro.components.annotation import Polygon

    export(dataset, tmp_path / "untouched", format)
    zipped(tmp_path / "untouched", tmp_path / "drops" / "export.zip")
    assert labels_in(tmp_path / "drops", store, known) == {}, "what was suggested is no answer"
    item = dataset.get("frame1", next(iter(dataset.subsets())))
    corners = [3, 1, 13, 1, 13, 7, 3, 7]
    item.annotations.append(Polygon(corners, label=CAR, z_order=99))
    dataset.put(item)
    export(dataset, tmp_path / "changed", format)
    zipped(tmp_path / "changed", tmp_path / "drops" / "export.zip")
    found = labels_in(tmp_path / "drops", store, known)
    assert list(found) == ["frame1"]
    here = (inner(relabelled()) != 255) & (inner(found["frame1"]) != 255)
    np.testing.assert_array_equal(found["frame1"][here], relabelled()[here])


# ---------------------------------------------------------------- Label Studio


@pytest.mark.usefixtures("known")
def test_label_studio_takes_the_configuration_and_the_tasks(tmp_path: Path) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface")
    prelabels = tmp_path / "batch" / "prelabels"
    interface = sdk.LabelInterface((prelabels / "label_studio.xml").read_text())
    interface.validate()
    tasks = json.loads((prelabels / "label_studio.json").read_text())
    assert [task["data"]["frame_id"] for task in tasks] == ["frame2", "frame1", "frame0"]
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert prediction["result"] and not interface.validate_prediction(prediction, return_errors=True)


def exported(tmp_path: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks with one that was submitted, as Label Studio exports them."""
    tasks = json.loads((tmp_path / "batch" / "prelabels" / "label_studio.json").read_text())
    for number, task in enumerate(tasks, start=1):
        task |= {"id": number, "annotations": [], "file_upload": None}
    said = {"id": 7, "created_at": "2026-01-30T10:00:00Z", "updated_at": "2026-02-01T10:00:00.123456Z"}
    said |= {"completed_by": {"id": 1, "email": "ada@example.com"}, "was_cancelled": False}
    tasks[1]["annotations"] = [said | {"result": tasks[1]["predictions"][0]["result"] + results}]
    return tasks


def painted(label: Label, class_id: int) -> dict[str, Any]:
    """Return a painted region as Label Studio writes it."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    region = {"id": "x", "from_name": "brush", "to_name": "image", "type": "brushlabels", "image_rotation": 0}
    rle = brush.mask2rle(np.where(label == class_id, 255, 0).astype(np.uint8))
    region |= {"original_width": WIDTH, "original_height": HEIGHT}
    return region | {"value": {"format": "rle", "rle": rle, "brushlabels": [CLASSES[class_id]]}}


def test_what_label_studio_exports_comes_back(tmp_path: Path, store: FolderStore, known: pd.DataFrame) -> None:
    tasks = exported(tmp_path, [painted(relabelled(), CAR)])
    drops = tmp_path / "drops"
    drops.mkdir()
    (drops / "project-1.json").write_text(json.dumps(tasks))
    found = labels_in(drops, store, known)
    assert list(found) == ["frame1"]
    np.testing.assert_array_equal(found["frame1"], relabelled())


@pytest.mark.parametrize("format", ["COCO", "BRUSH_TO_COCO"])
def test_coco_of_label_studio_comes_back(tmp_path: Path, store: FolderStore, known: pd.DataFrame, format: str) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter")
    value = {"points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ((3, 1), (13, 1), (13, 7), (3, 7))]}
    region = {"id": "x", "from_name": "outlines", "to_name": "image", "type": "polygonlabels", "image_rotation": 0}
    region |= {"original_width": WIDTH, "original_height": HEIGHT, "value": value | {"polygonlabels": ["car"]}}
    tasks = exported(tmp_path, [region])
    (tmp_path / "export").mkdir()
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    config = (tmp_path / "batch" / "prelabels" / "label_studio.xml").read_text()
    made = converter.Converter(config, str(tmp_path), download_resources=False)
    made.convert(str(tmp_path / "export.json"), str(tmp_path / "export"), format, is_dir=False)
    zipped(tmp_path / "export", tmp_path / "drops" / "export.zip")
    found = labels_in(tmp_path / "drops", store, known)
    assert list(found) == ["frame1"]
    here = (inner(relabelled()) != 255) & (inner(found["frame1"]) != 255)
    np.testing.assert_array_equal(found["frame1"][here], relabelled()[here])
