"""The start of a night: the promoted data version, resolved once to an exact commit and brought within reach."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from perception.data.manifest import empty_manifest, read_manifest, write_manifest
from perception.data.store import Store
from perception.versioning.curated import MEMBERS, VERSION, restore_blobs
from perception.versioning.records import MANIFEST, SHARDS, Version
from perception.versioning.registry import create_registry, fetch, resolve


@dataclass(frozen=True)
class Base:
    """Name the version that a night starts from; tag is None on the first night of a registry."""

    tag: str | None
    frames: int


def write_base(folder: Path, registry: str, remote: str, store: Store, revision: str) -> Base:
    """Write the resolved version's tables into the empty `folder`, and put those of its blobs into the store that it lacks.

    The registry is created where there is none yet. While nothing has been promoted, `current` is an empty manifest, and
    there is no run.json. Shards are fetched only when the store lacks something.
    """
    create_registry(registry, remote)
    version = resolve(registry, revision)
    if version is None:
        write_manifest(empty_manifest(), folder / MANIFEST)
        return Base(None, 0)
    fetch(registry, version, folder, files=[MANIFEST, MEMBERS, SHARDS, VERSION])
    frames = read_manifest(folder / MANIFEST)
    uris = [uri for column in ("image_uri", "label_uri", "instances_uri") for uri in frames[column].dropna()]
    if not all(store.exists(uri) for uri in uris):
        _restore(registry, version, store)
    return Base(version.tag, len(frames))


def _restore(registry: str, version: Version, store: Store) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fetch(registry, version, Path(scratch) / "version")
        restore_blobs(Path(scratch) / "version", store)
