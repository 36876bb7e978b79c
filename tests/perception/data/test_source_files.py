"""Footage in a bucket reads as the same footage in a folder, in every format; hostile keys reach nothing outside."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from components.ingest.arrivals import arrivals, list_arrivals
from components.ingest.sources import Source
from perception.data import s3
from perception.data.decoding import BadFrame
from perception.data.readers.layout import read_file
from perception.data.source_files import open_source_files
from perception.errors import InputError
from tests.conftest import S3Server
from tests.perception.data.readers.layouts import LAYOUTS

OBJECTS = {
    "a/frame.png": b"pixels",
    "a/frames.csv": b"frame_id\n1\n",
    "../outside.csv": b"x",
    "/etc/passwd.csv": b"x",
    "a/../../b.csv": b"x",
    "a//b.csv": b"x",
    "a/frames.csv/below.csv": b"x",
    "a/folder/": b"",
    "b/" + "n" * 300 + ".csv": b"x",
}


class Memory:
    """A bucket in memory that counts what is read."""

    name, prefix = "drops", "night"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects, self.reads = dict(objects), []

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        assert folder == ""
        return {key: (len(data), 1.7e9) for key, data in self.objects.items()}

    def read_blocks(self, key: str, take: Any) -> bool:
        self.reads.append(key)
        if key in self.objects:
            take(self.objects[key])
        return key in self.objects


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory(OBJECTS)
    monkeypatch.setattr(s3, "open_bucket", lambda *_: memory)
    return memory


@pytest.mark.s3
@pytest.mark.parametrize("format", LAYOUTS)
def test_every_format_reads_from_a_bucket_as_from_a_folder(
    format: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    folder, url = LAYOUTS[format](tmp_path / format), f"s3://{s3_server.bucket}/footage/{format}"
    bucket = s3.open_bucket(url, s3_server.environment())
    for file in (each for each in folder.rglob("*") if each.is_file()):
        data = file.read_bytes()
        bucket.write(file.relative_to(folder).as_posix(), io.BytesIO(data), len(data))
    read = {}
    for place in (str(folder), url):
        source = Source(format=format, path=place, domain="real", split="train", labels="given")
        listing = list_arrivals("fleet", source, 0, (4, 6), "2026-11-30")
        sizes = [[each.partition(":")[0] for each in files.split()] for files in listing.signature]
        taken = list(arrivals(source, listing, 0, (4, 6)))
        read[place] = (
            listing[["object", "drive_id"]].to_numpy().tolist(),
            sizes,
            [told(each, place) for each in taken],
        )
    assert read[url] == read[str(folder)]
    assert len(read[url][2]) >= 2


def told(arrival: Any, place: str) -> dict[str, Any]:
    """Return what an arrival says but where on this machine its files lay."""
    kept = {field.name: getattr(arrival, field.name) for field in dataclasses.fields(arrival)}
    facts = kept.pop("facts")
    paths = {"image_path", "label_path", "instances_path"}
    kept |= {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts) if field.name not in paths}
    assert str(kept["image_path"]).startswith(place), "a message would name a folder that nobody knows"
    return {name: str(value).replace(place, "") for name, value in kept.items()}


def test_an_image_has_its_bytes_only_while_it_is_read_and_a_table_always(bucket: Memory) -> None:
    with open_source_files("s3://drops/night") as footage:
        image, table = footage.root / "a/frame.png", footage.root / "a/frames.csv"
        assert (image.stat().st_size, image.stat().st_mtime) == (6, 1.7e9)
        assert table.read_bytes() == OBJECTS["a/frames.csv"]
        assert "a/frame.png" not in bucket.reads
        with footage.whole((image, None, table)):
            assert image.read_bytes() == b"pixels"
        assert image.read_bytes() == b""
        assert footage.name(str(image)) == "s3://drops/night/a/frame.png"
    assert not footage.root.exists()


def test_a_key_that_is_no_path_of_a_file_is_left_out_and_told(
    bucket: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_source_files("s3://drops/night") as footage:
        found = {path.relative_to(footage.root).as_posix() for path in footage.root.rglob("*") if path.is_file()}
        around = {path.name for path in footage.root.parent.iterdir()}
    assert found == {"a/frame.png", "a/frames.csv"}
    assert around == {"night"}, "something lies outside the source's folder"
    assert (
        "s3://drops/night: 6 objects left out, their keys are no paths of files: '../outside.csv'"
        in capsys.readouterr().out
    )
    assert not [key for key in bucket.reads if ".." in key or key.startswith("/")]


def test_an_object_that_goes_or_changes_while_a_source_is_read_costs_no_more_than_itself(bucket: Memory) -> None:
    """A sender may take a file back at any time; of a folder, too, that costs one frame."""
    listed = bucket.list("") | {"gone.csv": (3, 1.7e9), "a/frames.csv": (4, 1.7e9)}
    bucket.list = lambda _: listed  # type: ignore[method-assign]
    with open_source_files("s3://drops/night") as footage:
        assert not (footage.root / "gone.csv").exists()
        assert (footage.root / "a/frames.csv").read_bytes() == OBJECTS["a/frames.csv"], "as it is now, whole"
        del bucket.objects["a/frame.png"]
        image = footage.root / "a/frame.png"
        with footage.whole([image]), pytest.raises(BadFrame, match="cannot be read"):
            read_file(image)


def test_what_is_wrong_is_said_with_the_buckets_address(bucket: Memory) -> None:
    with (
        pytest.raises(InputError, match=r"^s3://drops/night/a: rule$"),
        open_source_files("s3://drops/night") as footage,
    ):
        raise InputError(f"{footage.root}/a: rule")
    bucket.objects.clear()
    with pytest.raises(InputError, match="s3://drops/night: holds no object"), open_source_files("s3://drops/night"):
        pytest.fail("opened an empty place")
