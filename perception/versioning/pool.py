"""The pool of record: every file that ever arrived, which frame it became or why it did not, and the frames that wait.

Four tables that grow (growing.py): `arrivals` with one row a frame that was read (and one for what else is told of a file),
`frames` with one row a frame that was taken in (and another when it is relabelled), and what was measured and hidden of each,
`profile` and `oracle`.  A file is known by its source, its name there and its signature; a frame by its bytes, in video and
bags by those of the file and its place in it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa

from perception.data.conditions import CONDITIONS
from perception.data.deny_list import NOTHING, REASON, DenyList
from perception.data.manifest import COLUMNS, OPTIONAL_COLUMNS, TAGGED
from perception.errors import InputError
from perception.versioning.growing import Book, Overtaken, Table, append, read_table
from perception.versioning.ledger import AT_ANNOTATORS, read_events, state

ADMITTED = ("new", "relabelled")  # outcomes that add a row to `frames`
_LEFT = ("labelled", "at_annotators", "too_old", "too_many", "earlier")


def _text(name: str, *, needed: bool = True) -> pa.Field:
    return pa.field(name, pa.string(), nullable=not needed)


_CONTENT = _text("source_sha256")
_ARRIVED = pa.field("arrived", pa.date32(), nullable=False)
ARRIVALS = Table(
    "arrivals",
    pa.schema(
        [
            _text("source"),
            _text("object"),  # the file's name in its source
            _text("signature"),  # size and time of change, or what else shows that it changed
            _text("source_sha256", needed=False),  # of the bytes as they arrived; empty where they could not be read
            _text("label_sha256", needed=False),  # of the label that came with it
            _text(
                "frame_id", needed=False
            ),  # the frame that it is; of a clash the name that it wanted; of skipped none
            _text("outcome"),  # new, relabelled, repeated, clash, rejected, denied or skipped
            _text("reason", needed=False),
            _ARRIVED,
        ]
    ),
)
_OF_LABELS = ("label_drop", *(TAGGED + name for name in CONDITIONS), "tag_drop")
_MORE = [OPTIONAL_COLUMNS.field(name) for name in (*_OF_LABELS, "latitude", "longitude", "privacy")]
FRAMES = Table("frames", pa.schema([*COLUMNS, *_MORE, _CONTENT, _ARRIVED]))
_SHOWN = [_text("frame_id"), _text("source")]
PROFILE = Table(
    "profile",
    pa.schema(
        [*_SHOWN, _text("image_sha256_actual"), pa.field("decode_ok", pa.bool_(), nullable=False), _text("dhash")]
    ),
)
ORACLE = Table(
    "oracle",
    pa.schema(
        [
            *_SHOWN,
            *map(_text, ("label_uri", "label_sha256", "label_taxonomy")),
            _text("instances_uri", needed=False),
        ]
    ),
)


@dataclass(frozen=True)
class PoolLimits:
    """Say how long unlabelled frames wait, and how many."""

    max_age_days: int  # since they arrived; older ones leave
    max_frames: int  # the oldest leave beyond this many


@dataclass(frozen=True)
class Waiting:
    """Hold the frames that may be chosen, and count those that may not."""

    frames: pd.DataFrame  # rows of `frames`, oldest first
    left: Mapping[
        str, int
    ]  # frames by the first reason that holds: labelled, at_annotators, too_old, too_many, earlier


# --- what arrives


def known_arrivals(book: Book, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `arrivals` that may bear on some files: their names, bytes and frames, as far as `rows` has them."""
    names = [name for name in ("object", "source_sha256", "frame_id") if name in rows]
    return read_table(book, ARRIVALS, where={name: rows[name].dropna().tolist() for name in names})


