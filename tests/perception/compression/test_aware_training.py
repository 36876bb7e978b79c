"""Networks that shrink while they learn, on a small problem with a known useful structure."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.compression.cost import count_parameters
from perception.compression.latency_budget import block_costs, set_costs
from perception.errors import InputError
from perception.models.erfnet import ERFNet
from perception.training.loop import TrainSettings, fit


@dataclass(frozen=True)
class Sample:
    images: Tensor
    labels: Tensor


def problem(seed: int = 0) -> list[Sample]:
    """Four classes: which quarter of an 8x8 image carries a stripe pattern, under noise."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(12):
        labels = torch.randint(4, (32,), generator=generator)
        images = 0.3 * torch.randn(32, 1, 8, 8, generator=generator)
        for k, label in enumerate(labels.tolist()):
            row, column = 4 * (label // 2), 4 * (label % 2)
            images[k, 0, row : row + 4 : 2, column : column + 4] += 1
        batches.append(Sample(images, labels))
    return batches


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 4),
    )  # fmt: skip


def train(network: nn.Module, epochs: int, after_epoch: Callable | None = None, learning_rate: float = 0.05) -> float:
    """Train by the project's loop; give the accuracy on fresh data."""
    settings = TrainSettings(
        epochs=epochs, batch_frames=32, learning_rate=learning_rate, weight_decay=0.0, schedule="constant", seed=0,
        optimiser="sgd",
    )  # fmt: skip
    batches = problem()

    def loss(member: nn.Module, batch: Sample) -> Tensor:
        return F.cross_entropy(member(batch.images), batch.labels)

    fit(network, lambda _: batches, settings, loss=loss, after_epoch=after_epoch)
    network.eval()
    with torch.no_grad():
        right = [(network(batch.images).argmax(1) == batch.labels).float().mean() for batch in problem(1)]
    return float(torch.stack(right).mean())


def test_sparsity_emerges_without_losing_accuracy_and_channels_leave() -> None:
    dense = train(small_network(), 12)
    network = small_network()
    settings = ShrinkSettings(strength_share=0.15, reload_epochs=(7, 11), first_layers=0, minimum_channels=2)
    hooks = CompressionAwareTraining(network, torch.zeros(1, 1, 8, 8), 0.05, settings)
    before = count_parameters(network)
    accuracy = train(network, 12, hooks.after_epoch)
    assert dense > 0.97 and accuracy > 0.97
    assert count_parameters(network) < 0.5 * before
    assert hooks.records[-1].parameters == count_parameters(network)
    counts = [record.parameters for record in hooks.records]
    assert counts == sorted(counts, reverse=True) and counts[6] == before > counts[7]
    assert [record.epoch for record in hooks.records if record.removed] == [7, 11]


def test_without_strength_nothing_is_lost() -> None:
    network, plain = small_network(), small_network()
    settings = ShrinkSettings(strength_share=0.0, reload_epochs=(1,))
    hooks = CompressionAwareTraining(network, torch.zeros(1, 1, 8, 8), 0.05, settings)
    assert train(network, 2, hooks.after_epoch) == train(plain, 2)
    assert count_parameters(network) == count_parameters(plain)


def test_a_target_of_parameters_is_met_and_averages_follow() -> None:
    network = small_network()
    average = copy.deepcopy(network)
    settings = ShrinkSettings(
        strength_share=0.02, reload_epochs=(2,), target_cost_share=0.4, costs="parameters", minimum_channels=2
    )
    hooks = CompressionAwareTraining(network, torch.zeros(1, 1, 8, 8), 0.05, settings, averaged=[average])
    own = sum(group.neurons * group.parameters_per_neuron for group in hooks.groups.sets)
    accuracy = train(network, 6, hooks.after_epoch)
    left = sum(group.neurons * group.parameters_per_neuron for group in hooks.groups.sets)
    assert left < 0.42 * own and accuracy > 0.9
    assert {n: p.shape for n, p in network.state_dict().items()} == {
        n: p.shape for n, p in average.state_dict().items()
    }


