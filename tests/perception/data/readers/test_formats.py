"""Readers: tiny folders in the true layouts come out right."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.readers import READERS, RawFrame, Reader, open_reader
from perception.data.shards import read_shard, write_shard
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from tests.perception.data.readers.layouts import (
    BDD,
    KEYS,
    LAYOUTS,
    ROAD_CAR,
    SIZE,
    SYNTHIA,
    bdd100k,
    camvid,
    cityscapes,
    grey,
    gta5,
    label_of,
    mapillary,
    picture,
    put,
    read,
    scenes,
    synthia,
    touch,
    viper,
    webdataset,
)


@pytest.mark.parametrize("format", LAYOUTS)
def test_every_frame_decodes_with_its_taxonomy(format: str, tmp_path: Path) -> None:
    frames = read(format, LAYOUTS[format](tmp_path))
    assert len(frames) >= 2 and len({frame.frame_id for frame in frames}) == len(frames)
    for frame in frames:
        assert decode_image(READERS[format].image(frame), frame.image_name).shape == (*SIZE, 3)
        assert label_of(format, frame).shape == SIZE
        assert Path(frame.image_name).suffix in (".jpg", ".jpeg", ".png")


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
    assert reader.image(frame) == picture("PNG") and reader.label(frame) == grey(np.full(SIZE, 3))
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
