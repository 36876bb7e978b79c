"""What the layouts share: the frames that a reader lists, and how folders are listed and checked."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.files import name_key, names_in
from perception.data.manifest import FRAME_ID_RULE
from perception.errors import InputError

_FRAME_ID = re.compile(FRAME_ID_RULE)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


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
    label_taxonomy: str | None = None  # where the frame names its own in place of the reader's
    member: str | None = None  # name inside image_path where that is an archive

    @property
    def image_name(self) -> str:
        """Name the image in messages, with its suffix, also where it lies in an archive."""
        return str(self.image_path / self.member if self.member else self.image_path)


Frames = Callable[[Path, str | None, bool], Iterator[RawFrame]]


def read_image_file(frame: RawFrame) -> bytes:
    """Return the bytes of the image file."""
    return read_file(frame.image_path)


def read_label_file(frame: RawFrame) -> bytes | None:
    """Return the bytes of the label file; None where the frame has none."""
    return None if frame.label_path is None else read_file(frame.label_path)


def read_instances_file(frame: RawFrame) -> bytes | None:
    """Return the bytes of the instances file; None where the frame has none."""
    return None if frame.instances_path is None else read_file(frame.instances_path)


@dataclass(frozen=True)
class Shards:
    """List the files of a layout that keeps many frames in one, and the frames of each: a night opens those alone that are new."""

    paths: Callable[[Path, str | None], list[Path]]  # of root and split
    frames: Callable[[Path, bool], Iterator[RawFrame]]  # of a path, and whether labels are required


@dataclass(frozen=True)
class Reader:
    """Read one layout.

    taxonomy: how its label files are to be read. frames(root, split, labels_required): lists its frames in sorted
    order; split None means every split that is there; raises InputError for a folder that breaks the layout.
    image, label and instances: give the bytes to store; a layout whose images lie in archives or whose labels are not
    8-bit PNG replaces them with functions of its own that unpack or re-encode. Instances are 16-bit PNG of value in the
    label file * 1000 + k, as in Cityscapes. All three raise BadFrame for a file that cannot be read.
    """

    name: str
    taxonomy: str
    frames: Frames
    image: Callable[[RawFrame], bytes] = read_image_file
    label: Callable[[RawFrame], bytes | None] = read_label_file
    instances: Callable[[RawFrame], bytes | None] = read_instances_file
    shards: Shards | None = None


def check_folder(folder: Path, remedy: str = "give the path of the data set") -> None:
    """Refuse what is no folder."""
    if not folder.is_dir():
        kind = "is a file, must be a folder" if folder.exists() else "folder is missing"
        raise InputError(f"{folder}: {kind}; {remedy}")


def chosen_splits(root: Path, split: str | None, known: Iterable[str]) -> list[str]:
    """Name the splits to read, sorted: the one asked for, or every known one that has a folder."""
    if split is not None and split not in known:
        raise InputError(f"split {split!r} is unknown; use one of {', '.join(known)}")
    if split is not None:
        check_folder(root / split, "add it or ask for another split")
        return [split]
    found = sorted(name for name in known if (root / name).is_dir())
    if not found:
        folders = ", ".join(f"{name}/" for name in known)
        raise InputError(f"{root}: folder is empty: it holds none of {folders}; give the path of the data set")
    return found


def files_in(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """List a folder that must hold such files, as stem (without the ending) → path, sorted by stem."""
    check_folder(folder, "add it")
    files = optional_files_in(folder, suffixes, ending)
    if not files:
        wanted = ", ".join(f"*{ending}{suffix}" for suffix in suffixes)
        raise InputError(f"{folder}: folder is empty: it holds no {wanted}; add the frames")
    return files


def optional_files_in(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """List such files of a folder as stem → path; nothing when the folder is missing."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for name in names_in(folder):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (Path objects for a million names cost seconds)
        if suffix.lower() not in suffixes or not stem.endswith(ending):
            continue
        key = name_key(stem.removesuffix(ending))
        if key in found:
            raise InputError(
                f"{folder / name}: second file for frame {key} beside {found[key].name}; remove one of them"
            )
        found[key] = folder / name
    return dict(sorted(found.items()))


