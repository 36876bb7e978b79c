import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from perception.data.files import file_sha256
from perception.data.manifest import write_manifest
from perception.versioning.registry import Version, create_registry, publish


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_frames(ids, split="train", version="", **columns) -> pd.DataFrame:
    """Rows of a valid manifest; `version` changes the label bytes of every frame."""
    rows = []
    for frame_id in ids:
        image, label = digest(f"image {frame_id}"), digest(f"label {frame_id} {version}")
        rows.append(
            {
                "frame_id": frame_id,
                "drive_id": frame_id.split("_")[0],
                "timestamp_utc": None,
                "camera": "front",
                "domain": "real",
                "split": split,
                "time_of_day": "day",
                "weather": "clear",
                "scene": "urban",
                "width_px": 64,
                "height_px": 32,
                "image_uri": f"sha256/{image[:2]}/{image}.jpg",
                "image_sha256": image,
                "label_uri": f"sha256/{label[:2]}/{label}.png",
                "label_sha256": label,
                "label_source": "human",
                "label_taxonomy": "cityscapes19",
                "instances_uri": None,
                "source": "camera",
            }
            | columns
        )
    return pd.DataFrame(rows)


def make_folder(
    folder: Path, frames: pd.DataFrame, shards: dict[str, bytes], listed: dict[str, bytes] | None = None
) -> Path:
    """A frames folder as curated builds it: shards that lie in it, and shards it only lists."""
    (folder / "shards").mkdir(parents=True)
    write_manifest(frames, folder / "manifest.parquet")
    for name, content in shards.items():
        (folder / "shards" / name).write_bytes(content)
    every = (listed or {}) | shards
    listing = [
        {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), "frames": 1}
        for name, content in sorted(every.items())
    ]
    (folder / "shards.json").write_text(json.dumps({"shards": listing}))
    return folder


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout.strip() if check else f"{done.returncode} {done.stderr}"


def remote_objects(remote: Path) -> dict[str, int]:
    return {p.relative_to(remote).as_posix(): p.stat().st_mtime_ns for p in remote.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Published:
    registry: Path
    remote: Path
    first_folder: Path
    second_folder: Path
    first: Version
    second: Version
    shards: dict[str, bytes]


@pytest.fixture(scope="session")
def tools():
    """The helpers above, as tests cannot import from a conftest."""
    return SimpleNamespace(
        make_frames=make_frames, make_folder=make_folder, git=git, remote_objects=remote_objects, digest=digest
    )


@pytest.fixture
def registry(tmp_path):
    create_registry(tmp_path / "registry.git", str(tmp_path / "remote"))
    return tmp_path / "registry.git"


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Published:
    """Two versions, the second built on the first; tests only read it."""
    root = tmp_path_factory.mktemp("published")
    create_registry(root / "registry.git", str(root / "remote"))
    ids = [f"drive{k // 3}_{k}" for k in range(9)]
    shards = {"a.tar": b"shard a" * 9000, "b.tar": b"shard b" * 9000, "c.tar": b"shard c" * 9000}
    first_folder = make_folder(root / "first", make_frames(ids[:6]), {n: shards[n] for n in ("a.tar", "b.tar")})
    (first_folder / "card.json").write_text('{"licence": "own footage"}')
    first = publish(root / "registry.git", "night-1", first_folder, facts={"code_commit": "abc123"})
    second_folder = make_folder(
        root / "second", make_frames(ids[3:]), {"c.tar": shards["c.tar"]}, {"b.tar": shards["b.tar"]}
    )
    identity = {"parent": first.tag, "manifest_sha256": file_sha256(second_folder / "manifest.parquet")}
    (second_folder / "version.json").write_text(json.dumps(identity))
    second = publish(root / "registry.git", "night-2", second_folder)
    return Published(root / "registry.git", root / "remote", first_folder, second_folder, first, second, shards)
