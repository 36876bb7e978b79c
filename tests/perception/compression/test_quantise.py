"""A network in int8: its steps are those of the plain form, its file says what the float32 one said."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from perception.compression.export import ExportReport, export_onnx, fold_batchnorm, open_session, read_metadata
from perception.compression.quantise import quantise
from perception.models.efficientnet_lite import EfficientNetLite

FRAMES = np.random.default_rng(1).random((3, 2, 3, 32, 64), np.float32)  # three batches of two


def exported(network: nn.Module, path: Path) -> ExportReport:
    return export_onnx(fold_batchnorm(network.eval()), path, 32, 64, metadata={"taxonomy": "cityscapes19"})


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Cut into 256 steps between low and high, both with 0 between them, the plain way."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step


def test_a_convolution_is_computed_in_the_steps_of_the_plain_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 1, bias=False)
    report = quantise(exported(network, tmp_path / "net.onnx"), FRAMES)
    (found,) = open_session(report.path).run(None, {"image": FRAMES[0]})
    weights = network.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    steps = np.abs(weights).max(1, keepdims=True) / 127
    weights = np.rint(weights / steps) * steps
    plain = np.einsum("oc,fchw->fohw", weights, rounded(FRAMES[0], 0.0, float(FRAMES.max())))
    with torch.no_grad():
        seen = network(torch.from_numpy(FRAMES.reshape(-1, 3, 32, 64))).numpy()
    step = (seen.max() - seen.min()) / 255
    np.testing.assert_allclose(found, rounded(plain, float(seen.min()), float(seen.max())), rtol=0, atol=1.01 * step)


def test_the_file_is_small_says_the_same_and_is_the_same_every_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(5)
    first, second = (exported(network, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    before, plain = first.bytes, open_session(first.path).run(None, {"image": FRAMES[0]})[0]
    first, second = quantise(first, FRAMES), quantise(second, FRAMES)
    assert first.sha256 == second.sha256 and first.bytes == first.path.stat().st_size < 0.4 * before
    session = open_session(first.path)
    assert read_metadata(session) == {"taxonomy": "cityscapes19"}
    found = session.run(None, {"image": FRAMES[0]})[0]
    assert np.abs(found - plain).max() > 0 and np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.95
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(first.path).graph.node}


def test_ranges_come_from_the_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3, padding=1)
    reports = [exported(network, tmp_path / f"{name}.onnx") for name in ("bright", "dark")]
    shown = [FRAMES, 0.01 * FRAMES]
    bright, dark = (open_session(quantise(*each).path) for each in zip(reports, shown, strict=True))
    image = {"image": 0.01 * FRAMES[0]}
    with torch.no_grad():
        exact = network(torch.from_numpy(image["image"])).numpy()
    errors = [float(np.abs(session.run(None, image)[0] - exact).max()) for session in (bright, dark)]
    assert errors[1] < 0.2 * errors[0]
