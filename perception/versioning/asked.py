"""Which frames somebody asks about: by name, drive, time, place or annotator."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from perception.errors import InputError
from perception.versioning.growing import Book, read_table
from perception.versioning.ledger import LEDGER
from perception.versioning.pool import FRAMES

# Columns that tell whether a frame is meant, as far as a table has them.
TELLING = ("frame_id", "drive_id", "timestamp_utc", "latitude", "longitude", "label_drop", "tag_drop")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Say which frames are meant: those of these names or drives, and of them those that the other rules hold for."""

    frames: tuple[str, ...] = ()
    drives: tuple[str, ...] = ()
    between: tuple[datetime, datetime] | None = None  # moments of their timestamps, both included
    within: tuple[float, float, float, float] | None = None  # south, west, north, east in degrees
    annotator: str = ""  # whose labels they have

    def __post_init__(self) -> None:
        if not (self.frames or self.drives or self.between or self.within or self.annotator):
            raise InputError(
                "name what is meant: FRAME=id, DRIVE=id, BETWEEN=from,to, WITHIN=south,west,north,east or ANNOTATOR=name"
            )

    def meant(self, rows: pd.DataFrame, labelled: frozenset[str] = frozenset()) -> "pd.Series[bool]":
        """Return which rows are meant; labelled: frames whose labels, as the ledger knows, are the annotator's."""
        named = rows.frame_id.isin(self.frames) | rows.drive_id.isin(self.drives)
        found = named if self.frames or self.drives else pd.Series(True, rows.index)
        if self.between:
            moments = pd.to_datetime(rows.timestamp_utc, utc=True)
            found &= (moments >= self.between[0]) & (moments <= self.between[1])
        if self.within:
            south, west, north, east = self.within
            found &= _column(rows, "latitude").between(south, north) & _column(rows, "longitude").between(west, east)
        if self.annotator:
            theirs = rows.frame_id.isin(labelled)
            for name in ("label_drop", "tag_drop"):  # batch/annotator/date
                drops = _column(rows, name).map(lambda drop: str(drop).split("/"))
                theirs |= drops.map(lambda parts: parts[1:2] == [self.annotator])
            found &= theirs
        return found


def _column(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    return rows[name] if name in rows else pd.Series(float("nan"), rows.index)


def labelled_by(book: Book, annotator: str) -> frozenset[str]:
    """Return the frames with a label of an annotator, as the ledger knows; nobody's where no name is given."""
    if not annotator:
        return frozenset()
    events = read_table(book, LEDGER, where={"who": [annotator]})
    return frozenset(events.frame_id[events.event != "recalled"])


def pool_frames(book: Book, asked: Asked) -> pd.DataFrame:
    """Return the rows of `frames` that are meant, of a relabelled frame the last one."""
    by_name = {"frame_id": asked.frames, "drive_id": asked.drives}
    rows = read_table(book, FRAMES, where=by_name if asked.frames or asked.drives else None)
    meant = rows[asked.meant(rows, labelled_by(book, asked.annotator))]
    return meant.drop_duplicates("frame_id", keep="last").reset_index(drop=True)


def read_moments(text: str) -> tuple[datetime, datetime]:
    """Read two moments, ISO 8601, with a comma between; without a zone they are UTC. Raises InputError."""
    try:
        first, last = (datetime.fromisoformat(each.strip()) for each in text.split(","))
    except ValueError:
        raise InputError(
            f"BETWEEN={text}: must be two moments such as 2026-11-01T08:00,2026-11-01T09:30; correct it"
        ) from None
    first, last = (each if each.tzinfo else each.replace(tzinfo=UTC) for each in (first, last))
    if first > last:
        raise InputError(f"BETWEEN={text}: begins after it ends; exchange the two")
    return first, last


def read_box(text: str) -> tuple[float, float, float, float]:
    """Read a box of latitudes and longitudes: south,west,north,east in degrees. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 4 and all(re.fullmatch(r"-?\d+(\.\d+)?", part) for part in parts):
        south, west, north, east = map(float, parts)
        if -90 <= south <= north <= 90 and -180 <= west <= east <= 180:
            return south, west, north, east
    raise InputError(
        f"WITHIN={text}: must be south,west,north,east in degrees, south below north, west below east; correct it"
    )
