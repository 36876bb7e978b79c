"""Removal against the zeroed network, on every kind of network that channels can be followed through."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.adaptation.detector import ForegroundDetector, PyramidDetector
from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.models.resnet import ResNet18
from perception.sparsity.groups import Groups, find_groups
from perception.sparsity.proximal import zero_neurons
from perception.sparsity.removal import remove_zero_channels


class Residual(nn.Module):
    """Stem, projection shortcut, identity shortcut, linear after flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.a1, self.n1 = nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.a2, self.n2 = nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.BatchNorm2d(16)
        self.short = nn.Conv2d(12, 16, 1, stride=2)
        self.b1 = nn.Conv2d(16, 10, 3, padding=1)
        self.b2 = nn.Conv2d(10, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.n2(self.a2(F.relu(self.n1(self.a1(x))))) + self.short(x))
        x = F.relu(x + self.b2(torch.tanh(self.b1(x))))
        x = F.adaptive_avg_pool2d(x, 4)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class Depthwise(nn.Module):
    """Inverted residual with squeeze and excitation, depthwise multiplier, grouped convolution, mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.expand_norm = nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24)
        self.depth, self.depth_norm = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project, self.project_norm = nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8)
        self.multiply = nn.Conv2d(8, 16, 3, groups=8)
        self.grouped = nn.Conv2d(16, 12, 3, groups=4)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, groups=2)
        self.up_depth = nn.ConvTranspose2d(6, 6, 2, stride=2, groups=6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem_norm(self.stem(x)))
        y = F.relu6(self.depth_norm(self.depth(F.relu6(self.expand_norm(self.expand(x))))))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project_norm(self.project(y * gate))
        x = self.up_depth(F.relu(self.up(F.leaky_relu(self.grouped(self.multiply(x))))))
        return self.head(x.mean(dim=[2, 3]))


class Detector(nn.Module):
    """Three scales with one shared head, chunked attention, channels moved to the end in the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((3, 8), (8, 12), (12, 16)))
        self.p1, self.p2, self.p3 = (nn.Conv2d(i, 10, 1) for i in (8, 12, 16))
        self.split = nn.Conv2d(16, 16, 1)
        self.mid = nn.Conv2d(10, 10, 3, padding=1)
        self.prelu = nn.PReLU(10)
        self.boxes, self.classes = nn.Conv2d(10, 4, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.c1(x))
        b = F.relu(self.c2(a))
        c = F.relu(self.c3(b))
        left, right = torch.chunk(self.split(c), 2, dim=1)
        c = c + torch.cat([left, right * torch.sigmoid(left)], 1)
        p3 = self.p3(c)
        p2 = self.p2(b) + F.interpolate(p3, scale_factor=2)
        p1 = self.p1(a) + F.interpolate(p2, size=a.shape[-2:])
        mids = [self.prelu(self.mid(p)) for p in (p1, p2, p3)]
        boxes = torch.cat([self.boxes(m).flatten(2).permute(0, 2, 1) for m in mids], 1)
        return {"boxes": boxes, "classes": [self.classes(m) for m in mids]}


class ImageConcat(nn.Module):
    """The image is concatenated at two depths, and pooled copies are concatenated again."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.c2, self.n2 = nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.BatchNorm2d(14)
        self.c3 = nn.Conv2d(17, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.n1(torch.cat([self.c1(x), F.max_pool2d(x, 2)], 1)))
        y = torch.relu(self.n2(torch.cat((self.c2(y), F.max_pool2d(y, 2)), dim=-3)))
        return self.c3(torch.cat([y, F.avg_pool2d(x, 4)], dim=1))


class Norms(nn.Module):
    """Instance normalisation, group normalisation (mixing), a recurrent layer, layers in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv1d(3, 8, 5), nn.InstanceNorm1d(8, affine=True)
        self.again = nn.Conv1d(8, 8, 3, padding=1)
        self.c2, self.n2 = nn.Conv1d(8, 8, 1), nn.GroupNorm(2, 8)
        self.c3, self.n3 = nn.Conv1d(8, 6, 1), nn.GroupNorm(6, 6)
        self.c4 = nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.n1(self.c1(x)))
        x = self.again(F.relu(self.again(x)))
        return self.c4(F.pad(self.n3(self.c3(self.n2(self.c2(x)))), (1, 1)))


IMAGE = (2, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "depthwise": (Depthwise, IMAGE),
    "detector": (Detector, IMAGE),
    "image_concat": (ImageConcat, IMAGE),
    "norms": (Norms, (2, 3, 20)),
    "erfnet": (lambda: ERFNet(19, 0.25), (1, 3, 32, 32)),
    "efficientnet_lite": (lambda: EfficientNetLite(5), (1, 3, 32, 64)),
    "foreground_detector": (lambda: ForegroundDetector(3, 0.5), (1, 3, 32, 32)),
    "pyramid_detector": (lambda: PyramidDetector(3), (1, 3, 32, 32)),
    "preactivation_residual": (lambda: ResNet18(5, channels=4), IMAGE),
}


def randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and running statistic a value that is not zero, normalisations included."""
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                draw = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(draw.abs() + 0.5 if name.endswith("var") else tensor + 0.3 * draw)


@torch.no_grad()
def zero_some(groups: Groups, share: float, generator: torch.Generator) -> None:
    """Zero `share` of the neurons of every set by the slices that the set itself names."""
    parameters = dict(groups.network.named_parameters())
    for group in groups.sets:
        dead = torch.rand(group.neurons, generator=generator) < share
        for part in group.own:
            parameters[part.tensor].index_fill_(part.dim, part.index[dead].flatten(), 0.0)


def flat_outputs(output: Tensor | dict | list) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flat_outputs(part)]


def prepared(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    build, shape = NETWORKS[name]
    network = build().eval()
    randomise(network, generator)
    example = torch.randn(shape, generator=generator)
    if name in (
        "foreground_detector",
        "pyramid_detector",
        "efficientnet_lite",
    ):  # exponentials, or 50 layers, magnify float32's rounding
        return network.double(), example.double(), generator
    return network, example, generator


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_outputs_equal_the_zeroed_networks(name: str, share: float) -> None:
    network, example, generator = prepared(name)
    groups = find_groups(network, example)
    zero_some(groups, share, generator)
    with torch.no_grad():
        before = flat_outputs(network(example))
        removal = remove_zero_channels(network, groups)
        after = flat_outputs(network(example))
    scale = max(float(tensor.abs().max()) for tensor in before)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, scale))
    assert removal.parameters_after < removal.parameters_before
    assert removal.parameters_after == sum(p.numel() for p in network.parameters())
    # Only neurons brought back so that no layer is left without channels may still be zero: at most one a set.
    still_zero = removal.groups.set_of_neuron[zero_neurons(removal.groups)].tolist()
    assert len(still_zero) == len(set(still_zero))


def test_weights_keep_their_order_in_memory() -> None:
    network, example, generator = prepared("erfnet")
    network.to(memory_format=torch.channels_last)
    groups = find_groups(network, example)
    zero_some(groups, 0.5, generator)
    before = {name: values.shape for name, values in network.named_parameters() if values.dim() == 4}
    remove_zero_channels(network, groups)
    smaller = [
        network.get_parameter(name) for name, shape in before.items() if network.get_parameter(name).shape != shape
    ]
    assert smaller and all(values.is_contiguous(memory_format=torch.channels_last) for values in smaller)


@pytest.mark.parametrize("name", NETWORKS)
def test_renumbered_groups_equal_those_of_a_new_search(name: str) -> None:
    network, example, generator = prepared(name)
    groups = find_groups(network, example)
    zero_some(groups, 0.4, generator)
    mine = remove_zero_channels(network, groups).groups
    fresh = find_groups(network, example)
    assert mine.unprunable == fresh.unprunable
    assert mine.neurons == fresh.neurons
    assert sorted(g.parameters_per_neuron * g.neurons for g in mine.sets) == sorted(
        g.parameters_per_neuron * g.neurons for g in fresh.sets
    )
    for layer, numbers in mine.layer_neurons.items():
        assert ((numbers < mine.neurons) == (fresh.layer_neurons[layer] < fresh.neurons)).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_goes_on_after_removal(name: str) -> None:
    network, example, generator = prepared(name)
    averaged = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = sum(tensor.square().mean() for tensor in flat_outputs(network(example)))
    loss.backward()
    optimizer.step()
    moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in network.named_parameters() if p in optimizer.state}
    groups = find_groups(network, example)
    zero_some(groups, 0.5, generator)
    remove_zero_channels(network, groups, optimizer=optimizer, averaged=[averaged])
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in averaged.named_parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in network.parameters()}
    for parameter_name, parameter in network.named_parameters():
        state = optimizer.state[parameter]
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
        assert torch.isin(state["exp_avg"], moments[parameter_name]).all()
    optimizer.zero_grad()
    sum(tensor.square().mean() for tensor in flat_outputs(network(example))).backward()
    optimizer.step()  # `loss` above still holds the first graph, as training loops do
    for mine, other in zip(network.buffers(), averaged.buffers(), strict=True):
        assert mine.shape == other.shape


def test_minimum_and_multiple_of_channels() -> None:
    network, example, generator = prepared("residual")
    groups = find_groups(network, example)
    zero_some(groups, 1.0, generator)
    layers = remove_zero_channels(network, groups, minimum_channels=3).layers
    assert all(entry.channels_after >= min(3, entry.channels_before) for entry in layers)
    assert {entry.layer: entry.channels_after for entry in layers}["fc2"] == 5
    network, example, generator = prepared("erfnet")
    groups = find_groups(network, example)
    zero_some(groups, 0.5, generator)
    removal = remove_zero_channels(network, groups, multiple_of=4)
    before = {group.name: group.neurons for group in groups.sets}
    assert all(group.neurons % 4 == 0 or group.neurons == before[group.name] for group in removal.groups.sets)


def test_refuses_groups_of_another_network() -> None:
    network, example, _ = prepared("residual")
    groups = find_groups(copy.deepcopy(network), example)
    with pytest.raises(InputError, match="another network"):
        remove_zero_channels(network, groups)
