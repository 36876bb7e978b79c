"""Folders as perception.simulator writes them."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception.data.files import name_key, read_text
from perception.data.manifest import SCENES, TIMES_OF_DAY, WEATHERS
from perception.data.readers import layout
from perception.errors import InputError

_COLUMNS = ("frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene")
_VOCABULARIES = {"time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES}


def scenes_folder_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List images/ID.jpg|png with labels/ID.png and instances/ID.png as frames.csv names them; it knows no splits."""
    layout.check_folder(root)
    if split is not None:
        raise InputError(f"split {split!r} is unknown: a scenes_folder has no splits; leave the split out")
    rows = _scenes_rows(root / "frames.csv")
    pictures, labels, instances = (root / name for name in ("images", "labels", "instances"))
    files = layout.frame_files(pictures, labels, labels_required, layout.IMAGE_SUFFIXES, instances=instances)
    _check_rows(rows, files, root)
    for name, paths in files.items():
        row = rows[name]
        where = f"{root / 'frames.csv'}: timestamp_utc of frame {name}"
        told: dict[str, Any] = {each: row[each] or None for each in ("camera", *_VOCABULARIES)}
        yield layout.RawFrame(
            frame_id=layout.frame_id_of(name),
            drive_id=row["drive_id"],
            **paths,
            timestamp_utc=layout.checked_time(row["timestamp_utc"], where) if row["timestamp_utc"] else None,
            **told,
        )


def _scenes_rows(path: Path) -> dict[str, dict[str, str]]:
    """Read frames.csv by frame_id and check its columns, its ids and its vocabularies."""
    if not path.is_file():
        raise InputError(f"{path}: file is missing; a scenes_folder holds images/ and frames.csv")
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        columns = tuple(reader.fieldnames or ())
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable UTF-8 CSV file ({error}); write it again") from None
    if set(columns) != set(_COLUMNS) or len(columns) != len(_COLUMNS):
        raise InputError(f"{path}: columns are {', '.join(columns)}, must be {', '.join(_COLUMNS)}; correct them")
    by_id: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        _check_row(row, f"{path}: line {number}")
        name = name_key(row["frame_id"])
        if name in by_id:
            raise InputError(f"{path}: line {number} repeats frame_id {name}, must be unique; remove one")
        by_id[name] = row
    return by_id


def _check_row(row: Mapping[str | None, str | list[str] | None], where: str) -> None:
    if None in row or None in row.values():
        raise InputError(f"{where} has not {len(_COLUMNS)} fields; correct it")
    for name in ("frame_id", "drive_id"):
        if not row[name]:
            raise InputError(f"{where} has no {name}; fill it in")
    for name, vocabulary in _VOCABULARIES.items():
        if row[name] and row[name] not in vocabulary:
            raise InputError(
                f"{where} has {name} {row[name]!r}, must be empty or one of {', '.join(vocabulary)}; correct it"
            )


def _check_rows(rows: Mapping[str, object], files: Mapping[str, Mapping[str, Any]], root: Path) -> None:
    for frame_id in sorted(set(files) ^ set(rows)):
        if frame_id in rows:
            raise InputError(
                f"{root / 'frames.csv'}: frame {frame_id} has no file in images/; add it or remove the line"
            )
        image = files[frame_id]["image_path"]
        raise InputError(f"{image}: image without a line in frames.csv; add the line or remove the image")
