"""Two nights built on one release: the second one's frames go onto the first one's version, whole and reviewable."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from perception.data.manifest import read_manifest
from perception.data.store import FolderStore
from perception.errors import InputError
from perception.versioning.curated import build_version, restore_blobs
from perception.versioning.decisions import Stale, promote
from perception.versioning.rebase import rebase
from perception.versioning.records import Version
from perception.versioning.registry import create_registry, fetch, publish


@dataclass
class Fleet:
    """A registry and a store; frames are named drive_number, a label by its grey value."""

    root: Path

    def __post_init__(self) -> None:
        self.registry, self.store = str(self.root / "registry.git"), FolderStore(self.root / "store")
        create_registry(self.registry, str(self.root / "remote"))

    def row(self, tools, frame_id: str, label: int, split: str) -> pd.DataFrame:
        blobs = {}
        for name, grey in (("image", sum(frame_id.encode()) % 256), ("label", label)):
            buffer = io.BytesIO()
            Image.fromarray(np.full((4, 8), grey, np.uint8)).save(buffer, "PNG")
            blob = self.store.put(buffer.getvalue() + frame_id.encode(), "png")
            blobs |= {f"{name}_uri": blob.uri, f"{name}_sha256": blob.sha256}
        return tools.make_frames([frame_id], split=split, width_px=8, height_px=4, **blobs)

    def version(self, tools, run: str, labels: dict[str, int], parent: Version | None) -> Version:
        """Publish the parent's frames with other or more ones; test frames are those of drive t."""
        rows = [self.row(tools, name, label, "test" if name[0] == "t" else "train") for name, label in labels.items()]
        frames, base = pd.concat(rows, ignore_index=True), None
        if parent:
            base = self.root / f"base-{run}"
            fetch(self.registry, parent, base)
            old = read_manifest(base / "manifest.parquet")
            frames = pd.concat([old[~old.frame_id.isin(frames.frame_id)], frames], ignore_index=True)
        build_version(frames, self.store, base, self.root / run, 2)
        hashes = [f"{k:016x}" for k in range(len(frames))]
        profile = pd.DataFrame({"frame_id": sorted(frames.frame_id), "dhash": hashes})
        profile.to_parquet(self.root / run / "profile.parquet", index=False)
        return publish(self.registry, run, self.root / run)

    def release(self, version: Version) -> None:
        promote(
            self.registry, version.tag, manifest_sha256=version.manifest_sha256, names=["Ada"], reason="looked at it"
        )


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def labels_of(registry, version, folder):
    fetch(registry, version, folder, files=["manifest.parquet"])
    frames = read_manifest(folder / "manifest.parquet")
    return dict(zip(frames.frame_id, frames.label_sha256, strict=True))


def test_frames_of_a_stale_version_go_onto_what_is_current(fleet, tools, tmp_path):
    first = fleet.version(tools, "first", {"a_1": 1, "a_2": 1, "t_1": 1}, None)
    fleet.release(first)
    second = fleet.version(tools, "second", {"b_1": 2, "a_1": 5}, first)
    third = fleet.version(tools, "third", {"c_1": 3, "c_2": 3, "c_3": 3, "a_1": 6, "a_2": 6}, first)
    fleet.release(second)
    with pytest.raises(Stale, match=f"make rebase VERSION={third.tag}"):
        fleet.release(third)
    done = rebase(fleet.registry, third.tag)
    assert (done.version.parent, done.taken, done.kept) == (second.tag, 4, ("a_1",))
    assert dict(done.version.facts) == {"rebased_from": third.tag}
    theirs, ours = labels_of(fleet.registry, third, tmp_path / "t"), labels_of(fleet.registry, second, tmp_path / "s")
    expected = {**ours, **{name: theirs[name] for name in ("a_2", "c_1", "c_2", "c_3")}}
    assert labels_of(fleet.registry, done.version, tmp_path / "n") == expected
    assert rebase(fleet.registry, third.tag) == done, "the same call gives the same version"
    fleet.release(done.version)
    fetch(fleet.registry, "current", tmp_path / "whole")
    restored = FolderStore(tmp_path / "restored")
    assert restore_blobs(tmp_path / "whole", restored) == len(expected)
    profile = pd.read_parquet(tmp_path / "whole" / "profile.parquet")
    assert profile.frame_id.tolist() == sorted(expected)


def test_what_needs_no_rebase_or_cannot_have_one_is_said(fleet, tools):
    first = fleet.version(tools, "first", {"a_1": 1, "t_1": 1}, None)
    fleet.release(first)
    second = fleet.version(tools, "second", {"b_1": 2}, first)
    with pytest.raises(InputError, match="stands on what is current"):
        rebase(fleet.registry, second.tag)
    same = fleet.version(tools, "same", {"b_1": 2, "b_2": 2}, first)
    fleet.release(same)
    with pytest.raises(InputError, match="labels no frame that"):
        rebase(fleet.registry, second.tag)
    other = fleet.version(tools, "other", {"t_2": 2}, first)
    frames = read_manifest(fleet.root / "other" / "manifest.parquet")
    moved = frames.assign(split=frames.split.where(frames.frame_id != "t_2", "train"))
    build_version(moved, fleet.store, fleet.root / "base-other", fleet.root / "leaking", 2)
    leaking = publish(fleet.registry, "leaking", fleet.root / "leaking")
    assert other.parent == leaking.parent == first.tag
    with pytest.raises(InputError, match="drive 't' would lie in the training part and in the held-out one"):
        rebase(fleet.registry, leaking.tag)
