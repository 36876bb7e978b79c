"""The folder store: content-addressed, whole or not at all, closed to paths that lead out of it."""

import hashlib
from pathlib import Path

import pytest

from perception.data.blobs import Blob
from perception.data.store import FolderStore, open_store
from perception.errors import InputError

DATA = b"one frame"
SHA = hashlib.sha256(DATA).hexdigest()
URI = f"sha256/{SHA[:2]}/{SHA}.png"


def test_put_get_exists(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "deep" / "store"))
    assert not store.exists(URI)
    assert store.put(DATA, "png") == Blob(URI, SHA, len(DATA))
    assert store.exists(URI) and store.get(URI) == DATA
    assert [path for path in (tmp_path / "deep").rglob("*") if path.is_file()] == [tmp_path / "deep" / "store" / URI]


def test_empty_blob(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.get(store.put(b"", "json").uri) == b""


def test_putting_again_touches_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(DATA, "png")
    before = (tmp_path / URI).stat()
    store.put(DATA, "png")
    after = (tmp_path / URI).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_putting_again_mends_a_blob_cut_short(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(DATA, "png")
    (tmp_path / URI).write_bytes(DATA[:3])
    store.put(DATA, "png")
    assert store.get(URI) == DATA


def test_missing_and_corrupt(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(InputError, match=f"store {tmp_path}: has no blob {URI}; ingest its source again"):
        store.get(URI)
    store.put(DATA, "png")
    (tmp_path / URI).write_bytes(b"another f")
    with pytest.raises(InputError, match=f"blob {URI} is corrupt"):
        store.get(URI)


@pytest.mark.parametrize(
    "uri",
    [
        "../secret", "/etc/passwd", "sha256/../../etc/passwd", f"sha256/{SHA[:2]}/../{SHA}.png", f"{URI}\n",
        f"{URI}/..",
        f"sha256/zz/{SHA}.png", f"sha256/00/{SHA}.png", f"sha256/{SHA[:2]}/{SHA}.PNG", f"sha256/{SHA[:2]}/{SHA}", "",
        URI.upper(),
        f"sha256/{SHA[:2]}/{SHA}.p/../../x",
    ],
)  # fmt: skip
def test_a_uri_cannot_lead_out_of_the_store(uri: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put(DATA, "png")
    for ask in (store.get, store.exists):
        with pytest.raises(InputError, match=r"blob uri .* must be sha256/"):
            ask(uri)


@pytest.mark.parametrize("suffix", [".png", "", "PNG", "a/b", "..", "png\n"])
def test_suffix_rule(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="blob suffix"):
        FolderStore(tmp_path).put(DATA, suffix)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file: is a file, must be a folder; give another path"):
        open_store(str(tmp_path / "file"))
    blocked = FolderStore(tmp_path / "file" / "store")
    with pytest.raises(InputError, match=r"store .*file/store: cannot be written \(.*\); give a folder") as caught:
        blocked.put(DATA, "png")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        FolderStore(tmp_path).put(DATA, "png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host/bucket", ""])
def test_unknown_kind_of_store(url: str) -> None:
    with pytest.raises(InputError, match="not a folder and not an s3:// address"):
        open_store(url)
