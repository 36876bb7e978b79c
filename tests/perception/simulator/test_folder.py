"""Scenes as files: names, times, encoding."""

import re

import cv2
import numpy as np
import pytest

from perception.errors import InputError
from perception.simulator.folder import encode_scene, scene_frames
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


def test_counts_out_of_range_are_named():
    with pytest.raises(InputError, match="drives"):
        next(scene_frames(World(), "simulator", 0, 0, 1, 32, 64))
