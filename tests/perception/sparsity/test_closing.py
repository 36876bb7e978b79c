"""Closed branches against the network whose neurons are only set to zero, on every kind of residual network."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.adaptation.detector import DETECTOR_NETWORKS, ForegroundDetector
from perception.compression.cost import count_macs
from perception.compression.export import export_onnx, fold_batchnorm, open_session
from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.closed_branch import ClosedBranch
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.models.registry import NETWORKS
from perception.models.resnet import ResNet18
from perception.sparsity.branches import Branch, find_branches
from perception.sparsity.closing import Closing, close_zero_branches
from perception.sparsity.groups import Groups, find_groups
from perception.sparsity.proximal import (
    Sparsity,
    measure_sparsity,
    neuron_norms,
    proximal_step,
    scale_neurons,
    zero_neurons,
)
from perception.sparsity.removal import remove_zero_channels


class InPlace(nn.Module):
    """Blocks as torchvision writes them: one rectifier in place for all, a sum that writes into the branch."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1, self.norm_1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.conv_2, self.norm_2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm_2(self.conv_2(self.relu(self.norm_1(self.conv_1(x)))))
            y += x
            return self.relu(y)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))  # what reaches the first block has either sign


class Mixed(nn.Module):
    """An inverted residual with functions between its layers, a block that ends rectified, linear layers at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand, self.depth = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.project = nn.Conv2d(24, 8, 1)
        self.last_1, self.last_2, self.relu = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1), nn.ReLU()
        self.lin_1, self.lin_2, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.add(x, self.project(F.relu6(self.depth(F.relu(self.expand(x), inplace=True)))))
        x = self.relu(self.last_2(torch.tanh(self.last_1(x)))) + x
        x = x.flatten(2).permute(0, 2, 1)
        x = x + self.lin_2(F.gelu(self.lin_1(x)))
        return self.head(x)


NETWORKS_HERE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "erfnet": (lambda: ERFNet(7, 0.25), 17),
    "efficientnet_lite": (lambda: EfficientNetLite(5), 9),
    "resnet": (lambda: ResNet18(5, channels=8), 5),
    "detector": (lambda: ForegroundDetector(3), 7),
    "in_place": (InPlace, 2),
    "mixed": (Mixed, 3),
}


def prepared(name: str) -> tuple[nn.Module, Groups, tuple[Branch, ...], Tensor]:
    """Build a network with random biases and normalisations, find its groups and branches, and draw frames."""
    torch.manual_seed(0)
    network = NETWORKS_HERE[name][0]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
    frames = torch.rand(2, 3, 16, 32, generator=generator)
    groups = find_groups(network.eval(), frames)
    return network, groups, find_branches(network, groups, frames), frames


def silence(groups: Groups, branches: tuple[Branch, ...]) -> None:
    """Zero all neurons of the branches' own sets."""
    names = {name for branch in branches for name in branch.sets}
    factors = [0.0 if group.name in names else 1.0 for group in groups.sets for _ in range(group.neurons)]
    scale_neurons(groups, torch.tensor(factors))


def flat(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]  # type: ignore[attr-defined]


def closed_network(name: str, step: int = 2, **options: object) -> tuple[nn.Module, Closing, Tensor, list[Tensor]]:
    """Close every second branch; also give the frames and what the zeroed network makes of them."""
    network, groups, branches, frames = prepared(name)
    silence(groups, branches[::step])
    with torch.no_grad():
        expected = flat(network(frames))
    return network, close_zero_branches(network, groups, branches, **options), frames, expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS_HERE)
def test_every_identity_shortcut_has_its_branch(name: str) -> None:
    _, groups, branches, _ = prepared(name)
    assert len(branches) == NETWORKS_HERE[name][1]
    sets = [each for branch in branches for each in branch.sets]
    assert len(sets) == len(set(sets)) and {group.name for group in groups.sets} >= set(sets)
    assert all(branch.whole == (name == "in_place") for branch in branches)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("name", NETWORKS_HERE)
