"""Copies outside the registry and its remote: blobs and what tasks gave in the store, runs, kept tables, and whatever else is named."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from perception.data.blobs import is_uri, sha256_in
from perception.data.deny_list import DenyList
from perception.versioning.erasing.places import FolderPlace, Place, open_place
from perception.versioning.erasing.plan import Installation
from perception.versioning.erasing.record import Erasure
from perception.versioning.erasing.rewriting import without
from perception.versioning.erasing.search import Search
from perception.versioning.growing import Book, open_book, read_table
from perception.versioning.ledger import LEDGER
from perception.versioning.pool import FRAMES, ORACLE
from perception.versioning.records import json_bytes

# Of a run that holds something erased only these stay, as far as they do not.
_SETTINGS = ("params.yaml", "night.json", "dvc.yaml", "code.yaml", "summary.json", "engine.json")
_GIVEN = re.compile("(given/[^/]+)/")
_RECORD = re.compile("nights/")


def places_of(place: Installation, remote_url: str) -> dict[str, Place]:
    """Return every place of an installation but the registry's git by its name; none is walked twice."""
    own = [each for each in (place.registry, place.store, remote_url) if "://" not in each]
    inside = tuple(Path(each).resolve() for each in (*own, *([str(place.kept)] if place.kept else [])))
    found: dict[str, Place] = {"store": open_place(place.store), "remote": open_place(remote_url)}
    if place.kept:
        found["kept"] = FolderPlace(place.kept)
    if place.runs:
        others = (place.runs.resolve() / "registry",)  # of other profiles: each is erased by its own call
        found["runs"] = FolderPlace(place.runs.resolve(), (*inside, *others))
    return found | {url: open_place(url if "://" in url else str(Path(url).resolve()), inside) for url in place.also}


def frames_that_stay(book: Book, denied: DenyList) -> frozenset[str]:
    """Return the sha256 of every blob that a frame of the pool has which is not denied: another frame may have an equal label."""
    found: set[str] = set()
    for table in (FRAMES, ORACLE, LEDGER):
        columns = [name for name in table.schema.names if name.endswith("_uri")]
        rows = read_table(book, table, columns=["frame_id", *columns])
        stay = rows[~denied.rows(rows)]
        found |= {sha256_in(str(uri)) for name in columns for uri in stay[name].dropna().unique()}
    return frozenset(found)


def clear_copies(place: Installation, erasure: Erasure, denied: DenyList) -> int:
    """Remove every copy outside the registry and its remote, and take names out of records; return how many files went or changed."""
    book = open_book(place.registry)
    stays = frames_that_stay(book, denied)
    places = places_of(place, book.remote)
    store = places.pop("store")
    places.pop("remote")
    gone = _remove_all(store, [uri for uri in erasure.blobs if store.size_bytes(uri)])
    gone += _clear(store, denied, stays, [name for name in store.names() if not is_uri(name)])
    if "kept" in places:
        kept = places.pop("kept")
        gone += _remove_all(kept, list(kept.names()))
    return gone + sum(_clear(each, denied, stays, list(each.names())) for each in places.values())


def _clear(place: Place, denied: DenyList, stays: frozenset[str], names: Collection[str]) -> int:
    gone = 0
    for root, files in _units(names).items():
        hit = _hit(place, denied, stays, files)
        if hit and root is not None:
            gone += _remove_all(place, [name for name in files if name in hit or not _is_setting(root, name)])
        else:
            gone += sum(_clean(place, name, denied) for name in hit)
    return gone


def _units(names: Collection[str]) -> dict[str | None, list[str]]:
    """Divide files into what goes as a whole, by its folder: a run, a backup, what the tasks of a run gave; the rest is under None."""
    roots = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in ("backup.json", "dvc.yaml")}
    units: dict[str | None, list[str]] = defaultdict(list)
    for name in names:
        given = _GIVEN.match(name)
        parents = (folder for folder in _parents(name) if folder in roots)
        units[given[1] if given else next(parents, None)].append(name)
    return units


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition("/")[0]
        yield name


def _hit(place: Place, denied: DenyList, stays: frozenset[str], files: Collection[str]) -> set[str]:
    search = Search(denied, stays)
    for name in files:
        search.look_into("", name, place.read(name))
    return {finding.name.partition("!")[0] for finding in search.findings()}


def _is_setting(root: str, name: str) -> bool:
    return name.removeprefix(root).lstrip("/") in _SETTINGS


def _clean(place: Place, name: str, denied: DenyList) -> int:
    """Take names out of a record of a night; remove any other file."""
    if _RECORD.match(name):
        try:
            place.write(name, json_bytes(without(json.loads(place.read(name)), denied)))
        except ValueError:
            place.remove(name)
    else:
        place.remove(name)
    return 1


def _remove_all(place: Place, names: Collection[str]) -> int:
    for name in names:
        place.remove(name)
    return len(names)
