"""Put the newly labelled frames of a stale version onto what was released meanwhile, as a new version."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perception.data.manifest import read_manifest
from perception.data.store import FolderStore
from perception.data.tables import read_record, read_table
from perception.errors import InputError
from perception.versioning.curated import MEMBER_COLUMNS, MEMBERS, VERSION, build_version, restore_blobs
from perception.versioning.models import resolved
from perception.versioning.processes import scratch_folder
from perception.versioning.records import MANIFEST, PROFILE, SHARDS, ShardList, Version
from perception.versioning.registry import fetch, publish

_TABLES = (MANIFEST, MEMBERS, SHARDS, VERSION)
_SUFFIX = "-rebased"


@dataclass(frozen=True)
class Rebased:
    """The new version, and what it took from the stale one."""

    version: Version
    taken: int  # frames whose labels are the stale version's
    kept: tuple[str, ...]  # frames that both labelled: they stay as they are in what is current


def rebase(registry: str, revision: str) -> Rebased:
    """Publish a version of what is current and the newly labelled frames of another one; the same call again gives the same version.

    New is a training frame whose label its parent does not hold. Held-out frames stay those of what is current.
    Raises InputError for a version that is not stale, one that adds nothing, and a drive that would lie in two splits.
    """
    stale, current = resolved(registry, revision), resolved(registry, "current")
    if current.tag in (stale.tag, stale.parent):
        raise InputError(f"{stale.tag} stands on what is current ({current.tag}); promote it as it is")
    with scratch_folder() as scratch:
        folders = {each: _fetched(registry, each, scratch) for each in (stale.tag, current.tag)}
        before = read_manifest(_fetched(registry, stale.parent, scratch) / MANIFEST) if stale.parent else None
        theirs, ours = (read_manifest(folders[each] / MANIFEST) for each in (stale.tag, current.tag))
        taken, kept = _new_frames(theirs, ours, before)
        if not len(taken):
            raise InputError(f"{stale.tag} labels no frame that {current.tag} lacks; nothing is lost without it")
        frames = pd.concat([ours[~ours.frame_id.isin(taken.frame_id)], taken], ignore_index=True)
        _check_drives(frames)
        version = _publish(
            registry, stale, frames, set(taken.frame_id), folders[stale.tag], folders[current.tag], scratch
        )
    return Rebased(version, len(taken), kept)


def _fetched(registry: str, tag: str, scratch: Path) -> Path:
    folder = scratch / tag.replace("/", "-")
    fetch(registry, tag, folder, files=_TABLES, optional=[PROFILE])
    return folder


def _new_frames(
    theirs: pd.DataFrame, ours: pd.DataFrame, before: pd.DataFrame | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of newly labelled frames, and the frames that both sides labelled anew and differently."""
    known = before.set_index("frame_id").label_sha256 if before is not None else pd.Series(dtype=object)
    here = ours.set_index("frame_id").label_sha256
    train = theirs[theirs.split == "train"]
    new = train[train.label_sha256 != train.frame_id.map(known)]
    new = new[new.label_sha256 != new.frame_id.map(here)]
    both = new.frame_id.isin(here.index) & (new.frame_id.map(here) != new.frame_id.map(known))
    return new[~both], tuple(sorted(new.frame_id[both]))


def _check_drives(frames: pd.DataFrame) -> None:
    """Raise InputError where a drive teaches and tests: membership in splits is by drive."""
    sides = frames.assign(taught=frames.split == "train").groupby("drive_id").taught.nunique()
    if (sides > 1).any():
        raise InputError(
            f"drive {sides.index[sides > 1][0]!r} would lie in the training part and in the held-out one; the version cannot be "
            "rebased: the next night takes its labels in anew"
        )


def _publish(
    registry: str, stale: Version, frames: pd.DataFrame, taken: set[str], theirs: Path, ours: Path, scratch: Path
) -> Version:
    members = read_table(theirs / MEMBERS, MEMBER_COLUMNS)
    shards = sorted(set(members.shard[members.frame_id.isin(taken)]))
    fetch(registry, stale, scratch / "pixels", files=[*_TABLES, *(f"shards/{name}" for name in shards)])
    store = FolderStore(scratch / "store")
    restore_blobs(scratch / "pixels", store, only=taken)
    size = max(shard["frames"] for shard in read_record(theirs / SHARDS, ShardList)["shards"])
    build_version(frames, store, ours, scratch / "version", frames_per_shard=size)
    profiles = [(theirs, taken), (ours, set(frames.frame_id) - taken)]
    rows = [
        table[table.frame_id.isin(mine)]
        for folder, mine in profiles
        if (folder / PROFILE).is_file() and len(table := pd.read_parquet(folder / PROFILE))
    ]
    if rows:
        profile = pd.concat(rows, ignore_index=True).sort_values("frame_id", ignore_index=True)
        profile.to_parquet(scratch / "version" / PROFILE, index=False)
    run = f"{stale.run.removesuffix(_SUFFIX)[:90]}{_SUFFIX}"
    return publish(registry, run, scratch / "version", facts={"rebased_from": stale.tag})
