"""Readers of public folder layouts: each lists the frames of a folder and checks that its files belong together."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perception.data.decoding import BadFrame
from perception.data.manifest import FRAME_ID_RULE, SCENES, TIMES_OF_DAY, WEATHERS
from perception.errors import InputError

_FRAME_ID = re.compile(FRAME_ID_RULE)
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """Say where one frame's files lie and what its layout tells about it; None is unknown."""

    frame_id: str
    drive_id: str
    image_path: Path
    label_path: Path | None = None
    instances_path: Path | None = None
    timestamp_utc: datetime | None = None
    camera: str | None = None
    time_of_day: str | None = None
    weather: str | None = None
    scene: str | None = None
    member: str | None = None  # name inside image_path where that is an archive


Frames = Callable[[Path, str | None, bool], Iterator[RawFrame]]


def read_image_file(frame: RawFrame) -> bytes:
    """Return the bytes of the image file."""
    return _read(frame.image_path)


def read_label_file(frame: RawFrame) -> bytes | None:
    """Return the bytes of the label file; None where the frame has none."""
    return None if frame.label_path is None else _read(frame.label_path)


@dataclass(frozen=True)
class Reader:
    """Read one layout.

    taxonomy: how its label files are to be read. frames(root, split, labels_required): lists its frames in sorted
    order; split None means every split that is there; raises InputError for a folder that breaks the layout.
    image and label: give the bytes to store; a layout whose images lie in archives or whose labels are not 8-bit PNG
    replaces them with functions of its own that unpack or re-encode.
    """

    name: str
    taxonomy: str
    frames: Frames
    image: Callable[[RawFrame], bytes] = read_image_file
    label: Callable[[RawFrame], bytes | None] = read_label_file


def open_reader(format: str) -> Reader:
    """Find the reader of a format by its name; raises InputError for an unknown one."""
    if format not in READERS:
        raise InputError(f"format {format!r} is unknown; use one of {', '.join(sorted(READERS))}")
    return READERS[format]


# --- CamVid in the layout of the SegNet distribution

_CAMVID_SPLITS = ("train", "val", "test")
# Published with the data set: one drive was filmed at dusk, the others by day, all in the streets of Cambridge.
_CAMVID_TIMES = {"0001TP": "twilight", "0006R0": "day", "0016E5": "day", "Seq05V": "day"}


def camvid_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[RawFrame]:
    """List SPLIT/STEM.jpg|png with SPLITannot/STEM.png; the stem's first six characters name the drive."""
    _check_folder(root)
    for name in _splits(root, split, _CAMVID_SPLITS):
        images = _files(root / name, _IMAGE_SUFFIXES)
        labels = _optional_files(root / f"{name}annot", (".png",))
        _check_pairs(images, labels, root / name, root / f"{name}annot", labels_required)
        for stem, path in images.items():
            drive = stem[:6]
            yield RawFrame(
                frame_id=_frame_id(f"camvid_{stem}", path),
                drive_id=drive,
                image_path=path,
                label_path=labels.get(stem),
                time_of_day=_CAMVID_TIMES.get(drive),
                scene="urban" if drive in _CAMVID_TIMES else None,
            )


# --- Cityscapes

_CITYSCAPES_SPLITS = ("train", "val", "test")
_CITYSCAPES_IMAGE = "_leftImg8bit"
_CITYSCAPES_LABEL = "_gtFine_labelIds"
_CITYSCAPES_INSTANCES = "_gtFine_instanceIds"


def cityscapes_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[RawFrame]:
    """List leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_labelIds.png and instanceIds.

    A drive is CITY_SEQUENCE. All of Cityscapes was filmed by day in cities by the left camera of a pair.
    """
    _check_folder(root)
    pictures = root / "leftImg8bit"
    _check_folder(pictures, "a Cityscapes folder holds leftImg8bit/ and gtFine/")
    for name in _splits(pictures, split, _CITYSCAPES_SPLITS):
        cities = _folders(pictures / name)
        _check_no_other_cities(root / "gtFine" / name, cities)
        for city in cities:
            yield from _cityscapes_city(root, name, city, labels_required)


