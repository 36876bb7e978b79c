import cv2
import numpy as np
import pandas as pd
import pytest

from perception.adaptation.instance_frames import InstanceFrames, decode_instances, learnable_classes, mapped_instances
from perception.data.decoding import BadFrame
from perception.data.loading import LoadSettings
from perception.data.store import open_store
from perception.data.taxonomies import label_lookup, load_taxonomy
from perception.errors import InputError

ROAD, PERSON, RIDER, CAR, TRUCK = 0, 11, 12, 13, 14


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def scene(seed: int, height: int = 24, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    instances = np.zeros((height, width), np.uint16)
    for number, kind in enumerate((CAR, CAR, TRUCK, PERSON, RIDER, ROAD)):
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        instances[y : y + 6, x : x + 6] = kind * 1000 + number
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8), instances


@pytest.mark.parametrize("target", ["cityscapes19", "camvid11", "synthia16"])
def test_mapping_equals_a_slow_loop(target):
    foreground, lookup = load_taxonomy(target).foreground, label_lookup("cityscapes19", target)
    for seed in range(5):
        _, given = scene(seed)
        given[0, :4] = 13  # a region of cars that is no single one
        mapped = mapped_instances(given, "cityscapes19", target)
        for value in np.unique(given):
            own = np.unique(mapped[given == value])
            kind = int(lookup[value // 1000])
            if value < 1000 or kind == 255 or not foreground[kind]:
                assert own.tolist() == [0]
            else:
                assert len(own) == 1 and own[0] // 1000 == kind
                assert (mapped[given != value] != own[0]).all(), "two things must not become one"


def test_more_things_than_numbers_are_refused():
    given = (13000 + np.arange(1, 1000)).astype(np.uint16).reshape(27, 37)
    assert mapped_instances(given, "cityscapes19", "cityscapes19").max() == 13999
    both = np.concatenate([given, given + 1000])
    with pytest.raises(BadFrame, match="more than 999 instances of class 8"):
        mapped_instances(both, "cityscapes19", "camvid11")  # cars and trucks are one class there


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "not a readable PNG"), (b"\x89PNG", "not a readable PNG"), (png(np.zeros((4, 4), np.uint8)), "holds uint8")],
)
def test_what_is_no_instance_map_is_refused(data, message):
    with pytest.raises(BadFrame, match=message):
        decode_instances(data, "instances of frame x")


def frames_in(folder, seeds) -> tuple[pd.DataFrame, object]:
    store, rows = open_store(str(folder)), []
    for seed in seeds:
        image, instances = scene(seed)
        rows.append({
            "frame_id": f"f{seed}", "image_uri": store.put(png(image[..., ::-1]), "png").uri, "label_uri": None,
            "label_taxonomy": "cityscapes19", "instances_uri": store.put(png(instances), "png").uri,
        })  # fmt: skip
    rows[-1]["instances_uri"] = None
    return pd.DataFrame(rows), store


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_frames_with_instances_are_loaded_at_the_networks_size(tmp_path, cache_mib):
    frames, store = frames_in(tmp_path, range(4))
    settings = LoadSettings(height_px=24, width_px=32, taxonomy="cityscapes19", cache_mib=cache_mib)
    loaded = InstanceFrames(frames, store, settings)
    assert loaded.frame_ids == ["f0", "f1", "f2"]
    for _ in range(2):
        image, instances = loaded.load(1)
        assert np.array_equal(image, scene(1)[0])
        assert np.array_equal(instances, mapped_instances(scene(1)[1], "cityscapes19", "cityscapes19"))
    half = InstanceFrames(frames, store, LoadSettings(height_px=16, width_px=16, taxonomy="cityscapes19"))
    image, instances = half.load(0)
    assert image.shape == (16, 16, 3) and instances.shape == (16, 16) and instances.dtype == np.uint16
    assert set(np.unique(instances)) <= set(np.unique(loaded.load(0)[1]))


def test_classes_that_are_never_seen_are_left_out(tmp_path):
    frames, store = frames_in(tmp_path, range(6))
    loaded = InstanceFrames(frames, store, LoadSettings(height_px=24, width_px=32, taxonomy="cityscapes19"))
    expected = np.zeros(256, np.int64)
    for index in range(len(loaded)):
        values, areas = np.unique(loaded.load(index)[1], return_counts=True)
        for value, area in zip(values, areas, strict=True):
            expected[value // 1000] += bool(value) and area >= 12
    class_ids, counts = learnable_classes(loaded)
    assert np.array_equal(counts, expected)
    assert class_ids == tuple(np.flatnonzero(expected))
    assert learnable_classes(loaded, fewest_instances=6)[0] == tuple(np.flatnonzero(expected >= 6))


def test_a_simulator_without_instances_is_refused(tmp_path):
    frames, store = frames_in(tmp_path, [0])
    with pytest.raises(InputError, match="none of 1 frames has an instance map"):
        InstanceFrames(frames, store, LoadSettings(height_px=16, width_px=16, taxonomy="cityscapes19"))