def test_outputs_equal_the_zeroed_networks(name: str, step: int) -> None:
    network, closing, frames, expected = closed_network(name, step)
    assert len(closing.closed) == -(-NETWORKS_HERE[name][1] // step)
    assert sum(isinstance(module, ClosedBranch) for module in network.modules()) == len(closing.closed)
    with torch.no_grad():
        for mine, other in zip(flat(network(frames)), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS_HERE)
def test_renumbered_groups_equal_those_of_a_new_search(name: str) -> None:
    network, closing, frames, _ = closed_network(name)
    mine, fresh = closing.groups, find_groups(network, frames)

    def described(groups: Groups) -> list[tuple[object, ...]]:
        return sorted(
            (g.neurons, g.parameters_per_neuron, sorted((p.tensor, p.dim, tuple(p.index.flatten().tolist())) for p in g.own))
            for g in groups.sets
        )  # fmt: skip

    assert described(mine) == described(fresh) and mine.unprunable == fresh.unprunable
    for layer, numbers in fresh.layer_neurons.items():
        assert ((numbers < fresh.neurons) == (mine.layer_neurons[layer] < mine.neurons)).all()
    assert set(mine.layer_neurons) == set(fresh.layer_neurons)
    assert {(b.name, b.modules) for b in find_branches(network, fresh, frames)} == {
        (b.name, b.modules) for b in closing.open
    }


@pytest.mark.parametrize("name", NETWORKS_HERE)
def test_channels_leave_the_stream_afterwards(name: str) -> None:
    network, closing, frames, _ = closed_network(name)
    generator = torch.Generator().manual_seed(2)
    factors = (torch.rand(closing.groups.neurons, generator=generator) > 0.4).float()
    scale_neurons(closing.groups, factors)
    with torch.no_grad():
        expected = flat(network(frames))
        removal = remove_zero_channels(network, closing.groups)
        found = flat(network(frames))
    assert removal.parameters_after < removal.parameters_before
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-5)
    for module in network.modules():
        assert not isinstance(module, ClosedBranch) or module.channels == len(module.shift)


@pytest.mark.parametrize("name", NETWORKS_HERE)
def test_training_goes_on_and_the_constants_learn(name: str) -> None:
    network, groups, branches, frames = prepared(name)
    averaged = copy.deepcopy(network)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.Adam([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=1e-2)
    network.train()

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.stack([tensor.square().mean() for tensor in flat(network(frames))]).sum()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step()
    silence(groups, branches[:1])
    closing = close_zero_branches(network, groups, branches, optimizer=optimizer, averaged=[averaged])
    assert [p.shape for p in network.parameters()] == [p.shape for p in averaged.parameters()]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters()} >= {id(p) for p in optimizer.state}
    leaf = network.get_submodule(closing.closed[0].modules[-1])
    before = leaf.shift.detach().clone()  # type: ignore[union-attr,operator]
    assert all(np.isfinite(step()) for _ in range(3))
    assert not torch.equal(leaf.shift, before)  # type: ignore[arg-type]


def test_settled_constants_keep_the_mean() -> None:
    network, closing, _, _ = closed_network("erfnet", settle=True)
    network_before = prepared("erfnet")[0]
    for branch in closing.closed:
        norm = network_before.get_submodule(f"{branch.name}.norm_2")
        assert torch.equal(network.get_submodule(branch.modules[-1]).shift, norm.bias)  # type: ignore[arg-type]


def test_files_keep_closed_branches(tmp_path: Path) -> None:
    for name in ("erfnet", "resnet", "detector"):
        network, _, frames, expected = closed_network(name)
        networks = NETWORKS | DETECTOR_NETWORKS  # type: ignore[operator]
        save_network(network, tmp_path / "network.safetensors", {}, networks)
        with torch.no_grad():
            found = flat(load_network(tmp_path / "network.safetensors", networks)(frames))
        assert all(torch.allclose(mine, other, atol=1e-5) for mine, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["erfnet", "in_place", "mixed"])
def test_exported_files_compute_nothing_in_closed_branches(name: str, tmp_path: Path) -> None:
    network, _, frames, expected = closed_network(name, 1)
    folded = fold_batchnorm(network)
    export_onnx(folded, tmp_path / "closed.onnx", 16, 32)
    found = open_session(tmp_path / "closed.onnx").run(None, {"image": frames.numpy()})[0]
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-4)
    import onnx

    convolutions = [n for n in onnx.load(str(tmp_path / "closed.onnx")).graph.node if n.op_type.startswith("Conv")]
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == len(layers)
    assert count_macs(network, (3, 16, 32)) < count_macs(prepared(name)[0], (3, 16, 32))


