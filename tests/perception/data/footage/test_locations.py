"""Footage in a bucket is what it is in a folder; a connection that breaks changes nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import urllib3

from perception.data.decoding import BadFrame
from perception.data.footage.locations import BucketLocation, open_location
from perception.data.footage.reading import FootageFrame, FootageObject, open_footage
from perception.data.footage.settings import FootageSettings
from perception.data.s3 import Bucket
from tests.perception.data.footage.recordings import drive, jpeg, types, write_mcap, write_video

if TYPE_CHECKING:
    from tests.conftest import S3Server


def upload(server: S3Server, root: Path, prefix: str) -> str:
    """Put the files below a folder into the test's bucket; return where they are."""
    from minio import Minio

    client = Minio(server.endpoint.removeprefix("http://"), server.access_key, server.secret_key, secure=False)
    for path in root.rglob("*"):
        if path.is_file():
            client.fput_object(server.bucket, f"{prefix}/{path.relative_to(root).as_posix()}", str(path))
    return f"s3://{server.bucket}/{prefix}/"


def everything(path: str) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """Return what is listed and the bytes of every frame."""
    footage = open_footage("fleet", path, FootageSettings())
    listed = list(footage.objects("2026-11-01", Counter()))
    frames = [frame for each in listed for frame in footage.frames(each, Counter())]
    assert all(isinstance(each, FootageFrame) for each in frames), frames
    named = [(each.name, each.drive_id) for each in listed if "/" in each.name]
    return named, {each.frame_id: each.picture.encoded()[0] for each in frames if isinstance(each, FootageFrame)}


@pytest.mark.s3
def test_a_bucket_gives_what_a_folder_gives(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "2026-11-01" / "d1" / "deep"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(jpeg(0))
    (folder / "frames.csv").write_text("file,camera\n0.jpg,rear\n")
    (folder.parent / "1.jpg").write_bytes(jpeg(1))
    (folder.parent / "1.json").write_text('{"camera": "front"}')
    write_video(folder.parent / "left.mp4", 5)
    write_mcap(folder.parent / "z.mcap", drive(types(2), 5))
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    path = upload(s3_server, tmp_path / "2026-11-01", "drops/2026-11-01")
    expected, found = everything(str(tmp_path / "2026-11-01")), everything(path)
    assert found == expected and len(found[1]) == 2 + 5 + 15
    gone = FootageObject("d1/none.mp4", "d1", "")
    (damage,) = open_footage("fleet", path, FootageSettings()).frames(gone, Counter())
    assert isinstance(damage, BadFrame) and "is not there any more" in str(damage)


DATA = bytes(range(250)) * 4


class BreakingClient:
    """Break every download off after 300 bytes."""

    def stat_object(self, *_: str) -> Any:
        return SimpleNamespace(size=len(DATA), etag="etag", last_modified=None)

    def get_object(self, *_: str, offset: int) -> Any:
        def stream(_: int) -> Iterator[bytes]:
            yield DATA[offset : offset + 300]
            if offset + 300 < len(DATA):
                raise urllib3.exceptions.ProtocolError("connection broken")

        return SimpleNamespace(stream=stream, close=lambda: None, release_conn=lambda: None)


def test_a_download_that_breaks_off_goes_on_where_it_was() -> None:
    bucket = Bucket("s3://bucket", "bucket", "", cast(Any, BreakingClient()))
    with BucketLocation(bucket).local("a.mp4", 2000) as (path, sha256):
        assert path.read_bytes() == DATA and sha256 == hashlib.sha256(DATA).hexdigest()
    assert not path.exists()


def test_a_folder_is_listed_without_opening_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "a" / "1.jpg").chmod(0)
    listed = open_location(str(tmp_path)).folder("a/")
    assert list(listed.files) == ["1.jpg"] and listed.folders == ()
