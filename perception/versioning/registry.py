"""The data registry: a git repository whose data lies on a DVC remote; nights publish versions, stages fetch them.

Layout of the repository:
    .dvc/config                          the remote and settings that cannot corrupt
    current.json, champion.json, reference.json  what people released: small pointers on main (decisions.py moves them)
    decisions/                           one file a decision
    datasets/runs/<run>-<sha8>/          one folder a version: frames.dvc (DVC's pointer) and run.json (what it is)
    refs/tags/data/<run>-<sha8>          annotated, write-once

A version's identity is the sha256 of its manifest.  Its tag names the first eight digits, its run.json all of them and
the sha256 of files.json, which lists the sha256 and the BLAKE3 of every file; so one commit hash vouches for every byte.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from perception.data.files import file_sha256
from perception.data.manifest import read_manifest
from perception.data.tables import read_record
from perception.errors import InputError
from perception.versioning.denied import DENIED, deny_list
from perception.versioning.growing import book_at
from perception.versioning.processes import (
    PROGRAM,
    Clone,
    RegistryError,
    paths_in,
    read_committed,
    read_json,
    scratch_folder,
)
from perception.versioning.records import (
    FILES,
    FORMAT,
    MANIFEST,
    RETIRED,
    RUN,
    RUN_RULE,
    SHARDS,
    TAG_RULE,
    Current,
    Identity,
    ShardList,
    Version,
    current_at,
    json_bytes,
    record_at,
    run_folder,
    split_sha256,
    version_of,
)
from perception.versioning.remote import (
    FileFacts,
    Proof,
    Remote,
    ask_each,
    each_file,
    file_facts,
    get_files,
    has_proof,
    open_remote,
    pointed_at,
    pointer_text,
    put_files,
    put_folder,
    read_folder,
)
from perception.versioning.repository import configured_remote, create_registry, push_commit, trailers
from perception.versioning.verified import verified_clone, version_in

__all__ = ["Version", "create_registry", "fetch", "publish", "resolve"]

_Files = Mapping[str, Mapping[str, Any]]
ERASED, TOMBSTONES = "erased.json", "tombstones.json"  # beside run.json; among the files of the version


@dataclass(frozen=True, kw_only=True)
class Erased:
    """Hold erased.json: what a version is since frames of it were erased."""

    erasures: Mapping[str, int]  # frames that went, by the first digits of the erasure's plan
    manifest_sha256: str
    files_sha256: str
    format: int = FORMAT


_NAME_RULE = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"


# --- resolving


def _find_tag(clone: Clone, revision: str) -> str:
    """Give the tag of a version named by its tag or, where only one version has it, by its run.

    Raises InputError when there is no such version, or a run has several.
    """
    wanted = re.compile(re.escape(revision) if "/" in revision else f"data/{re.escape(revision)}-[0-9a-f]{{8}}")
    tags = [f"data/{Path(folder).name}" for folder in paths_in(clone, "datasets/runs")]
    found = [tag for tag in tags if wanted.fullmatch(tag)]
    if len(found) > 1:
        raise InputError(f"run {revision} has {len(found)} versions; name one of {', '.join(found)}")
    if not found:
        raise InputError(f"registry {clone.url} has no version {revision}; list them with make versions")
    return found[0]


def resolve(registry: str | Path, revision: str = "current") -> Version | None:
    """Resolve `current`, a tag or a run to one exact version; None for `current` while nothing was promoted.

    Raises InputError for an unknown revision, and when the pointer, the tag and the recorded manifest disagree: then
    somebody moved a tag.
    """
    if not re.fullmatch(f"{TAG_RULE}|{RUN_RULE}", revision):
        raise InputError(f"revision {revision!r} must be 'current', a run, or a tag data/<run>-<8 hex digits>")
    with verified_clone(registry) as clone:
        if revision != "current":
            return version_in(clone, _find_tag(clone, revision))
        pointer = current_at(clone)
        return _pointed_at(clone, pointer) if pointer else None


def _pointed_at(clone: Clone, pointer: Current) -> Version:
    version = version_in(clone, pointer.tag)
    if (version.manifest_sha256, version.commit) != (pointer.manifest_sha256, pointer.commit):
        raise InputError(
            f"current.json names {pointer.tag} with manifest {pointer.manifest_sha256[:8]} at commit "
            f"{pointer.commit[:8]}, but the tag now has {version.manifest_sha256[:8]} at {version.commit[:8]}: "
            "the tag was moved; restore it before the next night"
        )
    return version


# --- publishing


def publish(
    registry: str | Path,
    run: str,
    frames_folder: Path,
    *,
    parent: str | None = None,
    facts: Mapping[str, str] | None = None,
    scratch: Path | None = None,
) -> Version:
    """Publish a frames folder as a data version; the same call again returns the same version and uploads nothing.

    Order: push, check the remote, commit, tag; the tag appears last, so no version is visible before it is whole,
    and a killed call is finished by the same call.  Shards that shards.json lists and the folder lacks are taken from
    the parent, whose bytes are neither fetched nor uploaded.

    parent: tag; by default what the folder's version.json names.  facts: recorded with the version (code commit, ...).
    scratch: folder for the throw-away clone, which is small.
    Raises InputError for bad content or another manifest under the same tag, RegistryError when git or a server failed.
    """
    if not re.fullmatch(RUN_RULE, run):
        raise InputError(f"run {run!r} must match {RUN_RULE}; rename the run")
    names = _folder_files(frames_folder)
    manifest_sha256 = file_sha256(frames_folder / MANIFEST)
    tag = f"data/{run}-{manifest_sha256[:8]}"
    declared = frames_folder / "version.json"
    if not parent and declared.is_file():
        parent = read_record(declared, Identity)["parent"]
    with verified_clone(registry, scratch=scratch) as clone:
        if read_committed(clone, f"{run_folder(tag)}/{RUN}") is not None:
            return _already_published(clone, tag, manifest_sha256)
        summary = _manifest_summary(frames_folder / MANIFEST)
        if parent and (not re.fullmatch(TAG_RULE, parent) or not read_committed(clone, f"{run_folder(parent)}/{RUN}")):
            raise InputError(
                f"parent {parent} is not a version of registry {registry}; publish it first or name another"
            )
        remote = open_remote(configured_remote(clone))
        frames = read_manifest(frames_folder / MANIFEST, columns=["frame_id", "drive_id", "image_sha256"])
        local = dict(zip(names, each_file(lambda name: file_facts(frames_folder / name), names), strict=True))
        _check_local(local, frames_folder, manifest_sha256)
        inherited = _inherited_files(clone, remote, frames_folder, set(names), parent)
        pointer, files_sha256 = push_files(remote, frames_folder, local, inherited)
        record = {
            "format": FORMAT,
            "tag": tag,
            "run": run,
            "published_by": PROGRAM,
            "manifest_sha256": manifest_sha256,
            "files_sha256": files_sha256,
            "parent": parent,
            "new_bytes": sum(facts.size_bytes for facts in local.values()),
            "facts": {str(name): str(value) for name, value in sorted((facts or {}).items())},
            **summary,
        }
        commit = _commit_version(clone, record, pointer, inherits=bool(inherited), frames=frames)
        if commit:
            return version_of(clone, tag, commit)
    return publish(
        registry, run, frames_folder, parent=parent, scratch=scratch
    )  # another process has just published it


def push_files(
    remote: Remote, folder: Path, local: Mapping[str, FileFacts], inherited: Mapping[str, FileFacts]
) -> tuple[bytes, str]:
    """Bring new files, files.json and the folder object to the remote, checked there; return pointer and sha256."""
    files = dict(local) | dict(inherited)
    listing = {  # shards of versions from before BLAKE3 was recorded lack it
        name: {"sha256": facts.sha256, "size_bytes": facts.size_bytes}
        | ({"blake3": facts.blake3} if facts.blake3 else {})
        for name, facts in files.items()
    }
    with scratch_folder() as scratch:
        (scratch / FILES).write_bytes(json_bytes({"files": listing}))
        files[FILES] = file_facts(scratch / FILES)
        put_files(remote, {folder / name: facts for name, facts in local.items()} | {scratch / FILES: files[FILES]})
    name = put_folder(remote, {path: facts.md5 for path, facts in files.items()})
    size_bytes = sum(facts.size_bytes for facts in files.values())
    return pointer_text("frames", name, len(files), size_bytes), files[FILES].sha256


def _proof(name: str, entry: Mapping[str, Any]) -> Proof:
    """Choose the hash that a fetched file is checked by: the faster one, but for the manifest the version's identity."""
    kind: Literal["blake3", "sha256"] = "blake3" if name != MANIFEST and "blake3" in entry else "sha256"
    return Proof(kind, entry[kind])


