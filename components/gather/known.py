"""The frames that the night has from the registry: those that wait, those whose labels are known, those that sources still list."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from perception.data.deny_list import DenyList
from perception.data.manifest import OPTIONAL_COLUMNS, read_manifest
from perception.data.store import Store
from perception.data.tables import read_table
from perception.quality.intake import Intake, join_intakes, no_intake, profile_labels, reveal_selected
from perception.versioning.growing import Book, Table
from perception.versioning.growing import read_table as read_book
from perception.versioning.ledger import read_events, state
from perception.versioning.pool import ADMITTED, FRAMES, ORACLE, PROFILE, PoolLimits, waiting_frames
from perception.versioning.tonight import Tonight

if TYPE_CHECKING:
    from components.gather import GatherParameters


def known_frames(
    base: Path,
    book: Book,
    tonight: Tonight,
    parameters: "GatherParameters",
    store: Store,
    files: pd.DataFrame,
    denied: DenyList,
) -> Intake:
    """Return the frames of earlier nights that this one works on, as an intake.

    base: the folder that resolve wrote. files: every file read tonight, with label_drop and outcome.
    """
    events = state(read_events(book))
    limits = PoolLimits(max_age_days=parameters.max_age_days, max_frames=parameters.max_pool_frames)
    waiting = waiting_frames(book, events, limits, tonight.moment.date()).frames
    # A label that came after its recall and goes back: the frame is its annotator's again.
    went_back = set(files.frame_id[files.label_drop.notna() & files.outcome.eq("rejected")]) & set(events.frame_id)
    waiting = waiting[~waiting.frame_id.isin(went_back)]
    given = {name for name, source in parameters.sources.items() if source.labels == "given"}
    listed = read_table(base / "listed.parquet", {"source": "text", "frame_id": "text?", "outcome": "text"})
    still = listed.frame_id[listed.source.isin(given) & listed.outcome.isin([*ADMITTED, "repeated"])]
    labelled = _newest(book, FRAMES, label_source=["human"])
    labelled = labelled[(labelled.split == "train") & ~labelled.source.isin(given)]
    oracle_due = events[events.status.isin(["open", "accepted"]) & ~events.frame_id.isin(labelled.frame_id)]
    hidden = _newest(book, ORACLE, frame_id=oracle_due.frame_id)
    revealed, _ = reveal_selected(_newest(book, FRAMES, frame_id=hidden.frame_id), hidden)
    rows = pd.concat([waiting, _newest(book, FRAMES, frame_id=still), labelled, revealed], ignore_index=True)
    rows = rows[~denied.rows(rows)]  # an erasure that was decided may not be carried out yet
    if not len(rows):
        return no_intake()
    rows = _without_held(rows.drop_duplicates("frame_id", keep="last"), base)
    unsaid = [name for name in OPTIONAL_COLUMNS.names if name in rows and rows[name].isna().all()]
    frames = rows.drop(columns=["arrived", *unsaid])  # a version has only columns that say something
    measured = _newest(book, PROFILE, frame_id=frames.frame_id)
    profile = profile_labels(frames[frames.label_source != "none"], measured, store, parameters.taxonomy)
    oracle = _newest(book, ORACLE, frame_id=frames.frame_id[frames.label_source == "none"])
    return join_intakes([Intake(frames, profile, no_intake().rejected, oracle, no_intake().read)])


def _newest(book: Book, table: Table, **where: "list[str] | pd.Series[str]") -> pd.DataFrame:
    """Return the last row of each frame among those that hold one of the values in a column."""
    rows = read_book(book, table, where={name: list(values) for name, values in where.items()})
    return rows.drop_duplicates("frame_id", keep="last")


def _without_held(frames: pd.DataFrame, base: Path) -> pd.DataFrame:
    """Leave out what the base version holds with the same label: it has it from there; val and test frames stay."""
    held = read_manifest(base / "manifest.parquet", columns=["frame_id", "label_sha256"], split="train")
    pairs = set(zip(held.frame_id, held.label_sha256, strict=True))
    same = [pair in pairs for pair in zip(frames.frame_id, frames.label_sha256, strict=True)]
    return frames[~pd.Series(same, frames.index, dtype=bool)]
