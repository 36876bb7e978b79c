"""What a person tells of footage: frames.csv in a folder of pictures, or NAME.json beside any picture, video or bag."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perception.data.decoding import BadFrame
from perception.data.json_files import parse_json
from perception.data.manifest import SCENES, TIMES_OF_DAY, WEATHERS
from perception.data.readers.layout import checked_time
from perception.errors import InputError

TABLE_NAME = "frames.csv"
FACTS_LIMIT_BYTES = 1 << 24  # a folder's table: 100 bytes a frame allow for some 160,000 frames
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "drive_id": (),
    "camera": (),
    "time_of_day": TIMES_OF_DAY,
    "weather": WEATHERS,
    "scene": SCENES,
}
_DEGREES = {"latitude": 90.0, "longitude": 180.0}
NAMES = (*_TEXTS, "timestamp_utc", *_DEGREES)


@dataclass(frozen=True, kw_only=True)
class Told:
    """Hold what a person tells of an object; None is unknown."""

    drive_id: str | None = None
    camera: str | None = None
    timestamp_utc: datetime | None = None  # of a video: when its first frame was taken
    place: tuple[float, float] | None = None  # latitude and longitude in degrees
    time_of_day: str | None = None
    weather: str | None = None
    scene: str | None = None


def facts_of_json(data: bytes, where: str) -> Told:
    """Read NAME.json; raises BadFrame for what it may not say."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise BadFrame(where, f"is no JSON file ({error})", "correct it") from None
    if not isinstance(content, dict):
        raise BadFrame(where, "is no JSON object", "write {} round what it tells")
    return _told(content, where)


def facts_of_table(data: bytes, where: str) -> Mapping[str, Mapping[str, Any]]:
    """Read frames.csv: the line of each file by its name, not yet checked. Raises BadFrame for what is no such table."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns, lines = reader.fieldnames or (), {str(line.get("file")): line for line in reader}
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadFrame(where, f"is no UTF-8 CSV file ({error})", "write it again") from None
    strange = [each for each in columns if each not in ("file", *NAMES)]
    if "file" not in columns or strange:
        rule = f"has the columns {', '.join(columns)}"
        raise BadFrame(where, rule, f"it needs file and may have {', '.join(NAMES)}")
    return lines


def facts_of_line(line: Mapping[str, Any], where: str) -> Told:
    """Check and return what a line of frames.csv tells; an empty field is unknown. Raises BadFrame."""
    if None in line or None in line.values():
        raise BadFrame(where, "has more or fewer fields than columns", "correct the line")
    return _told({name: value for name, value in line.items() if name != "file" and value != ""}, where)


def _told(given: Mapping[str, Any], where: str) -> Told:
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in NAMES:
            raise BadFrame(where, f"tells {str(name)[:40]!r}", f"use {', '.join(NAMES)}")
    texts = {name: _text(given[name], name, words, where) for name, words in _TEXTS.items() if name in given}
    try:
        time = checked_time(given["timestamp_utc"], f"{where}: timestamp_utc") if "timestamp_utc" in given else None
    except InputError as error:
        raise BadFrame(where, str(error).removeprefix(f"{where}: ").partition("; ")[0], "correct it") from None
    if len(_DEGREES.keys() & given.keys()) == 1:
        raise BadFrame(where, "tells latitude or longitude alone", "tell both or neither")
    degrees = [_number(given[name], name, limit, where) for name, limit in _DEGREES.items() if name in given]
    return Told(**texts, timestamp_utc=time, place=(degrees[0], degrees[1]) if degrees else None)


def _text(value: Any, name: str, words: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or not value or (words and value not in words):
        raise BadFrame(
            where, f"{name} is {str(value)[:40]!r}", f"write {', '.join(words)}" if words else "write a name"
        )
    return value


def _number(value: Any, name: str, limit: float, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not abs(number) <= limit:
        raise BadFrame(where, f"{name} is {str(value)[:40]!r}", f"write degrees from {-limit:g} to {limit:g}")
    return number