def _folder_files(folder: Path) -> list[str]:
    """List the files of a frames folder, refusing what a version cannot hold."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} has no {MANIFEST}; publish a frames folder")
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is a link or a special file; a version holds plain files: copy it in")
        if not re.fullmatch(_NAME_RULE, path.name) or path.suffix == ".dvc" or name in (FILES, RUN):
            raise InputError(f"{path}: name must match {_NAME_RULE}, not end in .dvc, and be neither {FILES} nor {RUN}")
        if path.is_file():
            names.append(name)
    return names


def _listed_shards(folder: Path) -> dict[str, str]:
    """Read which shards a version has, also those that its parent holds: {path: sha256}."""
    listing = folder / SHARDS
    shards = read_record(listing, ShardList)["shards"] if listing.is_file() else []
    return {f"shards/{shard['name']}": shard["sha256"] for shard in shards}


def _check_local(files: Mapping[str, FileFacts], folder: Path, manifest_sha256: str) -> None:
    """Check that the folder's files are what its own tables say they are."""
    if files[MANIFEST].sha256 != manifest_sha256:
        raise InputError(f"{folder / MANIFEST} changed while it was being published; publish again when it is finished")
    for name, sha256 in _listed_shards(folder).items():
        if name in files and files[name].sha256 != sha256:
            raise InputError(f"{folder / name} is not the shard that {SHARDS} lists (sha256 differs); build it again")


