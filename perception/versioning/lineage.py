"""Lineage both ways: what a model came from, which versions and models used a frame; and proof of a reproduced run."""

import hashlib
import io
import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perception.data.files import file_sha256
from perception.errors import InputError
from perception.versioning.models import champion
from perception.versioning.processes import check_empty, git_url, paths_in, read_committed
from perception.versioning.recorded import StoredModel
from perception.versioning.records import FILES, MANIFEST, Version, current_at, record_at
from perception.versioning.registry import fetch
from perception.versioning.remote import ask_each, open_remote, pointed_at, read_folder
from perception.versioning.repository import configured_remote
from perception.versioning.upkeep import versions
from perception.versioning.verified import verified_clone


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Proof that a folder holds exactly what a run published."""

    version: Version  # what was reproduced
    manifest_sha256: str  # hash of the manifest in the folder, as computed here
    files: int  # files that were hashed and found equal
    bytes: int  # their size


def reproduce(registry: str | Path, revision: str, destination: Path) -> Reproduction:
    """Fetch exactly the data of a run into a new folder and prove it by its hashes.

    Raises InputError when the run is unknown, the remote lacks something, or a hash differs.
    """
    check_empty(destination, "reproduce into a new folder, or it proves nothing")
    version = fetch(registry, revision, destination)
    listing: dict[str, dict[str, int]] = json.loads((destination / FILES).read_text())["files"]
    return Reproduction(
        version=version,
        manifest_sha256=file_sha256(destination / MANIFEST),
        files=len(listing),
        bytes=sum(facts["size_bytes"] for facts in listing.values()),
    )


def reproduce_commands(registry: str | Path, version: Version) -> list[str]:
    """Give shell commands that reproduce a version with git and DVC alone; the last fails unless the hash is right."""
    manifest = f"{version.folder}/frames/{MANIFEST}"
    return [
        f"git clone --quiet --depth 1 --branch {version.tag} {shlex.quote(git_url(registry))} {version.run}",
        f"cd {version.run} && dvc pull {version.folder}/frames.dvc",
        f"cd {version.run} && echo '{version.manifest_sha256}  {manifest}' | sha256sum --check",
    ]


def frame_history(
    registry: str | Path, *, frame_ids: Collection[str] = (), drive_ids: Collection[str] = ()
) -> pd.DataFrame:
    """Find every version that used some frames or drives.

    Returns one row a version and frame, oldest version first: tag, run, frame_id, drive_id, split, image_sha256,
    label_sha256, current (the version is), champion (the released model was trained on the version).
    """
    if not frame_ids and not drive_ids:
        raise InputError("frame_history needs frame ids or drive ids to look for")
    listed, released = versions(registry), champion(registry)
    columns = ["frame_id", "drive_id", "split", "image_sha256", "label_sha256"]
    looked_for = [pa.array(sorted(ids), pa.string()) for ids in (frame_ids, drive_ids)]
    wanted = pc.field("frame_id").isin(looked_for[0]) | pc.field("drive_id").isin(looked_for[1])
    parts = []
    with verified_clone(registry) as clone:
        current = current_at(clone)
        remote = open_remote(configured_remote(clone))

        def manifest(version: Version) -> bytes:
            pointer = read_committed(clone, f"{version.folder}/frames.dvc")
            objects = read_folder(remote, pointed_at(pointer)) if pointer else None
            content = remote.read(objects[MANIFEST]) if objects and MANIFEST in objects else None
            if content is None or hashlib.sha256(content).hexdigest() != version.manifest_sha256:
                raise InputError(f"manifest of {version.tag} on the remote is not what was published; run a scrub")
            return content

        for version, content in zip(listed, ask_each(manifest, listed), strict=True):
            rows = pq.read_table(io.BytesIO(content), columns=columns, filters=wanted).to_pandas()
            marks = {
                "current": bool(current and version.tag == current.tag),
                "champion": bool(released and released.tag == version.tag),
            }
            parts.append(rows.assign(tag=version.tag, run=version.run, **marks))
    found = pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else None
    return pd.DataFrame(found, columns=["tag", "run", *columns, "current", "champion"])


def deletion_impact(registry: str | Path, history: pd.DataFrame) -> dict[str, Any]:
    """Say what deleting frames would touch: versions, networks trained on them, the test set; history: of frame_history."""
    return {
        "versions": list(dict.fromkeys(history["tag"])),
        "models": _models_trained_on(registry, set(history.loc[history["split"] == "train", "tag"])),
        "touches_test_set": bool((history["split"] == "test").any()),
    }


def _models_trained_on(registry: str | Path, tags: Collection[str]) -> list[str]:
    """Give the networks that the registry keeps and that learned from some versions, or went on from one that did, by their
    hash's first digits.
    """
    with verified_clone(registry) as clone:
        paths = [path for path in paths_in(clone, "models") if path.endswith(".json")]
        records = [record for path in paths if (record := record_at(clone, path, StoredModel))]
    found = {record.model_sha256 for record in records if record.tag in tags}
    heirs = found
    while heirs:
        heirs = {each.model_sha256 for each in records if each.facts.get("started_from_model") in heirs} - found
        found |= heirs
    return sorted(sha256[:16] for sha256 in found)
