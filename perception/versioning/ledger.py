"""The annotation ledger: which frames are at annotators, since when and until when, and whose labels came back.

A table of events that grows (growing.py); a frame's state is what its events come to:

    never ─opened→ open ─returned→ returned ─accepted→ accepted
                    │                  └─rejected→ rejected: with its annotator, who sends another label
                    └─recalled→ recalled: may be chosen again

A label that comes after its recall counts, and so does another label of an accepted frame: no label of a frame
that was handed out is lost.  A batch is named by
its frames (perception.data.annotation), and never changes.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from perception.errors import InputError
from perception.versioning.growing import Book, Overtaken, Table, append, open_book, read_table

LEDGER = Table(
    "ledger",
    pa.schema(
        [
            pa.field("frame_id", pa.string(), nullable=False),
            pa.field("event", pa.string(), nullable=False),
            pa.field("batch", pa.string(), nullable=False),
            pa.field("when", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("night", pa.string()),  # that wrote it; empty for what people did by hand
            pa.field("due", pa.date32()),  # of opened: until when a label is expected
            pa.field(
                "fresh", pa.bool_(), nullable=False
            ),  # of opened: drawn uniformly from the pool, to judge networks by
            pa.field("who", pa.string()),  # annotator, or who recalled
            pa.field("why", pa.string()),  # why it was chosen, its label rejected, or it recalled
            pa.field("label_drop", pa.string()),  # of a label: batch/annotator/date
            pa.field("prelabel_uri", pa.string()),  # of opened: what its annotator starts from
        ]
    ),
)
AT_ANNOTATORS = ("open", "returned", "rejected")  # statuses in which a frame is somebody's work and is not chosen again
_AWAITED = ("open", "rejected")  # of these, those whose annotator has yet to send a label
_COUNTED = ("open", "rejected", "accepted")
_FROM: Mapping[str, Sequence[str]] = {  # statuses in which an event may come
    "opened": ("never", "recalled"),
    "returned": ("never", "open", "returned", "rejected", "recalled", "accepted"),
    "rejected": ("returned",),
    "accepted": ("returned",),
    "recalled": _AWAITED,
}
_REMEDY = {
    "opened": "choose another frame, or recall it first",
    "rejected": "record that its label was returned first",
    "accepted": "record that its label was returned first",
    "recalled": "recall frames that are at an annotator",
}


def read_events(book: Book, frame_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Return all events, or those of some frames, oldest first."""
    return read_table(book, LEDGER, where=None if frame_ids is None else {"frame_id": frame_ids})


def events_of(event: str, frame_ids: Collection[str], *, batch: Any, when: datetime, **columns: Any) -> pd.DataFrame:
    """Return one event for each frame; batch, and columns of LEDGER, are a value or one a frame."""
    rows = pd.DataFrame({"frame_id": list(frame_ids)}).assign(event=event, batch=batch, when=when, fresh=False)
    return rows.assign(**columns)


def state(events: pd.DataFrame) -> pd.DataFrame:
    """Fold events, oldest first, into one row a frame, in the order of their first events.

    Returns frame_id, status; batch, since, due, fresh, chosen_why, opened_night, prelabel_uri of its last opening; rejected_why of its last
    rejection; accepted_who, accepted_when, accepted_drop, accepted_night of its last accepted label.  A recalled frame that has an
    accepted label is accepted.
    """
    places, frame_ids = pd.factorize(events.frame_id)
    events = events.assign(frame=places)  # numbers are told apart several times faster than names
    of_opening = {"batch": "batch", "when": "since", "due": "due", "fresh": "fresh"}
    of_opening |= {"why": "chosen_why", "night": "opened_night", "prelabel_uri": "prelabel_uri"}
    of_label = {name: f"accepted_{name}" for name in ("who", "when", "night")} | {"label_drop": "accepted_drop"}
    folded = [
        _last(events, {"event": "status"}),
        _last(events[events.event == "opened"], of_opening),
        _last(events[events.event == "rejected"], {"why": "rejected_why"}),
        _last(events[events.event == "accepted"], of_label),
    ]
    rows = pd.concat([each.reindex(range(len(frame_ids))) for each in folded], axis=1)
    status = rows.status.replace("opened", "open")
    labelled = rows.accepted_when.notna() & (status == "recalled")
    return rows.assign(frame_id=frame_ids, status=status.mask(labelled, "accepted"))