class NoIdentity(nn.Module):
    """Sums whose operands are no branch and identity: projections, two branches, a gate, a shared layer, a side reader."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.shared, self.inner, self.inner_2 = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.late, self.late_1, self.late_2, self.head = (nn.Conv2d(8, 8, 1) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.b(torch.relu(self.a(x))) + self.c(x)
        x = x + self.shared(torch.relu(self.shared(x)))
        y = torch.relu(self.inner(x))
        x = self.relu(self.inner_2(torch.relu(x))) + self.inner_2(y)  # called twice
        x = x + self.late(self.relu(x))  # writes into its own shortcut
        x = x + torch.sigmoid(self.late_2(torch.relu(self.late_1(x)))).mean((2, 3), keepdim=True)  # another shape
        return self.head(x)


def test_nothing_is_found_without_an_identity_shortcut() -> None:
    torch.manual_seed(0)
    network, frames = NoIdentity(), torch.rand(1, 3, 8, 8)
    groups = find_groups(network, frames)
    assert find_branches(network, groups, frames) == ()
    with pytest.raises(InputError, match="another network"):
        find_branches(NoIdentity(), groups, frames)
    with pytest.raises(InputError, match="another network"):
        close_zero_branches(NoIdentity(), groups, ())


def test_a_branch_with_a_neuron_left_stays_open() -> None:
    network, groups, branches, _ = prepared("erfnet")
    silence(groups, branches[:1])
    target = next(k for k, group in enumerate(groups.sets) if group.name in branches[0].reads)
    with torch.no_grad():
        network.get_parameter(groups.sets[target].own[0].tensor)[0, 0] = 1e-3
    closing = close_zero_branches(network, groups, branches)
    assert closing.closed == () and closing.open == branches and closing.groups is groups


class Asking(nn.Module):
    """A block whose code wants more of its layers than the outputs of a call, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.stem, self.head = way, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.conv_1, self.conv_2 = nn.Conv2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 8, 2, stride=2)
        self.own_list = [self.conv_1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.way == "stride" and self.conv_1.stride != (2, 2):
            return self.head(x)
        if self.way == "dtype":
            x = x.to(self.conv_1.weight.dtype)
        first = self.own_list[0] if self.way == "list" else self.conv_1
        y = torch.relu(first(x))
        if self.way == "argument":
            y = self.conv_2(y, output_size=[16, 32])
        elif self.way == "name":
            y = self.conv_2(input=y)
        else:
            y = self.conv_2(y)
        return self.head(x + y)


@pytest.mark.parametrize(
    ("way", "count"), [(w, 0) for w in ("stride", "dtype", "list", "argument", "name")] + [("", 1)]
)
def test_layers_that_are_asked_for_more_than_a_call_stay(way: str, count: int) -> None:
    torch.manual_seed(0)
    network, frames = Asking(way), torch.rand(1, 3, 16, 32)
    before = dict(network.named_modules())
    groups = find_groups(network, frames)
    assert len(find_branches(network, groups, frames)) == count
    assert dict(network.named_modules()) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


class WritesInto(nn.Module):
    """Linear layers whose sum writes into the branch, which a batch of one row does not show by its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lin_1, self.lin_2, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.lin_2(torch.relu(self.lin_1(x)))
        y += x
        return self.head(y)


def test_a_sum_that_writes_into_the_branch_is_seen_on_one_row() -> None:
    torch.manual_seed(0)
    network, one, rows = WritesInto(), torch.rand(1, 8), torch.rand(5, 8)
    groups = find_groups(network, one)
    branches = find_branches(network, groups, one)
    silence(groups, branches)
    with torch.no_grad():
        expected = network(rows)
        assert len(close_zero_branches(network, groups, branches).closed) == 1
        torch.testing.assert_close(network(rows), expected)


def test_branches_are_found_in_inference_mode_too() -> None:
    network, frames = WritesInto(), torch.rand(2, 8)
    groups = find_groups(network, frames)
    with torch.inference_mode():
        assert [branch.whole for branch in find_branches(network, groups, frames.clone())] == [True]


class OtherDimension(nn.Module):
    """A normalisation along another dimension than the channels of the branch's last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.lin_1, self.lin_2, self.norm = nn.Linear(8, 6), nn.Linear(6, 8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        return self.head(x + self.norm(self.lin_2(torch.relu(self.lin_1(x)))))


def test_a_normalisation_along_another_dimension_gives_no_constant_per_channel() -> None:
    network, frames = OtherDimension(), torch.rand(2, 3, 8, 4)
    assert find_branches(network, find_groups(network, frames), frames) == ()


def test_a_network_may_lose_its_last_neuron_with_a_branch() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1, self.conv_2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv_2(torch.relu(self.conv_1(x)))

    network, frames = Alone(), torch.rand(2, 3, 8, 8)
    groups = find_groups(network, frames)
    branches = find_branches(network, groups, frames)
    silence(groups, branches)
    left = close_zero_branches(network, groups, branches).groups
    assert left.neurons == len(zero_neurons(left)) == len(neuron_norms(left)) == 0 and left.sets == ()
    assert measure_sparsity(left) == Sparsity(0, 0, 0, 0)
    proximal_step(left, 0.1, 0.1)
    assert remove_zero_channels(network, left).parameters_after == 3  # the constant
