"""Search a whole installation for what was erased, and certify that nothing of it is left."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from perception.data.deny_list import DenyList
from perception.errors import InputError
from perception.versioning.erasing.carry_out import denied_by
from perception.versioning.erasing.copies import frames_that_stay, places_of
from perception.versioning.erasing.plan import Installation
from perception.versioning.erasing.record import FOLDER, Certificate, Erasure
from perception.versioning.erasing.search import Finding, Search
from perception.versioning.growing import open_book
from perception.versioning.processes import Clone, read_committed, run_git
from perception.versioning.records import json_bytes
from perception.versioning.repository import push_commit, trailers
from perception.versioning.verified import verified_clone


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search of an installation found, and where it looked."""

    findings: Sequence[Finding]
    files: Mapping[str, int]  # by place


def search_installation(place: Installation, denied: DenyList) -> Searched:
    """Look into every file of every place, and every version of every file in the registry's history."""
    book = open_book(place.registry)
    search = Search(denied, frames_that_stay(book, denied))
    files = {label: search.look_through(label, each) for label, each in places_of(place, book.remote).items()}
    with verified_clone(place.registry, whole=True) as clone:
        blobs = _blobs(clone)
        for name, path in blobs.items():
            search.look_into("registry", path, run_git(clone, "cat-file", "blob", name).stdout)
    return Searched(findings=search.findings(), files=files | {"registry": len(blobs)})


def _blobs(clone: Clone) -> dict[str, str]:
    """Return every file that the history ever held by its object's name."""
    listed = run_git(clone, "rev-list", "--objects", "--all").stdout.decode().splitlines()
    named = dict(line.split(" ", 1) for line in listed if " " in line)
    kinds = run_git(
        clone, "cat-file", "--batch-check=%(objectname) %(objecttype)", stdin="\n".join(named).encode()
    ).stdout
    return {
        name: named[name] for name, kind in (line.split() for line in kinds.decode().splitlines()) if kind == "blob"
    }


def certify(place: Installation, erasure: Erasure) -> Certificate:
    """Search for an erasure; commit and return the certificate that nothing is left.

    Raises InputError for one that was not carried out to its end; and that names what was found, where something was.
    """
    with verified_clone(place.registry) as clone:
        if read_committed(clone, f"{FOLDER}/{erasure.name}-done.json") is None:
            raise InputError(
                f"erasure {erasure.name} is not carried out yet; give its command again: make erase PLAN={erasure.name}"
            )
    searched = search_installation(place, denied_by(place, erasure))
    if searched.findings:
        first = searched.findings[0]
        raise InputError(
            f"{len(searched.findings)} copies are left; the first in {first.place}: {first.name} {first.why}; "
            f"remove what is outside the installation's care, and give the command again: make erase PLAN={erasure.name}"
        )
    certificate = Certificate(
        plan_sha256=erasure.plan_sha256,
        frames=erasure.frames,
        searched=searched.files,
        networks=erasure.networks,
        searched_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _commit(place.registry, erasure, certificate)
    return certificate


def _commit(registry: str, erasure: Erasure, certificate: Certificate) -> None:
    moment = certificate.searched_utc[:19].replace(":", "").replace("-", "")
    path = f"{FOLDER}/{erasure.name}-certificate-{moment}.json"
    message = trailers(f"Certify erasure {erasure.name}", "", plan_sha256=erasure.plan_sha256)
    with verified_clone(registry) as clone:
        push_commit(clone, lambda _: ({path: json_bytes(asdict(certificate))}, message))
