"""Lineage both ways: what a network came from, every use of a frame; and proof of a reproduced run."""

import hashlib
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from perception.data.files import file_sha256
from perception.errors import InputError
from perception.versioning.asked import TELLING, Asked, labelled_by, pool_frames
from perception.versioning.growing import Book, Table, append, book_at, open_book, read_table
from perception.versioning.ledger import read_events
from perception.versioning.nights import Night, nights_at
from perception.versioning.pool import FRAMES
from perception.versioning.processes import (
    Clone,
    check_empty,
    git_url,
    read_all_committed,
    read_committed,
)
from perception.versioning.recorded import StoredModel, champion_at
from perception.versioning.records import FILES, MANIFEST, Version, current_at, parse_record
from perception.versioning.registry import TOMBSTONES, as_held, fetch
from perception.versioning.remote import ask_each, open_remote, pointed_at, read_folder
from perception.versioning.repository import configured_remote
from perception.versioning.upkeep import versions_at
from perception.versioning.verified import verified_clone

# What taught a network beside its data version: one entry a network, `taught-` and the first digits of its hash.
TAUGHT = Table(
    "taught",
    pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False) for name in ("frame_id", "drive_id", "label_source")),
            pa.field("label_uri", pa.string()),
        ]
    ),
)
_HELD = ["frame_id", "drive_id", "split", "image_sha256", "label_sha256"]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Proof that a folder holds exactly what a run published."""

    version: Version  # what was reproduced
    manifest_sha256: str  # hash of the manifest in the folder, as computed here
    files: int  # files that were hashed and found equal
    bytes: int  # their size
    erased: Mapping[str, int]  # frames that are gone since it was published, by the erasure


def reproduce(registry: str | Path, revision: str, destination: Path) -> Reproduction:
    """Fetch exactly the data of a run into a new folder and prove it by its hashes.

    Raises InputError when the run is unknown, the remote lacks something, or a hash differs.
    """
    check_empty(destination, "reproduce into a new folder, or it proves nothing")
    version = fetch(registry, revision, destination)
    listing: dict[str, dict[str, int]] = json.loads((destination / FILES).read_text())["files"]
    return Reproduction(
        version=version,
        manifest_sha256=file_sha256(destination / MANIFEST),
        files=len(listing),
        bytes=sum(facts["size_bytes"] for facts in listing.values()),
        erased=json.loads((destination / TOMBSTONES).read_text()) if TOMBSTONES in listing else {},
    )


def reproduce_commands(registry: str | Path, version: Version) -> list[str]:
    """Give shell commands that reproduce a version with git and DVC alone; the last fails unless the hash is right.

    Of a version that has lost frames to an erasure, main says where it is now.
    """
    manifest = f"{version.folder}/frames/{MANIFEST}"
    with verified_clone(registry) as clone:
        held = as_held(clone, version)
    branch = version.tag if held == version else "main"
    return [
        f"git clone --quiet --depth 1 --branch {branch} {shlex.quote(git_url(registry))} {version.run}",
        f"cd {version.run} && dvc pull {version.folder}/frames.dvc",
        f"cd {version.run} && echo '{held.manifest_sha256}  {manifest}' | sha256sum --check",
    ]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A network that learnt from what was asked about, and how."""

    model: StoredModel
    why: tuple[str, ...]  # trained on its version's frames, on pseudo-labels, ...; went on from a network that learnt
    depth: int  # networks between it and one that learnt by itself

    @property
    def started_from(self) -> str | None:
        """Give the network that its training went on from."""
        return self.model.facts.get("started_from_model")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lineage:
    """Every use of some frames, as the registry records it."""

    pool: pd.DataFrame  # their rows of the pool of record
    held: pd.DataFrame  # one row a version and frame: tag, run, columns of its manifest, current, champion
    events: pd.DataFrame  # of the ledger: shown to annotators, labelled
    arrived: Mapping[str, int]  # frames by the entry that brought them
    scored: tuple[str, ...]  # nights that scored at least one of them
    learnt: tuple[Learnt, ...]  # networks, each after the one that its training went on from
    clean_ancestor: Mapping[str, str | None]  # of each of these: the last network before it that did not learn

    @property
    def frame_ids(self) -> list[str]:
        """Give the names of all frames that were found."""
        return sorted({*self.pool.frame_id, *self.held.frame_id})

    @property
    def touches_test_set(self) -> bool:
        """Say whether networks were judged on one of them."""
        return bool((self.held.split == "test").any())


def lineage(registry: str | Path, asked: Asked, kept: Path | None = None) -> Lineage:
    """Find every use of some frames: by versions, nights, annotators and networks, those to any depth that went on from one.

    kept: folder in which this machine keeps what it fetched. Raises InputError where the remote lost what is needed to tell.
    """
    with verified_clone(registry, whole=True) as clone:
        book = book_at(clone, kept)
        pool = pool_frames(book, asked)
        held = _held_by(clone, versions_at(clone), asked, labelled_by(book, asked.annotator))
        names = sorted({*pool.frame_id, *held.frame_id})
        nights, models = nights_at(clone), models_at(clone)
        released = champion_at(clone)
    events = read_events(book, names) if names else read_events(book).head(0)
    learnt = _learnt(models, held, _taught(book, names), set(pool.frame_id))
    known = {each.model.model_sha256 for each in learnt}
    champion = released.tag if released else None
    return Lineage(
        pool=pool,
        held=held.assign(champion=held.tag == champion),
        events=events,
        arrived=_arrived(book, names),
        scored=_scored(book, nights, names, events),
        learnt=learnt,
        clean_ancestor={each.model.model_sha256: _clean(each.model, models, known) for each in learnt},
    )