def _manifest_summary(path: Path) -> dict[str, Any]:
    """Validate a manifest and give what the version's record says of it."""
    frames = read_manifest(path)
    splits = frames["split"].value_counts()
    return {
        "frames": len(frames),
        "splits": {str(name): int(count) for name, count in sorted(splits.items()) if count},
        "test_set_sha256": split_sha256(path, "test"),
    }


def _already_published(clone: Clone, tag: str, manifest_sha256: str) -> Version:
    version = version_in(clone, tag)
    if version.manifest_sha256 != manifest_sha256:
        raise InputError(
            f"tag {tag} exists with manifest {version.manifest_sha256}, not {manifest_sha256}; tags are write-once: "
            "publish under another run"
        )
    return version


def _inherited_files(
    clone: Clone, remote: Remote, folder: Path, present: set[str], parent: str | None
) -> dict[str, FileFacts]:
    """Find the shards that a version takes over from its parent; raises RegistryError where the remote lost one."""
    listing, wanted = folder / SHARDS, _listed_shards(folder)
    missing = {name: sha256 for name, sha256 in wanted.items() if name not in present}
    if not missing:
        return {}
    if parent is None:
        raise InputError(
            f"{listing} lists {min(missing)}, which is not in the folder, and no parent is named; build it again"
        )
    objects, held = version_files(clone, remote, parent)
    for name, sha256 in missing.items():
        if held.get(name, {}).get("sha256") != sha256 or name not in objects:
            raise InputError(f"{listing} takes {name} from {parent}, which does not hold these bytes; build it again")
    found = {
        name: FileFacts(objects[name], held[name]["sha256"], held[name]["size_bytes"], held[name].get("blake3"))
        for name in sorted(missing)
    }
    stored = ask_each(lambda facts: remote.stat(facts.md5), found.values())
    for (name, facts), there in zip(found.items(), stored, strict=True):
        if there is None or there.size_bytes != facts.size_bytes:
            raise RegistryError(f"the remote lacks or damaged {name} of {parent}; restore it from a backup")
    return found