def _last(events: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Give some columns of each frame's last event, renamed, by the frame's number."""
    rows = events.drop_duplicates("frame", keep="last").set_index("frame")
    return rows[list(names)].rename(columns=dict(names))


def open_frames(state: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the state whose frames are at annotators."""
    return state[state.status.isin(AT_ANNOTATORS)]


def overdue(state: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """Return the rows of the state whose label should have come before today (UTC): to be asked for, or recalled."""
    today = pd.Timestamp(now.astimezone(UTC).date())
    return state[state.status.isin(_AWAITED) & (state.due < today)]


def at_annotators(state: pd.DataFrame, now: datetime) -> dict[str, int]:
    """Return how many frames are at annotators, and how many of these are overdue, by the names by which a night tells them."""
    return {"at_annotators": len(open_frames(state)), "overdue": len(overdue(state, now))}


def open_batches(state: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """Return the batches that still have frames at annotators, oldest first: batch, since, due, frames, and how many of these are open,
    rejected, accepted and overdue.
    """
    late = state.index.isin(overdue(state, now).index)
    counted = state.assign(frames=1, overdue=late, **{name: state.status == name for name in _COUNTED})
    totals = counted.groupby("batch")[["frames", *_COUNTED, "overdue"]].sum().astype(int)
    told = counted.groupby("batch")[["since", "due"]].first().join(totals).reset_index()
    waiting = told[told.batch.isin(open_frames(state).batch)]
    return waiting.sort_values(["since", "batch"], ignore_index=True)


def fresh_frames(state: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the state whose frames were drawn uniformly: what networks can be judged on without bias."""
    return state[state.fresh.eq(True)]


# --- recording


def record_events(book: Book, name: str, kind: str, events: pd.DataFrame, *, when: datetime) -> Book:
    """Add events, in their order, as an entry of this name; return the book up to it.  The same call again
    adds nothing.

    book: before that entry (Book.before).
    Raises InputError that names frame, status and event for one that is not legal, or a batch that would change; Overtaken
    where it was legal until another night wrote its own meanwhile.
    """
    opened = events[events.event == "opened"]
    bearing = {"frame_id": set(events.frame_id)} | ({"batch": set(opened.batch)} if len(opened) else {})
    before = read_table(book, LEDGER, where=bearing)
    _check_legal(events, before)

    def check(since: Book) -> None:
        now = pd.concat([before, read_table(since, LEDGER, where=bearing)], ignore_index=True)
        try:
            _check_legal(events, now)
        except InputError as error:
            others = ", ".join(entry.name for entry in since.entries if LEDGER.name in entry.tables)
            raise Overtaken(f"{error} ({others} came first; run {name} again: it goes on from there)") from None

    return append(book, name, kind, {LEDGER: events}, when=when, check=check)


def _check_legal(events: pd.DataFrame, before: pd.DataFrame) -> None:
    known = state(before[before.frame_id.isin(events.frame_id)])
    status = dict(zip(known.frame_id, known.status, strict=True))
    labelled = set(known.frame_id[known.accepted_when.notna()])
    for frame_id, event in zip(events.frame_id, events.event, strict=True):
        now = status.get(frame_id, "never")
        if event not in _FROM:
            raise InputError(f"event {event!r} of frame {frame_id!r} is unknown; use one of {', '.join(_FROM)}")
        if now not in _FROM[event]:
            found = "was never opened" if now == "never" else f"is {now}"
            raise InputError(f"frame {frame_id!r} {found}, cannot be {event}; {_REMEDY[event]}")
        labelled |= {frame_id} if event == "accepted" else set()
        kept = event == "recalled" and frame_id in labelled
        status[frame_id] = "accepted" if kept else "open" if event == "opened" else event
    _check_batches(events, before)


def _check_batches(events: pd.DataFrame, before: pd.DataFrame) -> None:
    """Raise InputError where a batch would be opened with other frames than before: batches never change."""
    opened, earlier = events[events.event == "opened"], before[before.event == "opened"]
    for batch, frame_ids in earlier[earlier.batch.isin(opened.batch)].groupby("batch").frame_id:
        differ = set(frame_ids) ^ set(opened.frame_id[opened.batch == batch])
        if differ:
            raise InputError(
                f"batch {batch} never changes, but frame {min(differ)!r} would; name a batch by its frames"
            )


def recall(
    registry: str | Path,
    *,
    who: str,
    why: str,
    now: datetime,
    batch: str | None = None,
    frames: Collection[str] = (),
    kept: Path | None = None,
) -> Book:
    """Take frames back from their annotator, so that they may be chosen again; return the book up to the recall.

    Those of a batch whose label has not come, or the named ones; the same call again adds nothing.

    Raises InputError for frames that are at no annotator, for both or neither of batch and frames, or without a name or a reason.
    """
    if bool(batch) == bool(frames):
        raise InputError("recall takes a batch or frames: say BATCH= or FRAME=, one of them")
    if not who.strip(" ,") or not why.strip():
        raise InputError(f"recall by {who!r} because {why!r}: say who recalls and why")
    digest = sha256("\n".join([batch or "", *sorted(frames)]).encode()).hexdigest()[:8]
    name = f"recall-{now.astimezone(UTC):%Y%m%dT%H%M%S}-{digest}"
    book = open_book(registry, kept).before(name)
    known = state(read_events(book)).set_index("frame_id")
    awaited = known[known.status.isin(_AWAITED)]
    wanted = sorted(awaited.index[awaited.batch == batch] if batch else set(frames))
    unknown = [frame_id for frame_id in wanted if frame_id not in known.index]
    if not wanted or unknown:
        named = f"frame {unknown[0]!r}" if unknown else f"batch {batch}"
        raise InputError(f"{named} is at no annotator; list what is open")
    batches = known.batch.loc[wanted].to_numpy()
    events = events_of("recalled", wanted, batch=batches, when=now, who=who, why=why)
    return record_events(book, name, "recall", events, when=now)
