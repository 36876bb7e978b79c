"""Folding is exact, exported files compute the same, training mode is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.compression.expansion import expand_network
from perception.compression.export import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    OPSET,
    best_provider,
    export_onnx,
    fold_batchnorm,
    open_session,
    read_metadata,
)
from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet


class Normed(nn.Module):
    """Every layer that a normalisation can be folded into, and two places where it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.n1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.up, self.n2 = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), nn.BatchNorm2d(4, affine=False)
        self.mixed, self.n3 = nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(7)
        self.twice, self.n4 = nn.Conv2d(7, 7, 1), nn.BatchNorm2d(7)
        self.head, self.n5 = nn.Linear(7, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.n2(self.up(F.relu(self.n1(self.conv(x)))))
        y = self.n3(torch.cat([self.mixed(y), F.interpolate(x, (15, 15))], 1))
        z = self.twice(y)
        return self.n5(self.head((z + self.n4(z)).mean((2, 3))))


def settled(network: nn.Module) -> nn.Module:
    """Give running statistics and affine parameters values of their own."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias)
    return network.eval()


def test_folding_is_exact() -> None:
    network = settled(Normed().double())
    folded = fold_batchnorm(network)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-12)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert left == ["n3", "n4"]
    assert isinstance(network.n1, nn.BatchNorm2d)


@pytest.mark.parametrize("build", [lambda: ERFNet(5, 0.25), lambda: EfficientNetLite(5)])
@pytest.mark.parametrize("fold", [False, True])
def test_export_computes_the_same_for_any_number_of_frames(
    tmp_path: Path, fold: bool, build: Callable[[], nn.Module]
) -> None:
    network = settled(build())
    network = fold_batchnorm(network) if fold else network
    report = export_onnx(network, tmp_path / "net.onnx", 32, 64)
    assert report.opset == OPSET == onnx.load(report.path).opset_import[0].version
    assert report.bytes == report.path.stat().st_size
    assert report.relative_error < 1e-5
    frames = np.random.default_rng(5).random((4, 3, 32, 64), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(frames)).numpy()
    (given,) = open_session(report.path).run(None, {"image": frames})
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    network = settled(ERFNet(5, 0.25))
    again = ERFNet(5, 0.25)
    again.load_state_dict(network.state_dict())
    first, second = (
        export_onnx(network, tmp_path / "a.onnx", 32, 32),
        export_onnx(again.eval(), tmp_path / "b.onnx", 32, 32),
    )
    assert first.sha256 == second.sha256


def test_training_mode_is_refused(tmp_path: Path) -> None:
    network = settled(ERFNet(5, 0.25))
    network.encoder.downsample_1.norm.train()
    with pytest.raises(InputError, match=r"training mode \(at encoder.downsample_1.norm\)"):
        export_onnx(network, tmp_path / "net.onnx", 32, 32)
    with pytest.raises(InputError, match="training mode"):
        fold_batchnorm(network)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    class Branching(nn.Module):
        """The exporter keeps only the branch that its example takes."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if bool(x.sum() > 0) else x[:, :2]

    with pytest.raises(InputError, match="differs from torch"):
        export_onnx(Branching().eval(), tmp_path / "net.onnx", 8, 8)
    with pytest.raises(InputError, match="does not exist"):
        export_onnx(nn.Conv2d(3, 1, 1).eval(), tmp_path / "absent" / "net.onnx", 8, 8)
    assert list(tmp_path.iterdir()) == []


def test_the_file_tells_what_its_classes_are(tmp_path):
    network = nn.Conv2d(3, 2, 1).eval()
    told = {"taxonomy": "camvid11", "classes": '["sky", "road"]'}
    first = export_onnx(network, tmp_path / "a.onnx", 8, 8, metadata=told)
    second = export_onnx(network, tmp_path / "b.onnx", 8, 8, metadata=dict(reversed(told.items())))
    assert first.sha256 == second.sha256
    assert read_metadata(open_session(first.path)) == told
    assert read_metadata(open_session(export_onnx(network, tmp_path / "c.onnx", 8, 8).path)) == {}


def test_expansions_are_contracted_and_the_error_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    compact = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    expanded = expand_network(compact, 3).eval()
    report = export_onnx(expanded, tmp_path / "net.onnx", 16, 16)
    assert report.contracted_layers == 2 and 0 < report.contraction_error < 1e-5 and report.max_abs_error < 1e-5
    names = [node.op_type for node in onnx.load(str(report.path)).graph.node]
    assert names.count("Conv") == 2
    with pytest.raises(InputError, match="rectifiers"):
        export_onnx(expand_network(compact, 3, nonlinear=True).eval(), tmp_path / "no.onnx", 16, 16)
    with pytest.raises(InputError, match="training mode"):
        export_onnx(expanded.train(), tmp_path / "no.onnx", 16, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("device", "installed", "expected"),
    [("cuda:0", [CUDA_PROVIDER, CPU_PROVIDER], CUDA_PROVIDER), ("cuda:0", [CPU_PROVIDER], CPU_PROVIDER),
     ("cpu", [CUDA_PROVIDER, CPU_PROVIDER], CPU_PROVIDER)],
)  # fmt: skip
def test_a_gpu_runs_exported_networks_where_onnxruntime_can(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: list[str], expected: str
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    assert best_provider(device) == expected


def test_a_provider_that_cannot_start_is_no_silent_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Session:
        def __init__(self, _path: str, _options: object, providers: list[object]) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return started

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    started = [CUDA_PROVIDER, CPU_PROVIDER]
    open_session(tmp_path / "x.onnx", provider=CUDA_PROVIDER)
    assert asked == [(CUDA_PROVIDER, {"use_tf32": "0"})]
    started = [CPU_PROVIDER]
    with pytest.raises(InputError, match="CUDAExecutionProvider cannot start here, CPUExecutionProvider would run"):
        open_session(tmp_path / "x.onnx", provider=CUDA_PROVIDER)
