"""Formats of the field: tiny folders in their true layouts come out right, and each way to break one is named."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.readers import READERS, RawFrame, open_reader
from perception.data.readers.label_files import decode_codes, instance_codes
from perception.data.shards import write_shard
from perception.data.taxonomies import load_taxonomy, published_names
from perception.errors import InputError

SIZE = (4, 6)
BDD = ["0a0a0b1a-7c39d841", "0ce2b4cc-a7cae5a5"]
KEYS = ["_1Gn_xkw7sa_i9GU4mkxxQ", "__CRyFzoDOXn6unQ6a3DnQ"]


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(file, format)
    return file.getvalue()


def grey(values: np.ndarray, palette: bool = False) -> bytes:
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = image.convert("P") if image.mode != "P" else image
        image = Image.frombytes("P", image.size, values.astype(np.uint8).tobytes())
        image.putpalette(bytes(range(256)) * 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """Write (height, width, channel) uint8 or uint16 as the PNG standard says, by hand: Pillow knows no 16-bit colour."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ROAD_CAR = np.array([[0] * 6, [13] * 6, [255] * 6, [18] * 6], np.uint8)


def bdd100k(root: Path) -> Path:
    for stem in BDD:
        put(root / "images" / "10k" / "val" / f"{stem}.jpg", picture("JPEG"))
        put(root / "labels" / "sem_seg" / "masks" / "val" / f"{stem}.png", grey(ROAD_CAR))
    frames = [
        {"name": f"{BDD[0]}.jpg", "attributes": {"weather": "partly cloudy", "scene": "highway", "timeofday": "dawn/dusk"}, "labels": []},
        {"name": f"{BDD[1]}.jpg", "attributes": {"weather": "snowy", "scene": "tunnel", "timeofday": "undefined"}, "labels": []},
    ]  # fmt: skip
    put(root / "labels" / "sem_seg" / "polygons" / "sem_seg_val.json", json.dumps(frames).encode())
    return root


def gta5(root: Path) -> Path:
    for number in (1, 2, 101):
        put(root / "images" / f"{number:05d}.png", picture("PNG"))
        put(root / "labels" / f"{number:05d}.png", grey(np.full(SIZE, 26), palette=True))
    ids = {"trainIds": [[1.0], [101.0]], "valIds": [[2.0]], "testIds": np.zeros((0, 1))}
    scipy.io.savemat(root / "split.mat", {name: np.array(values) for name, values in ids.items()}, do_compression=True)
    return root


SYNTHIA = np.zeros((*SIZE, 3), np.uint16)
SYNTHIA[..., 0] = [[3] * 6, [8] * 6, [8] * 6, [1] * 6]
SYNTHIA[1, :, 1], SYNTHIA[2, :, 1] = 700, 23


def synthia(root: Path) -> Path:
    for number in (0, 1):
        put(root / "RGB" / f"{number:07d}.png", picture("PNG"))
        put(root / "GT" / "LABELS" / f"{number:07d}.png", png(SYNTHIA))
    return root


VIPER = np.zeros((*SIZE, 3), np.uint8)
VIPER[0], VIPER[1], VIPER[2] = (24, 1, 2), (24, 0, 9), (20, 255, 255)


def viper(root: Path) -> Path:
    for split, sequence in (("train", "001"), ("train", "002"), ("val", "060")):
        stem = f"{sequence}_00001"
        put(root / split / "img" / sequence / f"{stem}.jpg", picture("JPEG"))
        put(root / split / "cls" / sequence / f"{stem}.png", grey(VIPER[..., 0], palette=True))
        put(root / split / "inst" / sequence / f"{stem}.png", png(VIPER))
    return root


def mapillary(root: Path, version: str = "v1.2") -> Path:
    name = f"mapillary_{version.replace('.', '_')}"
    for key in KEYS:
        put(root / "validation" / "images" / f"{key}.jpg", picture("JPEG"))
        put(root / "validation" / version / "labels" / f"{key}.png", grey(np.full(SIZE, 13), palette=True))
    labels = [
        {"color": [0, 0, 0], "instances": True, "readable": each, "name": each, "evaluate": True}
        for each in published_names(name)
    ]
    config = {
        "labels": labels,
        "version": 1.1,
        "mapping": "public",
        "folder_structure": "{split}/{content}/{key:.{22}}.{ext}",
    }
    put(root / f"config_{version}.json", json.dumps(config).encode())
    return root


