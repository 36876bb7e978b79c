"""Readers: tiny folders in the true layouts come out right, and each way to break one is named."""

import csv
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.data.decoding import decode_label
from perception.data.readers import READERS, RawFrame, Reader, open_reader
from perception.data.shards import read_shard, write_shard
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def camvid(root: Path) -> Path:
    for split, stems in (
        ("train", ["0006R0_f00930", "0001TP_006690"]),
        ("val", ["0016E5_07959"]),
        ("test", ["Seq05VD_f00000"]),
    ):
        for stem in stems:
            touch(root / split / f"{stem}.{'png' if split == 'val' else 'jpg'}", root / f"{split}annot" / f"{stem}.png")
    return root


def cityscapes(root: Path) -> Path:
    for split, city, stem in (
        ("train", "jena", "jena_000001_000019"),
        ("train", "aachen", "aachen_000000_000019"),
        ("val", "munster", "munster_000000_000019"),
    ):
        touch(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        for kind in ("labelIds.png", "instanceIds.png", "color.png", "polygons.json"):
            touch(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}")
    return root


ROWS = [
    ["d0_0001", "d0", "2026-11-01T04:05:06.5Z", "front", "night", "rain", "freeway"],
    ["d0_0000", "d0", "2026-11-01T06:05:06+02:00", "", "", "", ""],
]
COLUMNS = ["frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene"]


def scenes(root: Path, rows: list[list[str]] = ROWS, columns: list[str] = COLUMNS) -> Path:
    for row in ROWS:
        touch(
            root / "images" / f"{row[0]}.jpg", root / "labels" / f"{row[0]}.png", root / "instances" / f"{row[0]}.png"
        )
    with (root / "frames.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def read(format: str, root: Path, split: str | None = None, labels_required: bool = True) -> list[RawFrame]:
    return list(open_reader(format).frames(root, split, labels_required))


def test_camvid(tmp_path: Path) -> None:
    root = camvid(tmp_path)
    frames = read("camvid", root, "train")
    assert frames == [
        RawFrame(
            frame_id="camvid_0001TP_006690", drive_id="0001TP", image_path=root / "train" / "0001TP_006690.jpg",
            label_path=root / "trainannot" / "0001TP_006690.png", time_of_day="twilight", scene="urban",
        ),
        RawFrame(
            frame_id="camvid_0006R0_f00930", drive_id="0006R0", image_path=root / "train" / "0006R0_f00930.jpg",
            label_path=root / "trainannot" / "0006R0_f00930.png", time_of_day="day", scene="urban",
        ),
    ]  # fmt: skip
    assert [frame.drive_id for frame in read("camvid", root)] == ["Seq05V", "0001TP", "0006R0", "0016E5"]


def test_camvid_without_a_split_or_labels(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "0099XX_1.png", tmp_path / "train" / ".DS_Store", tmp_path / "train" / "Thumbs.db")
    (frame,) = read("camvid", tmp_path, labels_required=False)
    assert (
        frame.label_path is None and frame.time_of_day is None and frame.scene is None and frame.timestamp_utc is None
    )
    with pytest.raises(InputError, match=r"trainannot: folder is missing; labels are required; add it"):
        read("camvid", tmp_path)


def test_cityscapes(tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    frames = read("cityscapes", root, "train")
    assert [frame.frame_id for frame in frames] == ["cityscapes_aachen_000000_000019", "cityscapes_jena_000001_000019"]
    truth = root / "gtFine" / "train" / "jena"
    assert frames[1] == RawFrame(
        frame_id="cityscapes_jena_000001_000019", drive_id="jena_000001",
        image_path=root / "leftImg8bit" / "train" / "jena" / "jena_000001_000019_leftImg8bit.png",
        label_path=truth / "jena_000001_000019_gtFine_labelIds.png",
        instances_path=truth / "jena_000001_000019_gtFine_instanceIds.png",
        camera="left", time_of_day="day", scene="urban",
    )  # fmt: skip
    assert len(read("cityscapes", root)) == 3


def test_scenes_folder(tmp_path: Path) -> None:
    frames = read("scenes_folder", scenes(tmp_path))
    assert [frame.frame_id for frame in frames] == ["d0_0000", "d0_0001"]
    assert frames[0].timestamp_utc == datetime(2026, 11, 1, 4, 5, 6, tzinfo=UTC)
    assert frames[0].weather is None and frames[0].camera is None
    assert frames[1] == RawFrame(
        frame_id="d0_0001", drive_id="d0", image_path=tmp_path / "images" / "d0_0001.jpg",
        label_path=tmp_path / "labels" / "d0_0001.png", instances_path=tmp_path / "instances" / "d0_0001.png",
        timestamp_utc=datetime(2026, 11, 1, 4, 5, 6, 500_000, tzinfo=UTC), camera="front", time_of_day="night",
        weather="rain", scene="freeway",
    )  # fmt: skip


def test_scenes_folder_without_labels(tmp_path: Path) -> None:
    scenes(tmp_path)
    for name in ("labels", "instances"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
        (tmp_path / name).rmdir()
    assert [frame.label_path for frame in read("scenes_folder", tmp_path, labels_required=False)] == [None, None]


def test_readers_know_their_taxonomy_and_read_bytes(tmp_path: Path) -> None:
    assert {name: reader.taxonomy for name, reader in READERS.items()} == {
        "bdd100k": "bdd100k", "camvid": "camvid11", "cityscapes": "cityscapes_ids", "gta5": "gta5",
        "mapillary_v1_2": "mapillary_v1_2", "mapillary_v2_0": "mapillary_v2_0", "scenes_folder": "cityscapes19",
        "synthia": "synthia16", "viper": "viper", "webdataset": "cityscapes19",
    }  # fmt: skip
    for name, reader in READERS.items():
        assert reader.name == name and load_taxonomy(reader.taxonomy)
    reader = open_reader("camvid")
    frame = read("camvid", camvid(tmp_path), "val")[0]
    assert reader.image(frame) == b"x" and reader.label(frame) == b"x"
    frame.image_path.unlink()
    with pytest.raises(InputError, match=r"0016E5_07959.png: cannot be read \(No such file"):
        reader.image(frame)


def test_a_format_in_archives_with_labels_of_another_kind_fits(tmp_path: Path) -> None:
    """A format to come: frames in tar files, labels as one text value a pixel. Only its own functions are new."""

    def frames(root: Path, _split: str | None, _labels_required: bool) -> Iterator[RawFrame]:
        for path in sorted(root.glob("*.tar")):
            for key, _ in read_shard(path):
                yield RawFrame(frame_id=key, drive_id=path.stem, image_path=path, label_path=path, member=key)

    def member(frame: RawFrame, extension: str) -> bytes:
        return dict(read_shard(frame.image_path))[str(frame.member)][extension]

    def label(frame: RawFrame) -> bytes:
        values = np.array([line.split() for line in member(frame, "txt").decode().splitlines()], np.uint8)
        data = io.BytesIO()
        Image.fromarray(values).save(data, "PNG")
        return data.getvalue()

    reader = Reader("tar", "camvid11", frames, image=lambda frame: member(frame, "jpg"), label=label)
    write_shard([("a", {"jpg": b"image", "txt": b"1 2\n3 11\n"})], tmp_path / "drive.tar")
    (frame,) = reader.frames(tmp_path, None, True)
    assert reader.image(frame) == b"image" and frame.drive_id == "drive"
    data = reader.label(frame)
    assert data is not None
    assert decode_label(data, tmp_path, load_taxonomy("camvid11"), (2, 2)).tolist() == [[1, 2], [3, 11]]


def test_listing_is_lazy(tmp_path: Path) -> None:
    """A broken city is met when its turn comes, not before the first frame is given."""
    root = cityscapes(tmp_path)
    (root / "gtFine" / "train" / "jena" / "jena_000001_000019_gtFine_labelIds.png").unlink()
    frames = open_reader("cityscapes").frames(root, "train", True)
    assert next(frames).drive_id == "aachen_000000"
    with pytest.raises(InputError, match="image without label"):
        next(frames)


def test_unknown_format() -> None:
    with pytest.raises(InputError, match="format 'bdd' is unknown; use one of bdd100k, camvid, cityscapes, gta5"):
        open_reader("bdd")


Change = Callable[[Path], object]
LAYOUTS: dict[str, Callable[[Path], Path]] = {"camvid": camvid, "cityscapes": cityscapes, "scenes_folder": scenes}


def drop(pattern: str) -> Change:
    def change(root: Path) -> None:
        found = sorted(root.rglob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()

    return change


def add(*names: str) -> Change:
    return lambda root: touch(*(root / name for name in names))


def nothing(_: Path) -> None:
    """Leave the folder as it is: what is asked of it is wrong."""


def rows(*lines: list[str], columns: list[str] = COLUMNS) -> Change:
    return lambda root: scenes(root, list(lines), columns)


# ruff: noqa: E501 (one broken folder a line)
BROKEN: dict[str, tuple[str, str | None, Change, str]] = {
    "camvid: unknown split": ("camvid", "trainn", nothing, "split 'trainn' is unknown; use one of train, val, test"),
    "camvid: image gone": ("camvid", "train", drop("0001TP*.jpg"), r"trainannot/0001TP_006690.png: label without image in .*/train; add the image"),
    "camvid: label gone": ("camvid", "train", drop("0001TP*.png"), r"train/0001TP_006690.jpg: image without label in .*/trainannot; add the label"),
    "camvid: all images gone": ("camvid", "train", drop("*.jpg"), r"/train: folder is empty: it holds no \*.jpg, \*.jpeg, \*.png; add the frames"),
    "camvid: two images of one stem": ("camvid", "val", add("val/0016E5_07959.jpg"), r"0016E5_07959.png: second file for frame 0016E5_07959"),
    "camvid: name": ("camvid", "val", add("val/a b.png", "valannot/a b.png"), r"a b.png: frame_id 'camvid_a b' must match .*; rename the file"),
    "cityscapes: label gone": ("cityscapes", "val", drop("munster*labelIds.png"), "munster_000000_000019_leftImg8bit.png: image without label"),
    "cityscapes: image gone": ("cityscapes", "train", add("gtFine/train/jena/jena_000002_000019_gtFine_labelIds.png"), "label without image"),
    "cityscapes: instances alone": ("cityscapes", "val", add("gtFine/val/munster/munster_9_9_gtFine_instanceIds.png"), "label without image"),
    "cityscapes: city gone": ("cityscapes", "val", add("gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"), "val/ulm: labels of a city without images"),
    "cityscapes: split gone": ("cityscapes", "test", nothing, "leftImg8bit/test: folder is missing; add it or ask for another split"),
    "cityscapes: empty city": ("cityscapes", "val", drop("munster_*"), "munster: folder is empty"),
    "cityscapes: name": ("cityscapes", "val", add("leftImg8bit/val/munster/x_leftImg8bit.png", "gtFine/val/munster/x_gtFine_labelIds.png"), "must be CITY_SEQUENCE_FRAME"),
    "scenes: split": ("scenes_folder", "train", nothing, "a scenes_folder has no splits; leave the split out"),
    "scenes: no csv": ("scenes_folder", None, drop("frames.csv"), "frames.csv: file is missing"),
    "scenes: no images": ("scenes_folder", None, drop("*.jpg"), "images: folder is empty"),
    "scenes: image gone": ("scenes_folder", None, drop("d0_0001.jpg"), "labels/d0_0001.png: label without image"),
    "scenes: label gone": ("scenes_folder", None, drop("d0_0001.png"), "images/d0_0001.jpg: image without label"),
    "scenes: image without line": ("scenes_folder", None, rows(ROWS[0]), "d0_0000.jpg: image without a line in frames.csv"),
    "scenes: line without image": ("scenes_folder", None, rows(*ROWS, ["d9", "d", "", "", "", "", ""]), "frame d9 has no file in images/"),
    "scenes: id twice": ("scenes_folder", None, rows(*ROWS, ROWS[0]), "line 4 repeats frame_id d0_0001"),
    "scenes: columns": ("scenes_folder", None, rows(*ROWS, columns=["id", *COLUMNS[1:]]), "columns are id, drive_id.* must be frame_id"),
    "scenes: short line": ("scenes_folder", None, rows(ROWS[0], ROWS[1][:3]), "line 3 has not 7 fields"),
    "scenes: long line": ("scenes_folder", None, rows(ROWS[0], [*ROWS[1], "more"]), "line 3 has not 7 fields"),
    "scenes: id rule": ("scenes_folder", None, rows(ROWS[0], ["../x", *ROWS[1][1:]]), "line 3 has frame_id '../x', must match"),
    "scenes: vocabulary": ("scenes_folder", None, rows([*ROWS[0][:5], "hail", ""], ROWS[1]), "line 2 has weather 'hail', must be empty or one of clear, cloudy"),
    "scenes: time": ("scenes_folder", None, rows(ROWS[0], ["d0_0000", "d0", "noon", "", "", "", ""]), "timestamp_utc of frame d0_0000 is 'noon', must be ISO 8601"),
    "scenes: local time": ("scenes_folder", None, rows(ROWS[0], ["d0_0000", "d0", "2026-11-01T04:05:06", "", "", "", ""]), "must be ISO 8601 with its zone"),
    "scenes: not text": ("scenes_folder", None, lambda root: (root / "frames.csv").write_bytes(b"\xff\xfe\x00"), "not a readable UTF-8 CSV file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_layout_is_named(name: str, tmp_path: Path) -> None:
    format, split, change, message = BROKEN[name]
    root = LAYOUTS[format](tmp_path / "data")
    change(root)
    with pytest.raises(InputError, match=message) as caught:
        read(format, root, split)
    assert "\n" not in str(caught.value)
    if "unknown" not in message and "split" not in message:
        assert str(root) in str(caught.value)


@pytest.mark.parametrize("format", LAYOUTS)
def test_missing_empty_and_no_folder(format: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: folder is missing; give the path of the data set"):
        read(format, tmp_path / "nothing")
    with pytest.raises(InputError, match=r"is empty|is missing") as caught:
        read(format, tmp_path)
    assert str(tmp_path) in str(caught.value)
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="file: is a file, must be a folder"):
        read(format, tmp_path / "file")