def _cityscapes_city(root: Path, split: str, city: str, labels_required: bool) -> Iterator[RawFrame]:
    pictures, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    images = _files(pictures, (".png",), _CITYSCAPES_IMAGE)
    labels = _optional_files(truth, (".png",), _CITYSCAPES_LABEL)
    instances = _optional_files(truth, (".png",), _CITYSCAPES_INSTANCES)
    _check_pairs(images, labels, pictures, truth, labels_required)
    _check_pairs(images, instances, pictures, truth, False)
    for stem, path in images.items():
        yield RawFrame(
            frame_id=_frame_id(f"cityscapes_{stem}", path),
            drive_id=_cityscapes_drive(stem, path),
            image_path=path,
            label_path=labels.get(stem),
            instances_path=instances.get(stem),
            camera="left",
            time_of_day="day",
            scene="urban",
        )


def _cityscapes_drive(stem: str, path: Path) -> str:
    match = re.fullmatch(r"(.+_\d+)_\d+", stem)
    if match is None:
        raise InputError(f"{path}: name must be CITY_SEQUENCE_FRAME{_CITYSCAPES_IMAGE}.png; rename or remove it")
    return match[1]


def _check_no_other_cities(truth: Path, cities: list[str]) -> None:
    others = sorted(set(_folders(truth)) - set(cities)) if truth.is_dir() else []
    if others:
        raise InputError(f"{truth / others[0]}: labels of a city without images; add the images or remove the folder")


# --- folders as perception.data.scenes writes them