def mapillary_v2(root: Path) -> Path:
    return mapillary(root, "v2.0")


FACTS = {
    "drive_id": "d7", "camera": "front", "time_of_day": "night", "weather": "rain", "scene": "urban",
    "timestamp_utc": "2026-11-01T04:05:06Z", "label_taxonomy": "camvid11", "more": 1,
}  # fmt: skip


def webdataset(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    label = grey(np.full(SIZE, 3))
    write_shard(
        [
            (
                "b",
                {"jpg": picture("JPEG"), "label.png": label, "json": json.dumps(FACTS).encode(), "instances.png": b"i"},
            ),
            ("a", {"png": picture("PNG"), "seg.png": label}),
        ],
        root / "train-000.tar",
    )
    write_shard([("c", {"jpeg": picture("JPEG"), "label.png": label, "json": b"[1]"})], root / "val-000.tar")
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "bdd100k": bdd100k, "gta5": gta5, "synthia": synthia, "viper": viper, "mapillary_v1_2": mapillary,
    "mapillary_v2_0": mapillary_v2, "webdataset": webdataset,
}  # fmt: skip


def read(format: str, root: Path, split: str | None = None, labels_required: bool = True) -> list[RawFrame]:
    return list(open_reader(format).frames(root, split, labels_required))


def label_of(format: str, frame: RawFrame) -> np.ndarray:
    reader = open_reader(format)
    data = reader.label(frame)
    assert data is not None
    return decode_label(data, "label", load_taxonomy(frame.label_taxonomy or reader.taxonomy), SIZE)


@pytest.mark.parametrize("format", LAYOUTS)
def test_every_frame_decodes_with_its_taxonomy(format: str, tmp_path: Path) -> None:
    frames = read(format, LAYOUTS[format](tmp_path))
    assert len(frames) >= 2 and len({frame.frame_id for frame in frames}) == len(frames)
    for frame in frames:
        assert decode_image(READERS[format].image(frame), frame.image_name).shape == (*SIZE, 3)
        assert label_of(format, frame).shape == SIZE
        assert Path(frame.image_name).suffix in (".jpg", ".jpeg", ".png")


def test_bdd100k(tmp_path: Path) -> None:
    root = bdd100k(tmp_path)
    first, second = read("bdd100k", root, "val")
    assert first == RawFrame(
        frame_id=f"bdd100k_{BDD[0]}", drive_id=BDD[0], image_path=root / "images" / "10k" / "val" / f"{BDD[0]}.jpg",
        label_path=root / "labels" / "sem_seg" / "masks" / "val" / f"{BDD[0]}.png",
        time_of_day="twilight", weather="cloudy", scene="freeway",
    )  # fmt: skip
    assert (second.time_of_day, second.weather, second.scene) == (None, "snow", None)
    assert np.array_equal(label_of("bdd100k", first), ROAD_CAR)
    (root / "labels" / "sem_seg" / "polygons" / "sem_seg_val.json").unlink()
    assert {frame.weather for frame in read("bdd100k", root)} == {None}
    frames = {
        "frames": [
            {"name": f"{BDD[1]}.jpg", "attributes": {"weather": "foggy"}},
            {"name": "other.jpg", "attributes": None},
        ]
    }
    put(root / "labels" / "det_20" / "det_val.json", json.dumps(frames).encode())
    assert [frame.weather for frame in read("bdd100k", root)] == [None, "fog"]


def test_gta5_and_its_splits(tmp_path: Path) -> None:
    root = gta5(tmp_path)
    assert [(frame.frame_id, frame.drive_id) for frame in read("gta5", root)] == [
        ("gta5_00001", "gta5_000"), ("gta5_00002", "gta5_000"), ("gta5_00101", "gta5_001"),
    ]  # fmt: skip
    assert [frame.frame_id for frame in read("gta5", root, "train")] == ["gta5_00001", "gta5_00101"]
    assert read("gta5", root, "test") == []
    assert (label_of("gta5", read("gta5", root, "val")[0]) == 26).all()


