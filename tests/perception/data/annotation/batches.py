"""A batch of three frames that was handed out, and what an annotator writes into its folder."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from perception.data.annotation import (
    Batch,
    Outline,
    ReturnedLabel,
    outlines_of,
    read_label,
    returned_labels,
    write_batch,
)
from perception.data.annotation.batch import batch_name
from perception.data.decoding import decode_label
from perception.data.manifest import empty_manifest, read_manifest, write_manifest
from perception.data.store import FolderStore
from perception.data.taxonomies import load_taxonomy

HEIGHT, WIDTH = 24, 32
TAXONOMY = load_taxonomy("cityscapes19")
CLASSES = TAXONOMY.classes
ROAD, CAR, SKY = (CLASSES.index(name) for name in ("road", "car", "sky"))
Label = NDArray[np.uint8]


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
        row |= {"label_source": "none", "source": "fleet"}
        rows.append(row)
    missing = {name: None for name in empty_manifest().columns if name not in rows[0]}
    return pd.DataFrame([row | missing for row in rows])


def seen() -> Label:
    """Return what an ensemble saw: sky over a road, a car with a window through which the road is seen."""
    label = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    label[10:] = ROAD
    label[12:21, 8:25] = CAR
    label[14:18, 12:19] = ROAD
    return label


def hand_out(store: FolderStore, folder: Path, outlines: Mapping[str, Sequence[Outline]] | None = None) -> pd.DataFrame:
    """Write a batch into a folder, by default with outlines of what was seen; return what the ledger then knows of its frames."""
    frames = chosen_frames(store)
    suggested = {frame_id: outlines_of(seen()) for frame_id in frames.frame_id} if outlines is None else outlines
    batch = write_batch(frames, suggested, store, folder, "cityscapes19")
    return handed_out(frames, batch)


def handed_out(frames: pd.DataFrame, batch: Batch) -> pd.DataFrame:
    return frames.assign(batch=batch.name, prelabel_uri=frames.frame_id.map(dict(batch.prelabel_uris)))


NOTHING = pd.DataFrame({"frame_id": []})


def outline(folder: Path, frame_id: str, objects: list[dict]) -> None:
    """Save objects as Cityscapes' tool does."""
    path = folder / "polygons" / f"{frame_id}_polygons.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}))


def annotate(folder: Path, annotations: list[dict]) -> None:
    """Save annotations as COCO; image 1 is frame2, image 3 is frame0."""
    images = [
        {"id": 3 - place, "file_name": f"images/frame{place}.png", "height": HEIGHT, "width": WIDTH}
        for place in range(3)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "coco.json").write_text(json.dumps(content))


def say(folder: Path, annotator: str = "Ada", date: str = "2026-02-01") -> None:
    (folder / "drop.json").write_text(json.dumps({"annotator": annotator, "date": date}))


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def held(folder: Path) -> pd.DataFrame:
    """Return what the ledger knows of the frames of the batches below a folder."""
    found = [
        read_manifest(file).assign(batch=json.loads(file.with_name("batch.json").read_bytes())["batch"])
        for file in sorted(folder.rglob("manifest.parquet"))
    ]
    return pd.concat(found).drop_duplicates("frame_id") if found else NOTHING


def returned(folder: Path, known: pd.DataFrame | None = None) -> list[ReturnedLabel]:
    """Return what came back below a folder; known: the frames that the ledger has, by default those of the batches there."""
    return returned_labels(folder, lambda _names: held(folder) if known is None else known)


def labels_in(folder: Path, store: FolderStore, known: pd.DataFrame | None = None) -> dict[str, Label]:
    """Return the labels that came back below a folder; raises BadFrame for the first that cannot be used."""
    found = {}
    for each in returned(folder, known):
        read = read_label(each, "cityscapes19", store)
        if read:
            found[each.frame_id] = decode_label(read[0], "label", TAXONOMY, (HEIGHT, WIDTH))
    return found


def inner(label: Label) -> Label:
    """Return a label without the pixels where its classes meet, and the image ends: these every tool draws otherwise."""
    around, shown = np.ones((3, 3), np.uint8), label.copy()
    shown[[0, -1]] = shown[:, [0, -1]] = 255
    return np.where(cv2.dilate(shown, around) == cv2.erode(shown, around), shown, 255)


def change_manifest(drop: Path, **columns: object) -> None:
    """Change columns of a drop's own manifest, and the batch's name with them."""
    frames = read_manifest(drop / "manifest.parquet").assign(**columns)
    write_manifest(frames, drop / "manifest.parquet")
    batch = json.loads((drop / "batch.json").read_text()) | {"batch": batch_name(frames)}
    (drop / "batch.json").write_text(json.dumps(batch))