def version_files(clone: Clone, remote: Remote, tag: str, revision: str = "HEAD") -> tuple[dict[str, str], _Files]:
    """Read a version's files from the remote: {path: object} and the content of its files.json, both checked.

    Raises InputError where the remote lost them, or they are another version's.
    """
    record = read_json(clone, f"{run_folder(tag)}/{RUN}", revision) or {}
    if erased := erased_at(clone, tag):
        record, revision = {"files_sha256": erased.files_sha256}, "HEAD"
    pointer = read_committed(clone, f"{run_folder(tag)}/frames.dvc", revision)
    if pointer is None:
        raise InputError(f"version {tag} has no frames.dvc in registry {clone.url}: name a version that was published")
    objects = read_folder(remote, pointed_at(pointer))
    if objects is None or FILES not in objects:
        raise InputError(f"the remote lost the list of files of {tag}; restore it from its backup")
    return objects, _checked_listing(remote.read(objects[FILES]) or b"", record["files_sha256"], tag)


def erased_at(clone: Clone, tag: str) -> Erased | None:
    """Return what erasures took out of a version, as main says; None where nothing."""
    return record_at(clone, f"{run_folder(tag)}/{ERASED}", Erased)


def as_held(clone: Clone, version: Version) -> Version:
    """Return a version with the hashes of what the remote holds of it: other ones than it was published with after an erasure."""
    erased = erased_at(clone, version.tag)
    if erased is None:
        return version
    return replace(version, manifest_sha256=erased.manifest_sha256, files_sha256=erased.files_sha256)


def _checked_listing(content: bytes, expected_sha256: str, tag: str) -> _Files:
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise InputError(f"{FILES} of {tag} on the remote is not what was published; restore it from its backup")
    files: _Files = json.loads(content)["files"]
    return files


def _commit_version(
    clone: Clone, record: Mapping[str, Any], pointer: bytes, *, inherits: bool, frames: pd.DataFrame
) -> str | None:
    """Commit a version's folder and tag it; None when another process has just published the same version."""
    tag, folder = record["tag"], run_folder(record["tag"])
    files = {
        f"{folder}/frames.dvc": pointer,
        f"{folder}/{RUN}": json_bytes(record),
        f"{folder}/.gitignore": b"/frames\n",
    }
    message = trailers(
        f"Publish data version {tag}",
        f"{record['frames']} frames, {record['new_bytes']} new bytes",
        run_id=record["run"],
        manifest_sha256=record["manifest_sha256"],
        parent=record["parent"],
    )

    def changes(base: str) -> tuple[Mapping[str, bytes], str] | None:
        if read_committed(clone, f"{folder}/{RUN}", base) is not None:
            return None
        theirs = f"{run_folder(record['parent'])}/frames.dvc" if inherits else ""
        if inherits and read_committed(clone, theirs, base) != read_committed(clone, theirs):
            raise InputError(f"parent {record['parent']} was retired or lost frames meanwhile; build the version anew")
        check_denied(clone, base, frames)
        return files, message

    return push_commit(clone, changes, tag=(tag, message))


def check_denied(clone: Clone, revision: str, frames: pd.DataFrame) -> None:
    """Raise InputError where the deny list of a commit holds one of some frames: columns frame_id, drive_id, image_sha256."""
    book = book_at(clone, revision=revision)
    denied = deny_list(book).rows(frames) if any(DENIED.name in entry.tables for entry in book.entries) else None
    if denied is not None and denied.any():
        raise InputError(
            f"{int(denied.sum())} of the frames were erased and may not come back; run the night again: it goes on without them"
        )


# --- fetching


