"""The one reader of footage: lists its objects without opening them, and streams the frames of each."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from perception.data.decoding import BadFrame
from perception.data.files import is_left_behind
from perception.data.footage.facts import (
    FACTS_LIMIT_BYTES,
    TABLE_NAME,
    Told,
    facts_of_json,
    facts_of_line,
    facts_of_table,
)
from perception.data.footage.frames import Deadline, Picture, Shot, picture_of_file
from perception.data.footage.locations import Folder, Location, open_location
from perception.data.footage.privacy import PrivacyHook, load_privacy_hook
from perception.data.footage.sampling import Sampler
from perception.data.footage.settings import NIGHT, FootageSettings, split_at_night
from perception.data.footage.sun import time_of_day
from perception.data.readers.layout import frame_id_of

_PICTURES = (".jpg", ".jpeg", ".png")
_RECORDINGS = (".mp4", ".mkv", ".mcap", ".bag", ".db3")
_PICTURE_LIMIT_MIB = 256  # pictures are read whole
_COARSE_DIGITS = 2  # of a degree: 1.1 km in latitude


@dataclass(frozen=True)
class FootageObject:
    """Say what one file is: its name below the location, the drive it belongs to, and what changes when it changes."""

    name: str
    drive_id: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class FootageFrame:
    """Hold one frame with what is known about it; None is unknown."""

    frame_id: str
    drive_id: str
    object: str
    source_sha256: str  # of the file as it arrived; of a frame in a recording of "<that>:<its position>"
    camera: str | None
    timestamp_utc: datetime | None
    latitude: float | None
    longitude: float | None
    time_of_day: str | None
    weather: str | None
    scene: str | None
    privacy: str | None  # name and version of the function that made it anonymous
    picture: Picture


@dataclass(frozen=True)
class Lost:
    """Name a damage of an object as the frames of it are named."""

    object: FootageObject

    @property
    def drive_id(self) -> str:
        """Return the drive of the object."""
        return self.object.drive_id

    @property
    def frame_id(self) -> str:
        """Return a name that a frame may have."""
        return frame_id_of(self.object.name.replace("/", "_"))


def open_footage(source: str, path: str, settings: FootageSettings) -> "Footage":
    """Open the footage of a source in a folder or at s3://bucket/prefix, which may name the night: {night} in a folder's name.

    source: its name, by which frames are told from those of the same place in another source.
    Raises InputError for a location that is not there.
    """
    root, below = split_at_night(path)
    return Footage(source, open_location(root), below, settings)


class Footage:
    """Read footage object by object; the objects of a drive one after another, in the order of their names."""

    def __init__(self, source: str, location: Location, below: str, settings: FootageSettings) -> None:
        self._source, self._location, self._below, self._settings = source, location, below, settings
        self._drive, self._sampler = "", Sampler(settings)
        self._folder = lru_cache(maxsize=1)(location.folder)
        self._table = lru_cache(maxsize=1)(self._read_table)

    @cached_property
    def _hook(self) -> PrivacyHook | None:
        return load_privacy_hook(self._settings.privacy)  # where footage is listed its packages need not be

    @property
    def name(self) -> str:
        """Return the place that names of objects begin at, as messages name it."""
        return self._location.name

    def objects(self, night: str, left_out: Counter[str]) -> Iterator[FootageObject]:
        """Yield what there is, a folder at a time; names of files that are none of footage are counted by their suffix.

        night: its UTC date, which the path may ask for.
        """
        start = self._below.replace(NIGHT, night)
        pending = [start]
        while pending:
            prefix = pending.pop()
            folder = self._location.folder(prefix)
            pending += [f"{prefix}{name}/" for name in reversed(folder.folders) if _is_listable(name)]
            for name in sorted(folder.files):
                suffix = PurePosixPath(name).suffix.lower()
                if not _is_listable(name) or suffix not in (*_PICTURES, *_RECORDINGS):
                    left_out[suffix] += name != TABLE_NAME and suffix != ".json"
                    continue
                drive_id = self._drive_outside(prefix, name) if prefix == start else prefix.rstrip("/")
                yield FootageObject(prefix + name, drive_id, self._signature(prefix, name, folder))

    def frames(self, object: FootageObject, counts: Counter[str]) -> Iterator[FootageFrame | BadFrame]:
        """Yield the frames that are taken of one object, and a BadFrame for each damage.

        counts: what was taken, skipped and told of clocks, by reason (docs/footage.md). Memory does not grow with the file.
        """
        where = f"{self.name}/{object.name}"
        try:
            told = self._told(object.name)
            with self._location.local(object.name, self._limit_mib(object.name) << 20) as (path, sha256):
                for shot in _read(path, where, told, Deadline(where, self._settings.max_object_s)):
                    if isinstance(shot, BadFrame):
                        counts["damages"] += 1
                        yield shot
                        continue
                    shot = _with_facts(shot, told)
                    try:
                        if self._sampler_of(object.drive_id).takes(shot, object.name, counts):
                            yield self._frame(object, sha256, shot, told)
                    except BadFrame as error:  # a picture that cannot be compared with the last one
                        counts["damages"] += 1
                        yield error
        except BadFrame as error:
            counts["damages"] += 1
            yield error

    def _limit_mib(self, name: str) -> int:
        is_picture = PurePosixPath(name).suffix.lower() in _PICTURES
        return min(_PICTURE_LIMIT_MIB, self._settings.max_object_mib) if is_picture else self._settings.max_object_mib

    def _sampler_of(self, drive_id: str) -> Sampler:
        if drive_id != self._drive:
            self._drive, self._sampler = drive_id, Sampler(self._settings)
        return self._sampler

    def _drive_outside(self, start: str, name: str) -> str:
        """Return the drive of a file outside any folder: a recording is one, and all pictures together are one."""
        path = PurePosixPath(start + name)
        is_recording = path.suffix.lower() in _RECORDINGS
        return str(path.with_suffix("")) if is_recording else start.rstrip("/") or PurePosixPath(self.name).name

    def _signature(self, prefix: str, name: str, folder: Folder) -> str:
        """Return what changes with an object or with what is told of it; in a folder's table with its own line."""
        files = _files_of(name, folder)
        if files[-1] != TABLE_NAME:
            return " ".join(folder.files[each] for each in files)
        try:
            line = self._table(prefix).get(name)
            told = hashlib.sha256(repr(sorted(line.items(), key=str)).encode()).hexdigest()[:16] if line else ""
        except BadFrame:
            told = folder.files[TABLE_NAME]
        return f"{folder.files[name]} {told}".strip()

    def _told(self, name: str) -> Told:
        prefix, _, file = name.rpartition("/")
        prefix = prefix and prefix + "/"
        facts = _files_of(file, self._folder(prefix))[1:]
        if (beside := f"{PurePosixPath(file).stem}.json") in facts:
            where = f"{self.name}/{prefix}{beside}"
            return facts_of_json(self._location.read(prefix + beside, FACTS_LIMIT_BYTES), where)
        line = self._table(prefix).get(file) if TABLE_NAME in facts else None
        return facts_of_line(line, f"{self.name}/{prefix}{TABLE_NAME}: {file}") if line else Told()

    def _read_table(self, prefix: str) -> Mapping[str, Mapping[str, Any]]:
        data = self._location.read(prefix + TABLE_NAME, FACTS_LIMIT_BYTES)
        return facts_of_table(data, f"{self.name}/{prefix}{TABLE_NAME}")

    def _frame(self, object: FootageObject, sha256: str, shot: Shot, told: Told) -> FootageFrame:
        position, kept = shot.position, self._settings.place
        content = hashlib.sha256(f"{sha256}:{position}".encode()).hexdigest() if position else sha256
        place = None if kept == "drop" else shot.place
        if place and kept == "coarse":
            place = (round(place[0], _COARSE_DIGITS), round(place[1], _COARSE_DIGITS))
        return FootageFrame(
            frame_id=_frame_id(self._source, object.name, position),
            drive_id=told.drive_id or object.drive_id,
            object=object.name,
            source_sha256=content,
            camera=shot.camera,
            timestamp_utc=shot.timestamp_utc,
            latitude=place[0] if place else None,
            longitude=place[1] if place else None,
            time_of_day=told.time_of_day or time_of_day(shot.timestamp_utc, shot.place),
            weather=told.weather,
            scene=told.scene,
            privacy=self._hook.label if self._hook else None,
            picture=_anonymous(shot.picture, self._hook) if self._hook else shot.picture,
        )


