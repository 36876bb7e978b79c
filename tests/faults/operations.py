"""A thousand random operations on the pool, the ledger and the releases of a small real registry, against a simple model of it.

Files arrive, come twice, under other names, with others' names, with other labels, broken; batches are opened, labelled, mislabelled
and recalled; versions are promoted and rolled back; any call is killed at a random point and made again, or works from what it
read some time ago, as a second writer does. After each: no label is lost, no frame chosen twice, no batch moved, and every
entry is what it was; at the end entries and versions are read again from the remote alone.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from benchmarks.scale.pool_nights import tables_of
from components.stage.source_hash import source_hashes
from perception.data.annotation import batch_name
from perception.data.files import replace_file
from perception.versioning import parts, processes, repository
from perception.versioning.decisions import Stale, decisions_at, promote, rollback
from perception.versioning.growing import Book, Overtaken, book_at, open_book, read_table
from perception.versioning.ledger import LEDGER, events_of, read_events, recall, record_events, state
from perception.versioning.pool import (
    ADMITTED,
    ARRIVALS,
    FRAMES,
    PoolLimits,
    known_arrivals,
    sort_arrivals,
    take_in,
    unread,
    waiting_frames,
)
from perception.versioning.records import current_at
from perception.versioning.registry import fetch, resolve
from perception.versioning.remote import FolderRemote
from tests.faults.commands import published
from tests.faults.counting import Count, counted
from tests.faults.stopping import Killed, counting

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)
NO_LIMITS = PoolLimits(max_age_days=9, max_frames=10**6)
KILL = st.none() | st.integers(0, 25)  # calls of git and of the remote that are still answered
CONTENT, NAME = st.integers(0, 12), st.integers(0, 9)
OPERATIONS = 340  # of a seed; three of them make the thousand
STEPS = 50  # of a part; not every step finds something to do


@contextmanager
def killed(calls: int) -> Iterator[None]:
    """Raise Killed in the call of git or of the remote that comes after so many others, before it or after it did its work."""
    _, counts = counting(calls)

    @dataclass(frozen=True)
    class Remote(FolderRemote):
        def upload(self, name: str, source: Path) -> None:
            try:
                counts(super().upload)(name, source)
            except Killed:
                self.write(name, source.read_bytes()[: calls * 7])  # a server that keeps half a file
                raise

    git = counts(processes.run_git)
    with (
        patch.object(processes, "run_git", git),
        patch.object(repository, "run_git", git),
        patch.object(parts, "open_remote", Remote),
    ):
        yield


def digest(text: str) -> str:
    """Return the hash of what a file would hold."""
    return hashlib.sha256(text.encode()).hexdigest()


class Nights(RuleBasedStateMachine):
    """Do operations on a registry and on the model; tally: counts them."""

    tally: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="nightdrive-operations-"))
        self.registry, self.kept = self.folder / "registry.git", self.folder / "kept"
        tags = published(self.folder, {"first": range(1), "second": range(2)}).values()
        self.versions = {tag: resolve(self.registry, tag) for tag in tags}
        self.stale = self.seen = open_book(self.registry, self.kept)
        self.files: dict[str, tuple[str, str | None, str, str | None]] = {}  # object: signature, bytes, name, label
        self.read: set[tuple[str, str]] = set()  # object, signature
        self.frames: dict[str, str] = {}  # bytes: frame
        self.given: dict[str, str | None] = {}  # frame: its last given label
        self.status: dict[str, str] = {}
        self.labels: dict[str, str] = {}  # frame: the drop of its last accepted label
        self.batches: dict[str, set[str]] = {}
        self.before: dict[str, str | None] = {}  # version: what was current when it was promoted last
        self.current: str | None = None
        self.decided = 0  # decisions, as far as they were counted
        self.calls = 0

    def teardown(self) -> None:
        """Read every entry and every version from the remote alone."""
        for number, (tag, version) in enumerate(self.versions.items()):
            assert fetch(self.registry, tag, self.folder / f"fetched{number}") == version, "a version was changed"
        book = open_book(self.registry)
        for table in (ARRIVALS, FRAMES, LEDGER):
            assert read_table(book, table).equals(read_table(replace(book, kept=self.kept), table))
        shutil.rmtree(self.folder)

    # --- doing it

    def attempt(self, kill: int | None, work: Callable[[], Any]) -> Any:
        """Make a call; one that is killed leaves nothing or all of its entry, and is made again."""
        self.tally["operations"] += 1
        if kill is not None:
            try:
                with killed(kill):
                    return work()
            except Killed:
                self.tally["kills"] += 1
                before, now = self.seen.entries, open_book(self.registry).entries
                assert now[: len(before)] == before and len(now) <= len(before) + 1
        return work()

    def fresh(self) -> Book:
        """Give the book as it is now."""
        return open_book(self.registry, self.kept)

    def beside(self, behind: bool, work: Callable[[Book], Any], taken: Callable[[], bool]) -> Callable[[], Any]:
        """Give the call that works from what was read some time ago; once others came first, it works from what there is.

        taken: whether they did.
        """
        seen = [self.stale] if behind else []

        def call() -> Any:
            if seen:
                try:
                    return work(seen[0])
                except Overtaken:
                    seen.clear()
                    self.tally["overtaken"] += 1
                    assert taken()
            return work(self.fresh())

        return call

    def name(self, what: str) -> str:
        """Name the next entry."""
        self.calls += 1
        return f"{what}-{self.calls}"

    @rule()
    def read_elsewhere(self) -> None:
        """Let the second writer read; the simplest rule, which the first series of a part is made of, is the cheapest."""
        self.stale = self.seen

    # --- files

    @rule(files=st.lists(st.tuples(CONTENT, NAME), min_size=1, max_size=3), kill=KILL, behind=st.booleans())
    def arrive(self, files: list[tuple[int, int]], kill: int | None, behind: bool) -> None:
        """Let new files arrive, whose bytes or names may be known."""
        for content, name in files:
            self.files[f"{len(self.files):03d}.jpg"] = ("1:1", digest(f"bytes {content}"), f"frame{name}", None)
        self.night(kill, behind)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), kill=KILL)
    def rename_or_relabel(self, data: st.DataObject, kill: int | None) -> None:
        """Let a file come under another name, and perhaps with a label."""
        _, content, name, _ = self.files[data.draw(st.sampled_from(sorted(self.files)))]
        label = data.draw(st.sampled_from([None, "one", "two"]))
        self.files[f"{len(self.files):03d}.jpg"] = ("1:1", content, f"{name}_again", label)
        self.night(kill, behind=False)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), kill=KILL)
    def break_or_change(self, data: st.DataObject, kill: int | None) -> None:
        """Let a file that was read change, perhaps into one that cannot be read."""
        place = data.draw(st.sampled_from(sorted(self.files)))
        signature, _, name, label = self.files[place]
        content = data.draw(st.none() | CONTENT.map(lambda number: digest(f"bytes {number}")))
        self.files[place] = (signature + "0", content, name, label)
        self.night(kill, behind=False)

    def night(self, kill: int | None, behind: bool) -> None:
        """Take in what is in the folder and was not read."""
        rows = [("fleet", place, *facts) for place, facts in self.files.items()]
        listing = pd.DataFrame(
            rows, columns=["source", "object", "signature", "source_sha256", "frame_id", "label_sha256"], dtype=object
        )
        listing["reason"] = listing.source_sha256.map(lambda content: None if content else "cannot be decoded")
        name = self.name("night")
        tried: list[pd.DataFrame] = []

        def work(book: Book) -> None:
            book = book.before(name)
            read = unread(listing, known_arrivals(book, listing[["object"]]))
            arrivals = sort_arrivals(read, known_arrivals(book, read[["source_sha256", "frame_id"]]))
            tried.append(arrivals[arrivals.outcome.isin(ADMITTED)])
            take_in(book, name, WHEN, tables_of(arrivals))

        def taken() -> bool:
            mine = tried[-1]
            return bool((mine.source_sha256.isin(self.frames) | mine.frame_id.isin(self.frames.values())).any())

        self.attempt(kill, self.beside(behind, work, taken))
        self.model_night()
        self.check()

    def model_night(self) -> None:
        """Do in the model what a night does."""
        for place, (signature, content, name, label) in sorted(self.files.items()):
            if (place, signature) in self.read:
                continue
            self.read.add((place, signature))
            if content is None or (content not in self.frames and name in self.frames.values()):
                continue
            frame = self.frames.setdefault(content, name)
            self.given[frame] = label or self.given.get(frame)

    # --- annotation

    def chosen(self, data: st.DataObject, *statuses: str) -> list[str]:
        """Draw frames of some statuses."""
        there = sorted(frame for frame in self.frames.values() if self.status.get(frame, "never") in statuses)
        return data.draw(st.lists(st.sampled_from(there), unique=True, min_size=1, max_size=3)) if there else []

    @rule(data=st.data(), kill=KILL, behind=st.booleans())
    def open_batch(self, data: st.DataObject, kill: int | None, behind: bool) -> None:
        """Choose frames that wait, as this writer sees them, and hand them out."""
        book = self.stale if behind else self.seen
        waiting = waiting_frames(book, state(read_events(book)), NO_LIMITS, WHEN.date()).frames
        if not len(waiting):
            return
        ids = data.draw(st.lists(st.sampled_from(waiting.frame_id.tolist()), unique=True, min_size=1, max_size=3))
        batch, name = batch_name(waiting[waiting.frame_id.isin(ids)]), self.name("batch")
        due = date(2026, 12, 1)

        def work() -> None:
            base = book.before(name) if behind else self.fresh().before(name)
            opened = events_of("opened", ids, batch=batch, when=WHEN, due=due)
            record_events(base, name, "batch", opened, when=WHEN)

        free = {"never", "recalled"}
        try:
            self.attempt(kill, work)
        except Overtaken:
            self.tally["overtaken"] += 1
            assert behind and any(self.status.get(frame, "never") not in free for frame in ids)
        else:
            assert all(self.status.get(frame, "never") in free for frame in ids), "a frame was chosen twice"
            assert self.batches.setdefault(batch, set(ids)) == set(ids)
            self.status |= dict.fromkeys(ids, "open")
        self.check()

    @rule(data=st.data(), kill=KILL, good=st.booleans())
    def label(self, data: st.DataObject, kill: int | None, good: bool) -> None:
        """Let labels come back, late ones and corrections among them, sound or not."""
        ids = self.chosen(data, "open", "rejected", "recalled", "accepted")
        if not ids:
            return
        name = self.name("labels")
        columns = {"batch": "any", "when": WHEN, "who": "ada", "label_drop": name, "why": None if good else "no class"}
        events = pd.concat([events_of(e, ids, **columns) for e in ("returned", "accepted" if good else "rejected")])
        self.attempt(kill, lambda: record_events(self.fresh().before(name), name, "labels", events, when=WHEN))
        self.status |= dict.fromkeys(ids, "accepted" if good else "rejected")
        self.labels |= dict.fromkeys(ids, name) if good else {}
        self.check()

    @rule(data=st.data(), kill=KILL)
    def take_back(self, data: st.DataObject, kill: int | None) -> None:
        """Recall frames from their annotators."""
        ids = self.chosen(data, "open", "rejected")
        if not ids:
            return
        self.calls += 1
        now = WHEN + timedelta(seconds=self.calls)
        self.attempt(kill, lambda: recall(self.registry, who="Ada", why="late", now=now, frames=ids, kept=self.kept))
        self.status |= {frame: "accepted" if frame in self.labels else "recalled" for frame in ids}
        self.check()

    # --- releases

    @rule(data=st.data(), kill=KILL)
    def release(self, data: st.DataObject, kill: int | None) -> None:
        """Promote a version; one that was not built on what is current is refused."""
        version = self.versions[data.draw(st.sampled_from(sorted(self.versions)))]
        assert version is not None
        signed = {"names": ["Ada", "Bo"], "reason": "looked at it", "manifest_sha256": version.manifest_sha256}
        fits = self.current in (version.tag, version.parent)
        try:
            self.attempt(kill, lambda: promote(self.registry, version.tag, **signed))
        except Stale:
            assert not fits
            return
        assert fits, "a release was dropped without a word"
        if version.tag != self.current:
            self.before[version.tag], self.current = self.current, version.tag
        self.check()

    @precondition(lambda self: self.current is not None and self.before[self.current] is not None)
    @rule(kill=KILL)
    def take_release_back(self, kill: int | None) -> None:
        """Roll back, once whatever is killed."""

        def work() -> None:
            with processes.shallow_clone(self.registry) as clone:
                done = len(decisions_at(clone, "HEAD")) > self.decided
            if not done:
                rollback(self.registry, name="Ada", reason="worse at night")

        self.attempt(kill, work)
        self.current = self.before[str(self.current)]
        self.check()

    # --- what must hold

    def check(self) -> None:
        """Compare the registry with the model."""
        with processes.shallow_clone(self.registry) as clone:
            book, pointer = book_at(clone, self.kept), current_at(clone)
            self.decided = len(decisions_at(clone, "HEAD"))
        assert book.entries[: len(self.seen.entries)] == self.seen.entries, "an entry changed"
        self.seen = book
        frames = read_table(book, FRAMES, columns=["frame_id", "source_sha256"])
        assert dict(zip(frames.source_sha256, frames.frame_id, strict=True)) == self.frames
        arrivals = read_table(book, ARRIVALS)
        new = arrivals[arrivals.outcome == "new"]
        assert new.source_sha256.is_unique and new.frame_id.is_unique, "a frame was taken in twice"
        given = arrivals[arrivals.label_sha256.notna() & arrivals.outcome.isin([*ADMITTED, "repeated"])]
        last = given.drop_duplicates("frame_id", keep="last")
        assert dict(zip(last.frame_id, last.label_sha256, strict=True)) == {f: x for f, x in self.given.items() if x}
        self.check_ledger(book)
        version = self.versions.get(str(self.current))
        released = (version.tag, version.commit, version.manifest_sha256) if version else None
        assert released == (pointer and (pointer.tag, pointer.commit, pointer.manifest_sha256))

    def check_ledger(self, book: Book) -> None:
        """Compare the ledger with the model."""
        events = read_events(book)
        rows = state(events)
        assert dict(zip(rows.frame_id, rows.status, strict=True)) == self.status
        labelled = rows[rows.accepted_when.notna()]
        assert dict(zip(labelled.frame_id, labelled.accepted_drop, strict=True)) == self.labels, "a label was lost"
        opened, recalled = (events[events.event == event].frame_id.value_counts() for event in ("opened", "recalled"))
        assert (opened <= recalled.reindex(opened.index, fill_value=0) + 1).all(), "a frame was chosen twice"
        for batch, ids in events[events.event == "opened"].groupby("batch").frame_id:
            assert set(ids) == self.batches[str(batch)], "a batch moved"
        waiting = waiting_frames(book, rows, NO_LIMITS, WHEN.date()).frames.frame_id
        assert set(waiting) == {f for f in self.frames.values() if self.status.get(f, "recalled") == "recalled"}


def operations(seed: int, steps: int) -> Counter[str]:
    """Do a series of operations, drawn by a seed, and count them; raises the error of one that breaks a rule."""
    tally: Counter[str] = Counter()
    options = settings(
        max_examples=3,  # the first is the simplest one there is
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # a shorter series would take an hour to find
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(type("Nights", (Nights,), {"tally": tally})), settings=options)
    return tally


def kept_operations(folder: Path, seed: int) -> Counter[str]:
    """Do a part, or read what it came to where this code has done it already: a campaign that was stopped goes on there."""
    kept = folder / f"{source_hashes({'code': __name__})['code']}-{seed}.json"
    if not kept.is_file():
        replace_file(kept, json.dumps(operations(seed, STEPS)).encode())
    return Counter(json.loads(kept.read_text()))


def operation_rows(folder: Path, seeds: Sequence[int], least: int = OPERATIONS) -> Iterator[Count]:
    """Do so many operations, part by part, and give a row for each seed; folder: where the parts that are done are kept."""
    for seed in seeds:
        tally, part = Counter[str](), 1000 * seed
        losses: list[str] = []
        while tally["operations"] < least and not losses:
            try:
                tally += kept_operations(folder, part)
            except Exception as error:  # whatever it is, the machine has met what must not happen
                losses.append(f"part {part}: {type(error).__name__}: {error}")
            part += 1
        endings = ["correct"] * (tally["operations"] - tally["overtaken"]) + ["error"] * tally["overtaken"]
        yield counted(f"operations on pool and ledger, seed {seed}", [*endings, *losses], tally["kills"])
