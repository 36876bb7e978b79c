"""Hand frames over to annotators, and take their labels back.

A batch goes out as a folder:

    batch.json                           its name, the taxonomy and its classes, how to send labels back
    manifest.parquet                     the frames, with rank and reason
    frames.csv                           the same for people: frame_id, file, rank, reason
    images/FRAME.jpg|png                 the very bytes of the store
    coco.json                            COCO: images and categories, no annotations yet
    polygons/FRAME_polygons.json         Cityscapes polygons: the image's size, no objects yet

and comes back as a label drop: the same folder with labels and a drop.json that says who made them. A label is one of
labels/FRAME.png (raw values of the taxonomy), objects in polygons/FRAME_polygons.json, or annotations in coco.json; a
frame without any is still open.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.decoding import BadFrame
from perception.data.detection.coco import decode_mask, whole_number
from perception.data.files import named_stem, names_in, replace_file
from perception.data.json_files import read_json
from perception.data.manifest import read_manifest, write_manifest
from perception.data.readers.layout import optional_files_in, read_file
from perception.data.store import Store
from perception.data.taxonomies import IGNORE, Taxonomy, load_taxonomy, raw_values
from perception.errors import InputError

BATCH_FILE, DROP_FILE, COCO_FILE, MANIFEST_FILE = "batch.json", "drop.json", "coco.json", "manifest.parquet"
_IGNORED_NAMES = ("unlabeled", "ignore", "void", "out_of_roi", "ego_vehicle", "rectification_border")
_HOW_TO = (
    "Label with labels/FRAME.png, with objects in polygons/FRAME_polygons.json, or with annotations in coco.json; "
    'add drop.json: {"annotator": "who", "date": "2026-01-31"}; send the folder back.'
)


@dataclass(frozen=True, kw_only=True)
class LabelDrop:
    """Say whose labels lie in a folder.

    frames: the batch's manifest. pngs, polygons: the label files by frame_id; annotations: those of coco.json likewise.
    name: batch/annotator/date, which every label of the drop carries.
    """

    folder: Path
    batch: str
    annotator: str
    made_on: date
    taxonomy: Taxonomy
    frames: pd.DataFrame
    pngs: dict[str, Path]
    polygons: dict[str, Path]
    annotations: dict[str, list[dict[str, Any]]]

    @property
    def name(self) -> str:
        return f"{self.batch}/{self.annotator}/{self.made_on.isoformat()}"


# ---------------------------------------------------------------- out


def write_batch(frames: pd.DataFrame, store: Store, folder: Path, taxonomy: str) -> str:
    """Write the frames to label as an annotation batch; return its name.

    frames: manifest rows without labels, with the columns rank and reason. batch.json is written last, so a folder that
    has it is whole. The same frames make the same batch.
    """
    classes = load_taxonomy(taxonomy).classes
    ranked = frames.sort_values("rank", ignore_index=True)
    write_manifest(ranked, folder / MANIFEST_FILE)
    files = []
    for frame in ranked.itertuples():
        files.append(f"images/{frame.frame_id}.{str(frame.image_uri).rpartition('.')[2]}")
        replace_file(folder / files[-1], store.get(str(frame.image_uri)))
        size = {"imgHeight": int(frame.height_px), "imgWidth": int(frame.width_px)}
        _write_json(folder / _polygon_file(str(frame.frame_id)), {**size, "objects": []})
    _write_json(folder / COCO_FILE, _coco_template(ranked, files, classes))
    _write_frames_csv(ranked, files, folder / "frames.csv")
    name = _batch_name(ranked)
    story = {"batch": name, "frames": len(ranked), "taxonomy": taxonomy, "classes": list(classes), "labels": _HOW_TO}
    _write_json(folder / BATCH_FILE, story)
    return name


def _batch_name(frames: pd.DataFrame) -> str:
    """Name a batch after its frames, so that labels cannot be taken for those of another."""
    lines = sorted(f"{frame.frame_id} {frame.image_sha256}" for frame in frames.itertuples())
    return "batch-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _polygon_file(frame_id: str) -> str:
    return f"polygons/{frame_id}_polygons.json"


def _coco_template(frames: pd.DataFrame, files: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    sizes = zip(frames.height_px, frames.width_px, files, strict=True)
    images = [
        {"id": number, "file_name": file, "height": int(height), "width": int(width)}
        for number, (height, width, file) in enumerate(sizes, start=1)
    ]
    # COCO counts categories from 1; 0 is background to several tools.
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"info": {"description": "to be labelled"}, "images": images, "categories": categories, "annotations": []}


def _write_frames_csv(frames: pd.DataFrame, files: Sequence[str], path: Path) -> None:
    table = frames.assign(file=files)[["frame_id", "file", "rank", "reason"]]
    replace_file(path, table.to_csv(index=False, lineterminator="\n").encode())


def _write_json(path: Path, content: Any) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


# ---------------------------------------------------------------- back


def open_drops(folder: Path) -> list[LabelDrop]:
    """Open the label drops in a folder, oldest first: the folder itself, or each of its folders that has a drop.json.

    Raises InputError for a drop that is no batch of ours, or that does not say who made it and when.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; label drops are put into it, one folder a drop")
    below = [folder / name for name in names_in(folder, folders=True)]
    found = [folder] if (folder / DROP_FILE).exists() else [path for path in below if (path / DROP_FILE).exists()]
    return sorted((_open_drop(each) for each in found), key=lambda drop: (drop.made_on, drop.name))


