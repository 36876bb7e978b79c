"""The annotation ledger against a slow reading of its events, and on a real registry."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import InputError
from perception.versioning import ledger
from perception.versioning.growing import Overtaken, open_book
from perception.versioning.ledger import (
    LEDGER,
    events_of,
    fresh_frames,
    open_batches,
    open_frames,
    overdue,
    read_events,
    recall,
    record_events,
    state,
)

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)
DUE = (WHEN + timedelta(days=2)).date()
LEGAL = {  # every pair that is legal, in words of its own
    ("never", "opened"), ("recalled", "opened"), ("never", "returned"),
    ("open", "returned"), ("returned", "returned"), ("rejected", "returned"), ("recalled", "returned"), ("accepted", "returned"),
    ("returned", "rejected"), ("returned", "accepted"), ("open", "recalled"), ("rejected", "recalled"),
}  # fmt: skip
EVENTS = ("opened", "returned", "rejected", "accepted", "recalled")


def event(kind, *ids, batch="batch-1", when=WHEN, **columns):
    return events_of(kind, ids, batch=batch, when=when, **columns)


def nothing():
    return LEDGER.schema.empty_table().to_pandas()


def write(registry, name, *events, book=None):
    rows = pd.concat(events, ignore_index=True)
    return record_events((book or open_book(registry)).before(name), name, "batch", rows, when=WHEN)


def states(registry):
    rows = state(read_events(open_book(registry)))
    return dict(zip(rows.frame_id, rows.status, strict=True))


def slow_status(events):
    """Read one frame's events one by one; None where one is not legal."""
    status, labelled = "never", False
    for each in events:
        if (status, each) not in LEGAL:
            return None
        labelled = labelled or each == "accepted"
        status = "open" if each == "opened" else each
        if each == "recalled" and labelled:
            status = "accepted"
    return status


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(EVENTS)), max_size=8), split=st.integers(0, 8))
def test_a_state_is_what_the_events_come_to_and_only_legal_ones_are_taken(rows, split):
    by_frame = {name: slow_status([kind for each, kind in rows if each == name]) for name in "ab"}
    frame = pd.concat([nothing(), *(event(kind, name, batch=name) for name, kind in rows)], ignore_index=True)
    before, new = frame[:split], frame[split:]
    if any(slow_status([kind for each, kind in rows[:split] if each == name]) is None for name in "ab"):
        return
    if None in by_frame.values():
        with pytest.raises(InputError, match=r"frame '[ab]'"):
            ledger._check_legal(new, before)
        return
    ledger._check_legal(new, before)
    found = state(frame)
    assert dict(zip(found.frame_id, found.status, strict=True)) == {
        name: status for name, status in by_frame.items() if status != "never"
    }


def test_a_frame_is_followed_from_the_batch_to_its_label(registry):
    opened = [
        event("opened", "a", "b", due=DUE, why=["unsure", "rare"], night="n0", fresh=[True, False]),
        event("opened", "c", batch="batch-2", due=DUE, night="n0"),
    ]
    write(registry, "n0-batch", *opened)
    label = {"who": "ada", "label_drop": "batch-1/ada/2026-12-01", "night": "n1", "when": WHEN + timedelta(days=1)}
    write(registry, "n1-labels", event("returned", "a", "b", **label), event("accepted", "a", **label),
          event("rejected", "b", **label | {"why": "a class that is none"}))  # fmt: skip
    rows = state(read_events(open_book(registry))).set_index("frame_id")
    assert rows.status.to_dict() == {"a": "accepted", "b": "rejected", "c": "open"}
    assert rows.loc["a", ["batch", "chosen_why", "opened_night", "accepted_who", "accepted_drop", "accepted_night"]].tolist() == [
        "batch-1", "unsure", "n0", "ada", "batch-1/ada/2026-12-01", "n1",
    ]  # fmt: skip
    assert rows.since["a"] == WHEN and rows.due["a"].date() == DUE and rows.accepted_when["a"] == label["when"]
    assert rows.rejected_why.fillna("").to_dict() == {"a": "", "b": "a class that is none", "c": ""}
    table = rows.reset_index()
    assert open_frames(table).frame_id.tolist() == ["b", "c"]
    assert fresh_frames(table).frame_id.tolist() == ["a"]
    assert overdue(table, WHEN + timedelta(days=2)).empty
    assert overdue(table, WHEN + timedelta(days=3)).frame_id.tolist() == ["b", "c"]
    write(registry, "n2-labels", event("returned", "b", **label), event("accepted", "b", **label))
    assert states(registry)["b"] == "accepted"


def test_an_empty_ledger_has_a_state_that_can_be_asked():
    empty = state(nothing())
    assert empty.empty and {"status", "batch", "due", "accepted_when"} <= set(empty.columns)
    assert open_frames(empty).empty and fresh_frames(empty).empty and overdue(empty, WHEN).empty


