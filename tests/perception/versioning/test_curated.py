import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from perception.data.manifest import read_manifest
from perception.data.shards import read_shard
from perception.data.store import open_store
from perception.errors import InputError
from perception.versioning.curated import build_version, restore_blobs
from perception.versioning.registry import create_registry, fetch, publish


def stored_frames(tools, store, ids, version="", instances=True):
    """Frames whose blobs really are in the store; `version` changes the labels."""
    frames = tools.make_frames(ids)
    for row, frame_id in enumerate(ids):
        image = store.put(f"image {frame_id}".encode() * 400, "jpg")
        label = store.put(f"label {frame_id} {version}".encode(), "png")
        frames.loc[row, ["image_uri", "image_sha256"]] = [image.uri, image.sha256]
        frames.loc[row, ["label_uri", "label_sha256"]] = [label.uri, label.sha256]
        if instances:
            frames.loc[row, "instances_uri"] = store.put(f"instances {frame_id}".encode(), "png").uri
    return frames


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def shard_contents(folder):
    return {key: files for path in sorted((folder / "shards").glob("*.tar")) for key, files in read_shard(path)}


def test_a_first_version_holds_every_blob(tools, store, tmp_path):
    frames = stored_frames(tools, store, [f"d{k // 2}_{k}" for k in range(5)])
    built = build_version(frames, store, None, tmp_path / "v1", frames_per_shard=2)
    assert (built.frames, built.added, built.removed, built.changed, built.shards, built.parent) == (
        5,
        5,
        0,
        0,
        3,
        None,
    )
    found = shard_contents(tmp_path / "v1")
    assert found.keys() == set(frames["frame_id"])
    for frame_id, files in found.items():
        assert set(files) == {"jpg", "label.png", "instances.png", "json"}
        assert files["jpg"] == f"image {frame_id}".encode() * 400
        facts = json.loads(files["json"])
        assert facts["frame_id"] == frame_id
        assert facts["label_taxonomy"] == "cityscapes19"
    assert built.new_bytes == sum(p.stat().st_size for p in (tmp_path / "v1" / "shards").iterdir())
    assert json.loads((tmp_path / "v1" / "version.json").read_text())["manifest_sha256"] == built.manifest_sha256
    assert len(read_manifest(tmp_path / "v1" / "manifest.parquet")) == 5


def test_equal_frames_give_equal_bytes_in_any_order(tools, store, tmp_path):
    frames = stored_frames(tools, store, [f"d{k // 2}_{k}" for k in range(5)])
    build_version(frames, store, None, tmp_path / "a", frames_per_shard=2)
    build_version(frames.sample(frac=1, random_state=3), store, None, tmp_path / "b", frames_per_shard=2)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert names == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*.*"))
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_a_drive_is_not_scattered_over_shards(tools, store, tmp_path):
    ids = [f"d{k % 3}_{k}" for k in range(12)]
    build_version(stored_frames(tools, store, ids), store, None, tmp_path / "v", frames_per_shard=4)
    members = pq.read_table(tmp_path / "v" / "members.parquet").to_pandas()
    assert (members.groupby(members["frame_id"].str.split("_").str[0])["shard"].nunique() == 1).all()


@pytest.fixture(scope="module")
def two_versions(tools, tmp_path_factory):
    """100 frames, built and published; the next version adds one, removes one and relabels one."""
    root = tmp_path_factory.mktemp("two_versions")
    store, registry = open_store(str(root / "store")), root / "registry.git"
    create_registry(registry, str(root / "remote"))
    frames = stored_frames(tools, store, [f"d{k // 10}_{k}" for k in range(100)], instances=False)
    build_version(frames, store, None, root / "v1", frames_per_shard=10)
    first = publish(registry, "one", root / "v1")
    tables = ["manifest.parquet", "shards.json", "members.parquet", "version.json"]
    fetch(registry, first, root / "base", files=tables)
    better = stored_frames(tools, store, ["d0_7"], "better", instances=False)
    new = stored_frames(tools, store, ["d99_0"], instances=False)
    head = pd.concat([frames.drop(index=[7, 55]), better, new], ignore_index=True)
    built = build_version(head, store, root / "base", root / "v2", frames_per_shard=10)
    return SimpleNamespace(root=root, store=store, registry=registry, first=first, head=head, built=built)


def test_the_next_version_costs_what_changed(two_versions):
    built, root = two_versions.built, two_versions.root
    assert built.parent == two_versions.first.tag
    assert built.parent_manifest_sha256 == two_versions.first.manifest_sha256
    assert (built.added, built.removed, built.changed, built.rewritten) == (1, 1, 1, 0)
    assert (built.shards, built.new_shards) == (11, 1)
    assert shard_contents(root / "v2").keys() == {"d0_7", "d99_0"}
    data_bytes = sum(p.stat().st_size for p in (root / "v1" / "shards").iterdir())
    one_tar_record = 10240
    assert built.new_bytes <= 0.02 * data_bytes + one_tar_record, "two of a hundred frames are new"


