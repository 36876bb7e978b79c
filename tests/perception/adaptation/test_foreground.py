import numpy as np
import pytest
import torch

from perception.adaptation.detector import ForegroundDetector
from perception.adaptation.foreground import (
    Foreground,
    at_size,
    kept,
    load_foreground,
    of_classes,
    save_foreground,
    score_thresholds,
)
from perception.adaptation.fusion import FusionSettings, Instances, fuse
from perception.adaptation.judging import judge_fusion
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix
from perception.metrics.segmentation import predicted_classes
from perception.models.checkpoint import save_network
from perception.models.registry import build_network

CLASSES = 6
FOREGROUND = (False, False, False, True, True, True)


def instances(seed: int, count: int = 5, size=(8, 12)) -> Instances:
    rng = np.random.default_rng(seed)
    return Instances(
        rng.random((count, *size)) < 0.4, rng.integers(3, 6, count).astype(np.uint8), rng.random(count, np.float32)
    )


@pytest.mark.parametrize("by_class", [None, (0.0, 0.0, 0.0, 0.9, 0.1, 0.5)])
def test_leaving_out_first_equals_leaving_out_while_fusing(by_class):
    chosen = FusionSettings(score_threshold=0.3, class_score_thresholds=by_class)
    segmentation = np.zeros((8, 12), np.uint8)
    for seed in range(10):
        found = instances(seed)
        assert np.array_equal(fuse(segmentation, kept(found, chosen)), fuse(segmentation, found, chosen))


def test_classes_without_a_flag_are_left_out():
    found = instances(0, count=30)
    left = of_classes(found, (False,) * 4 + (True, False))
    assert set(left.classes) == {4} and len(left.scores) == (found.classes == 4).sum()


def test_masks_are_resized_to_the_nearest_pixel():
    found = instances(1)
    doubled = at_size(found, (16, 24))
    assert np.array_equal(doubled.masks, found.masks.repeat(2, axis=1).repeat(2, axis=2))
    assert at_size(found, (8, 12)) is found
    assert at_size(instances(1, count=0), (4, 5)).masks.shape == (0, 4, 5)


def test_thresholds_by_name():
    assert score_thresholds({}, ("a", "b")) is None
    assert score_thresholds({"b": 0.5}, ("a", "b")) == (0.0, 0.5)
    with pytest.raises(InputError, match="'c': no such class"):
        score_thresholds({"c": 0.5}, ("a", "b"))


def test_a_detector_is_read_as_it_was_written(tmp_path):
    torch.manual_seed(0)
    written = Foreground(ForegroundDetector(classes=3, width=0.25), (3, 4, 5))
    save_foreground(written, tmp_path / "detector.safetensors", {"trained_on": "simulator"})
    read = load_foreground(tmp_path / "detector.safetensors", FusionSettings(score_threshold=0.1))
    assert read.class_ids == (3, 4, 5) and read.fusion.score_threshold == 0.1
    images = torch.rand(2, 3, 16, 24)
    for one, other in zip(
        Foreground(written.network, (3, 4, 5), fusion=read.fusion).find(images), read.find(images), strict=True
    ):
        assert np.array_equal(one.masks, other.masks) and np.array_equal(one.scores, other.scores)
    save_network(build_network("ERFNet", seed=0, classes=3, width=0.25), tmp_path / "other.safetensors", {})
    with pytest.raises(InputError, match="names no class ids"):
        load_foreground(tmp_path / "other.safetensors")


class Frames:
    """Three frames whose labels are twice as large as what the network sees."""

    class settings:  # noqa: N801
        height_px, width_px, workers = 16, 24, 0

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.images = rng.integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
        self.labels = rng.choice([*range(CLASSES), 255], (3, 32, 48)).astype(np.uint8)

    def __len__(self) -> int:
        return 3

    def _resized(self, index):
        return self.images[index], self.labels[index, ::2, ::2]

    def full_label(self, index):
        return self.labels[index]


def test_judging_equals_predicting_fusing_and_counting_frame_by_frame():
    network = build_network("ERFNet", seed=1, classes=CLASSES, width=0.25).eval()
    torch.manual_seed(1)
    untrained = ForegroundDetector(classes=3, width=0.25)
    untrained.heat.out.bias.data += 4.0  # sees things everywhere
    untrained.shape.out.bias.data[-1] += 4.0  # and fills their boxes
    detector, frames = Foreground(untrained, (3, 4, 5)), Frames()
    expected = np.zeros((2, CLASSES, CLASSES), np.int64)
    for image, label in zip(frames.images, frames.labels, strict=True):
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255))
        with torch.no_grad():
            alone = predicted_classes(network(pixels)[0].numpy(), label.shape)
        (found,) = detector.find(pixels)
        assert len(found.scores)
        fused = fuse(alone, Instances(found.masks.repeat(2, 1).repeat(2, 2), found.classes, found.scores))
        expected += [confusion_matrix(label, each, CLASSES) for each in (alone, fused)]
    alone, fused = judge_fusion(network, detector, frames, FOREGROUND, batch_frames=2)
    assert np.array_equal(alone.confusion, expected[0]) and np.array_equal(fused.confusion, expected[1])
    values = [
        row[index] / (row.sum() + expected[1][:, index].sum() - row[index]) for index, row in enumerate(expected[1])
    ]
    assert fused.foreground_miou() == pytest.approx(np.mean(values[3:]))
    assert fused.background_miou() == pytest.approx(np.mean(values[:3]))
    assert fused.miou() == pytest.approx(np.mean(values))
    without, same = judge_fusion(network, None, frames, FOREGROUND)
    assert np.array_equal(without.confusion, expected[0]) and np.array_equal(same.confusion, expected[0])