def test_synthia_takes_classes_and_instances_from_16_bits(tmp_path: Path) -> None:
    frame = read("synthia", synthia(tmp_path))[1]
    assert frame.frame_id == frame.drive_id == "synthia_0000001"
    assert np.array_equal(label_of("synthia", frame), SYNTHIA[..., 0])
    data = READERS["synthia"].instances(frame)
    assert data is not None
    instances = np.asarray(Image.open(io.BytesIO(data)))
    assert instances[:, 0].tolist() == [0, 8001, 8000, 0], "road and sky have no instance; 23 comes before 700"


def test_viper_and_its_instances(tmp_path: Path) -> None:
    frames = read("viper", viper(tmp_path), "train")
    assert [frame.drive_id for frame in frames] == ["viper_001", "viper_002"]
    assert label_of("viper", frames[0])[:, 0].tolist() == [24, 24, 20, 0]
    data = READERS["viper"].instances(frames[0])
    assert data is not None
    assert np.asarray(Image.open(io.BytesIO(data)))[:, 0].tolist() == [24001, 24000, 20000, 0]
    (tmp_path / "val" / "inst" / "060" / "060_00001.png").unlink()
    assert READERS["viper"].instances(read("viper", tmp_path, "val")[0]) is None


def test_mapillary_without_its_configuration(tmp_path: Path) -> None:
    mapillary(tmp_path)
    (tmp_path / "config_v1.2.json").unlink()
    frames = read("mapillary_v1_2", tmp_path, "validation")
    assert [frame.frame_id for frame in frames] == [f"mapillary_{key}" for key in KEYS]
    assert frames[0].drive_id != frames[1].drive_id
    with pytest.raises(InputError, match=r"v2.0/labels: folder is missing"):
        read("mapillary_v2_0", tmp_path)


def test_webdataset(tmp_path: Path) -> None:
    root = webdataset(tmp_path)
    first, second = read("webdataset", root, "train")
    assert (first.frame_id, first.drive_id, first.label_taxonomy) == ("a", "train-000", None)
    assert (second.drive_id, second.camera, second.time_of_day, second.weather) == ("d7", "front", "night", "rain")
    assert second.label_taxonomy == "camvid11" and str(second.timestamp_utc) == "2026-11-01 04:05:06+00:00"
    assert READERS["webdataset"].instances(second) == b"i" and READERS["webdataset"].instances(first) is None
    assert len(read("webdataset", root)) == 3
    (root / "test").mkdir()
    write_shard([("x", {"jpg": b"x"})], root / "test" / "0.tar")
    (frame,) = read("webdataset", root, "test", labels_required=False)
    assert READERS["webdataset"].label(frame) is None and READERS["webdataset"].image(frame) == b"x"
    (root / "test" / "0.tar").unlink()
    with pytest.raises(BadFrame, match=r"0.tar: cannot be read"):
        READERS["webdataset"].image(frame)


def test_a_tar_file_of_the_webdataset_library_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    with library.TarWriter(str(tmp_path / "train-000.tar")) as writer:
        writer.write(
            {"__key__": "drive7/frame1", "jpg": picture("JPEG"), "seg.png": grey(ROAD_CAR), "json": {"drive_id": "d1"}}
        )
    (frame,) = read("webdataset", tmp_path, "train")
    assert frame.frame_id == "drive7_frame1" and frame.drive_id == "d1"
    assert np.array_equal(label_of("webdataset", frame), ROAD_CAR)
    assert READERS["webdataset"].image(frame) == picture("JPEG")


Change = Callable[[Path], object]


def drop(pattern: str) -> Change:
    def change(root: Path) -> None:
        found = sorted(root.rglob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()

    return change


def write(name: str, data: bytes | Any) -> Change:
    return lambda root: put(root / name, data if isinstance(data, bytes) else json.dumps(data).encode())


def shard(members: dict[str, dict[str, bytes]]) -> Change:
    return lambda root: write_shard(members.items(), root / "more.tar")


def nothing(_: Path) -> None:
    """Leave the folder as it is: what is asked of it is wrong."""


ATTRIBUTES = "labels/sem_seg/polygons/sem_seg_val.json"
# ruff: noqa: E501 (one broken folder a line)
BROKEN: dict[str, tuple[str, str | None, Change, str]] = {
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
    with pytest.raises(InputError, match=r"is empty|is missing"):
        read(format, tmp_path)
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