def test_illegal_events_are_named_and_write_nothing(registry):
    write(registry, "n0", event("opened", "a", "b"))
    for events, words in (
        ([event("opened", "a")], "frame 'a' is open, cannot be opened; choose another frame, or recall it first"),
        ([event("accepted", "a")], "frame 'a' is open, cannot be accepted; record that its label was returned"),
        ([event("recalled", "x")], "frame 'x' was never opened, cannot be recalled"),
        ([event("recalled", "a"), event("recalled", "a")], "frame 'a' is recalled, cannot be recalled"),
        ([event("lost", "a")], "event 'lost' of frame 'a' is unknown"),
        ([event("recalled", "a"), event("opened", "a")], "batch batch-1 never changes, but frame 'b' would"),
        ([event("opened", "c")], "batch batch-1 never changes, but frame 'a' would"),
    ):
        with pytest.raises(InputError, match=words):
            write(registry, "n1", *events)
    assert states(registry) == {"a": "open", "b": "open"} and len(open_book(registry).entries) == 1


def test_frames_are_recalled_by_batch_or_by_name_and_late_labels_still_count(registry):
    write(registry, "n0", event("opened", "a", "b"), event("opened", "c", "d", batch="batch-2"))
    write(registry, "n1", event("returned", "a"), event("accepted", "a"))
    signed = {"who": "Ada", "why": "two weeks late", "now": WHEN}
    entry = recall(registry, batch="batch-1", **signed).entries[-1]
    assert recall(registry, batch="batch-1", **signed).entries[-1] == entry, "made again, it is the same recall"
    assert entry.name.startswith("recall-20261130T030000-") and entry.kind == "recall"
    recall(registry, frames=["d"], **signed)
    assert states(registry) == {"a": "accepted", "b": "recalled", "c": "open", "d": "recalled"}
    events = read_events(open_book(registry))
    assert events[events.event == "recalled"][["frame_id", "batch", "who", "why"]].values.tolist() == [
        ["b", "batch-1", "Ada", "two weeks late"], ["d", "batch-2", "Ada", "two weeks late"],
    ]  # fmt: skip
    write(registry, "n2", event("returned", "b"), event("accepted", "b"))
    assert states(registry)["b"] == "accepted"
    write(registry, "n3", event("opened", "d", batch="batch-3"))
    for wrong, words in (
        ({"batch": "batch-1", "now": WHEN + timedelta(days=1)}, "batch batch-1 is at no annotator"),
        ({"frames": ["x"]}, "frame 'x' is at no annotator"),
        ({}, "a batch or frames"),
        ({"batch": "batch-1", "frames": ["a"]}, "a batch or frames"),
        ({"batch": "batch-1", "who": " , "}, "say who recalls"),
        ({"frames": ["a"]}, "frame 'a' is accepted, cannot be recalled"),
        ({"frames": ["c"], "why": " "}, "say who recalls and why"),
    ):
        with pytest.raises(InputError, match=words):
            recall(registry, **signed | wrong)


def test_two_nights_at_once_never_open_one_frame_twice(registry):
    book = open_book(registry)
    write(registry, "theirs", event("opened", "a", batch="batch-9"), book=book)
    with pytest.raises(Overtaken, match=r"frame 'a' is open, .*\(theirs came first; run mine again"):
        write(registry, "mine", event("opened", "a", "b"), book=book)
    write(registry, "other", event("opened", "c", batch="batch-8"), book=book)
    assert states(registry) == {"a": "open", "c": "open"}
    first = write(registry, "mine", event("opened", "b", batch="batch-7"))
    assert write(registry, "mine", event("opened", "b", batch="batch-7")) == first, "run again, it is the same entry"


def test_batches_are_counted_while_a_frame_of_them_is_at_an_annotator():
    later = WHEN + timedelta(days=5)
    events = [
        event("opened", "a", "b", "c", due=DUE, prelabel_uri="x"),
        event("opened", "d", batch="batch-2", due=(later + timedelta(days=9)).date(), when=later),
        event("opened", "e", batch="batch-3", due=DUE),
        event("returned", "a", "b", "e", batch=["batch-1", "batch-1", "batch-3"]),
        event("accepted", "a", "e", batch=["batch-1", "batch-3"]),
        event("rejected", "b", why="no class"),
    ]
    table = pd.concat([nothing(), *events], ignore_index=True)
    rows = open_batches(state(table.assign(due=pd.to_datetime(table.due))), later)
    told = rows[["batch", "frames", "open", "rejected", "accepted", "overdue"]].to_numpy().tolist()
    assert told == [["batch-1", 3, 1, 1, 1, 2], ["batch-2", 1, 1, 0, 0, 0]]
    assert rows.since.tolist() == [pd.Timestamp(WHEN), pd.Timestamp(later)]