def _open_drop(folder: Path) -> LabelDrop:
    said, batch = _read_object(folder / DROP_FILE), _read_object(folder / BATCH_FILE)
    annotator = said.get("annotator")
    try:
        made_on = date.fromisoformat(str(said.get("date")))
    except ValueError:
        raise InputError(
            f"{folder / DROP_FILE}: date {said.get('date')!r} must be like 2026-01-31; correct it"
        ) from None
    if not isinstance(annotator, str) or not annotator.strip() or "/" in annotator:
        raise InputError(f"{folder / DROP_FILE}: annotator {annotator!r} must be a name without /; say who labelled")
    frames = read_manifest(folder / MANIFEST_FILE)
    if batch.get("batch") != _batch_name(frames):
        raise InputError(
            f"{folder / BATCH_FILE}: batch {batch.get('batch')!r} does not belong to the manifest beside it; "
            "send back the folder that was handed out"
        )
    return LabelDrop(
        folder=folder,
        batch=str(batch["batch"]),
        annotator=annotator.strip(),
        made_on=made_on,
        taxonomy=load_taxonomy(str(batch.get("taxonomy"))),
        frames=frames,
        pngs=optional_files_in(folder / "labels", (".png",)),
        polygons=optional_files_in(folder / "polygons", (".json",), "_polygons"),
        annotations=_coco_by_frame(folder / COCO_FILE),
    )


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path, remedy="a label drop is the batch's folder with labels and drop.json")
    if not isinstance(content, dict):
        raise BadFrame(path, "must hold an object", "mend it")
    return content


def newest_labels(drops: Sequence[LabelDrop]) -> Iterator[tuple[LabelDrop, Any]]:
    """Yield (drop, manifest row) of every labelled frame, from the newest drop that labels it.

    drops: oldest first. Raises InputError when two drops of one day label the same frame.
    """
    owner: dict[str, LabelDrop] = {}
    for drop in drops:
        for frame_id in labelled_ids(drop):
            other = owner.get(frame_id)
            if other is not None and other.made_on == drop.made_on:
                raise InputError(
                    f"frame {frame_id!r} is labelled by two drops of {drop.made_on}, {other.folder} and {drop.folder}; "
                    "remove one of the labels"
                )
            owner[frame_id] = drop
    for drop in drops:
        for frame in drop.frames.itertuples():
            if owner.get(str(frame.frame_id)) is drop:
                yield drop, frame


def labelled_ids(drop: LabelDrop) -> list[str]:
    """Return the frames of a drop that have a label of any kind, sorted.

    Raises InputError for a label of a frame that the batch does not hold.
    """
    known = set(drop.frames.frame_id)
    outlined = {frame_id for frame_id, path in drop.polygons.items() if _is_outlined(path)}
    found = {*drop.pngs, *outlined, *drop.annotations}
    for frame_id in sorted(found - known):
        raise InputError(f"{drop.folder}: label of frame {frame_id!r}, which is not in {drop.batch}; remove it")
    return sorted(found)


def _is_outlined(path: Path) -> bool:
    try:
        return bool(_read_object(path).get("objects"))
    except BadFrame:  # a label that is not whole: drop_label says so, and it costs its own frame only
        return True


def label_files(drop: LabelDrop, frame_id: str) -> tuple[Path, ...]:
    """Return the files of a drop that may hold a frame's label."""
    own = (files[frame_id] for files in (drop.pngs, drop.polygons) if frame_id in files)
    return *own, drop.folder / COCO_FILE


