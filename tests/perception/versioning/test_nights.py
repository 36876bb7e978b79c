"""Nights as records, and what is news for the next one."""

import json
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from perception.errors import InputError
from perception.versioning.growing import append, open_book
from perception.versioning.ledger import LEDGER, events_of
from perception.versioning.nights import (
    Night,
    NightFigures,
    Used,
    news,
    next_night_name,
    read_nights,
    record_night,
    used_tonight,
)
from perception.versioning.pool import FRAMES
from perception.versioning.processes import shallow_clone
from perception.versioning.repository import push_commit

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)
DAY = WHEN.date()
USED = Used(arrivals=3, labels=2, erasures=1, parameters="p1", code="c1")


def night(name="2026-11-30", status="done", day=DAY, used=USED, **figures):
    return Night(
        night=name, date=day, profile="demo", base=None, status=status, used=used, figures=NightFigures(**figures)
    )


def test_a_night_is_named_by_its_utc_date_and_is_unique():
    assert next_night_name([], WHEN) == "2026-11-30"
    assert next_night_name(["2026-11-30", "2026-11-30-3"], WHEN) == "2026-11-30-2"
    assert next_night_name(["2026-11-30", "2026-11-30-2", "2026-11-30-3"], WHEN) == "2026-11-30-4"
    in_california = datetime(2026, 11, 30, 20, tzinfo=timezone(-timedelta(hours=8)))
    assert next_night_name(["2026-11-30"], in_california) == "2026-12-01"


def test_nights_are_listed_in_their_order(registry):
    assert read_nights(registry) == []
    days = {"2026-12-01": date(2026, 12, 1), "trial": date(2026, 11, 29)}
    for name in ("2026-12-01", "2026-11-30-10", "2026-11-30-2", "trial", "2026-11-30"):
        record_night(registry, night(name, day=days.get(name, DAY), miou=0.5, worst_condition="night rain"))
    assert [each.night for each in read_nights(registry)] == [
        "trial", "2026-11-30", "2026-11-30-2", "2026-11-30-10", "2026-12-01",
    ]  # fmt: skip
    assert read_nights(registry)[1] == night(miou=0.5, worst_condition="night rain")


def test_a_later_record_counts_where_it_says_more(registry, tools):
    for record, kept in (
        (failed := night(status="failed", new_frames=7, seconds=3.0), failed),
        (night(status="failed", new_frames=7), failed),
        (done := night(new_frames=7), done),
        (failed, done),
        (more := night(new_frames=7, miou=0.4, verdict="promote"), more),
        (night(status="nothing_new", new_frames=1, miou=0.4, worst_condition="x", verdict="y"), more),
    ):
        assert record_night(registry, record) == kept
        assert read_nights(registry) == [kept]
    head = tools.git(registry, "rev-parse", "main")
    record_night(registry, more)
    assert tools.git(registry, "rev-parse", "main") == head


def test_records_of_a_newer_program_and_bad_names_are_refused(registry):
    with pytest.raises(InputError, match="must match"):
        record_night(registry, night("../x"))
    newer = json.dumps(asdict(night()) | {"date": "2026-11-30", "format": 2}).encode()
    with shallow_clone(registry) as clone:
        push_commit(clone, lambda _: ({"nights/2026-11/2026-11-30.json": newer}, "a newer one"))
    with pytest.raises(InputError, match=r"2026-11-30.json of registry .* written by a newer Nightdrive"):
        read_nights(registry)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, ()),
        ({"arrivals": 4}, ("frames",)),
        ({"labels": 5}, ("labels",)),
        ({"erasures": 2}, ("erasures",)),
        ({"parameters": "p2"}, ("parameters or code",)),
        ({"code": "c2", "arrivals": 9}, ("frames", "parameters or code")),
    ],
)
def test_news_is_what_no_finished_night_has_used(change, what):
    tonight = replace(USED, **change)
    assert news(tonight, [night()]) == what
    assert news(tonight, [night(), night("x", "nothing_new", used=tonight)]) == ()
    for unfinished in ("failed", "refused"):
        assert news(tonight, [night(), night("x", unfinished, used=tonight)]) == what, "it is new for the next night"
    assert news(tonight, [night(), night("x", used=tonight), night("y", used=replace(USED, code="c9"))]) == ()


def test_the_first_night_has_parameters_and_code_that_none_has_used():
    assert news(Used(arrivals=0, labels=0, erasures=0, parameters="p", code="c"), []) == ("parameters or code",)


def test_what_there_is_to_use_is_read_from_the_entries(registry, tools):
    def used():
        return used_tonight(open_book(registry), parameters="p", code="c")

    def ledger(name, event, *ids):
        rows = events_of(event, ids, batch="b", when=WHEN)
        append(open_book(registry), name, "labels", {LEDGER: rows}, when=WHEN)

    assert (used().arrivals, used().labels) == (0, 0)
    frames = tools.make_frames(["d_0"]).assign(source_sha256="x", arrived=WHEN.date())
    append(open_book(registry), "n0", "arrivals", {FRAMES: frames}, when=WHEN)
    append(open_book(registry), "n1", "arrivals", {FRAMES: frames[:0]}, when=WHEN)
    ledger("n1-batch", "opened", "d_0")
    ledger("n2-labels", "rejected", "d_0")
    assert (used().arrivals, used().labels) == (1, 0), "neither a night without frames nor a rejected label is news"
    ledger("n3-labels", "accepted", "d_0")
    ledger("n4-batch", "opened", "d_1")
    assert (used().arrivals, used().labels) == (1, 5)