def fetch(
    registry: str | Path,
    version: Version | str,
    destination: Path,
    *,
    files: Sequence[str] | None = None,
    optional: Sequence[str] = (),
) -> Version:
    """Fetch a version's files into a folder that appears whole, every file checked against its published hash.

    version: a resolved version, a tag, a run or `current`.  files: only these files or folders, for example
    ["manifest.parquet"]; by default all.  optional: files that are taken where the version has them.
    Beside them run.json tells the version, with its commit.
    A destination that already holds the same files of the same version is checked and kept.
    Raises InputError when the version is unknown, the remote lacks a file or holds other bytes, or the destination
    holds something else.
    """
    wanted = version if isinstance(version, Version) else resolve(registry, version)
    if wanted is None:
        raise InputError(f"registry {registry} has no current version yet; promote one, or name a tag")
    if destination.exists() and any(destination.iterdir()):
        with verified_clone(registry) as clone:
            held = as_held(clone, wanted)
        _check_fetched(wanted, held, destination, files, optional)
        return wanted
    # Beside the destination, so that the files can be moved into place instead of copied.
    with verified_clone(registry, scratch=destination.absolute().parent) as clone:
        _check_not_retired(clone, wanted.tag)
        if version_in(clone, wanted.tag) != wanted:
            raise InputError(
                f"tag {wanted.tag} no longer leads to commit {wanted.commit[:8]}: it was moved; restore it"
            )
        remote = open_remote(configured_remote(clone))
        objects, listing = version_files(clone, remote, wanted.tag, wanted.commit)
        names = _wanted_files(as_held(clone, wanted), listing, files, optional)
        folder = clone.path / "fetched"
        folder.mkdir()
        bad = get_files(remote, objects, {name: _proof(name, listing[name]) for name in names}, folder)
        if bad:
            raise _not_as_published(wanted.tag, bad[0])
        (folder / FILES).write_bytes(json_bytes({"files": listing}))
        (folder / RUN).write_bytes(json_bytes(asdict(wanted)))
        folder.replace(destination)
    return wanted


def _check_not_retired(clone: Clone, tag: str) -> None:
    why = read_json(clone, f"{run_folder(tag)}/{RETIRED}")
    if why is not None:
        raise InputError(
            f"{tag} was retired by {why['retired_by']} ({why['reason']}) and its data removed; use a later version"
        )


def _check_fetched(
    version: Version, held: Version, folder: Path, only: Sequence[str] | None, optional: Sequence[str]
) -> None:
    """Hash every file that was asked for against files.json, and files.json against the version as the remote holds it."""
    record = folder / RUN
    if not record.is_file() or json.loads(record.read_text()) != asdict(version):
        raise InputError(f"{folder} holds something other than {version.tag}; remove it or fetch into another folder")
    listing = _checked_listing((folder / FILES).read_bytes(), held.files_sha256, version.tag)
    for name in _wanted_files(held, listing, only, optional):
        path = folder / name
        if not path.is_file() or not has_proof(path, _proof(name, listing[name])):
            raise _not_as_published(version.tag, name)


def _wanted_files(version: Version, listing: _Files, only: Sequence[str] | None, optional: Sequence[str]) -> list[str]:
    if listing[MANIFEST]["sha256"] != version.manifest_sha256:
        raise InputError(f"{FILES} of {version.tag} lists another manifest than the version's; do not use this version")
    names = [name for name in listing if only is None or any(name == o or name.startswith(f"{o}/") for o in only)]
    for asked in only or ():
        if not any(name == asked or name.startswith(f"{asked}/") for name in names):
            raise InputError(f"version {version.tag} has no {asked}; it holds {', '.join(sorted(listing)[:8])}, ...")
    return names if only is None else names + [name for name in optional if name in listing and name not in names]


def _not_as_published(tag: str, name: str) -> InputError:
    return InputError(
        f"{name} of {tag} is missing on the remote or not what was published (by its sha256); "
        "restore it from its backup, or publish the same folder again from where it still exists"
    )