def drop_label(drop: LabelDrop, frame_id: str, size: tuple[int, int]) -> bytes:
    """Return a frame's label as the bytes of a label file in the drop's taxonomy.

    size: (height, width) of the image. A label PNG is returned as it is; polygons and COCO annotations are drawn in
    their order, later ones over earlier ones, and what none covers is ignored. Raises BadFrame for a label that is not
    whole: two kinds at once, another size, an unknown class, a shape that cannot be drawn.
    """
    png, polygons = drop.pngs.get(frame_id), drop.polygons.get(frame_id)
    outlined = _read_object(polygons) if polygons else {}
    objects, annotations = outlined.get("objects"), drop.annotations.get(frame_id, [])
    kinds = [name for name, given in (("png", png), ("polygons", objects), ("coco", annotations)) if given]
    if len(kinds) != 1:
        raise BadFrame(drop.folder, f"frame {frame_id} has labels as {' and as '.join(kinds)}", "keep one of them")
    if png:
        return read_file(png)
    if polygons and objects:
        label = _draw_polygons(objects, outlined, drop.taxonomy, size, polygons)
    else:
        label = _draw_annotations(annotations, drop.taxonomy, size, drop.folder / COCO_FILE)
    done, data = cv2.imencode(".png", raw_values(label, drop.taxonomy))
    assert done, f"cv2 cannot encode a label of {label.shape}"
    return data.tobytes()


def _draw_polygons(
    objects: Sequence[Any], file: dict[str, Any], taxonomy: Taxonomy, size: tuple[int, int], path: Path
) -> NDArray[np.uint8]:
    if (file.get("imgHeight"), file.get("imgWidth")) != size:
        raise BadFrame(
            path, f"size {file.get('imgHeight')}x{file.get('imgWidth')} is not its image's", "restore the template"
        )
    label = np.full(size, IGNORE, np.uint8)
    for each in objects:
        if not each.get("deleted"):
            class_id = _class_id(str(each.get("label")), taxonomy, path)
            cv2.fillPoly(label, [_corners(each.get("polygon"), path)], class_id)
    return label


def _class_id(name: str, taxonomy: Taxonomy, path: Path) -> int:
    """Find a class by its name; Cityscapes writes "traffic sign", and "cargroup" for cars that cannot be told apart."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    for candidate in (plain, plain.removesuffix("group")):
        if candidate in taxonomy.classes:
            return taxonomy.classes.index(candidate)
    if plain in _IGNORED_NAMES:
        return IGNORE
    raise BadFrame(path, f"label {name!r} is no class of {taxonomy.name}", f"use one of {', '.join(taxonomy.classes)}")


def _corners(points: Any, path: Path) -> NDArray[np.int32]:
    """Return a polygon's corners as whole pixels: (corner, 2) int32, x before y."""
    try:
        corners = np.asarray(points, dtype=np.float64)
        well_formed = corners.ndim == 2 and corners.shape[1] == 2 and len(corners) >= 3
    except (ValueError, TypeError):
        well_formed = False
    if not well_formed or not np.isfinite(corners).all() or np.abs(corners).max() > 1e6:
        raise BadFrame(path, "a polygon must be at least three [x, y] corners", "draw the object again")
    return np.round(corners).astype(np.int32)


def _coco_by_frame(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the annotations of coco.json by frame_id, in order of their ids: segmentation, class_name, size of the image."""
    content = _read_object(path) if path.exists() else {}
    try:
        images = {image["id"]: image for image in content.get("images", [])}
        names = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        found: dict[str, list[dict[str, Any]]] = {}
        for each in sorted(content.get("annotations", []), key=lambda annotation: annotation["id"]):
            image = images[each["image_id"]]
            size = [whole_number(image.get(name)) for name in ("height", "width")]
            found.setdefault(named_stem(str(image["file_name"])), []).append(
                {"segmentation": each.get("segmentation"), "class_name": names[each["category_id"]], "size": size}
            )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: an annotation lacks or misnames {error}; export it as COCO again") from None
    return found


def _draw_annotations(
    annotations: Sequence[dict[str, Any]], taxonomy: Taxonomy, size: tuple[int, int], path: Path
) -> NDArray[np.uint8]:
    label = np.full(size, IGNORE, np.uint8)
    for each in annotations:
        class_id = _class_id(each["class_name"], taxonomy, path)
        shape = each["segmentation"]
        if each["size"] not in ([*size], [None, None]):
            stated = f"size {each['size'][0]}x{each['size'][1]} is not its image's {size[0]}x{size[1]}"
            raise BadFrame(path, stated, "label the image at its own size")
        if isinstance(shape, dict):
            label[decode_mask(shape, *size, str(path))] = class_id
        elif isinstance(shape, list) and shape:
            outlines = [_corners(np.reshape(ring, (-1, 2)) if len(ring) % 2 == 0 else None, path) for ring in shape]
            for outline in outlines:
                cv2.fillPoly(label, [outline], class_id)
        else:
            raise BadFrame(path, "an annotation has no segmentation", "outline the object; a box is not enough")
    return label
