"""The pool of record against slow, obvious versions of its rules, and on a real registry."""

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.data.deny_list import DenyList, digest
from perception.data.manifest import validate_manifest
from perception.errors import InputError
from perception.versioning.growing import Overtaken, open_book, read_table
from perception.versioning.ledger import events_of, record_events
from perception.versioning.pool import (
    ADMITTED,
    ARRIVALS,
    FRAMES,
    ORACLE,
    PROFILE,
    PoolLimits,
    alive,
    handed_out,
    known_arrivals,
    sort_arrivals,
    take_in,
    unread,
    waiting_frames,
)

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)
NOTHING = pd.DataFrame({"frame_id": [], "status": []}, dtype=object)
FILE_COLUMNS = ["source", "object", "signature", "source_sha256", "label_sha256", "frame_id", "reason"]


def files(*rows) -> pd.DataFrame:
    """Files that were read: (object, bytes, frame_id) and, where given, label and reason of rejection."""
    padded = [(*row, None, None)[:5] for row in rows]
    listed = [("fleet", name, "1:1", content, label, frame, why) for name, content, frame, label, why in padded]
    return pd.DataFrame(listed, columns=FILE_COLUMNS, dtype=object)


def known(*rows) -> pd.DataFrame:
    return sort_arrivals(files(*rows), ARRIVALS.schema.empty_table().to_pandas())


def outcomes(sorted_rows) -> dict[str, tuple[str, str]]:
    return {row.object: (row.outcome, row.frame_id) for row in sorted_rows.itertuples()}


# --- what becomes of a file


def test_the_same_bytes_are_one_frame_whatever_their_name():
    before = known(("a.jpg", "A", "a"))
    found = sort_arrivals(files(("b.jpg", "A", "b"), ("c.jpg", "C", "c"), ("d.jpg", "C", "d")), before)
    assert outcomes(found) == {"b.jpg": ("repeated", "a"), "c.jpg": ("new", "c"), "d.jpg": ("repeated", "c")}
    assert found.reason.fillna("").tolist() == ["the same bytes as frame a", "", "the same bytes as frame c"]


def test_one_name_with_other_bytes_is_told_and_the_first_stays():
    found = sort_arrivals(files(("x/a.jpg", "B", "a"), ("y/a.jpg", "C", "a")), known(("a.jpg", "A" * 64, "a")))
    assert set(found.outcome) == {"clash"}
    assert found.reason[0] == "frame a has other bytes (AAAAAAAAAAAA); rename it"


def test_bytes_whose_first_name_clashed_come_in_under_a_free_one():
    found = sort_arrivals(files(("1", "B", "a"), ("2", "B", "b")), known(("0", "A", "a")))
    assert outcomes(found) == {"1": ("clash", "a"), "2": ("new", "b")}


def test_another_given_label_relabels_and_the_last_one_counts():
    before = known(("a", "A", "a", "one"))
    assert outcomes(sort_arrivals(files(("b", "A", "b", "one")), before)) == {"b": ("repeated", "a")}
    assert outcomes(sort_arrivals(files(("b", "A", "b")), before)) == {"b": ("repeated", "a")}
    later = sort_arrivals(files(("b", "A", "b", "two")), before)
    assert outcomes(later) == {"b": ("relabelled", "a")} and later.reason[0] == "frame a with another label"
    everything = pd.concat([before, later])
    assert outcomes(sort_arrivals(files(("c", "A", "c", "two")), everything)) == {"c": ("repeated", "a")}
    assert outcomes(sort_arrivals(files(("c", "A", "c", "one")), everything)) == {"c": ("relabelled", "a")}


def test_broken_and_denied_files_own_neither_name_nor_bytes():
    broken = known(("a", None, "a", None, "cannot be decoded"))
    assert broken.outcome[0] == "rejected" and broken.reason[0] == "cannot be decoded"
    denied = sort_arrivals(
        files(("b", "B", "b"), ("c", "C", "c")),
        broken,
        denied=DenyList(frames=frozenset({digest("c")}), contents=frozenset({"B"})),
    )
    assert set(denied.outcome) == {"denied"} and set(denied.reason) == {"is on the deny list"}
    assert outcomes(sort_arrivals(files(("d", "A", "a"), ("e", "B", "b")), pd.concat([broken, denied]))) == {
        "d": ("new", "a"),
        "e": ("new", "b"),
    }


def test_what_was_skipped_is_remembered_and_is_no_frame():
    found = known(("a.mp4", "A", "a"), ("a.mp4", None, None, None, "3 too_near"))
    assert found.outcome.tolist() == ["new", "skipped"] and found.frame_id.isna().tolist() == [False, True]
    assert found.reason[1] == "3 too_near"
    assert len(unread(found[["source", "object", "signature"]], found)) == 0


