"""The start of a night: the promoted data version and the released network, resolved once and brought within reach."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from perception.data.manifest import empty_manifest, read_manifest, write_manifest
from perception.data.store import Store
from perception.errors import InputError
from perception.versioning.curated import MEMBERS, VERSION, restore_blobs
from perception.versioning.decisions import released_for
from perception.versioning.erasing.record import erasures_at
from perception.versioning.models import fetch_network
from perception.versioning.processes import Clone
from perception.versioning.recorded import Champion, reference_at
from perception.versioning.records import MANIFEST, PROFILE, SHARDS, Version
from perception.versioning.registry import create_registry, fetch, resolve
from perception.versioning.verified import verified_clone

DENSE = "dense.safetensors"
# What a night puts into a proposed network's folder, and what the next night finds in its base when it was released.
MODEL_FILES = {
    "model.onnx": "champion.onnx",
    DENSE: "champion_dense.safetensors",  # what tonight's network starts from; releases of older nights have none
    "card.json": "champion_card.json",
    "query.json": "query.json",
}


@dataclass(frozen=True)
class Base:
    """Name what a night starts from; None for what nobody has released yet."""

    tag: str | None
    frames: int
    champion: str | None = None  # sha256 of the released network's files


def write_base(folder: Path, registry: str, remote: str, store: Store, revision: str, night: str) -> Base:
    """Write the resolved version's tables into the empty `folder`, and put those of its blobs into the store that it lacks.

    night: its name; one that was stopped after a policy released what it made starts from what was released before.

    The registry is created where there is none yet. While nothing has been promoted, `current` is an empty manifest, and
    there is no run.json. Shards are fetched only when the store lacks something. The released network lies beside them
    as champion.onnx, its dense network as champion_dense.safetensors, who released it and why in champion.json; the reference
    release as reference.onnx and reference.json.
    """
    create_registry(registry, remote)
    with verified_clone(registry) as clone:
        released, network = released_for(clone, night)
        barred = _barred(clone)
    files = {
        there: here
        for there, here in MODEL_FILES.items()
        if there != DENSE or not network or network.model_sha256 not in barred
    }
    champion = _write_network(registry, folder, lambda _: network, "champion", files)
    _write_network(registry, folder, reference_at, "reference", {"model.onnx": "reference.onnx"})
    wanted = released if revision == "current" else revision
    version = resolve(registry, wanted) if wanted else None
    if version is None:
        write_manifest(empty_manifest(), folder / MANIFEST)
        return Base(None, 0, champion)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tables = Path(scratch) / "tables"
        fetch(registry, version, tables, files=[MANIFEST, MEMBERS, SHARDS, VERSION], optional=[PROFILE])
        for path in tables.iterdir():
            path.replace(folder / path.name)
    frames = read_manifest(folder / MANIFEST)
    uris = [uri for column in ("image_uri", "label_uri", "instances_uri") for uri in frames[column].dropna()]
    if not all(store.exists(uri) for uri in uris):
        _restore(registry, version, store)
    return Base(version.tag, len(frames), champion)


def _write_network(
    registry: str,
    folder: Path,
    pointer_at: Callable[[Clone], Champion | None],
    name: str,
    files: Mapping[str, str],
) -> str | None:
    """Write a network's files under their names here, and its pointer; return the sha256 of its files, None where there is none."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = fetch_network(registry, Path(scratch) / name, pointer_at)
        if found is None:
            return None
        if "model.onnx" not in found.files:
            raise InputError(
                f"the {name} released by {found.names[0]} has no model.onnx; release the folder that compress gives"
            )
        for there, here in files.items():
            if there in found.files:
                (Path(scratch) / name / there).replace(folder / here)
    (folder / f"{name}.json").write_text(json.dumps(asdict(found), indent=1, sort_keys=True) + "\n")
    return found.model_sha256


def _barred(clone: Clone) -> set[str]:
    """Return the networks that stay in service though nights may not start from them: they learnt from what was erased."""
    return {sha256 for each in erasures_at(clone) for sha256, what in each.networks.items() if what == "retrain"}


def _restore(registry: str, version: Version, store: Store) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fetch(registry, version, Path(scratch) / "version")
        restore_blobs(Path(scratch) / "version", store)
