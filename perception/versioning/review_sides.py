"""Read two versions and their history out of a registry, and say with which commands people act on them."""

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from perception.data.deny_list import digest
from perception.data.manifest import empty_manifest, read_manifest
from perception.data.store import Store
from perception.errors import InputError
from perception.versioning.curated import MEMBERS
from perception.versioning.lineage import reproduce_commands
from perception.versioning.models import renamed, resolved
from perception.versioning.processes import Clone
from perception.versioning.recorded import Proposal, champion_at, decisions_at, proposal_at
from perception.versioning.records import MANIFEST, PROFILE, Version, current_at
from perception.versioning.registry import fetch, resolve
from perception.versioning.review import History, Side, review_facts
from perception.versioning.review_pictures import (
    ReviewPicture,
    blobs_in_shards,
    blobs_in_store,
    review_pictures,
    review_taxonomy,
)
from perception.versioning.settings import ReviewSettings
from perception.versioning.upkeep import versions
from perception.versioning.verified import verified_clone

NOTHING = "none"  # as BASE: compare with nothing


def review(
    registry: str,
    head: str,
    base: str | None = None,
    *,
    settings: ReviewSettings | None = None,
    store: Store | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, str], dict[str, list[ReviewPicture]], str]:
    """Compare two versions of a registry: facts, commands, pictures by group, and the taxonomy of the pictures.

    head, base: a tag, a run or `current`; base None is what is current, or the head's parent where the head is current;
    "none" compares with nothing.  store: where the blobs lie; without it they are taken out of the versions' shards.
    Raises InputError for a version that does not exist.
    """
    version = resolved(registry, head)
    other = _base_of(registry, version, base)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {each.tag: Path(scratch) / each.tag.replace("/", "-") for each in (version, other) if each}
        for each in (version, other):
            if each:
                fetch(registry, each, folders[each.tag], files=[MANIFEST], optional=[MEMBERS, PROFILE])
        listed = versions(registry)
        with verified_clone(registry) as clone:
            sides = [_side(clone, each, folders) for each in (other, version)]
            current = current_at(clone)
            history = History(
                decisions=decisions_at(clone, "HEAD"),
                champion=champion_at(clone),
                current=current.tag if current else None,
                versions=listed,
                signed=clone.signers is not None,
            )
        facts = review_facts(sides[0], sides[1], history, settings or ReviewSettings())
        blobs = blobs_in_store(store) if store else blobs_in_shards(registry, folders)
        pictures = review_pictures(facts, sides[0], sides[1], blobs, seed)
    return facts, review_commands(registry, version, other, facts), pictures, review_taxonomy(sides[1])


def _base_of(registry: str, head: Version, base: str | None) -> Version | None:
    if base == NOTHING:
        return None
    if base:
        found = resolved(registry, base)
        if found.tag == head.tag:
            raise InputError(f"BASE and HEAD are both {head.tag}; name two versions")
        return found
    current = resolve(registry)
    if current and current.tag != head.tag:
        return current
    return resolved(registry, head.parent) if head.parent else None


def _side(clone: Clone, version: Version | None, folders: Mapping[str, Path]) -> Side:
    if version is None:
        return Side(version=None, frames=empty_manifest(), profile=pd.DataFrame(), proposal=None)
    folder = folders[version.tag]
    profile = pd.read_parquet(folder / PROFILE) if (folder / PROFILE).is_file() else pd.DataFrame()
    frames, proposal = read_manifest(folder / MANIFEST), proposal_at(clone, version.tag)
    return Side(
        version=version, frames=frames, profile=profile, proposal=_with_names(proposal, frames) if proposal else None
    )


def _with_names(proposal: Proposal, frames: pd.DataFrame) -> Proposal:
    """Return a proposal that names the version's frames and drives, which the registry keeps by hash; others it cannot name."""
    names = {digest(name): str(name) for column in ("frame_id", "drive_id") for name in frames[column].unique()}
    return replace(proposal, evidence=renamed(proposal.evidence, lambda hashed: names.get(hashed, hashed)))


def review_commands(registry: str, version: Version, base: Version | None, facts: Mapping[str, Any]) -> dict[str, str]:
    """Give the shell commands that act on a version, ready to paste but for names and reasons."""
    place = f" REGISTRY={shlex.quote(registry)}"
    who = 'BY="First Person, Second Person"' if facts["approval"]["test_set_changed"] else 'BY="Your Name"'
    seen = f"VERSION={version.tag} MANIFEST={version.manifest_sha256[:16]}"
    proposal = facts["approval"]["proposal_sha256"]
    whole = f"{seen} PROPOSAL={proposal[:16]}" if proposal else seen
    return {
        "promote": f'make promote {whole} {who} REASON="why"{place}',
        "reject": f'make reject {seen} BY="Your Name" REASON="why"{place}',
        "rollback": f'make rollback BY="Your Name" REASON="why"{place}',
        "reproduce": f"make reproduce VERSION={version.tag} OUT=folder{place}",
        "plain": "\n".join(reproduce_commands(registry, version)),
        "compare": f"make review BASE={base.tag if base else NOTHING} HEAD={version.tag}{place}",
        "lineage": f"make lineage FRAME=frame_id{place}",
        "deletion": f"make lineage DRIVE=drive_id{place}",
    }