def test_a_version_alone_is_enough_to_train_again(two_versions):
    root = two_versions.root
    second = publish(two_versions.registry, "two", root / "v2")
    assert second.parent == two_versions.first.tag
    fetch(two_versions.registry, second, root / "out")
    assert len(list((root / "out" / "shards").iterdir())) == 11
    fresh = open_store(str(root / "fresh"))
    assert restore_blobs(root / "out", fresh) == 100
    for column in ("image_uri", "label_uri"):
        assert all(fresh.exists(uri) for uri in two_versions.head[column])
    gone = read_manifest(root / "v1" / "manifest.parquet").set_index("frame_id").loc["d5_55", "image_uri"]
    assert not fresh.exists(gone), "a frame that left the version was restored from an old shard"


def test_rewriting_leaves_no_byte_of_removed_frames(two_versions):
    root, head = two_versions.root, two_versions.head
    built = build_version(head, two_versions.store, root / "base", root / "v3", frames_per_shard=10, rewrite_below=1.0)
    assert built.rewritten == 9 + 9  # the nine frames beside the removed one, and those beside the relabelled one
    shards = [shard["name"] for shard in json.loads((root / "v3" / "shards.json").read_text())["shards"]]
    old = pq.read_table(root / "base" / "members.parquet").to_pandas().set_index("frame_id")["shard"]
    assert old["d5_55"] not in shards
    assert old["d0_7"] not in shards


def test_a_base_that_was_only_built_is_copied(tools, store, tmp_path):
    frames = stored_frames(tools, store, ["d0_0", "d0_1", "d1_0"])
    build_version(frames.iloc[:2], store, None, tmp_path / "v1", frames_per_shard=2)
    built = build_version(frames, store, tmp_path / "v1", tmp_path / "v2", frames_per_shard=2)
    assert built.parent is None
    assert shard_contents(tmp_path / "v2").keys() == {"d0_0", "d0_1", "d1_0"}
    shutil.rmtree(tmp_path / "v1" / "shards")
    with pytest.raises(InputError, match="never published"):
        build_version(frames, store, tmp_path / "v1", tmp_path / "v3", frames_per_shard=2)


def test_a_shard_that_lost_most_frames_is_not_dragged_along(tools, store, tmp_path):
    frames = stored_frames(tools, store, [f"d0_{k}" for k in range(10)])
    build_version(frames, store, None, tmp_path / "v1", frames_per_shard=10)
    built = build_version(frames.iloc[:4], store, tmp_path / "v1", tmp_path / "v2", frames_per_shard=10)
    assert (built.rewritten, built.new_shards, built.shards) == (4, 1, 1)
    assert shard_contents(tmp_path / "v2").keys() == set(frames["frame_id"][:4])


def test_bad_input_is_refused_and_leaves_nothing(tools, store, tmp_path):
    frames = stored_frames(tools, store, ["d0_0"])
    with pytest.raises(InputError, match="frames_per_shard=0"):
        build_version(frames, store, None, tmp_path / "v", frames_per_shard=0)
    with pytest.raises(InputError, match="rewrite_below"):
        build_version(frames, store, None, tmp_path / "v", frames_per_shard=1, rewrite_below=2)
    with pytest.raises(InputError, match="column"):
        build_version(frames.drop(columns="split"), store, None, tmp_path / "v", frames_per_shard=1)
    absent = tools.make_frames(["d0_0"])
    with pytest.raises(InputError):
        build_version(absent, store, None, tmp_path / "v", frames_per_shard=1)
    assert {p.name for p in tmp_path.iterdir()} == {"store"}
    build_version(frames, store, None, tmp_path / "v", frames_per_shard=1)
    with pytest.raises(InputError, match="not empty"):
        build_version(frames, store, None, tmp_path / "v", frames_per_shard=1)
    with pytest.raises(InputError, match=r"no members\.parquet"):
        (tmp_path / "v" / "members.parquet").unlink()
        build_version(frames, store, tmp_path / "v", tmp_path / "w", frames_per_shard=1)


def test_a_shard_with_other_bytes_than_the_manifest_says_is_not_restored(tools, store, tmp_path):
    frames = stored_frames(tools, store, ["d0_0", "d0_1"])
    build_version(frames, store, None, tmp_path / "v", frames_per_shard=2)
    shard = next((tmp_path / "v" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes().replace(b"label d0_1", b"label d0_X"))
    with pytest.raises(InputError, match="label_uri of frame d0_1"):
        restore_blobs(tmp_path / "v", open_store(str(tmp_path / "fresh")))


def test_progress_counts_new_frames(tools, store, tmp_path):
    seen = []
    frames = stored_frames(tools, store, [f"d0_{k}" for k in range(5)])
    build_version(frames, store, None, tmp_path / "v", frames_per_shard=2, progress=lambda *p: seen.append(p))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert np.all(np.diff([done for done, _ in seen]) > 0)
