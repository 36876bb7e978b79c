import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from perception.adaptation import detector
from perception.adaptation.detector import (
    CONTROLLER_CHANNELS,
    DETECTOR_NETWORKS,
    DetectorOutput,
    DetectSettings,
    ForegroundDetector,
    detect,
)
from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network

HEIGHT, WIDTH = 32, 64
CLASS_IDS = (11, 13)


class Says(nn.Module):
    """A detector that always says the same."""

    def __init__(self, output: DetectorOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> DetectorOutput:
        return self.output


def silent(frames: int = 1) -> DetectorOutput:
    """Nothing anywhere, and masks that fill their boxes."""
    rows, columns = HEIGHT // 4, WIDTH // 4
    controllers = torch.zeros(frames, CONTROLLER_CHANNELS, rows, columns)
    controllers[:, -1] = 20.0  # the last bias: every point belongs to the mask
    return DetectorOutput(
        heat=torch.full((frames, len(CLASS_IDS), rows, columns), -20.0),
        sides=torch.full((frames, 4, rows, columns), 6.0),
        controllers=controllers,
        mask_features=torch.zeros(frames, detector.MASK_CHANNELS, HEIGHT // 2, WIDTH // 2),
    )


def found(output: DetectorOutput, **settings):
    images = torch.zeros(output.heat.shape[0], 3, HEIGHT, WIDTH)
    return list(detect(Says(output), images, CLASS_IDS, DetectSettings(**settings)))


def test_peak_becomes_an_instance_with_the_pixels_of_its_box():
    output = silent()
    output.heat[0, 1, 3, 5] = 2.0  # place (x, y) = (22, 14)
    output.sides[0, :, 3, 5] = torch.tensor([4.0, 2.0, 7.5, 3.0])
    (frame,) = found(output)
    assert frame.boxes.tolist() == [[18.0, 12.0, 29.5, 17.0]]
    assert frame.instances.classes.tolist() == [13]
    assert frame.instances.scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            expected[row, column] = 18.0 <= column + 0.5 <= 29.5 and 12.0 <= row + 0.5 <= 17.0
    assert np.array_equal(frame.instances.masks[0], expected)


def test_only_local_peaks_above_the_score_count_best_first():
    output = silent()
    output.heat[0, 0, 2, 3], output.heat[0, 0, 2, 4] = 1.0, 0.5  # the second is on the first one's slope
    output.heat[0, 0, 6, 12] = 3.0
    output.heat[0, 1, 4, 8] = -4.0  # a score of 1.8 %
    (frame,) = found(output)
    assert frame.instances.scores == pytest.approx(1 / (1 + np.exp([-3.0, -1.0])), abs=1e-6)
    assert found(output, most_instances=1)[0].boxes.shape == (1, 4)
    assert len(found(output, lowest_score=0.0)[0].instances.scores) > 2


def test_same_thing_seen_twice_counts_once_but_classes_do_not_compete():
    output = silent()
    output.heat[0, 0, 3, 5], output.heat[0, 0, 3, 7] = 2.0, 1.0
    output.sides[:] = 20.0  # 40 px wide boxes 8 px apart: IoU 2/3
    assert len(found(output)[0].instances.scores) == 1
    assert len(found(output, same_box_iou=0.7)[0].instances.scores) == 2
    output.heat[0, 1, 3, 5] = 1.5
    assert sorted(found(output)[0].instances.classes.tolist()) == [11, 13]


def test_empty_frames_and_empty_masks_give_no_instance():
    output = silent(frames=2)
    output.heat[1, 0, 3, 5] = 3.0
    output.controllers[1, -1] = -20.0
    for frame in found(output):
        assert frame.instances.masks.shape == (0, HEIGHT, WIDTH)
        assert frame.boxes.shape == (0, 4)


def test_box_outside_the_frame_is_cut_at_its_edge():
    output = silent()
    output.heat[0, 0, 0, 0] = 3.0
    output.sides[0, :, 0, 0] = 30.0
    (frame,) = found(output)
    assert frame.boxes.tolist() == [[0.0, 0.0, 32.0, 32.0]]
    assert frame.instances.masks[0, :, :32].all() and not frame.instances.masks[0, :, 32:].any()


def test_mask_follows_the_controller():
    output = silent()
    output.heat[0, 0, 3, 7] = 3.0
    sides = torch.tensor([8.0, 4.0, 8.0, 4.0])
    output.sides[0, :, 3, 7] = sides
    controller = output.controllers[0, :, 3, 7]
    controller[:] = 0.0
    controller[detector.MASK_CHANNELS] = 1.0  # the first hidden unit reads x relative to the box …
    weights = (detector.MASK_CHANNELS + 2) * detector.HIDDEN_CHANNELS
    controller[weights + detector.HIDDEN_CHANNELS] = 10.0  # … and speaks for the mask
    controller[-1] = -1e-3
    (frame,) = found(output)
    columns = np.flatnonzero(frame.instances.masks[0].any(axis=0))
    assert columns.tolist() == list(range(30, 38))  # the right half of the box from 22 to 38


def test_mask_logits_equal_a_slow_network():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, detector.MASK_CHANNELS, 5, generator=generator)
    controllers = torch.randn(3, CONTROLLER_CHANNELS, generator=generator)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 9.0, 7.0], [1.0, 2.0, 1.0, 2.0]])
    points = 20 * torch.rand(3, 5, 2, generator=generator)
    fast = detector.mask_logits(features, boxes, controllers, points)
    for i in range(3):
        x0, y0, x1, y1 = boxes[i].tolist()
        weights = controllers[i].tolist()
        for p in range(5):
            x = (points[i, p, 0].item() - (x0 + x1) / 2) / max((x1 - x0) / 2, 1.0)
            y = (points[i, p, 1].item() - (y0 + y1) / 2) / max((y1 - y0) / 2, 1.0)
            inputs = [*features[i, :, p].tolist(), x, y]
            total = weights[96]
            for unit in range(8):
                activation = weights[80 + unit] + sum(weights[10 * unit + k] * inputs[k] for k in range(10))
                total += weights[88 + unit] * max(activation, 0.0)
            assert fast[i, p].item() == pytest.approx(total, rel=1e-4, abs=1e-4)


