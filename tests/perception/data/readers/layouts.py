"""Tiny data sets in the true layouts of the known formats."""

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from perception.data.decoding import decode_label
from perception.data.readers import RawFrame, open_reader
from perception.data.shards import write_shard
from perception.data.taxonomies import load_taxonomy, published_names

SIZE = (4, 6)
BDD = ["0a0a0b1a-7c39d841", "0ce2b4cc-a7cae5a5"]
KEYS = ["_1Gn_xkw7sa_i9GU4mkxxQ", "__CRyFzoDOXn6unQ6a3DnQ"]


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def touch(*paths: Path) -> None:
    for path in paths:
        put(path, b"x")


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


def camvid(root: Path) -> Path:
    for split, stems in (
        ("train", ["0006R0_f00930", "0001TP_006690"]),
        ("val", ["0016E5_07959"]),
        ("test", ["Seq05VD_f00000"]),
    ):
        suffix, kind = ("png", "PNG") if split == "val" else ("jpg", "JPEG")
        for stem in stems:
            put(root / split / f"{stem}.{suffix}", picture(kind))
            put(root / f"{split}annot" / f"{stem}.png", grey(np.full(SIZE, 3)))
    return root


def cityscapes(root: Path) -> Path:
    for split, city, stem in (
        ("train", "jena", "jena_000001_000019"),
        ("train", "aachen", "aachen_000000_000019"),
        ("val", "munster", "munster_000000_000019"),
    ):
        put(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", picture("PNG"))
        for kind in ("labelIds.png", "instanceIds.png", "color.png", "polygons.json"):
            put(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}", grey(np.full(SIZE, 7)))
    return root


ROWS = [
    ["d0_0001", "d0", "2026-11-01T04:05:06.5Z", "front", "night", "rain", "freeway"],
    ["d0_0000", "d0", "2026-11-01T06:05:06+02:00", "", "", "", ""],
]
COLUMNS = ["frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene"]


def scenes(root: Path, rows: list[list[str]] = ROWS, columns: list[str] = COLUMNS) -> Path:
    for row in ROWS:
        put(root / "images" / f"{row[0]}.jpg", picture("JPEG"))
        for kind in ("labels", "instances"):
            put(root / kind / f"{row[0]}.png", grey(ROAD_CAR))
    with (root / "frames.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


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
    "bdd100k": bdd100k, "camvid": camvid, "cityscapes": cityscapes, "gta5": gta5, "mapillary_v1_2": mapillary,
    "mapillary_v2_0": mapillary_v2, "scenes_folder": scenes, "synthia": synthia, "viper": viper, "webdataset": webdataset,
}  # fmt: skip


def read(format: str, root: Path, split: str | None = None, labels_required: bool = True) -> list[RawFrame]:
    return list(open_reader(format).frames(root, split, labels_required))


def label_of(format: str, frame: RawFrame) -> np.ndarray:
    reader = open_reader(format)
    data = reader.label(frame)
    assert data is not None
    return decode_label(data, "label", load_taxonomy(frame.label_taxonomy or reader.taxonomy), SIZE)
