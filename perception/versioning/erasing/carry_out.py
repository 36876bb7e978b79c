"""Carry an erasure out. Every step may be killed and made again: what is to go was committed before anything went.

Order: the deny list, then the erasure's record; frames at annotators recalled; the network that is released instead of a retired one;
everything that stays written anew, and one commit that switches to it; the version that is released instead; then what nothing
needs any more is removed, and copies outside the registry. That it is done is committed last, and certified only by a search
(certificate.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from perception.data.deny_list import DenyList, to_table
from perception.errors import InputError
from perception.versioning.curated import MEMBERS, VERSION
from perception.versioning.decisions import decide_network, promote
from perception.versioning.denied import DENIED, deny_list
from perception.versioning.erasing.copies import clear_copies
from perception.versioning.erasing.plan import Installation, Plan
from perception.versioning.erasing.record import FOLDER, Erasure, find_erasure
from perception.versioning.erasing.rewriting import rewritten
from perception.versioning.growing import append, book_at, open_book
from perception.versioning.ledger import AT_ANNOTATORS, events_of, read_events, record_events, state
from perception.versioning.processes import PROGRAM, Clone, git_text, read_committed, scratch_folder
from perception.versioning.recorded import champion_at, keeps_model, model_place
from perception.versioning.records import FORMAT, MANIFEST, PROFILE, SHARDS, current_at, json_bytes
from perception.versioning.registry import Version, fetch, publish
from perception.versioning.remote import ask_each, open_remote
from perception.versioning.repository import configured_remote, push_commit, trailers
from perception.versioning.upkeep import needed_objects, versions_at
from perception.versioning.verified import verified_clone


def decide(place: Installation, plan: Plan) -> Erasure:
    """Deny what a plan names from now on, and commit that it goes; return the record. The same call again changes nothing."""
    erasure = plan.erasure
    when = datetime.fromisoformat(erasure.decided_utc)
    append(open_book(place.registry), erasure.entry, "erasure", {DENIED: to_table(plan.denied)}, when=when)
    said = {"decision": "erase", "decided_by": ", ".join(erasure.names), "plan_sha256": erasure.plan_sha256}
    message = trailers(f"Erase {erasure.frames} frames", erasure.reason, **said)
    _commit_once(place, f"{erasure.name}.json", asdict(erasure), message, erasure.names[0])
    return find_erasure(place.registry, erasure.plan_sha256) or erasure


def carry_out(place: Installation, erasure: Erasure, tell: Callable[[str], None] = lambda _: None) -> None:
    """Do all of an erasure that was decided; the same call again does what is left.

    tell: is given a line for each step. Raises InputError where another writer or a server stands in the way: call again.
    """
    denied = denied_by(place, erasure)
    tell(f"{_recall(place, erasure, denied)} frames are back from annotators")
    if erasure.champion:
        decide_network(place.registry, erasure.champion, names=erasure.names, reason=erasure.reason)
    tell(f"{_switch(place, erasure, denied)} records of the registry written anew")
    _release_without(place, erasure)
    tell(f"{_purge(place, erasure)} objects removed from the remote")
    tell(f"{clear_copies(place, erasure, denied)} copies removed elsewhere")
    _commit_done(place, erasure)


def denied_by(place: Installation, erasure: Erasure) -> DenyList:
    """Return what one erasure denies."""
    book = open_book(place.registry, place.kept)
    return deny_list(book.only(next(entry for entry in book.entries if entry.name == erasure.entry)))


def _recall(place: Installation, erasure: Erasure, denied: DenyList) -> int:
    """Take back the other open frames of the batches that hold erased ones; labels that come all the same count."""
    name = f"{erasure.entry}-recall"
    book = open_book(place.registry)
    if not erasure.batches or any(entry.name == name for entry in book.entries):
        return 0
    known = state(read_events(book))
    here = known[
        known.batch.isin(erasure.batches) & known.status.isin([each for each in AT_ANNOTATORS if each != "returned"])
    ]
    here = here[~denied.rows(here)]
    if not len(here):
        return 0
    when, who = datetime.fromisoformat(erasure.decided_utc), ", ".join(erasure.names)
    events = events_of("recalled", here.frame_id, batch=here.batch.to_numpy(), when=when, who=who, why=erasure.reason)
    record_events(book, name, "recall", events, when=when)
    return len(events)


def _switch(place: Installation, erasure: Erasure, denied: DenyList) -> int:
    """Commit what was written anew, all at once, on top of what it was written from."""
    with verified_clone(place.registry, whole=True) as clone:
        book, remote = book_at(clone, place.kept), open_remote(configured_remote(clone))
        files = rewritten(clone, remote, book, erasure.versions, denied, erasure.name)
        files |= {
            f"{model_place(sha256)}.dvc": None for sha256 in _retired(clone, erasure) if keeps_model(clone, sha256)
        }
        base = git_text(clone, "rev-parse", "HEAD")

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            if head != base:
                raise InputError(
                    "another writer changed the registry meanwhile; give the same command again: it goes on"
                )
            said = {"plan_sha256": erasure.plan_sha256}
            return (
                (files, trailers(f"Write {len(files)} records without what was erased", "", **said)) if files else None
            )

        push_commit(clone, changes, author=erasure.names[0])
    return len(files)


def _retired(clone: Clone, erasure: Erasure) -> list[str]:
    """Give the networks that go now: one that is to be trained anew stays as long as it is the champion."""
    released = champion_at(clone)
    waits = released.model_sha256 if released else None
    return [
        sha256
        for sha256, becomes in erasure.networks.items()
        if becomes == "retire" or (becomes == "retrain" and sha256 != waits)
    ]


def _release_without(place: Installation, erasure: Erasure) -> None:
    """Release a version that never held the frames in place of a current one that did."""
    with verified_clone(place.registry) as clone:
        current = current_at(clone)
    if current and current.tag in erasure.versions:
        version = _published_without(place.registry, current.tag, erasure)
        digits = version.manifest_sha256
        promote(place.registry, version.tag, manifest_sha256=digits, names=erasure.names, reason=erasure.reason)


def _published_without(registry: str, tag: str, erasure: Erasure) -> Version:
    with scratch_folder() as scratch:
        folder = scratch / "version"
        fetch(registry, tag, folder, files=[MANIFEST], optional=[MEMBERS, SHARDS, VERSION, PROFILE])
        for name in ("run.json", "files.json"):
            (folder / name).unlink()
        return publish(registry, erasure.entry, folder, parent=tag, facts={"erasure": erasure.name})


def _purge(place: Installation, erasure: Erasure) -> int:
    """Remove the objects that the erasure names and nothing in the registry needs any more."""
    with verified_clone(place.registry, whole=True) as clone:
        remote = open_remote(configured_remote(clone))
        needed = needed_objects(clone, remote, versions_at(clone), whole=True)
        gone = [name for name in erasure.objects if name not in needed and remote.stat(name)]
        ask_each(remote.remove, gone)
    return len(gone)


def _commit_done(place: Installation, erasure: Erasure) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"format": FORMAT, "plan_sha256": erasure.plan_sha256, "done_utc": now}
    _commit_once(place, f"{erasure.name}-done.json", record, trailers(f"Erasure {erasure.name} is carried out", ""))


def _commit_once(
    place: Installation, name: str, record: Mapping[str, Any], message: str, author: str = PROGRAM
) -> None:
    """Commit a record of an erasure; where there is one of that name already it stays as it is."""
    path = f"{FOLDER}/{name}"
    with verified_clone(place.registry) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            if read_committed(clone, path, head) is not None:
                return None
            return {path: json_bytes(record)}, message

        push_commit(clone, changes, author=author)
