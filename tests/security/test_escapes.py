"""Nothing that a tar member, a URI, a manifest, a tag or a file of a data set names leads out of its place."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from perception.data.manifest import write_manifest
from perception.data.readers import open_reader
from perception.data.shards import index_shard, read_shard
from perception.data.store import FolderStore, open_store
from perception.errors import InputError
from perception.versioning.curated import restore_blobs
from perception.versioning.registry import resolve
from perception.versioning.remote import open_remote

SECRET = b"precious"
OUT = ("../out.jpg", "/tmp/out.jpg", "a/../../out.jpg", "..", "a\\..\\out.jpg", "./../out.jpg")


def shard(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(SECRET) if kind == tarfile.REGTYPE else 0
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(SECRET) if member.size else None)
    return path


@pytest.mark.parametrize("name", OUT)
def test_a_member_that_leads_out_is_refused_by_every_reader_of_shards(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "x.tar", name)
    reader = open_reader("webdataset")
    for read in (
        lambda: list(read_shard(path)),
        lambda: index_shard(path),
        lambda: list(reader.frames(tmp_path, None, False)),
    ):
        with pytest.raises(InputError):
            read()
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_shard_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = shard(tmp_path / "x.tar", "a.jpg", kind, "/etc/passwd")
    with pytest.raises(InputError, match="link, device or sparse"):
        list(read_shard(path))
    with pytest.raises(InputError, match="link, device or sparse"):
        index_shard(path)


@pytest.mark.parametrize(
    "uri",
    [
        "../secret", "/etc/passwd", "file:///etc/passwd", "sha256/../../secret", f"sha256/aa/{'a' * 64}.jpg/../x",
        f"sha256/ab/{'a' * 64}.jpg",
        f"sha256/aa/{'a' * 64}.jpg\n", f"sha256/aa/{'a' * 64}.j/g", f"SHA256/aa/{'a' * 64}.jpg", f"sha256/aa/{'A' * 64}.jpg", "",
    ],
)  # fmt: skip
def test_a_uri_that_is_no_address_reaches_no_file_and_no_manifest(tmp_path: Path, uri: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    store = FolderStore(tmp_path / "store")
    for ask in (store.get, store.exists):
        with pytest.raises(InputError, match="blob uri"):
            ask(uri)
    image = hashlib.sha256(b"x").hexdigest()
    row = {
        "frame_id": "a", "drive_id": "d", "timestamp_utc": None, "camera": None, "domain": "real", "split": "pool", "time_of_day": None,
        "weather": None, "scene": None, "width_px": 8, "height_px": 8, "image_uri": uri, "image_sha256": image, "label_uri": None,
        "label_sha256": None, "label_source": "none", "label_taxonomy": None, "instances_uri": None, "source": "s",
    }  # fmt: skip
    with pytest.raises(InputError, match="image_uri"):
        write_manifest(pd.DataFrame([row]), tmp_path / "manifest.parquet")
    assert not (tmp_path / "manifest.parquet").exists()


@pytest.mark.parametrize("suffix", ["../x", "jpg/../../x", "", "J", "jpg\n", "."])
def test_a_blob_is_written_nowhere_but_at_its_address(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match="blob suffix"):
        FolderStore(tmp_path / "store").put(SECRET, suffix)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "url", ["file:///etc", "http://127.0.0.1/x", "gs://bucket", "s3://../x", "s3:///x", "s3://B_/x", ""]
)
def test_a_store_is_a_folder_or_a_bucket(url: str) -> None:
    with pytest.raises(InputError, match="store"):
        open_store(url)


@pytest.mark.parametrize(
    "revision",
    ["../x", "data/../../x-00000000", "--upload-pack=touch x", "refs/heads/main", "x;y", "data/a b-00000000"],
)
def test_a_revision_is_a_tag_a_run_or_current(tmp_path: Path, revision: str) -> None:
    with pytest.raises(InputError, match="must be 'current', a run, or a tag"):
        resolve(tmp_path, revision)


@pytest.mark.parametrize("registry", ["--upload-pack=touch owned", "ext::sh -c touch% owned", "-c core.pager=x"])
def test_a_registry_named_like_an_option_or_a_helper_runs_nothing(
    tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        resolve(registry)
    assert list(tmp_path.iterdir()) == []


def test_a_remote_object_is_named_by_its_hash_alone(tmp_path: Path) -> None:
    remote = open_remote(str(tmp_path / "remote"))
    for name in ("../x", "/etc/passwd", "zz" * 16, ""):
        with pytest.raises((InputError, ValueError)):
            remote.read(name)


def test_a_version_whose_members_lead_out_restores_nothing(tmp_path: Path) -> None:
    (tmp_path / "version" / "shards").mkdir(parents=True)
    shard(tmp_path / "version" / "shards" / "x.tar", "../../out.jpg")
    listing = {"shards": [{"name": "x.tar", "sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0, "frames": 0}]}
    (tmp_path / "version" / "shards.json").write_text(json.dumps(listing))
    with pytest.raises(InputError):
        restore_blobs(tmp_path / "version", FolderStore(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