def frame_files(
    images: Path,
    labels: Path,
    labels_required: bool,
    suffixes: tuple[str, ...] = (".png",),
    *,
    instances: Path | None = None,
    endings: tuple[str, str, str] = ("", "", ""),
) -> dict[str, dict[str, Any]]:
    """Return the files of each frame by stem, sorted: image_path, label_path and instances_path, None for what is not there.

    images, labels, instances: the folders that hold them; suffixes: of images, labels are PNG; endings: of the names in
    the three. Raises InputError for a folder without images and for files that do not belong together.
    """
    shown = files_in(images, suffixes, endings[0])
    labelled = optional_files_in(labels, (".png",), endings[1])
    check_pairs(shown, labelled, images, labels, labels_required)
    outlined = optional_files_in(instances, (".png",), endings[2]) if instances else {}
    if instances:
        check_pairs(shown, outlined, images, instances, False)
    return {
        stem: {"image_path": path, "label_path": labelled.get(stem), "instances_path": outlined.get(stem)}
        for stem, path in shown.items()
    }


def check_pairs(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    image_folder: Path,
    label_folder: Path,
    labels_required: bool,
) -> None:
    """Refuse a label without its image and, where labels are required, an image without its label.

    Tools leave files of their own beside a label, named after it: 00001_labelTrainIds.png beside 00001.png. These are
    no labels.
    """
    for stem in labels:
        if stem not in images and not _is_beside(stem, images, labels):
            raise InputError(
                f"{labels[stem]}: label without image in {image_folder}; add the image or remove the label"
            )
    if labels_required:
        check_folder(label_folder, "labels are required; add it")
        for stem in images:
            if stem not in labels:
                raise InputError(
                    f"{images[stem]}: image without label in {label_folder}; add the label or remove the image"
                )


def check_no_other_folders(truth: Path, known: Iterable[str], kind: str) -> None:
    """Refuse a folder of labels beside which there is none of images."""
    others = sorted(set(names_in(truth, folders=True)) - set(known)) if truth.is_dir() else []
    if others:
        raise InputError(f"{truth / others[0]}: labels of a {kind} without images; add the images or remove it")


def _is_beside(stem: str, images: Mapping[str, Path], labels: Mapping[str, Path]) -> bool:
    starts = (stem[: gap.start()] for gap in re.finditer(r"[^A-Za-z0-9]", stem))
    return any(start in images and start in labels for start in starts)


def frame_id_of(name: str) -> str:
    """Return the frame_id of a name: itself where a manifest allows it, else what it allows of it and a hash of the name."""
    if _FRAME_ID.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"{re.sub('[^A-Za-z0-9_-]', '_', plain)[:180]}-{digest}"


def checked_time(text: object, where: str) -> datetime:
    """Return a time that a data set tells, in UTC; raises InputError for one that is not ISO 8601 with its zone."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise InputError(f"{where} is {text!r}, must be ISO 8601 with its zone, as 2026-11-01T04:05:06Z; correct it")
    return time.astimezone(UTC)


def read_file(path: Path) -> bytes:
    """Read a plain file of a sane size; raises BadFrame for any other."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise BadFrame(path, "is not a readable file", "copy it again or remove it")
            if facts.st_size > limits.FILE_BYTES:
                raise BadFrame(
                    path, f"has {facts.st_size} bytes, more than {limits.FILE_BYTES}", "give frames of a camera"
                )
            return file.read(facts.st_size)
    except IsADirectoryError:
        raise BadFrame(path, "is not a readable file", "copy it again or remove it") from None
    except OSError as error:
        raise BadFrame(path, f"cannot be read ({error.strerror})", "correct its permissions or copy it again") from None


def _open_at_once(name: str, flags: int) -> int:
    """Open a file; a pipe would keep its reader waiting until somebody writes into it."""
    return os.open(name, flags | os.O_NONBLOCK)
