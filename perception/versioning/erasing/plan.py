"""Work out what an erasure touches; changes nothing."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from perception.data.blobs import sha256_in
from perception.data.decoding import decode_image
from perception.data.deny_list import DenyList, digest
from perception.data.manifest import read_manifest
from perception.data.picture_hash import picture_mark
from perception.data.store import Store, open_store
from perception.errors import InputError
from perception.versioning.asked import Asked
from perception.versioning.curated import MEMBERS
from perception.versioning.erasing.record import Becomes, Erasure
from perception.versioning.erasing.rewriting import parts_with, versions_with
from perception.versioning.growing import Book, book_at, read_table
from perception.versioning.ledger import open_frames, read_events, state
from perception.versioning.lineage import TAUGHT, Lineage, lineage
from perception.versioning.pool import ARRIVALS, FRAMES, ORACLE
from perception.versioning.processes import Clone, read_committed, scratch_folder
from perception.versioning.recorded import champion_at, keeps_model, model_place
from perception.versioning.records import MANIFEST, current_at, json_bytes, run_folder
from perception.versioning.registry import version_files
from perception.versioning.remote import Remote, open_remote, pointed_at, read_folder
from perception.versioning.repository import configured_remote
from perception.versioning.upkeep import versions_at
from perception.versioning.verified import verified_clone

_URIS = ("image_uri", "label_uri", "instances_uri", "prelabel_uri")
_LEAST_BITS = 100  # a mark has 127 or 128 bits set; of a picture of one colour, which says nothing, hardly any


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where everything lies."""

    registry: str
    store: str
    runs: Path | None = None  # folder of the runs of this machine
    also: tuple[str, ...] = ()  # other folders and buckets: backups, curated folders, artifacts of Kubeflow
    kept: Path | None = None  # what this machine keeps of the registry's tables


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What would be erased, to look at before it is."""

    erasure: Erasure
    denied: DenyList
    uses: Lineage
    sources: Sequence[str]  # files as they arrived, source/object: their owners must remove them
    bytes: int  # of objects and blobs


def plan_erasure(
    place: Installation,
    asked: Asked,
    *,
    names: Sequence[str],
    reason: str,
    networks: Becomes = "retrain",
    now: datetime,
) -> Plan:
    """Work out what the erasure of some frames touches.

    networks: what becomes of those that learnt from them. Raises InputError for nothing to erase, for a change of the test set that
    one person decides, for networks to retire without one to go back to, and where the registry's data are not whole.
    """
    if not all(name.strip() for name in names) or len(reason.strip()) < 3:
        raise InputError(f"erasure by {', '.join(names)!r} because {reason!r}: say who decides and why")
    uses = lineage(place.registry, asked, place.kept)
    if not uses.frame_ids:
        raise InputError("no frame of the registry is meant, so there is nothing to erase")
    store = open_store(place.store)
    with verified_clone(place.registry, whole=True) as clone:
        book, remote = book_at(clone, place.kept), open_remote(configured_remote(clone))
        _check_people(clone, uses, names)
        becomes = _becomes(clone, uses, networks)
        champion = _instead(clone, uses, becomes)
        denied, blobs, sources = _denied(book, clone, remote, uses, asked, store)
        listed = [version.tag for version in versions_at(clone)]
        versions = tuple(versions_with(clone, remote, listed, denied))
        objects = {*_objects(clone, remote, versions, denied), *_parts(book, denied)}
        objects |= set(_of_networks(clone, remote, (sha256 for sha256, what in becomes.items() if what != "keep")))
        sizes = [stored.size_bytes for name in sorted(objects) if (stored := remote.stat(name))]
    known = state(read_events(book))
    batches = open_frames(known)[lambda rows: rows.frame_id.isin(uses.frame_ids)].batch
    erasure = Erasure(
        plan_sha256="",
        names=tuple(names),
        reason=" ".join(reason.split()),
        decided_utc=now.astimezone(UTC).isoformat(timespec="seconds"),
        frames=len(uses.frame_ids),
        drives=len(denied.drives),
        versions=versions,
        networks=becomes,
        champion=champion,
        batches=tuple(sorted(set(batches))),
        objects=tuple(sorted(objects)),
        blobs=tuple(sorted(blobs)),
    )
    return Plan(
        erasure=replace(erasure, plan_sha256=_hash(erasure, denied)),
        denied=denied,
        uses=uses,
        sources=sources,
        bytes=sum(sizes) + sum(_size(store, uri) for uri in blobs),
    )


def _hash(erasure: Erasure, denied: DenyList) -> str:
    """Hash what would be done, whoever decides it and when."""
    what = (erasure.versions, dict(erasure.networks), erasure.champion, erasure.batches, erasure.objects, erasure.blobs)
    return hashlib.sha256(json_bytes([what, {name: sorted(found) for name, found in vars(denied).items()}])).hexdigest()


def _check_people(clone: Clone, uses: Lineage, names: Sequence[str]) -> None:
    current = current_at(clone)
    held = uses.held[uses.held.tag == (current.tag if current else None)]
    if (held.split == "test").any() and len({name.casefold() for name in names}) < 2:
        raise InputError(
            f'the erasure changes the test set of {current.tag if current else None}; name two people who agree: BY="Name, Name"'
        )


def _becomes(clone: Clone, uses: Lineage, networks: Becomes) -> dict[str, Becomes]:
    """Give what becomes of each kept network that learnt; none but the champion waits for another to be released."""
    released = champion_at(clone)
    learnt = [each.model.model_sha256 for each in uses.learnt if keeps_model(clone, each.model.model_sha256)]
    waits = released.model_sha256 if released else None
    return {sha256: "retire" if networks == "retrain" and sha256 != waits else networks for sha256 in learnt}


def _instead(clone: Clone, uses: Lineage, becomes: dict[str, Becomes]) -> str | None:
    """Give the network that is released in place of the champion where that is to be retired."""
    released = champion_at(clone)
    if released is None or becomes.get(released.model_sha256) != "retire":
        return None
    clean = uses.clean_ancestor[released.model_sha256]
    if clean is None or not keeps_model(clone, clean):
        raise InputError(
            "the champion learnt from them and no kept network before it did not: say NETWORKS=retrain, which keeps it in service "
            "until another is released, or NETWORKS=keep"
        )
    return clean


def _denied(
    book: Book, clone: Clone, remote: Remote, uses: Lineage, asked: Asked, store: Store
) -> tuple[DenyList, set[str], list[str]]:
    """Give what will be denied, the blobs that go, and the files that arrived."""
    names = uses.frame_ids
    rows = {
        table.name: read_table(book, table, where={"frame_id": names}) for table in (ARRIVALS, FRAMES, ORACLE, TAUGHT)
    }
    held = [_rows_of(clone, remote, tag, names) for tag in dict.fromkeys(uses.held.tag)]
    tables = [*rows.values(), uses.events, *held]
    images = _values(tables, ("image_uri",))
    contents = _values(tables, ("source_sha256", "image_sha256"))
    drives = (
        {*uses.pool.drive_id, *uses.held.drive_id} & set(asked.drives) if not (asked.between or asked.within) else set()
    )
    blobs = _values(tables, _URIS)
    others = _still_used(book, blobs - images, names)
    marks = (_mark(store, uri) for uri in sorted(images))
    denied = DenyList(
        frames=frozenset(map(digest, names)),
        drives=frozenset(map(digest, drives)),
        contents=frozenset(contents | set(map(sha256_in, blobs - others))),
        marks=frozenset(mark for mark in marks if mark),
    )
    files = rows[ARRIVALS.name]
    return (
        denied,
        blobs - others,
        sorted({f"{source}/{object}" for source, object in zip(files.source, files.object, strict=True)}),
    )


def _rows_of(clone: Clone, remote: Remote, tag: str, names: Sequence[str]) -> pd.DataFrame:
    objects, _ = version_files(clone, remote, tag)
    with scratch_folder() as scratch:
        (scratch / MANIFEST).write_bytes(remote.read(objects[MANIFEST]) or b"")
        rows = read_manifest(scratch / MANIFEST)
    return rows[rows.frame_id.isin(names)]


def _values(tables: Iterable[pd.DataFrame], columns: Sequence[str]) -> set[str]:
    return {str(value) for table in tables for name in columns if name in table for value in table[name].dropna()}


def _still_used(book: Book, blobs: set[str], names: Sequence[str]) -> set[str]:
    """Give those of some labels that other frames have too."""
    found: set[str] = set()
    for table in (FRAMES, ORACLE):
        columns = [name for name in _URIS if name in table.schema.names]
        rows = read_table(book, table, where={name: sorted(blobs) for name in columns})
        found |= _values([rows[~rows.frame_id.isin(names)]], columns)
    return found & blobs


def _mark(store: Store, uri: str) -> str | None:
    if not store.exists(uri):
        return None
    mark = picture_mark(decode_image(store.get(uri), uri))
    return mark.tobytes().hex() if int(np.bitwise_count(mark).sum()) >= _LEAST_BITS else None


def _objects(clone: Clone, remote: Remote, tags: Sequence[str], denied: DenyList) -> Iterable[str]:
    """Yield the objects of versions that hold something denied: lists, tables, shards."""
    for tag in tags:
        yield pointed_at(read_committed(clone, f"{run_folder(tag)}/frames.dvc") or b"")
        objects, _ = version_files(clone, remote, tag)
        yield from (name for file, name in objects.items() if not file.startswith("shards/"))
        if MEMBERS in objects:
            members = pd.read_parquet(io.BytesIO(remote.read(objects[MEMBERS]) or b""))
            yield from (objects[f"shards/{shard}"] for shard in set(members.shard[denied.rows(members)]))


def _parts(book: Book, denied: DenyList) -> Iterable[str]:
    by_name = {entry.name: entry for entry in book.entries}
    return [by_name[name].tables[table].md5 for name, tables in parts_with(book, denied).items() for table in tables]


def _of_networks(clone: Clone, remote: Remote, networks: Iterable[str]) -> Iterable[str]:
    for sha256 in networks:
        name = pointed_at(read_committed(clone, f"{model_place(sha256)}.dvc") or b"")
        yield from (name, *(read_folder(remote, name) or {}).values())


def _size(store: Store, uri: str) -> int:
    return len(store.get(uri)) if store.exists(uri) else 0
