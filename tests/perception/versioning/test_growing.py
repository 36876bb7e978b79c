"""Tables that grow entry by entry, on a real registry in a folder."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count

import pandas as pd
import pyarrow as pa
import pytest

from perception.errors import InputError
from perception.versioning import growing, repository
from perception.versioning.growing import Overtaken, Table, append, open_book, read_table
from perception.versioning.processes import shallow_clone
from perception.versioning.repository import push_commit
from perception.versioning.upkeep import scrub

WHEN = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
FACTS = Table(
    "facts",
    pa.schema(
        [
            pa.field("frame_id", pa.string(), nullable=False),
            pa.field("camera", pa.string()),
            pa.field("seen", pa.timestamp("us", "UTC")),
            pa.field("arrived", pa.date32()),
        ]
    ),
)


def rows(*ids, **columns):
    return pd.DataFrame({"frame_id": list(ids), "camera": None, "seen": None, "arrived": WHEN.date()}).assign(**columns)


def add(registry, name, *ids, **columns):
    return append(open_book(registry), name, "arrivals", {FACTS: rows(*ids, **columns)}, when=WHEN)


def ids(registry, kept=None):
    return list(read_table(open_book(registry, kept), FACTS).frame_id)


def test_rows_come_back_in_order_and_entries_are_numbered(registry):
    assert ids(registry) == [] and open_book(registry).entries == ()
    add(registry, "2026-11-30", "b", "a")
    add(registry, "2026-11-30-2", "c")
    assert ids(registry) == ["b", "a", "c"]
    assert [(each.number, each.name, each.when) for each in open_book(registry).entries] == [
        (1, "2026-11-30", WHEN),
        (2, "2026-11-30-2", WHEN),
    ]
    assert [each.name for each in open_book(registry).before("2026-11-30-2").entries] == ["2026-11-30"]
    assert open_book(registry).before("2026-12-01") == open_book(registry)


def test_what_is_pushed_stays_a_pack_so_that_a_clone_opens_few_files(registry):
    for number in range(3):
        add(registry, f"night-{number}", f"frame-{number}")
    stored = [path.parent.name for path in (registry / "objects").rglob("*") if path.is_file()]
    assert set(stored) <= {"pack", "info"}


def test_columns_keep_their_types_without_a_row_and_full_of_nulls(registry):
    empty = read_table(open_book(registry), FACTS)
    add(registry, "nulls", "a", sharpness=None)
    add(registry, "numbers", "b", seen=WHEN, camera="front", sharpness=0.5)
    add(registry, "none", sharpness=[])
    found = read_table(open_book(registry), FACTS)
    types = {"frame_id": "str", "camera": "str", "seen": "datetime64[us, UTC]", "arrived": "datetime64[ms]"}
    assert dict(empty.dtypes.astype(str)) == types
    assert dict(found.dtypes.astype(str)) == types | {"sharpness": "float64"}
    assert found.camera.isna().tolist() == [True, False] and found.seen[1] == WHEN
    assert list(found.arrived.dt.date) == [WHEN.date()] * 2
    assert len(empty.merge(found, on="frame_id", how="right")) == 2, "a table without a row can be joined"


def test_rows_are_asked_for_by_any_of_several_columns(registry):
    add(registry, "one", "a", "b", camera=["front", "rear"])
    add(registry, "two", "c", "d", camera=["rear", None])
    book = open_book(registry)
    found = read_table(book, FACTS, columns=["frame_id"], where={"frame_id": ["a", "x"], "camera": ["rear"]})
    assert found.to_dict("list") == {"frame_id": ["a", "b", "c"]}
    assert read_table(book, FACTS, where={"frame_id": []}).empty


def test_the_same_entry_again_is_nothing_and_another_of_its_name_is_refused(registry, tools):
    first = add(registry, "night", "a")
    head = tools.git(registry, "rev-parse", "main")
    assert add(registry, "night", "a") == first
    assert append(open_book(registry).before("night"), "night", "arrivals", {FACTS: rows("a")}, when=WHEN) == first
    assert tools.git(registry, "rev-parse", "main") == head
    with pytest.raises(InputError, match="night exists with other rows"):
        add(registry, "night", "b")
    assert ids(registry) == ["a"]


def test_what_others_wrote_meanwhile_is_checked_and_refused_by_name(registry):
    def check(since):
        for entry in since.entries:
            if "a" in set(read_table(since.only(entry), FACTS).frame_id):
                raise Overtaken(f"night {entry.name} took frame a meanwhile; run again")

    before = open_book(registry)
    add(registry, "2026-11-30", "b")
    append(before, "mine", "batch", {FACTS: rows("c")}, when=WHEN, check=check)
    add(registry, "theirs", "a")
    with pytest.raises(Overtaken, match="night theirs took frame a meanwhile; run again"):
        append(before, "late", "batch", {FACTS: rows("a")}, when=WHEN, check=check)
    assert ids(registry) == ["b", "c", "a"]
    append(open_book(registry), "late", "batch", {FACTS: rows("a")}, when=WHEN, check=check)


def test_a_writer_that_comes_first_in_the_middle_of_a_push_is_seen(registry, monkeypatch):
    turns, seen = count(), []
    real = growing._entries_at

    def slow(clone, revision):
        found = real(clone, revision)
        if revision != "HEAD" and next(turns) == 0:  # once the first writer has looked
            add(registry, "theirs", "b")
        return found

    monkeypatch.setattr(growing, "_entries_at", slow)
    book = open_book(registry)
    after = append(book, "mine", "arrivals", {FACTS: rows("a")}, when=WHEN, check=lambda since: seen.append(since))
    assert (
        after.entries[1].name == "mine"
        and after == open_book(registry)
        and [[each.name for each in since.entries] for since in seen] == [["theirs"]]
    )
    assert ids(registry) == ["b", "a"]


@pytest.mark.parametrize("command", ["hash-object", "write-tree", "push"])
@pytest.mark.parametrize("done", [False, True])
def test_a_killed_call_leaves_nothing_or_all_and_the_same_call_completes_it(registry, monkeypatch, command, done):
    real = repository.run_git

    class Killed(BaseException):
        pass

    def killed(clone, *arguments, **options):
        answer = real(clone, *arguments, **options) if done or arguments[0] != command else None
        if arguments[0] == command:
            raise Killed
        return answer

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(repository, "run_git", killed)
        patch.setattr(repository, "git_text", lambda *a, **o: killed(*a, **o).stdout.decode().strip())
        add(registry, "night", "a")
    assert ids(registry) == (["a"] if command == "push" and done else [])
    assert len(add(registry, "night", "a").entries) == 1 and ids(registry) == ["a"]


def test_parts_are_proved_whenever_they_are_fetched(registry, tmp_path, tools):
    add(registry, "one", "a")
    add(registry, "two", "b")
    for name in tools.remote_objects(tmp_path / "remote"):
        (tmp_path / "remote" / name).chmod(0o644)
        (tmp_path / "remote" / name).write_bytes(b"other")
    with pytest.raises(InputError, match="lost or changed part"):
        ids(registry)
    found = scrub(registry, sample=None, seed=0)
    assert found.unknown_objects == 0 and sorted(found.damaged.values()) == ["facts of entry one", "facts of entry two"]


def test_an_entry_costs_git_little_whatever_its_rows(registry):
    add(registry, "many", *(f"frame{number:06d}" for number in range(20_000)))
    git_bytes = sum(path.stat().st_size for path in registry.rglob("*") if path.is_file() and "hooks" not in path.parts)
    assert git_bytes < 20_000 and len(ids(registry)) == 20_000


def commit(registry, files):
    with shallow_clone(registry) as clone:
        push_commit(clone, lambda _: (files, "by hand"))


def test_records_of_a_newer_program_and_edited_ones_are_refused_by_name(registry):
    add(registry, "one", "a")
    book = open_book(registry)
    path, record = "entries/2026-11/one.json", json.loads(_committed(registry, "entries/2026-11/one.json"))
    for changed, words in (
        (record | {"format": 2}, "one.json of registry .* has format 2, written by a newer Nightdrive; .*update it"),
        (record | {"number": "x"}, "no record of Nightdrive"),
        ({}, "has no format number"),
        (record | {"number": 3}, "has entry 3 .one. in place 1"),
    ):
        commit(registry, {path: json.dumps(changed).encode()})
        with pytest.raises(InputError, match=words):
            open_book(registry)
    commit(registry, {path: json.dumps(record | {"kind": "other"}).encode()})
    with pytest.raises(InputError, match="entries changed since they were read"):
        append(book, "two", "arrivals", {FACTS: rows("b")}, when=WHEN)


def _committed(registry, path):
    with shallow_clone(registry) as clone:
        return growing.read_all_committed(clone, "entries")[path]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (rows("a").drop(columns="frame_id"), "needs column frame_id"),
        (rows(None), "column frame_id is empty in a row"),
        (rows("a", seen="yesterday"), "column seen must hold timestamp"),
        (rows("a", mood="good"), "has no column mood"),
    ],
)
def test_rows_that_do_not_fit_are_refused(registry, frame, words):
    with pytest.raises(InputError, match=words):
        append(open_book(registry), "night", "arrivals", {FACTS: frame}, when=WHEN)


def test_a_name_cannot_leave_its_folder(registry):
    with pytest.raises(InputError, match="must match"):
        add(registry, "../config", "a")


def test_months_have_folders_of_their_own(registry, tools):
    add(registry, "one", "a")
    later = WHEN + timedelta(hours=1)
    append(open_book(registry), "two", "arrivals", {FACTS: rows("b")}, when=later.astimezone())
    listed = tools.git(registry, "ls-tree", "-r", "--name-only", "main", "entries/").splitlines()
    assert listed == ["entries/2026-11/one.json", "entries/2026-12/two.json"]
    assert [entry.when for entry in open_book(registry).entries] == [WHEN, later]
