"""Scenes as files: names, layout, encoding."""

import csv
import re
from datetime import datetime

import cv2
import numpy as np
import pytest

from perception.errors import InputError
from perception.simulator.folder import encode_scene, scene_frames, write_scenes
from perception.simulator.render import render_drive
from perception.simulator.world import World


def test_encoded_labels_and_instances_decode_to_themselves():
    scene = next(render_drive(World(), "street", 0, 1, 1, 64, 128))
    encoded = encode_scene(scene)

    def decode(data):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)

    assert np.array_equal(decode(encoded.label_png), scene.label)
    assert np.array_equal(decode(encoded.instances_png), scene.instances)
    image = decode(encoded.image_jpg)[..., ::-1]
    assert np.abs(image.astype(int) - scene.image).mean() < 6


def test_frames_are_named_in_order_and_timed():
    facts = [f for f, _ in scene_frames(World(), "street", 0, 2, 2, 32, 64, first_drive=7)]
    assert [f.frame_id for f in facts] == [
        "street_d0007_f000",
        "street_d0007_f001",
        "street_d0008_f000",
        "street_d0008_f001",
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", f.frame_id) for f in facts)
    assert (facts[1].timestamp_utc - facts[0].timestamp_utc).total_seconds() == World().frame_interval_s
    again = [f for f, _ in scene_frames(World(), "street", 99, 2, 2, 32, 64, first_drive=7)]
    assert [f.timestamp_utc for f in again] == [f.timestamp_utc for f in facts]


def test_first_drive_continues_the_same_pool():
    whole = [s.image for _, s in scene_frames(World(), "simulator", 0, 3, 1, 32, 64)]
    rest = [s.image for _, s in scene_frames(World(), "simulator", 0, 1, 1, 32, 64, first_drive=2)]
    assert np.array_equal(whole[2], rest[0])


def test_a_written_folder_holds_what_was_rendered(tmp_path):
    write_scenes(tmp_path / "a", World(), "street", 0, 2, 2, 32, 64)
    with (tmp_path / "a" / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene"]
    assert [r["frame_id"] for r in rows] == [
        "street_d0000_f000",
        "street_d0000_f001",
        "street_d0001_f000",
        "street_d0001_f001",
    ]
    assert datetime.fromisoformat(rows[0]["timestamp_utc"]).tzinfo is not None
    for row in rows:
        label = cv2.imread(str(tmp_path / "a" / "labels" / f"{row['frame_id']}.png"), cv2.IMREAD_UNCHANGED)
        instances = cv2.imread(str(tmp_path / "a" / "instances" / f"{row['frame_id']}.png"), cv2.IMREAD_UNCHANGED)
        assert label.shape == instances.shape == (32, 64)
        assert (label.dtype, instances.dtype) == (np.uint8, np.uint16)
        assert (tmp_path / "a" / "images" / f"{row['frame_id']}.jpg").exists()


def test_writing_twice_gives_identical_files_and_never_overwrites(tmp_path):
    for name in ("a", "b"):
        write_scenes(tmp_path / name, World(), "simulator", 0, 1, 2, 32, 64)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 7
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    with pytest.raises(InputError, match=r"frames\.csv"):
        write_scenes(tmp_path / "a", World(), "simulator", 0, 1, 2, 32, 64)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_scenes(tmp_path / "file", World(), "simulator", 0, 1, 1, 32, 64)
    with pytest.raises(InputError, match="drives"):
        write_scenes(tmp_path / "none", World(), "simulator", 0, 0, 1, 32, 64)