def test_latency_target_is_approached_in_equal_ratios_and_pressing_ends_with_it() -> None:
    network = small_network()
    example = torch.zeros(1, 1, 8, 8)
    settings = ShrinkSettings(
        strength_share=0.05, strength_by_cost=0.5, reload_epochs=(1, 3), target_cost_share=0.4, multiple_of=4,
        minimum_channels=4,
    )  # fmt: skip
    hooks = CompressionAwareTraining(network, example, 0.05, settings)
    hooks._costs = lambda member: block_costs(member, hooks.groups, example, block=4, call_macs=0.0)  # type: ignore[method-assign]
    whole = hooks._cost_at_start = hooks._costs(network).cost()
    costs = []

    def after_epoch(epoch: int, member: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        hooks.after_epoch(epoch, member, optimizer)
        costs.append(hooks._costs(member).cost() / whole)

    accuracy = train(network, 8, after_epoch)
    assert costs[0] == 1 and 0.4 < costs[1] <= 0.4**0.5 and costs[3] <= 0.4 and accuracy > 0.95
    assert hooks.records[-1].neurons_zero == 0


class ResidualNetwork(nn.Module):
    """A stem and four residual blocks, of which the problem needs hardly one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16),
            ) for _ in range(4)
        )  # fmt: skip
        self.head = nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.flatten(1))


@pytest.mark.parametrize("lost", ["sum", "share"])
def test_branches_close_at_several_reloads_and_the_network_learns_on(lost: str) -> None:
    torch.manual_seed(0)
    network, example = ResidualNetwork(), torch.zeros(1, 1, 8, 8)
    average = copy.deepcopy(network)
    settings = ShrinkSettings(
        strength_share=0.05, reload_epochs=(1, 3), target_cost_share=0.4, multiple_of=8, lost=lost, minimum_channels=8,
        close_branches=True,
    )  # type: ignore[arg-type]  # fmt: skip
    hooks = CompressionAwareTraining(network, example, 0.05, settings, averaged=[average])
    assert len(hooks.branches) == 4
    accuracy = train(network, 8, hooks.after_epoch, learning_rate=0.02)
    assert accuracy > 0.9
    closed = [name for record in hooks.records for name in record.closed]
    assert closed and {record.epoch for record in hooks.records if record.closed} <= {1, 3}
    assert len(closed) == len(set(closed)) == 4 - len(hooks.branches)
    assert hooks._costs(network).cost() <= 0.4 * hooks._cost_at_start
    assert [p.shape for p in network.parameters()] == [p.shape for p in average.parameters()]
    left = {item.layer: item.channels_after for record in hooks.records for item in record.removed}
    assert {name for name, count in left.items() if count == 0} == {f"{name}.{k}" for name in closed for k in (0, 3)}


@pytest.mark.parametrize("target", [{}, {"target_cost_share": 0.3}])
def test_training_goes_on_after_the_last_neuron_has_left(target: dict[str, float]) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1, self.conv_2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv_2(torch.relu(self.conv_1(x)))

    torch.manual_seed(0)
    network, example = Alone(), torch.rand(1, 1, 8, 8)
    settings = ShrinkSettings(strength_share=0.9, reload_epochs=(2, 3, 4), close_branches=True, **target)  # type: ignore[arg-type]
    hooks = CompressionAwareTraining(network, example, 0.05, settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for epoch in range(6):
        optimizer.zero_grad()
        network(example).square().mean().backward()
        optimizer.step()
        hooks.after_epoch(epoch, network, optimizer)
    assert hooks.groups.neurons == 0 and hooks.records[-1].parameters == 1  # the constant
    assert [name for record in hooks.records for name in record.closed] == ["conv_1"]


def test_branches_stay_open_unless_asked() -> None:
    network = ResidualNetwork()
    settings = ShrinkSettings(strength_share=0.5, reload_epochs=(1,), minimum_channels=1)
    hooks = CompressionAwareTraining(network, torch.zeros(1, 1, 8, 8), 0.05, settings)
    train(network, 2, hooks.after_epoch, learning_rate=0.02)
    assert hooks.branches == () and all(record.closed == () for record in hooks.records)
    assert all(item.channels_after >= 1 for item in hooks.records[1].removed)


def test_neurons_that_matter_least_to_the_loss_leave_where_asked() -> None:
    network, example = small_network(), torch.zeros(1, 1, 8, 8)
    with torch.no_grad():  # strong, and unheard: by their norm they would stay
        network[0].weight[:8] *= 10
        network[4].weight[:, :8] = 0
    settings = ShrinkSettings(
        strength_share=0,
        reload_epochs=(0,),
        target_cost_share=0.9,
        costs="parameters",
        importance="loss",
        multiple_of=8,
    )
    hooks = CompressionAwareTraining(network, example, 1e-3, settings)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    for sample in problem()[:2]:
        optimizer.zero_grad()
        F.cross_entropy(network(sample.images), sample.labels).backward()
        optimizer.step()
    with torch.no_grad():
        network[4].weight[:, :8] = 0
    before = network[0].weight[8:].detach().clone()
    hooks.after_epoch(0, network, optimizer)
    assert torch.equal(network[0].weight, before)


def test_dear_neurons_are_pressed_harder() -> None:
    network, example = ERFNet(7, 0.5), torch.zeros(1, 3, 32, 64)
    alike = CompressionAwareTraining(network, example, 0.01, ShrinkSettings(reload_epochs=(1,)))
    weighted = CompressionAwareTraining(network, example, 0.01, ShrinkSettings(reload_epochs=(1,), strength_by_cost=1))
    costs = set_costs(alike.groups, block_costs(network, alike.groups, example))
    ratios = {name: weighted.strength[name] / alike.strength[name] / costs[name] for name in costs if costs[name] > 0}
    assert max(ratios.values()) == pytest.approx(min(ratios.values()))


def test_low_rank_with_groups_factorises_at_the_last_reload() -> None:
    network = small_network()
    settings = ShrinkSettings(strength_share=0.08, nuclear_share=0.4, reload_epochs=(3, 6), factorise_energy=0.9)
    hooks = CompressionAwareTraining(network, torch.zeros(1, 1, 8, 8), 0.05, settings)
    before = count_parameters(network)
    accuracy = train(network, 10, hooks.after_epoch)
    chosen = {row.layer: row.choice for row in hooks.records[6].factorised}
    assert "low_rank" in chosen.values() and not hooks.records[3].factorised
    assert any(isinstance(module, nn.Sequential) for module in network)
    assert count_parameters(network) < 0.5 * before and accuracy > 0.95


def test_bad_settings_are_refused() -> None:
    for settings in (
        {"strength_share": 1.0},
        {"alpha": 1.0},
        {"target_cost_share": 0.5},
        {"costs": "guess"},
        {"factorise_energy": 2.0, "reload_epochs": (1,)},
    ):
        with pytest.raises(InputError):
            ShrinkSettings(**settings)
