"""The start of a night: the promoted data version, resolved once to an exact commit and brought within reach."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from perception.data.manifest import empty_manifest, read_manifest, write_manifest
from perception.data.shards import read_shard
from perception.data.store import Store
from perception.versioning.records import MANIFEST, Version
from perception.versioning.registry import create_registry, fetch, resolve

VERSION_FILE = "version.json"


@dataclass(frozen=True)
class Base:
    """Name the version that a night starts from; tag is None on the first night of a registry."""

    tag: str | None
    frames: int


def write_base(folder: Path, registry: str, remote: str, store: Store, revision: str) -> Base:
    """Write manifest.parquet and version.json of the resolved version into `folder`, and put its blobs into the store.

    The registry is created where there is none yet. While nothing has been promoted, `current` is an empty manifest and
    version.json holds null. Blobs that the store has already are not written again.
    """
    create_registry(registry, remote)
    version = resolve(registry, revision)
    if version is None:
        write_manifest(empty_manifest(), folder / MANIFEST)
        frames = 0
    else:
        frames = _bring_within_reach(folder, registry, version, store)
    content = asdict(version) if version else None
    (folder / VERSION_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return Base(version.tag if version else None, frames)


def _bring_within_reach(folder: Path, registry: str, version: Version, store: Store) -> int:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetched = Path(scratch) / "version"
        fetch(registry, version, fetched)
        frames = read_manifest(fetched / MANIFEST)
        if not all(store.exists(uri) for column in ("image_uri", "label_uri") for uri in frames[column].dropna()):
            for shard in sorted((fetched / "shards").glob("*.tar")):
                for _, members in read_shard(shard):
                    for extension, data in members.items():
                        store.put(data, extension.rpartition(".")[2])
        write_manifest(frames, folder / MANIFEST)
    return len(frames)