def _is_listable(name: str) -> bool:
    """Say whether a name may be told: it is UTF-8 without control characters, and no system's own."""
    return name.isprintable() and not is_left_behind(name)


def _files_of(name: str, folder: Folder) -> list[str]:
    """Name the files that make an object: itself, and what tells facts of it; a picture's own JSON goes before the table."""
    beside = f"{PurePosixPath(name).stem}.json"
    if beside in folder.files:
        return [name, beside]
    is_picture = PurePosixPath(name).suffix.lower() in _PICTURES
    return [name, TABLE_NAME] if is_picture and TABLE_NAME in folder.files else [name]


def _read(path: Path, name: str, told: Told, deadline: Deadline) -> Iterator[Shot | BadFrame]:
    """Read one file of any format; libraries are loaded when their format is met."""
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        return iter([Shot(position="", picture=picture_of_file(path.read_bytes(), name))])
    if suffix in (".mp4", ".mkv"):
        from perception.data.footage.video import read_video

        return read_video(path, name, told.timestamp_utc, deadline)
    return _read_bag(path, name, deadline)


def _read_bag(path: Path, name: str, deadline: Deadline) -> Iterator[Shot | BadFrame]:
    from perception.data.footage.messages import is_wanted, shots_of

    suffix = path.suffix.lower()
    if suffix == ".mcap":
        from perception.data.footage.mcap_file import read_mcap

        return shots_of(read_mcap(path, name, is_wanted, deadline), name, deadline)
    if suffix == ".bag":
        from perception.data.footage.ros1_bag import read_ros1_bag

        return shots_of(read_ros1_bag(path, name, is_wanted, deadline), name, deadline)
    from perception.data.footage.ros2_database import read_ros2_database

    return shots_of(read_ros2_database(path, name, is_wanted, deadline), name, deadline)


def _with_facts(shot: Shot, told: Told) -> Shot:
    """Return a shot with what a person tells in place of what the file does not."""
    time = shot.timestamp_utc or told.timestamp_utc
    clock_s = time.timestamp() if time else shot.clock_s
    camera = told.camera or shot.camera
    return replace(shot, timestamp_utc=time, clock_s=clock_s, camera=camera, place=shot.place or told.place)


def _anonymous(picture: Picture, hook: PrivacyHook) -> Picture:
    def pixels() -> Any:
        return hook(picture.pixels())

    return Picture(pixels)


def _frame_id(source: str, name: str, position: str) -> str:
    """Return a name that a person can place and that no other place in a file of any source has."""
    readable = re.sub("[^A-Za-z0-9-]+", "_", f"{PurePosixPath(name).with_suffix('')} {position}")[-150:].strip("_")
    return f"{readable}-{hashlib.sha256(repr((source, name, position)).encode()).hexdigest()[:16]}"
