"""Write the frames to label as an annotation batch that CVAT and Label Studio open."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perception.data.annotation.answers import label_file
from perception.data.annotation.cvat import label_list, write_cvat
from perception.data.annotation.label_studio import labelling_config, write_tasks
from perception.data.annotation.outlines import Outline, draw_outlines
from perception.data.files import replace_file
from perception.data.manifest import write_manifest
from perception.data.store import Store
from perception.data.taxonomies import load_taxonomy

BATCH_FILE, MANIFEST_FILE, PRELABELS = "batch.json", "manifest.parquet", "prelabels"
_HOW_TO = "Open it in CVAT or Label Studio with what lies in prelabels/, and put what they export into the folder of label drops."


@dataclass(frozen=True)
class Batch:
    """Name a batch that was written, and where the store keeps what it suggests for each frame."""

    name: str
    prelabel_uris: Mapping[str, str]  # by frame_id


def write_batch(
    frames: pd.DataFrame, outlines: Mapping[str, Sequence[Outline]], store: Store, folder: Path, taxonomy: str
) -> Batch:
    """Write the frames to label as an annotation batch.

    frames: manifest rows without labels, and without why each was chosen: whoever labels must not know which ones were drawn uniformly to
    judge networks by, so they go out in the order of their names. outlines: what an annotator starts from, by frame_id.
    batch.json is written last, so a folder that has it is whole. The same frames make the same batch.
    """
    classes, name = load_taxonomy(taxonomy), batch_name(frames)
    ordered = frames.sort_values("frame_id", ignore_index=True)
    files, sizes, uris = {}, {}, {}
    for frame in ordered.itertuples():
        frame_id, size = str(frame.frame_id), (int(frame.height_px), int(frame.width_px))
        files[frame_id], sizes[frame_id] = f"{frame_id}.{str(frame.image_uri).rpartition('.')[2]}", size
        replace_file(folder / "images" / files[frame_id], store.get(str(frame.image_uri)))
        if frame_id in outlines:
            mask = label_file(draw_outlines(outlines[frame_id], size), classes)
            uris[frame_id] = store.put(mask, "png").uri
            replace_file(folder / PRELABELS / "masks" / f"{frame_id}.png", mask)
    named = {frame_id: (file, sizes[frame_id]) for frame_id, file in files.items()}
    urls = {frame_id: f"/data/local-files/?d={name}/images/{file}" for frame_id, file in files.items()}
    for file, content in {
        "cvat_labels.json": label_list(classes),
        "cvat.xml": write_cvat(name, named, outlines, classes),
        "label_studio.xml": labelling_config(classes),
        "label_studio.json": _json(write_tasks(ordered, urls, outlines, classes)),
    }.items():
        replace_file(folder / PRELABELS / file, content)
    write_manifest(ordered.assign(prelabel_uri=ordered.frame_id.map(uris).astype(object)), folder / MANIFEST_FILE)
    table = ordered.assign(file=ordered.frame_id.map(files))[["frame_id", "file"]]
    replace_file(folder / "frames.csv", table.to_csv(index=False, lineterminator="\n").encode())
    story = {
        "batch": name,
        "frames": len(ordered),
        "taxonomy": taxonomy,
        "classes": list(classes.classes),
        "labels": _HOW_TO,
    }
    replace_file(folder / BATCH_FILE, _json(story))
    return Batch(name, uris)


def batch_name(frames: pd.DataFrame) -> str:
    """Name a batch after its frames, so that labels cannot be taken for those of another."""
    lines = sorted(f"{frame.frame_id} {frame.image_sha256}" for frame in frames.itertuples())
    return "batch-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