def test_only_files_that_nobody_read_are_read():
    listing = pd.DataFrame(
        [("fleet", "a", "1:1", 7), ("fleet", "b", "1:2", 8), ("other", "a", "1:1", 9)],
        columns=["source", "object", "signature", "size"],
    )
    before = known(("a", "A", "a"), ("b", None, "b", None, "broken"))
    assert unread(listing, before)["size"].tolist() == [8, 9]  # b changed since it was found broken
    assert unread(listing, before[:0]).equals(listing)


NAMES = st.sampled_from(["a", "b", "c"])
FILE = st.tuples(
    st.sampled_from(["1", "2", "3", "4", "5"]),
    st.sampled_from(["A", "B", "C", "D"]),
    NAMES,
    st.sampled_from([None, "x", "y"]),
    st.sampled_from([None, None, None, "broken"]),
)


@settings(max_examples=40, deadline=None)
@given(nights=st.lists(st.lists(FILE, max_size=5), min_size=1, max_size=4))
def test_nights_together_keep_what_a_pool_must(nights):
    """Whatever arrives in whatever order: one frame for the same bytes, one content a name, the last label, nothing unsaid."""
    before = ARRIVALS.schema.empty_table().to_pandas()
    for night in nights:
        before = pd.concat([before, sort_arrivals(files(*night), before)], ignore_index=True)
    taken = before[before.outcome.isin(ADMITTED)]
    assert (taken.groupby("source_sha256").frame_id.nunique() <= 1).all()
    assert (taken.groupby("frame_id").source_sha256.nunique() <= 1).all()
    assert set(before.outcome) <= {"new", "relabelled", "repeated", "clash", "rejected"} and len(before) == sum(
        map(len, nights)
    )
    for content, rows in before[before.outcome != "rejected"].groupby("source_sha256"):
        given_labels = rows.label_sha256[rows.outcome.isin([*ADMITTED, "repeated"])].dropna()
        latest = taken[taken.source_sha256 == content].label_sha256
        assert len(given_labels) == 0 or latest.iloc[-1] == given_labels.iloc[-1], (
            "the last label that was given counts"
        )
    for row in before[before.outcome == "clash"].itertuples():
        assert (taken.frame_id == row.frame_id).any() and row.source_sha256 not in set(
            taken.source_sha256[taken.frame_id == row.frame_id]
        )


# --- what waits


def frame_rows(rows) -> pd.DataFrame:
    """Rows of `frames`: (frame_id, days before tonight, labelled)."""
    return pd.DataFrame(
        [(name, f"sha {name}", "human" if labelled else "none", pd.Timestamp(WHEN.date() - timedelta(days=days)))
         for name, days, labelled in rows],
        columns=["frame_id", "source_sha256", "label_source", "arrived"],
    )  # fmt: skip


def slow_alive(rows, status, limits):
    """One frame after the other, as the rules are told."""
    last = {}
    for place, (name, days, labelled) in enumerate(rows):
        last[name] = (place, days, labelled)
    waiting = [
        (place, name)
        for name, (place, days, labelled) in last.items()
        if not labelled and status.get(name, "recalled") == "recalled" and days <= limits.max_age_days
    ]
    return [name for _, name in sorted(waiting)[-limits.max_frames :]]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5), st.booleans()), max_size=12),
    status=st.dictionaries(
        st.sampled_from("abcdefgh"), st.sampled_from(["open", "returned", "rejected", "accepted", "recalled"])
    ),
    age=st.integers(1, 5),
    size=st.integers(1, 6),
)
def test_what_waits_is_what_the_rules_say(rows, status, age, size):
    state, limits = pd.DataFrame(list(status.items()), columns=["frame_id", "status"]), PoolLimits(age, size)
    found = alive(frame_rows(rows), state, limits, WHEN.date())
    assert found.frames.frame_id.tolist() == slow_alive(rows, status, limits)
    assert sum(found.left.values()) + len(found.frames) == len({name for name, *_ in rows})


# --- on a registry


def tables(tools, read, labelled=()) -> dict:
    taken = read[read.outcome.isin(ADMITTED)]
    ids = taken.frame_id.tolist()
    frames = tools.make_frames(ids)
    bare = dict.fromkeys(["label_uri", "label_sha256", "label_taxonomy"])
    frames = frames.assign(split="pool", label_source="none", **bare) if not labelled and ids else frames
    if not ids:
        frames = FRAMES.schema.empty_table().to_pandas().drop(columns=["source_sha256", "arrived"])
    frames = frames.assign(source_sha256=taken.source_sha256.to_numpy())
    known_of = {"source": "fleet", "image_sha256_actual": "x", "decode_ok": True, "dhash": "0", "sharpness": 1.5}
    profile = pd.DataFrame({"frame_id": ids}).assign(**known_of)
    return {ARRIVALS: read, FRAMES: frames, PROFILE: profile, ORACLE: ORACLE.schema.empty_table().to_pandas()}


