"""Labels that annotators send back, as the tools of the field write them, are drawn as those tools' own programs draw them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from perception.data.annotation import read_label, returned_labels, write_batch
from perception.data.decoding import decode_label
from perception.data.manifest import empty_manifest
from perception.data.store import FolderStore
from perception.data.taxonomies import load_taxonomy
from tests.corpus.boxes import COCO_TOOLS, HEIGHT, NAMES, TRUTH, WIDTH
from tests.corpus.layouts import Tree, plain_files
from tests.corpus.naming import cases
from tests.corpus.variants import byte_order_marks, hidden_files, other_tools_files, windows_line_ends
from tests.perception.data.annotation.batches import held
from tests.perception.data.readers.layouts import grey

Json = dict[str, Any]
Label = NDArray[np.uint8]
CAR, PERSON, IGNORE = 13, 11, 255


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch of frames a and b, handed out."""
    store = FolderStore(tmp_path / "store")
    rows = []
    for rank, frame in enumerate(TRUTH, start=1):
        Image.new("RGB", (WIDTH, HEIGHT), (rank, 90, 90)).save(tmp_path / "image.png")
        blob = store.put((tmp_path / "image.png").read_bytes(), "png")
        row = {"frame_id": frame, "drive_id": "d0", "domain": "real", "split": "pool", "label_source": "none"}
        row |= {"width_px": WIDTH, "height_px": HEIGHT, "image_uri": blob.uri, "image_sha256": blob.sha256}
        rows.append(row | {"source": "fleet"})
    missing = dict.fromkeys(name for name in empty_manifest().columns if name not in rows[0])
    write_batch(pd.DataFrame([row | missing for row in rows]), {}, store, tmp_path / "drop", "cityscapes19")
    return tmp_path / "drop"


# ---------------------------------------------------------------- what a tool sends back, and what its own program draws


def label_files(folder: Path) -> dict[str, Label]:
    """Send label PNG back."""
    expected = {}
    for frame, objects in TRUTH.items():
        expected[frame] = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
        for kind, (left, top, right, bottom) in objects:
            expected[frame][top:bottom, left:right] = CAR if kind == "car" else PERSON
        plain_files({f"labels/{frame}.png": grey(expected[frame])}, folder)
    return expected


def polygons(folder: Path) -> dict[str, Label]:
    """Send Cityscapes' polygons back, drawn by cityscapesScripts."""
    expected = {}
    for frame, objects in TRUTH.items():
        path = folder / "polygons" / f"{frame}_polygons.json"
        corners = [
            {"label": kind, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}
            for kind, (left, top, right, bottom) in objects
        ]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": corners}, indent=1))
        theirs = Annotation()
        theirs.fromJsonFile(str(path))
        expected[frame] = np.asarray(createLabelImage(theirs, "trainIds"))
    return expected


def coco_of(tool: str) -> Callable[[Path], dict[str, Label]]:
    """Return the function that sends a tool's COCO file back, drawn by pycocotools."""

    def send(folder: Path) -> dict[str, Label]:
        content = COCO_TOOLS[tool](NAMES)
        for image, frame in zip(content["images"], TRUTH, strict=True):  # a batch's files keep their names
            image["file_name"] = str(PurePosixPath(image["file_name"]).with_name(f"{frame}.png"))
        (folder / "coco.json").write_text(json.dumps(content, indent=1))
        theirs = COCO()
        theirs.dataset = content
        theirs.createIndex()
        expected = {}
        for image, frame in zip(content["images"], TRUTH, strict=True):
            expected[frame] = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
            for entry in theirs.loadAnns(theirs.getAnnIds(imgIds=[image["id"]])):
                class_id = name2label[theirs.cats[entry["category_id"]]["name"]].trainId
                expected[frame][theirs.annToMask(entry).astype(bool)] = class_id
        return expected

    return send


WITH_OUTLINES = [tool for tool in COCO_TOOLS if "Roboflow" not in tool]
SENT: Mapping[str, Callable[[Path], dict[str, Label]]] = {
    "drop of label files": label_files,
    "drop of polygons": polygons,
    **{f"drop of {tool}": coco_of(tool) for tool in WITH_OUTLINES},
}


def backslashes(tree: Tree) -> Tree:
    """Name the images in coco.json as a tool on Windows does."""
    content = json.loads(tree["coco.json"])
    for image in content["images"]:
        image["file_name"] = "..\\images\\" + PurePosixPath(image["file_name"]).name
    return tree | {"coco.json": json.dumps(content).encode()}


CHANGES: dict[str, Callable[[Tree], Tree]] = {
    "as published": lambda tree: tree,
    "hidden files": hidden_files,
    "byte order marks": byte_order_marks,
    "windows line ends": windows_line_ends,
    "files of other tools": other_tools_files,
    "backslashes": backslashes,
}


def inner(label: Label) -> Label:
    """Return the label without the pixels on outlines: whether these belong to an object, every program says otherwise."""
    shown = label.copy()
    for objects in TRUTH.values():
        for _, (left, top, right, bottom) in objects:
            for columns in (left, right):
                shown[max(top - 1, 0) : bottom + 1, max(columns - 1, 0) : columns + 1] = IGNORE
            for lines in (top, bottom):
                shown[max(lines - 1, 0) : lines + 1, max(left - 1, 0) : right + 1] = IGNORE
    return shown


@cases((name, variant) for name in SENT for variant in CHANGES if variant != "backslashes" or "COCO" in name)
def test_drop(name: str, variant: str, batch: Path) -> None:
    expected = SENT[name](batch)
    (batch / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    tree = {str(path.relative_to(batch)): path.read_bytes() for path in batch.rglob("*") if path.is_file()}
    plain_files(CHANGES[variant](tree), batch)
    known = held(batch)
    returned = returned_labels(batch, lambda _names: known)
    assert [each.frame_id for each in returned] == list(TRUTH)
    store, taxonomy = FolderStore(batch.parent / "store"), load_taxonomy("cityscapes19")
    for each, (frame, label) in zip(returned, expected.items(), strict=True):
        assert each.drop.endswith("/Ada/2026-02-01")
        read = read_label(each, "cityscapes19", store)
        assert read is not None
        ours = decode_label(read[0], frame, taxonomy, (HEIGHT, WIDTH))
        assert np.array_equal(inner(ours), inner(label)), frame
        assert (inner(ours) != IGNORE).any()