def record_taught(registry: str | Path, model_sha256: str, rows: pd.DataFrame, *, when: datetime) -> Book:
    """Record what frames taught a network beside its data version; return the book. The same call again adds nothing.

    rows: columns of TAUGHT, one a frame.
    """
    return append(open_book(registry), f"taught-{model_sha256[:16]}", "taught", {TAUGHT: rows}, when=when)


def _held_by(clone: Clone, listed: Sequence[Version], asked: Asked, labelled: frozenset[str]) -> pd.DataFrame:
    """Give one row for each version and frame that is meant, oldest version first."""
    current, remote = current_at(clone), open_remote(configured_remote(clone))

    def rows(version: Version) -> pd.DataFrame:
        pointer = read_committed(clone, f"{version.folder}/frames.dvc")
        objects = read_folder(remote, pointed_at(pointer)) if pointer else None
        content = remote.read(objects[MANIFEST]) if objects and MANIFEST in objects else None
        if content is None or hashlib.sha256(content).hexdigest() != as_held(clone, version).manifest_sha256:
            raise InputError(f"manifest of {version.tag} on the remote is not what was published; run a scrub")
        names = [name for name in pq.read_schema(io.BytesIO(content)).names if name in {*_HELD, *TELLING}]
        table = pq.read_table(io.BytesIO(content), columns=names).to_pandas()
        return table[asked.meant(table, labelled)][_HELD].assign(tag=version.tag, run=version.run)

    parts = [part for part in ask_each(rows, listed) if len(part)]
    columns = ["tag", "run", *_HELD]
    found = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return found.assign(current=found.tag == (current.tag if current else None))


# --- nights


def _arrived(book: Book, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in book.entries:
        if names and "frames" in entry.tables:
            rows = read_table(book.only(entry), FRAMES, columns=["frame_id"], where={"frame_id": names})
            found |= {entry.name: len(rows)} if len(rows) else {}
    return found


def _scored(book: Book, nights: Sequence[Night], names: Sequence[str], events: pd.DataFrame) -> tuple[str, ...]:
    """Give the nights that scored one of the frames: those that had it in their pool, from its arrival until it was labelled."""
    numbers = {entry.name: entry.number for entry in book.entries}
    arrival = min((numbers[name] for name in _arrived(book, names)), default=None)
    if arrival is None:
        return ()
    done = events[events.event == "accepted"].groupby("frame_id").when.max()
    last = None if set(names) - set(done.index) else done.max()
    had = (
        night for night in nights if night.used.arrivals >= arrival and night.status in ("done", "failed", "refused")
    )
    return tuple(night.night for night in had if last is None or pd.Timestamp(night.date, tz=UTC) <= last)


# --- networks


def models_at(clone: Clone) -> dict[str, StoredModel]:
    """Return the networks that a registry has a record of, by their hash."""
    committed = read_all_committed(clone, "models")
    records = [
        parse_record(content, StoredModel, f"{path} of registry {clone.url}")
        for path, content in committed.items()
        if path.endswith(".json")
    ]
    return {record.model_sha256: record for record in records}


def _taught(book: Book, names: Sequence[str]) -> dict[str, set[str]]:
    """Give the kinds of labels with which the frames taught each network, by its hash's first digits; of those alone that recorded it."""
    found: dict[str, set[str]] = {}
    for entry in book.entries:
        if TAUGHT.name in entry.tables:
            rows = read_table(book.only(entry), TAUGHT, where={"frame_id": names})
            found[entry.name.removeprefix("taught-")] = set(rows.label_source)
    return found


def _learnt(
    models: Mapping[str, StoredModel], held: pd.DataFrame, taught: Mapping[str, set[str]], in_pool: set[str]
) -> tuple[Learnt, ...]:
    """Give the networks that learnt, each after the one that it went on from."""
    trained = set(held.tag[held.split == "train"])
    found: dict[str, Learnt] = {}
    for sha256, model in models.items():
        why = [f"trained on them in {model.tag}"] if model.tag in trained else []
        recorded = taught.get(sha256[:16])
        why += [f"taught by them with labels of kind {kind}" for kind in sorted(recorded or ())]
        if recorded is None and in_pool:
            why += ["may have been taught by their pseudo-labels: its night recorded nothing of that"]
        if why:
            found[sha256] = Learnt(model=model, why=tuple(why), depth=0)
    waiting = list(found.values())
    for parent in waiting:
        for sha256, model in models.items():
            if sha256 not in found and model.facts.get("started_from_model") == parent.model.model_sha256:
                went_on = (f"went on from {parent.model.model_sha256[:16]}",)
                found[sha256] = Learnt(model=model, why=went_on, depth=parent.depth + 1)
                waiting.append(found[sha256])
    return tuple(sorted(found.values(), key=lambda each: (_line(each.model, models), each.model.model_sha256)))


def _line(model: StoredModel, models: Mapping[str, StoredModel]) -> list[str]:
    """Give the networks from the first one to this, each of which the next went on from."""
    line = [model.model_sha256]
    while (before := models[line[0]].facts.get("started_from_model")) in models and before not in line:
        line.insert(0, str(before))
    return line


def _clean(model: StoredModel, models: Mapping[str, StoredModel], learnt: set[str]) -> str | None:
    return next((sha256 for sha256 in reversed(_line(model, models)) if sha256 not in learnt), None)
