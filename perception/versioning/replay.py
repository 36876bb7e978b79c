"""The registry as a night found it, to repeat that night beside what has happened since."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perception.errors import InputError
from perception.versioning.growing import Entry, book_at, entry_file
from perception.versioning.nights import Night, nights_at
from perception.versioning.processes import run_git
from perception.versioning.records import FORMAT
from perception.versioning.repository import commit_files
from perception.versioning.signers import SIGNERS
from perception.versioning.verified import verified_clone


def recorded_night(registry: str, name: str) -> Night:
    """Return a night's row; raises InputError where the registry has none, or one that cannot be repeated."""
    with verified_clone(registry) as clone:
        nights = {night.night: night for night in nights_at(clone)}
    night = nights.get(name)
    if night is None:
        raise InputError(f"NIGHT={name}: registry {registry} has no such night; make nights lists them")
    if night.registry_commit is None or night.status == "nothing_new":
        raise InputError(f"NIGHT={name}: was {night.status}, there is nothing to repeat; make nights lists the others")
    return night


def registry_as_of(registry: str, night: Night, place: Path) -> None:
    """Write the registry at the moment when a night began into a new folder; its data stay on the registry's remote.

    The list of files that the night read stands in it as that of a night that is tried again, which reads no other ones.
    Raises InputError for a night that ended before it recorded its list.
    """
    commit = str(night.registry_commit)
    with verified_clone(registry, whole=True) as clone:
        before, now = book_at(clone, revision=commit).entries, book_at(clone).entries
        # What is repeated in the copy is nobody's decision: it has no list, and no key is needed.
        files: dict[str, bytes | None] = {SIGNERS: None} if clone.signers else {}
        if night.night not in {entry.name for entry in before}:
            files |= entry_file(replace(_own_entry(night, now), number=len(before) + 1))
        if files:
            copy = replace(clone, signers=None)
            commit = commit_files(copy, commit, files, f"Record what night {night.night} read")
        run_git(clone, "init", "--quiet", "--bare", "--template=", "-b", "main", str(place))
        run_git(
            clone, "push", "--quiet", place.absolute().as_uri(), f"{commit}:refs/heads/main", "refs/tags/*:refs/tags/*"
        )


def _own_entry(night: Night, entries: Sequence[Entry]) -> Entry:
    own = [entry for entry in entries if entry.name == night.night]
    if own:
        return own[0]
    if night.status != "done":
        raise InputError(
            f"NIGHT={night.night}: was {night.status} before it recorded what it read; there is nothing to repeat"
        )
    when = f"{night.date.isoformat()}T00:00:00+00:00"  # it read nothing new
    return Entry(format=FORMAT, number=0, name=night.night, kind="arrivals", when_utc=when, tables={})
