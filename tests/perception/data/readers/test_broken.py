"""Readers: each way to break a folder is named in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.readers import READERS, open_reader
from perception.data.readers.label_files import decode_codes, instance_codes
from perception.data.shards import write_shard
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from tests.perception.data.readers.layouts import (
    BDD,
    COLUMNS,
    KEYS,
    LAYOUTS,
    ROWS,
    SYNTHIA,
    picture,
    png,
    put,
    read,
    scenes,
    synthia,
    touch,
)

Change = Callable[[Path], object]


def drop(pattern: str) -> Change:
    def change(root: Path) -> None:
        found = sorted(root.rglob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()

    return change


def add(*names: str) -> Change:
    return lambda root: touch(*(root / name for name in names))


def write(name: str, data: bytes | Any) -> Change:
    return lambda root: put(root / name, data if isinstance(data, bytes) else json.dumps(data).encode())


def shard(members: dict[str, dict[str, bytes]]) -> Change:
    return lambda root: write_shard(members.items(), root / "more.tar")


def nothing(_: Path) -> None:
    """Leave the folder as it is: what is asked of it is wrong."""


def rows(*lines: list[str], columns: list[str] = COLUMNS) -> Change:
    return lambda root: scenes(root, list(lines), columns)


ATTRIBUTES = "labels/sem_seg/polygons/sem_seg_val.json"
# ruff: noqa: E501 (one broken folder a line)
BROKEN: dict[str, tuple[str, str | None, Change, str]] = {
    "camvid: unknown split": ("camvid", "trainn", nothing, "split 'trainn' is unknown; use one of train, val, test"),
    "camvid: image gone": ("camvid", "train", drop("0001TP*.jpg"), r"trainannot/0001TP_006690.png: label without image in .*/train; add the image"),
    "camvid: label gone": ("camvid", "train", drop("0001TP*.png"), r"train/0001TP_006690.jpg: image without label in .*/trainannot; add the label"),
    "camvid: all images gone": ("camvid", "train", drop("*.jpg"), r"/train: folder is empty: it holds no \*.jpg, \*.jpeg, \*.png; add the frames"),
    "camvid: two images of one stem": ("camvid", "val", add("val/0016E5_07959.jpg"), r"0016E5_07959.png: second file for frame 0016E5_07959"),
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
    "scenes: no id": ("scenes_folder", None, rows(ROWS[0], ["", *ROWS[1][1:]]), "line 3 has no frame_id; fill it in"),
    "scenes: vocabulary": ("scenes_folder", None, rows([*ROWS[0][:5], "hail", ""], ROWS[1]), "line 2 has weather 'hail', must be empty or one of clear, cloudy"),
    "scenes: time": ("scenes_folder", None, rows(ROWS[0], ["d0_0000", "d0", "noon", "", "", "", ""]), "timestamp_utc of frame d0_0000 is 'noon', must be ISO 8601"),
    "scenes: local time": ("scenes_folder", None, rows(ROWS[0], ["d0_0000", "d0", "2026-11-01T04:05:06", "", "", "", ""]), "must be ISO 8601 with its zone"),
    "scenes: not text": ("scenes_folder", None, lambda root: (root / "frames.csv").write_bytes(b"\xff\xfe\x00"), "not a readable UTF-8 CSV file"),
    "bdd: split": ("bdd100k", "dev", nothing, "split 'dev' is unknown; use one of train, val, test"),
    "bdd: label gone": ("bdd100k", "val", drop(f"{BDD[0]}.png"), f"{BDD[0]}.jpg: image without label"),
    "bdd: image gone": ("bdd100k", "val", drop(f"{BDD[0]}.jpg"), f"{BDD[0]}.png: label without image"),
    "bdd: word": ("bdd100k", "val", write(ATTRIBUTES, [{"name": "a", "attributes": {"weather": "hail"}}]), "weather of frame a is 'hail', must be one of clear"),
    "bdd: attributes": ("bdd100k", "val", write(ATTRIBUTES, [{"name": "a", "attributes": [1]}]), r"timeofday of frame a is \[1\]"),
    "bdd: no list": ("bdd100k", "val", write(ATTRIBUTES, {"a": 1}), "sem_seg_val.json: must be a list of frames"),
    "bdd: no names": ("bdd100k", "val", write(ATTRIBUTES, [{"image": 1}]), "must be a list of frames with a name each"),
    "bdd: no JSON": ("bdd100k", "val", write(ATTRIBUTES, b"[{"), "sem_seg_val.json: not a JSON file"),
    "bdd: nested": ("bdd100k", "val", write(ATTRIBUTES, b"[" * 100_000), "not a JSON file .nested too deeply"),
    "gta5: no images": ("gta5", None, drop("images/*.png"), "images: folder is empty"),
    "gta5: name": ("gta5", None, lambda root: [put(root / kind / "x.png", b"x") for kind in ("images", "labels")], r"x.png: name must be a number"),
    "gta5: label gone": ("gta5", None, drop("labels/00002.png"), "00002.png: image without label"),
    "gta5: no split.mat": ("gta5", "train", drop("split.mat"), "split.mat: file is missing"),
    "gta5: split": ("gta5", "night", nothing, "split 'night' is unknown; use one of train, val, test"),
    "gta5: damaged split.mat": ("gta5", "train", write("split.mat", b"MATLAB 5.0" * 90), "split.mat: not a readable MATLAB file"),
    "gta5: empty split.mat": ("gta5", "train", lambda root: scipy.io.savemat(root / "split.mat", {"a": 1}), "has no variable trainIds, it holds a"),
    "synthia: split": ("synthia", "train", nothing, "has no splits; leave the split out"),
    "synthia: label gone": ("synthia", None, drop("LABELS/0000001.png"), "RGB/0000001.png: image without label"),
    "viper: sequence gone": ("viper", "val", write("val/cls/061/061_00001.png", b"x"), "cls/061: labels of a sequence without images"),
    "viper: label gone": ("viper", "train", drop("cls/002/*.png"), "002_00001.jpg: image without label"),
    "viper: instances alone": ("viper", "train", write("train/inst/002/002_00002.png", b"x"), "002_00002.png: label without image"),
    "viper: split gone": ("viper", "test", nothing, "test: folder is missing"),
    "mapillary: other numbers": ("mapillary_v1_2", None, write("config_v1.2.json", {"labels": [{"name": "animal--bird"}, {"name": "x"}]}), "class 1 is 'x', in mapillary_v1_2 'animal--ground-animal'"),
    "mapillary: fewer classes": ("mapillary_v1_2", None, write("config_v1.2.json", {"labels": [{"name": "animal--bird"}]}), "class 1 is missing|is missing"),
    "mapillary: no labels": ("mapillary_v2_0", None, write("config_v2.0.json", [1]), "must hold a list called labels"),
    "mapillary: label gone": ("mapillary_v2_0", "validation", drop(f"{KEYS[1]}.png"), f"{KEYS[1]}.jpg: image without label"),
    "mapillary: split": ("mapillary_v2_0", "val", nothing, "split 'val' is unknown; use one of training, validation, testing"),
    "tar: none": ("webdataset", "test", nothing, r"holds no \*.tar of split 'test'"),
    "tar: split": ("webdataset", "../x", nothing, "split '../x' must be letters"),
    "tar: no image": ("webdataset", None, shard({"k": {"txt": b"1"}}), r"more.tar: key k has no image \(txt\)"),
    "tar: no label": ("webdataset", None, shard({"k": {"jpg": b"1"}}), "more.tar: key k has no label"),
    "tar: key twice": ("webdataset", None, shard({"a": {"jpg": b"1", "label.png": b"1"}}), "train-000.tar: key a is in more.tar too"),
    "tar: word": ("webdataset", None, shard({"k": {"jpg": b"1", "label.png": b"1", "json": b'{"weather": "hail"}'}}), "k.json: weather of key k is 'hail', must be one of clear"),
    "tar: taxonomy": ("webdataset", None, shard({"k": {"jpg": b"1", "label.png": b"1", "json": b'{"label_taxonomy": "x"}'}}), "label_taxonomy of key k is 'x', must be one of bdd100k"),
    "tar: time": ("webdataset", None, shard({"k": {"jpg": b"1", "label.png": b"1", "json": b'{"timestamp_utc": "noon"}'}}), "timestamp_utc is 'noon'"),
    "tar: JSON": ("webdataset", None, shard({"k": {"jpg": b"1", "label.png": b"1", "json": b"{"}}), "k.json: not a JSON file"),
    "tar: long JSON": ("webdataset", None, shard({"k": {"jpg": b"1", "label.png": b"1", "json": b" " * 2**20 + b"1"}}), "k.json: has 1048577 bytes, more than"),
    "tar: cut": ("webdataset", None, lambda root: put(root / "more.tar", (root / "train-000.tar").read_bytes()[:900]), "more.tar: shard is truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_layout_is_named(name: str, tmp_path: Path) -> None:
    format, split, change, message = BROKEN[name]
    root = LAYOUTS[format](tmp_path / "data")
    change(root)
    with pytest.raises(InputError, match=message) as caught:
        read(format, root, split)
    assert "\n" not in str(caught.value)
    if "split '" not in message and "splits" not in message:
        assert str(root) in str(caught.value)


@pytest.mark.parametrize("format", LAYOUTS)
def test_missing_empty_and_no_folder(format: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: folder is missing; give the path of the data set"):
        read(format, tmp_path / "nothing")
    with pytest.raises(InputError, match=r"is empty|is missing") as caught:
        read(format, tmp_path)
    assert str(tmp_path) in str(caught.value)
    put(tmp_path / "file", b"x")
    with pytest.raises(InputError, match="file: is a file, must be a folder"):
        read(format, tmp_path / "file")


BAD_LABELS = {
    "8 bits": (png(SYNTHIA.astype(np.uint8)), "8-bit PNG with 3 channels, must be 16-bit"),
    "one channel": (png(SYNTHIA[..., :1]), "16-bit PNG with 1 channels"),
    "class": (png(SYNTHIA + np.uint16(300)), "class id 308, must be at most 255"),
    "cut": (png(SYNTHIA)[:-20], "truncated"),
    "changed": (png(SYNTHIA)[:50] + b"?" + png(SYNTHIA)[51:], "truncated or damaged"),
    "JPEG": (picture("JPEG"), "truncated or damaged"),
    "empty": (b"", "file is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_synthia_labels_are_bad_frames(name: str, tmp_path: Path) -> None:
    root = synthia(tmp_path)
    put(root / "GT" / "LABELS" / "0000000.png", BAD_LABELS[name][0])
    frame = read("synthia", root)[0]
    with pytest.raises(BadFrame, match=BAD_LABELS[name][1]) as caught:
        READERS["synthia"].label(frame)
    assert "\n" not in str(caught.value) and caught.value.path == frame.label_path


def test_instances_that_do_not_fit_are_refused() -> None:
    numbers = np.arange(1, 1202).reshape(1, -1)
    with pytest.raises(BadFrame, match="1201 instances of class id 8 do not fit"):
        instance_codes(np.full_like(numbers, 8), numbers, Path("x"))
    with pytest.raises(BadFrame, match="1 instances of class id 90 do not fit"):
        instance_codes(np.array([[90]]), np.array([[1]]), Path("x"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), channels=st.sampled_from([1, 3, 4]), wide=st.booleans())
def test_codes_come_back_and_damage_is_refused(data: st.DataObject, channels: int, wide: bool) -> None:
    seed = data.draw(st.integers(0, 2**32))
    kind: type = np.uint16 if wide else np.uint8
    codes = np.random.default_rng(seed).integers(0, 256 if not wide else 65536, (3, 5, channels), kind)
    file = bytearray(png(codes))
    assert np.array_equal(decode_codes(bytes(file), Path("x")), codes)
    place = data.draw(st.integers(0, len(file) - 1))
    file[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame):
        decode_codes(bytes(file), Path("x"))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(sorted(LAYOUTS)), data=st.data())
def test_a_damaged_file_anywhere_is_refused_in_one_line_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
) -> None:
    root = LAYOUTS[format](tmp_path_factory.mktemp("set"))
    path = data.draw(st.sampled_from(sorted(path for path in root.rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=40))
    content[place : place + len(noise)] = noise
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    reader = open_reader(format)
    try:
        for frame in reader.frames(root, None, True):
            image = decode_image(reader.image(frame), frame.image_name)
            label = reader.label(frame)
            assert label is not None
            decode_label(label, "label", load_taxonomy(frame.label_taxonomy or reader.taxonomy), image.shape[:2])
            reader.instances(frame)
    except InputError as error:
        assert "\n" not in str(error) and str(error).count("; ") >= 1