def night(registry, tools, name, when, *rows, book=None, labelled=()):
    book = (book or open_book(registry)).before(name)
    read = sort_arrivals(files(*rows), known_arrivals(book, files(*rows)))
    return take_in(book, name, when, tables(tools, read, labelled))


def test_a_pool_lasts_and_costs_what_is_new(registry, tools):
    days = [WHEN + timedelta(days=day) for day in range(4)]
    night(registry, tools, "n0", days[0], ("0", "A", "a"), ("1", "B", "b"), ("2", None, "x", None, "broken"))
    night(registry, tools, "n1", days[1], ("3", "A", "z"), ("4", "C", "c"))
    night(registry, tools, "n2", days[2], ("5", "B", "b", "label"), labelled=("b",))
    night(registry, tools, "n3", days[3], ("6", "D", "d"))
    book = open_book(registry)
    frames = read_table(book, FRAMES)
    assert frames.frame_id.tolist() == ["a", "b", "c", "b", "d"]
    assert list(frames.arrived.dt.date) == [days[0].date()] * 2 + [day.date() for day in days[1:]]
    latest = frames.drop_duplicates("frame_id", keep="last").drop(columns=["source_sha256", "arrived"])
    assert validate_manifest(latest, "the pool").label_source.tolist() == ["none", "none", "human", "none"]
    for limits in (PoolLimits(10, 10), PoolLimits(2, 10), PoolLimits(10, 2), PoolLimits(1, 1)):
        whole = alive(frames, NOTHING, limits, days[3].date())
        found = waiting_frames(book, NOTHING, limits, days[3].date())
        assert found.frames.equals(whole.frames), limits
        assert found.left["earlier"] or found.left == dict(whole.left)
    assert waiting_frames(book, NOTHING, PoolLimits(10, 2), days[3].date()).left["earlier"] == 2
    assert waiting_frames(book, NOTHING, PoolLimits(10, 9), days[3].date()).frames.frame_id.tolist() == ["a", "c", "d"]
    assert waiting_frames(book.before("n0"), NOTHING, PoolLimits(10, 9), date(2026, 1, 1)).frames.empty
    listing = files(("2", None, "x"), ("7", "E", "e"))
    assert unread(listing, known_arrivals(book, listing[["object"]])).object.tolist() == ["7"]


def test_a_night_that_is_run_again_finds_what_it_found_and_changes_nothing(registry, tools):
    rows = [("0", "A", "a"), ("1", "A", "b")]
    first = night(registry, tools, "n0", WHEN, *rows)
    night(registry, tools, "n1", WHEN, ("2", "C", "c"))
    assert night(registry, tools, "n0", WHEN, *rows) == first and len(open_book(registry).entries) == 2


def test_two_nights_at_once_never_take_in_one_frame_twice(registry, tools):
    book = open_book(registry)
    night(registry, tools, "theirs", WHEN, ("0", "A", "a"), book=book)
    with pytest.raises(Overtaken, match=r"night theirs took in 1 of the frames of night mine meanwhile, a among them"):
        night(registry, tools, "mine", WHEN, ("0", "A", "a"), ("1", "B", "b"), book=book)
    night(registry, tools, "other", WHEN, ("2", "C", "c"), book=book)
    night(registry, tools, "mine", WHEN, ("0", "A", "a"), ("1", "B", "b"))
    assert read_table(open_book(registry), FRAMES).frame_id.tolist() == ["a", "c", "b"]


def test_a_frame_that_stands_in_one_table_only_is_refused(registry, tools):
    read = known(("0", "A", "a"))
    given_tables = tables(tools, read)
    with pytest.raises(InputError, match="frame 'a': must stand in arrivals and in frames"):
        take_in(open_book(registry), "n0", WHEN, given_tables | {FRAMES: given_tables[FRAMES][:0]})


def test_frames_that_a_batch_has_held_are_known_with_batch_and_suggestion(registry, tools):
    night(registry, tools, "n0", WHEN, ("a.jpg", "A", "a"), ("b.jpg", "B", "b"), ("c.jpg", "C", "c"))
    opened = events_of("opened", ["a"], batch="batch-1", when=WHEN, prelabel_uri="sha256/00/x.png")
    unasked = events_of("returned", ["b"], batch="batch-2", when=WHEN)  # of a batch whose night was refused
    book = open_book(registry)
    record_events(book.before("e"), "e", "batch", pd.concat([opened, unasked], ignore_index=True), when=WHEN)
    found = handed_out(open_book(registry), ["a", "b", "c", "stranger"])
    assert found[["frame_id", "batch", "prelabel_uri"]].to_numpy().tolist() == [["a", "batch-1", "sha256/00/x.png"]]
    assert found.image_uri.notna().all() and found.height_px.notna().all()