def unread(listing: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a listing that no earlier night read: another file, or another signature of it.

    listing: columns source, object, signature, and any others.
    """
    key = ["source", "object", "signature"]
    before = known[key].drop_duplicates().assign(read=True)
    return listing[listing[key].merge(before, on=key, how="left").read.isna().to_numpy()]


def sort_arrivals(read: pd.DataFrame, known: pd.DataFrame, denied: DenyList = NOTHING) -> pd.DataFrame:
    """Say what becomes of each frame that was read; return the rows with outcome and reason, in the order of source, object, frame.

    read: columns source, object, signature, source_sha256, label_sha256, frame_id and reason, which says why one was
    rejected, or, without a frame_id, what was skipped or turned away.  known: rows of `arrivals` before them.  denied: what must
    never come back.
    The same bytes are one frame, whatever their name: frame_id is then that of the first.
    """
    frames, owner = _admitted_before(known)
    rows = []
    for row in read.sort_values(["source", "object", "frame_id"]).to_dict("records"):
        row |= {name: None for name in ("source_sha256", "label_sha256", "frame_id", "reason") if pd.isna(row[name])}
        row |= _outcome(row, frames, owner, denied)
        if row["outcome"] in ADMITTED:
            frames[row["source_sha256"]] = (row["frame_id"], row["label_sha256"])
            owner[row["frame_id"]] = row["source_sha256"]
        rows.append(row)
    return pd.DataFrame(rows, columns=[*read.columns, "outcome"])


def _admitted_before(known: pd.DataFrame) -> tuple[dict[str, tuple[str, str | None]], dict[str, str]]:
    """Give the frame and the latest label of all bytes that were taken in, and the bytes of each frame."""
    taken = known[known.outcome.isin(ADMITTED)]
    labels = (None if pd.isna(label) else str(label) for label in taken.label_sha256)
    frames = dict(zip(taken.source_sha256, zip(taken.frame_id, labels, strict=True), strict=True))
    return frames, dict(zip(taken.frame_id, taken.source_sha256, strict=True))


def _outcome(
    row: Mapping[str, Any],
    frames: Mapping[str, tuple[str, str | None]],
    owner: Mapping[str, str],
    denied: DenyList,
) -> dict[str, str | None]:
    """Give outcome, reason and frame of one file; the order of the rules is theirs."""
    content, frame_id, label = row["source_sha256"], row["frame_id"], row["label_sha256"]
    if row["reason"] == REASON or denied.holds(frame_id or "", "", content):
        return {"outcome": "denied", "reason": REASON}
    if frame_id is None:
        return {"outcome": "skipped"}
    if row["reason"]:
        return {"outcome": "rejected"}
    if content in frames:
        first, labelled = frames[content]
        if label and label != labelled:
            return {"outcome": "relabelled", "frame_id": first, "reason": f"frame {first} with another label"}
        return {"outcome": "repeated", "frame_id": first, "reason": f"the same bytes as frame {first}"}
    if frame_id in owner:
        return {"outcome": "clash", "reason": f"frame {frame_id} has other bytes ({owner[frame_id][:12]}); rename it"}
    return {"outcome": "new"}


def take_in(book: Book, night: str, when: datetime, tables: Mapping[Table, pd.DataFrame]) -> Book:
    """Record what a night read and took in, as the entry named after it; return the book up to it.  The same call again
    adds nothing.

    book: before this night (Book.before).  when: the night's moment, whose date is `arrived`.  tables: ARRIVALS as sort_arrivals
    gave them, FRAMES, PROFILE and ORACLE of the admitted ones.
    Raises Overtaken when another night took in one of these frames meanwhile, InputError when the tables disagree.
    """
    arrivals = tables[ARRIVALS]
    admitted = arrivals[arrivals.outcome.isin(ADMITTED)]
    differ = set(admitted.frame_id) ^ set(tables[FRAMES].frame_id)
    if differ:
        raise InputError(f"frame {min(differ)!r}: must stand in arrivals and in frames, is in one; gather them again")

    def check(since: Book) -> None:
        for entry in since.entries:
            theirs = read_table(
                since.only(entry),
                ARRIVALS,
                where={name: set(admitted[name]) for name in ("source_sha256", "frame_id")},
            )
            theirs = theirs[theirs.outcome.isin(ADMITTED)]
            if len(theirs):
                raise Overtaken(
                    f"night {entry.name} took in {len(theirs)} of the frames of night {night} meanwhile, "
                    f"{theirs.frame_id.iloc[0]} among them; run {night} again: it goes on with what is left"
                )

    arrived = when.astimezone(UTC).date()
    dated = {
        table: rows.assign(arrived=arrived) if "arrived" in table.schema.names else rows
        for table, rows in tables.items()
    }
    return append(book, night, "arrivals", dated, when=when, check=check)


# --- what waits


def alive(frames: pd.DataFrame, state: pd.DataFrame, limits: PoolLimits, night_date: date) -> Waiting:
    """Return which frames may be chosen on a night, in the order in which they arrived, and count the others by reason.

    frames: rows of `frames` in the book's order; of a relabelled frame the last row counts.  state: of the ledger, columns
    frame_id and status.  Frames at annotators are in the ledger's care: no limit moves them.
    """
    rows = frames.drop_duplicates("frame_id", keep="last")
    status = rows.frame_id.map(state.set_index("frame_id").status)
    gone = {
        "labelled": (rows.label_source != "none") | (status == "accepted"),
        "at_annotators": status.isin(AT_ANNOTATORS),
        "too_old": rows.arrived < pd.Timestamp(_oldest(limits, night_date)),
    }
    left, stays = dict.fromkeys(_LEFT, 0), pd.Series(True, rows.index)
    for reason, holds in gone.items():
        left[reason] = int((stays & holds).sum())
        stays &= ~holds
    left["too_many"] = max(0, int(stays.sum()) - limits.max_frames)
    return Waiting(rows[stays][left["too_many"] :].reset_index(drop=True), left)


def _oldest(limits: PoolLimits, night_date: date) -> date:
    return night_date - timedelta(days=limits.max_age_days)


def waiting_frames(
    book: Book,
    state: pd.DataFrame,
    limits: PoolLimits,
    night_date: date,
) -> Waiting:
    """Return what `alive` gives for all frames of a book, reading no more entries than can hold frames that wait.

    Frames of the entries that are not read count as `earlier`: they have all left, for a reason that was counted then.
    """
    entries = [entry for entry in book.entries if FRAMES.name in entry.tables]
    young = [place for place, entry in enumerate(entries) if entry.when.date() >= _oldest(limits, night_date)]
    left = dict.fromkeys(_LEFT, 0) | {"earlier": sum(entry.tables[FRAMES.name].rows for entry in entries)}
    found = [read_table(replace(book, entries=()), FRAMES)]
    relabelled: set[str] = set()
    for entry in reversed(entries[min(young, default=len(entries)) :]):
        rows = read_table(book.only(entry), FRAMES)
        part = alive(rows[~rows.frame_id.isin(relabelled)], state, limits, night_date)
        left = {reason: left[reason] + part.left[reason] for reason in _LEFT}
        left["earlier"] -= len(rows)
        found.insert(1, part.frames)
        relabelled |= set(rows.frame_id[rows.label_source != "none"])
        if sum(map(len, found)) >= limits.max_frames:
            break
    frames = pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]
    too_many = max(0, len(frames) - limits.max_frames)
    return Waiting(frames[too_many:].reset_index(drop=True), {**left, "too_many": left["too_many"] + too_many})


# --- what is at annotators


def handed_out(book: Book, frame_ids: Collection[str]) -> pd.DataFrame:
    """Return which of some names are frames that a batch has held: rows of `frames`, with batch and prelabel_uri of the last."""
    opened = state(read_events(book, frame_ids)).dropna(subset="batch")
    frames = read_table(book, FRAMES, where={"frame_id": opened.frame_id.tolist()})
    frames = frames.drop_duplicates("frame_id", keep="last")
    return frames.merge(opened[["frame_id", "batch", "prelabel_uri"]], on="frame_id")