_SCENES_COLUMNS = ("frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene")
_SCENES_VOCABULARIES = {"time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES}


def scenes_folder_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[RawFrame]:
    """List images/ID.jpg|png with labels/ID.png and instances/ID.png as frames.csv names them; it knows no splits."""
    _check_folder(root)
    if split is not None:
        raise InputError(f"split {split!r} is unknown: a scenes_folder has no splits; leave the split out")
    rows = _scenes_rows(root / "frames.csv")
    images = _files(root / "images", _IMAGE_SUFFIXES)
    labels = _optional_files(root / "labels", (".png",))
    instances = _optional_files(root / "instances", (".png",))
    _check_pairs(images, labels, root / "images", root / "labels", labels_required)
    _check_pairs(images, instances, root / "images", root / "instances", False)
    _check_rows(rows, images, root)
    for frame_id, path in images.items():
        row = rows[frame_id]
        yield RawFrame(
            frame_id=frame_id,
            drive_id=row["drive_id"],
            image_path=path,
            label_path=labels.get(frame_id),
            instances_path=instances.get(frame_id),
            timestamp_utc=_time(row["timestamp_utc"], root / "frames.csv", frame_id),
            camera=row["camera"] or None,
            time_of_day=row["time_of_day"] or None,
            weather=row["weather"] or None,
            scene=row["scene"] or None,
        )


def _scenes_rows(path: Path) -> dict[str, dict[str, str]]:
    """Read frames.csv by frame_id and check its columns, its ids and its vocabularies."""
    if not path.is_file():
        raise InputError(f"{path}: file is missing; a scenes_folder holds images/ and frames.csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            columns = tuple(reader.fieldnames or ())
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable UTF-8 CSV file ({error}); write it again") from None
    if set(columns) != set(_SCENES_COLUMNS) or len(columns) != len(_SCENES_COLUMNS):
        raise InputError(
            f"{path}: columns are {', '.join(columns)}, must be {', '.join(_SCENES_COLUMNS)}; correct them"
        )
    by_id: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        _check_row(row, f"{path}: line {number}")
        if row["frame_id"] in by_id:
            raise InputError(f"{path}: line {number} repeats frame_id {row['frame_id']}, must be unique; remove one")
        by_id[row["frame_id"]] = row
    return by_id


def _check_row(row: Mapping[str | None, str | list[str] | None], where: str) -> None:
    if None in row or None in row.values():
        raise InputError(f"{where} has not {len(_SCENES_COLUMNS)} fields; correct it")
    if not _FRAME_ID.fullmatch(str(row["frame_id"])) or not row["drive_id"]:
        raise InputError(
            f"{where} has frame_id {row['frame_id']!r}, must match {FRAME_ID_RULE} and have a drive_id; correct it"
        )
    for name, vocabulary in _SCENES_VOCABULARIES.items():
        if row[name] and row[name] not in vocabulary:
            raise InputError(
                f"{where} has {name} {row[name]!r}, must be empty or one of {', '.join(vocabulary)}; correct it"
            )


def _check_rows(rows: Mapping[str, object], images: Mapping[str, Path], root: Path) -> None:
    for frame_id in sorted(set(images) ^ set(rows)):
        if frame_id in rows:
            raise InputError(
                f"{root / 'frames.csv'}: frame {frame_id} has no file in images/; add it or remove the line"
            )
        raise InputError(f"{images[frame_id]}: image without a line in frames.csv; add the line or remove the image")


def _time(text: str, path: Path, frame_id: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise InputError(
            f"{path}: timestamp_utc of frame {frame_id} is {text!r}, must be ISO 8601 with its zone, "
            "as 2026-11-01T04:05:06Z; correct it"
        )
    return time.astimezone(UTC)


# --- what the layouts share


def _check_folder(folder: Path, remedy: str = "give the path of the data set") -> None:
    if not folder.is_dir():
        kind = "is a file, must be a folder" if folder.exists() else "folder is missing"
        raise InputError(f"{folder}: {kind}; {remedy}")


def _splits(root: Path, split: str | None, known: Iterable[str]) -> list[str]:
    """Name the splits to read, sorted: the one asked for, or every known one that has a folder."""
    if split is not None and split not in known:
        raise InputError(f"split {split!r} is unknown; use one of {', '.join(known)}")
    if split is not None:
        _check_folder(root / split, "add it or ask for another split")
        return [split]
    found = sorted(name for name in known if (root / name).is_dir())
    if not found:
        folders = ", ".join(f"{name}/" for name in known)
        raise InputError(f"{root}: folder is empty: it holds none of {folders}; give the path of the data set")
    return found


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """List a folder that must hold such files, as stem (without the ending) → path, sorted by stem."""
    _check_folder(folder, "add it")
    files = _optional_files(folder, suffixes, ending)
    if not files:
        wanted = ", ".join(f"*{ending}{suffix}" for suffix in suffixes)
        raise InputError(f"{folder}: folder is empty: it holds no {wanted}; add the frames")
    return files


def _optional_files(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """List such files of a folder as stem → path; nothing when the folder is missing. Hidden files are left out."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (Path objects for a million names cost seconds)
        if name.startswith(".") or suffix.lower() not in suffixes or not stem.endswith(ending):
            continue
        key = stem.removesuffix(ending)
        if key in found:
            raise InputError(
                f"{folder / name}: second file for frame {key} beside {found[key].name}; remove one of them"
            )
        found[key] = folder / name
    return dict(sorted(found.items()))


def _check_pairs(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    image_folder: Path,
    label_folder: Path,
    labels_required: bool,
) -> None:
    """Refuse a label without its image and, where labels are required, an image without its label."""
    for stem in labels:
        if stem not in images:
            raise InputError(
                f"{labels[stem]}: label without image in {image_folder}; add the image or remove the label"
            )
    if labels_required:
        _check_folder(label_folder, "labels are required; add it")
        for stem in images:
            if stem not in labels:
                raise InputError(
                    f"{images[stem]}: image without label in {label_folder}; add the label or remove the image"
                )


def _frame_id(text: str, path: Path) -> str:
    if not _FRAME_ID.fullmatch(text):
        raise InputError(f"{path}: frame_id {text!r} must match {FRAME_ID_RULE}; rename the file")
    return text


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe, for example, would keep the night waiting
        raise BadFrame(path, "is not a readable file", "copy it again or remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFrame(path, f"cannot be read ({error.strerror})", "correct its permissions or copy it again") from None


READERS: Mapping[str, Reader] = {
    "camvid": Reader("camvid", "camvid11", camvid_frames),
    "cityscapes": Reader("cityscapes", "cityscapes_ids", cityscapes_frames),
    "scenes_folder": Reader("scenes_folder", "cityscapes19", scenes_folder_frames),
}
