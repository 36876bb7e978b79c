"""Resizes to whole multiples get constant scales, others stay, and the outputs stay as they are."""

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.compression.export import export_onnx, open_session


class Resizing(nn.Module):
    """Resize to four times the size and to five thirds of it, as a pyramid does, by what shapes say."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, 3, 12, 16) to (frame, 3, 48, 64)."""
        small = F.interpolate(F.avg_pool2d(x, 4), size=(5, 7), mode="bilinear")
        large = F.interpolate(x, scale_factor=2.0)
        y = F.interpolate(large, size=(4 * x.shape[2], 4 * x.shape[3]), mode="bilinear", align_corners=False)
        return y + F.interpolate(small, size=y.shape[-2:], mode="bilinear", align_corners=False)


def test_only_whole_multiples_get_scales_and_nothing_else_changes(tmp_path: Path) -> None:
    network = Resizing().eval()
    report = export_onnx(network, tmp_path / "net.onnx", 12, 16, tolerance=1e-6)
    nodes = onnx.load(report.path).graph.node
    by_size = [len(node.input) == 4 for node in nodes if node.op_type == "Resize"]
    assert sorted(by_size) == [False, False, True, True]
    frames = torch.rand(3, 3, 12, 16)
    (found,) = open_session(report.path).run(None, {"image": frames.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(frames), rtol=0, atol=1e-6)


def test_what_computed_the_sizes_leaves(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=False)

    report = export_onnx(Doubled().eval(), tmp_path / "net.onnx", 6, 8)
    graph = onnx.load(report.path).graph
    assert [node.op_type for node in graph.node] == ["Resize"]
    scales = {each.name: onnx.numpy_helper.to_array(each).tolist() for each in graph.initializer}
    assert scales[graph.node[0].input[2]] == [1, 1, 2, 2]
