"""Erasures as a registry records them: erasures/<first 16 of the plan's hash>.json, and beside it that it is done and certified."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perception.errors import InputError
from perception.versioning.processes import Clone, read_all_committed
from perception.versioning.records import FORMAT, parse_record
from perception.versioning.verified import verified_clone

FOLDER = "erasures"
Becomes = Literal["retire", "retrain", "keep"]


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What somebody decided to erase, and all that must go: committed before anything goes, so that any call can go on."""

    plan_sha256: str
    names: tuple[str, ...]  # who decided
    reason: str
    decided_utc: str
    frames: int
    drives: int  # that are denied as a whole
    versions: tuple[str, ...]  # tags that held them
    networks: Mapping[str, Becomes]  # that learnt from them, by hash
    champion: str | None  # network that is released in place of a retired one; None: the champion stays
    batches: tuple[str, ...]  # with frames at annotators
    objects: tuple[str, ...]  # of the remote that hold them
    blobs: tuple[str, ...]  # of the store
    format: int = FORMAT

    @property
    def name(self) -> str:
        """Give the first digits of the plan's hash, by which its records are called."""
        return self.plan_sha256[:16]

    @property
    def entry(self) -> str:
        """Give the name of the entry with what it denies."""
        return f"erasure-{self.name}"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """That a search found nothing of an erasure any more, and where it searched: signed as the registry's decisions are."""

    plan_sha256: str
    frames: int
    searched: Mapping[str, int]  # files by place
    networks: Mapping[str, Becomes]  # that learnt from them
    searched_utc: str
    format: int = FORMAT


def erasures_at(clone: Clone, revision: str = "HEAD") -> list[Erasure]:
    """Return all erasures at a commit of the clone, the first decided first."""
    found = read_all_committed(clone, FOLDER, revision)
    records = [
        parse_record(content, Erasure, f"{path} of registry {clone.url}")
        for path, content in found.items()
        if path.count("-") == 0
    ]
    return sorted(records, key=lambda each: each.decided_utc)


def read_erasures(registry: str | Path) -> list[Erasure]:
    """Return all erasures of a registry, the first decided first."""
    with verified_clone(registry) as clone:
        return erasures_at(clone)


def find_erasure(registry: str | Path, plan: str) -> Erasure | None:
    """Return the erasure whose plan has this hash, or begins with these 8 or more digits; None where none was decided."""
    if len(plan) < 8:
        raise InputError(f"PLAN={plan}: must be at least 8 digits of the plan's hash; copy it from the dry run")
    return next((each for each in read_erasures(registry) if each.plan_sha256.startswith(plan)), None)
