"""Build the folder of a curated data version: the manifest, shards for new frames only, and what they add up to.

A version's folder holds
    manifest.parquet    one row a frame
    shards.json         every shard of the version by name and sha256, also those that only the parent's folder holds
    members.parquet     which shard holds each frame
    shards/*.tar        new shards, named by their sha256; immutable, deterministic, WebDataset layout
    version.json        counts, parent, sha256 of the manifest
so a version costs what changed: shards of frames that stay as they were are referred to, never written again.
"""

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from perception.data.manifest import read_manifest, validate_manifest, write_manifest
from perception.data.shards import read_shard, write_shard
from perception.data.store import Store
from perception.data.tables import read_record, read_table
from perception.errors import InputError
from perception.versioning.processes import check_empty, scratch_folder
from perception.versioning.records import MANIFEST, RUN, SHARDS, Identity, ListedShard, Published, ShardList, json_bytes

MEMBERS, VERSION = "members.parquet", "version.json"
MEMBER_COLUMNS = {"frame_id": "text", "shard": "text"}
# A frame keeps its shard while these are as they were when the shard was written.
_BLOBS = ("image_sha256", "label_sha256", "instances_uri")
_URIS = {"image_uri": "", "label_uri": "label.", "instances_uri": "instances."}
_FACTS = ("frame_id", "drive_id", "camera", "domain", "label_source", "label_taxonomy", *_URIS)


@dataclass(frozen=True, kw_only=True)
class BuiltVersion:
    """What a version's folder holds; also written there as version.json."""

    frames: int  # rows of the manifest
    manifest_sha256: str  # the version's identity
    parent: str | None  # tag of the version whose shards are referred to
    parent_manifest_sha256: str | None  # and its identity
    added: int  # frames that the base does not hold
    removed: int  # frames that only the base holds
    changed: int  # frames in both with other image, label or instance bytes
    rewritten: int  # unchanged frames whose shard held too few live frames to be kept
    shards: int  # shards of the version
    new_shards: int  # shards written into this folder
    new_bytes: int  # their size


@dataclass(frozen=True)
class _Base:
    """The version a new one is built on."""

    folder: Path
    tag: str | None
    frames: pd.DataFrame  # frame_id, blobs and shard of every frame
    shards: dict[str, ListedShard]
    manifest_sha256: str


