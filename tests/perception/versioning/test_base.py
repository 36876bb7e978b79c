import hashlib
import io

import pytest
from PIL import Image

from perception.data.store import open_store
from perception.errors import InputError
from perception.versioning.base import write_base
from perception.versioning.curated import build_version
from perception.versioning.decisions import promote, rollback, set_reference
from perception.versioning.models import propose
from perception.versioning.registry import create_registry, publish


@pytest.fixture
def started(tools, tmp_path):
    """A registry with one version of two frames, its network proposed; and the store the frames came from."""
    store, registry = open_store(str(tmp_path / "store")), str(tmp_path / "data.git")
    frames = tools.make_frames(["d0_0", "d1_1"])
    for row, color in enumerate(("red", "blue")):
        for column, kind in (("image", "jpg"), ("label", "png")):
            buffer = io.BytesIO()
            Image.new("RGB" if kind == "jpg" else "L", (64, 32), color if kind == "jpg" else row).save(
                buffer, "JPEG" if kind == "jpg" else "PNG"
            )
            blob = store.put(buffer.getvalue(), kind)
            frames.loc[row, [f"{column}_uri", f"{column}_sha256"]] = [blob.uri, blob.sha256]
    build_version(frames, store, None, tmp_path / "version", frames_per_shard=10)
    create_registry(registry, str(tmp_path / "remote"))
    version = publish(registry, "night-1", tmp_path / "version")
    (tmp_path / "model").mkdir()
    for name in ("model.onnx", "dense.safetensors", "card.json", "query.json"):
        (tmp_path / "model" / name).write_bytes(name.encode() * 20)
    propose(registry, version.tag, {}, model=tmp_path / "model")
    return registry, version, frames


def begin(started, tmp_path, name, store="store", night="night-2"):
    folder = tmp_path / name
    folder.mkdir()
    base = write_base(folder, started[0], str(tmp_path / "remote"), open_store(str(tmp_path / store)), "current", night)
    return base, {path.name for path in folder.iterdir()}


def approve(started, **options):
    registry, version, _ = started
    signed = {"manifest_sha256": version.manifest_sha256, "names": ["Ada"], "reason": "good", "release": True}
    return promote(registry, version.tag, **signed | options)


def test_a_first_night_starts_from_nothing(started, tmp_path):
    base, files = begin(started, tmp_path, "base")
    assert (base.tag, base.frames, base.champion, files) == (None, 0, None, {"manifest.parquet"})


def test_a_night_that_was_stopped_after_it_released_starts_from_what_was_before(started, tmp_path):
    registry, first, _ = started
    approve(started, policy="when gates pass")
    again, _ = begin(started, tmp_path, "first again", night="night-1")
    assert (again.tag, again.champion) == (None, None)
    before, _ = begin(started, tmp_path, "second")
    (tmp_path / "model" / "model.onnx").write_bytes(b"another network")
    propose(registry, first.tag, {}, model=tmp_path / "model", facts={"run": "night-2"})  # it changed no data
    approve(started, policy="when gates pass", data=False)
    again, files = begin(started, tmp_path, "second again", night="night-2")
    assert again == before and again.tag == first.tag and "champion.onnx" in files
    after, _ = begin(started, tmp_path, "third", night="night-3")
    assert after.tag == first.tag and after.champion not in (None, before.champion)
    rollback(registry, name="Ada", reason="worse at night")
    decided, _ = begin(started, tmp_path, "decided since", night="night-2")
    assert decided == before, "as everybody finds it"


def test_a_night_finds_the_released_data_and_the_released_network(started, tmp_path):
    approve(started)
    base, files = begin(started, tmp_path, "base")
    assert (base.tag, base.frames) == (started[1].tag, 2)
    assert {
        "champion.onnx",
        "champion_dense.safetensors",
        "champion.json",
        "champion_card.json",
        "query.json",
        "run.json",
        "members.parquet",
    } <= files
    assert (tmp_path / "base" / "champion.onnx").read_bytes() == b"model.onnx" * 20


def test_a_night_finds_the_reference_release_beside_the_champion(started, tmp_path):
    approve(started)
    set_reference(started[0], names=["Ada"], reason="as driven in spring")
    _, files = begin(started, tmp_path, "base")
    assert {"champion.onnx", "reference.onnx", "reference.json"} <= files
    assert (tmp_path / "base" / "reference.onnx").read_bytes() == b"model.onnx" * 20


def test_a_network_that_was_released_without_its_dense_one_is_found_without(started, tmp_path):
    (tmp_path / "model" / "dense.safetensors").unlink()
    propose(started[0], started[1].tag, {}, model=tmp_path / "model")
    approve(started)
    _, files = begin(started, tmp_path, "base")
    assert "champion.onnx" in files and "champion_dense.safetensors" not in files


def test_frames_that_the_store_lacks_come_out_of_the_shards(started, tmp_path):
    approve(started)
    begin(started, tmp_path, "base", store="empty")
    restored = open_store(str(tmp_path / "empty"))
    for uri, sha256 in started[2][["image_uri", "image_sha256"]].itertuples(index=False):
        assert hashlib.sha256(restored.get(uri)).hexdigest() == sha256


def test_a_champion_that_cannot_be_run_is_named(started, tmp_path):
    (tmp_path / "notes.txt").write_text("no network")
    propose(started[0], started[1].tag, {}, model=tmp_path / "notes.txt")
    approve(started)
    with pytest.raises(InputError, match=r"released by Ada has no model\.onnx"):
        begin(started, tmp_path, "base")


def test_a_rollback_with_nothing_before_is_refused_and_the_base_stays(started, tmp_path):
    approve(started)
    with pytest.raises(InputError, match="nothing to roll back to"):
        rollback(started[0], name="Ada", reason="too early")
    assert begin(started, tmp_path, "base")[0].tag == started[1].tag