def test_features_are_read_where_the_points_lie():
    x = (torch.arange(WIDTH // 2) + 0.5) * 2
    y = (torch.arange(HEIGHT // 2) + 0.5) * 2
    features = torch.zeros(2, detector.MASK_CHANNELS, HEIGHT // 2, WIDTH // 2)
    features[1, 0], features[1, 1] = x.expand(HEIGHT // 2, -1), y[:, None].expand(-1, WIDTH // 2)
    points = torch.tensor([[[10.0, 7.0], [33.3, 20.1]], [[10.0, 7.0], [1.0, 1.0]]])
    sampled = detector.sample_features(features, torch.tensor([0, 1]), points)
    assert sampled[0].abs().max() == 0
    assert torch.allclose(sampled[1, :2], points[1].T, atol=1e-4)
    assert detector.sample_features(features, torch.zeros(0, dtype=torch.int64), points[:0]).shape == (0, 8, 2)


def test_box_iou_equals_pycocotools():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 50, (2, 12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.5, 30, (2, 12, 2))], axis=2)
    ours = detector.box_iou(*(torch.from_numpy(each) for each in boxes))
    first, second = (np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], axis=1) for each in boxes)
    assert np.allclose(ours, coco_mask.iou(first, second, [0] * 12), atol=1e-12)


def test_network_speaks_at_the_promised_sizes():
    network = ForegroundDetector(classes=10)
    output = network(torch.rand(2, 3, 64, 96))
    assert output.heat.shape == (2, 10, 16, 24)
    assert output.sides.shape == (2, 4, 16, 24) and (output.sides > 0).all()
    assert output.controllers.shape == (2, CONTROLLER_CHANNELS, 16, 24)
    assert output.mask_features.shape == (2, 8, 32, 48)
    assert sum(each.numel() for each in network.parameters()) < 300_000


def test_detector_is_saved_and_loaded(tmp_path):
    network = ForegroundDetector(classes=3, width=0.5).eval()
    save_network(network, tmp_path / "detector.safetensors", {"trained_on": "simulator"}, DETECTOR_NETWORKS)
    loaded = load_network(tmp_path / "detector.safetensors", DETECTOR_NETWORKS)
    images = torch.rand(1, 3, 32, 32)
    for ours, theirs in zip(network(images), loaded(images), strict=True):
        assert torch.equal(ours, theirs)


def test_detection_leaves_the_network_as_it_was():
    network = ForegroundDetector(classes=2, width=0.5).train()
    network.at_half.eval()
    before = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    list(detect(network, torch.rand(1, 3, 32, 32), CLASS_IDS))
    assert [module.training for module in network.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ForegroundDetector(classes=0), "classes 0"),
        (lambda: ForegroundDetector(classes=2, width=0.1), r"width 0\.1"),
        (lambda: DetectSettings(lowest_score=-0.1), "lowest_score"),
        (lambda: DetectSettings(most_instances=0), "most_instances"),
    ],
)
def test_bad_parameters_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