def build_version(
    frames: pd.DataFrame,
    store: Store,
    base_folder: Path | None,
    destination: Path,
    frames_per_shard: int,
    *,
    rewrite_below: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> BuiltVersion:
    """Build the folder of a version that holds exactly `frames`; the folder appears whole or not at all.

    base_folder: folder of the version before, fetched or built; its shards are kept where their frames stay.  A base
    that was fetched (it has run.json) is referred to as parent; shards of one that was only built are copied.
    frames_per_shard: aim for shards of 64 to 256 MB.  rewrite_below: rewrite a kept shard when a smaller share of its
    frames is still in the version; 1 leaves no byte of a removed frame in the new version.
    Raises InputError for invalid frames, a missing blob, a damaged base, or a destination that holds something.
    """
    if frames_per_shard < 1:
        raise InputError(f"frames_per_shard={frames_per_shard} must be at least 1")
    if not 0.0 <= rewrite_below <= 1.0:
        raise InputError(f"rewrite_below={rewrite_below} must lie in [0, 1]")
    check_empty(destination, "remove it or build into another folder")
    frames = validate_manifest(frames, "curated frames").sort_values("frame_id", ignore_index=True)
    base = _read_base(base_folder) if base_folder else None
    shard_of, rewritten = _kept_shards(frames, base, rewrite_below)
    with scratch_folder(destination.absolute().parent, prefix=f".{destination.name}-") as scratch:
        folder = scratch / "version"
        (folder / "shards").mkdir(parents=True)
        new = _write_shards(frames, shard_of, store, folder / "shards", frames_per_shard, progress)
        kept = _keep_shards(base, set(shard_of[shard_of != ""]) - new.keys(), folder / "shards")
        built = _write_tables(frames, shard_of, new, kept, base, rewritten, folder)
        folder.replace(destination)
    return built


def _read_base(folder: Path) -> _Base:
    frames = read_manifest(folder / MANIFEST, columns=["frame_id", *_BLOBS])
    if not (folder / MEMBERS).is_file() or not (folder / SHARDS).is_file():
        raise InputError(f"{folder} has no {MEMBERS} or no {SHARDS}; give the folder of a curated version as base")
    members = read_table(folder / MEMBERS, MEMBER_COLUMNS)
    if not np.array_equal(members["frame_id"].to_numpy(object), frames["frame_id"].to_numpy(object)):
        raise InputError(f"{folder / MEMBERS} does not list the frames of {MANIFEST}; fetch the base version again")
    tag = read_record(folder / RUN, Published)["tag"] if (folder / RUN).is_file() else None
    shards = {shard["name"]: shard for shard in read_record(folder / SHARDS, ShardList)["shards"]}
    unlisted = sorted(set(members["shard"]) - set(shards))
    if unlisted:
        raise InputError(
            f"{folder / SHARDS} does not list shard {unlisted[0]!r} of {MEMBERS}; fetch the base version again"
        )
    identity = read_record(folder / VERSION, Identity)["manifest_sha256"]
    return _Base(folder, tag, frames.assign(shard=members["shard"]), shards, identity)


def _kept_shards(frames: pd.DataFrame, base: _Base | None, rewrite_below: float) -> tuple[np.ndarray, int]:
    """Give the base's shard of every frame that stays as it was, '' for frames that need a new one: (frame,) object."""
    shard_of = np.full(len(frames), "", object)
    if base is None or not len(frames):
        return shard_of, 0
    row = pd.Index(base.frames["frame_id"]).get_indexer(pd.Index(frames["frame_id"]))
    same = row >= 0
    for name in _BLOBS:
        ours, theirs = frames[name].to_numpy(object), base.frames[name].to_numpy(object)[row]
        same &= (ours == theirs) | (pd.isna(ours) & pd.isna(theirs))
    shard_of[same] = base.frames["shard"].to_numpy(object)[row[same]]
    names, live = np.unique(shard_of[same].astype(str), return_counts=True)
    sparse = [n for n, count in zip(names, live, strict=True) if count < rewrite_below * base.shards[n]["frames"]]
    rewritten = np.isin(shard_of.astype(str), sparse)
    shard_of[rewritten] = ""
    return shard_of, int(rewritten.sum())


def _write_shards(
    frames: pd.DataFrame,
    shard_of: np.ndarray,
    store: Store,
    folder: Path,
    frames_per_shard: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, ListedShard]:
    """Write shards for the frames that have none, whole drives side by side, and note each frame's shard."""
    waiting = np.flatnonzero(shard_of == "")
    waiting = waiting[
        np.lexsort((frames["frame_id"].to_numpy(str)[waiting], frames["drive_id"].to_numpy(str)[waiting]))
    ]
    written: dict[str, ListedShard] = {}
    for start in range(0, len(waiting), frames_per_shard):
        rows = waiting[start : start + frames_per_shard]
        temporary = folder / "shard.partial"
        sha256 = write_shard(_members(frames.iloc[rows], store), temporary)
        name = f"{sha256[:16]}.tar"
        path = temporary.rename(folder / name)
        written[name] = {"name": name, "sha256": sha256, "size_bytes": path.stat().st_size, "frames": len(rows)}
        shard_of[rows] = name
        if progress:
            progress(start + len(rows), len(waiting))
    return written


def _members(frames: pd.DataFrame, store: Store) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Give each frame's files by extension: jpg, label.png, instances.png and json."""
    facts = frames[list(_FACTS)]
    for row in facts.astype(object).where(facts.notna(), None).to_dict("records"):
        files = {}
        for column, prefix in _URIS.items():
            if row[column] is not None:
                files[prefix + row[column].rsplit(".", 1)[1]] = store.get(row[column])
        yield row["frame_id"], files | {"json": json_bytes(row)}


def _keep_shards(base: _Base | None, names: set[str], folder: Path) -> dict[str, ListedShard]:
    """Give the base's shards that stay; copies them where the base has no tag to refer to."""
    if base is None:
        return {}
    if base.tag is None:
        for name in sorted(names):
            source = base.folder / "shards" / name
            if not source.is_file():
                raise InputError(
                    f"{source} is missing and its version was never published; build or fetch the base again"
                )
            shutil.copyfile(source, folder / name)
    return {name: base.shards[name] for name in sorted(names)}


def _write_tables(
    frames: pd.DataFrame,
    shard_of: np.ndarray,
    new: dict[str, ListedShard],
    kept: dict[str, ListedShard],
    base: _Base | None,
    rewritten: int,
    folder: Path,
) -> BuiltVersion:
    shards = [shard for _, shard in sorted((kept | new).items())]
    (folder / SHARDS).write_bytes(json_bytes({"shards": shards}))
    members = pa.table(
        {"frame_id": pa.array(frames["frame_id"], pa.string()), "shard": pa.array(shard_of, pa.string())}
    )
    pq.write_table(members, folder / MEMBERS, compression="zstd")
    in_both = int(frames["frame_id"].isin(base.frames["frame_id"]).sum()) if base else 0
    fresh = int(np.isin(shard_of.astype(str), list(new)).sum())
    added = len(frames) - in_both
    built = BuiltVersion(
        frames=len(frames),
        manifest_sha256=write_manifest(frames, folder / MANIFEST),
        parent=base.tag if base else None,
        parent_manifest_sha256=base.manifest_sha256 if base and base.tag else None,
        added=added,
        removed=len(base.frames) - in_both if base else 0,
        changed=fresh - added - rewritten,
        rewritten=rewritten,
        shards=len(shards),
        new_shards=len(new),
        new_bytes=sum(shard["size_bytes"] for shard in new.values()),
    )
    (folder / VERSION).write_bytes(json_bytes(asdict(built)))
    return built


def restore_blobs(folder: Path, store: Store, only: Collection[str] | None = None) -> int:
    """Put every blob of a fetched version into a store, checked against its address; gives the number of frames.

    With this a version alone, without the store it was made from, is enough to train again.  only: these frames.
    Raises InputError when a shard is missing or holds other bytes than the manifest says.
    """
    frames = read_manifest(folder / MANIFEST, columns=["frame_id", *_URIS])
    members = read_table(folder / MEMBERS, MEMBER_COLUMNS)
    members = members if only is None else members[members["frame_id"].isin(only)]
    addresses = frames.set_index("frame_id")[list(_URIS)].astype(object)
    done = 0
    for name, rows in members.groupby("shard"):
        path = folder / "shards" / str(name)
        if not path.is_file():
            raise InputError(f"{path} is missing; fetch the whole version")
        wanted = set(rows["frame_id"])
        for key, files in read_shard(path):
            if key in wanted:
                _restore_frame(key, files, addresses.loc[key], store, path)
                wanted.remove(key)
                done += 1
        if wanted:
            raise InputError(
                f"{path} lacks frame {min(wanted)}, which {MEMBERS} says it holds; fetch the version again"
            )
    return done


def _restore_frame(key: str, files: dict[str, bytes], addresses: pd.Series, store: Store, path: Path) -> None:
    for column, prefix in _URIS.items():
        uri = addresses[column]
        if pd.isna(uri):
            continue
        suffix = uri.rsplit(".", 1)[1]
        content = files.get(prefix + suffix)
        if content is None or store.put(content, suffix).uri != uri:
            raise InputError(f"{path}: {column} of frame {key} is not {uri}; fetch the version again")
