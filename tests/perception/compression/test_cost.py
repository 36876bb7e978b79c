"""Costs against counts by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from perception.compression.cost import count_macs, count_parameters, measure_latency_ms
from perception.compression.export import export_onnx
from perception.errors import InputError
from perception.models.erfnet import ERFNet


def test_macs_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8x8 outputs
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 256, 10),
    ).train()
    expected = 64 * 8 * 27 + 64 * 8 * 9 + 64 * 8 * 4 * 4 + 1024 * 10
    assert count_macs(network, (3, 16, 16)) == expected
    assert network.training and network[1].num_batches_tracked == 0


def test_parameters_of_erfnet_and_shared_ones() -> None:
    assert count_parameters(ERFNet(19)) == 2_064_191
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    assert count_parameters(network) == 9 + 3 + 3


def test_latency_has_a_row_a_model_and_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, channels in (("small", 2), ("large", 64)):
        network = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 3)).eval()
        export_onnx(network, tmp_path / f"{name}.onnx", 16, 16)
    models = {name: tmp_path / f"{name}.onnx" for name in ("small", "large")}
    rows = measure_latency_ms(models, batch_sizes=(1, 2), repeats=5)
    assert [(row.model, row.batch_frames) for row in rows] == [("small", 1), ("large", 1), ("small", 2), ("large", 2)]
    assert all(0 < row.minimum_ms <= row.median_ms and row.spread_ms >= 0 and row.repeats == 5 for row in rows)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file"):
        measure_latency_ms({"a": tmp_path / "a.onnx"})
    with pytest.raises(InputError):
        measure_latency_ms({}, repeats=0)
