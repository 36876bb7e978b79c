"""The cost model against counted multiplications and removed networks, and which neurons go for a budget."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from perception.compression.cost import count_macs
from perception.compression.latency_budget import (
    _loss,
    _relative_squares,
    block_costs,
    measured_costs,
    parameter_costs,
    set_costs,
    zero_to_cost,
)
from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.sparsity.branches import find_branches
from perception.sparsity.closing import close_zero_branches
from perception.sparsity.groups import find_groups
from perception.sparsity.proximal import neuron_norms, scale_neurons, zero_neurons
from perception.sparsity.removal import remove_zero_channels

EXAMPLE = torch.zeros(1, 3, 32, 64)


def depthwise_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 20, 1), nn.ReLU(),
        nn.ConvTranspose2d(20, 6, 2, stride=2), nn.ReLU(), nn.Flatten(2), nn.Flatten(), nn.Linear(6 * 32 * 64, 5),
    )  # fmt: skip


@pytest.mark.parametrize("build", [lambda: ERFNet(7, 0.25), depthwise_network, lambda: EfficientNetLite(7)])
def test_blocks_of_one_channel_count_every_multiplication(build) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network = build()
    groups = find_groups(network, EXAMPLE)
    model = block_costs(network, groups, EXAMPLE, block=1, call_macs=0.0)
    assert model.cost() == count_macs(network, EXAMPLE.shape[1:])
    factors = (torch.rand(groups.neurons, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    factors[[int((groups.set_of_neuron == k).nonzero()[0]) for k in range(len(groups.sets))]] = 1  # no set dies out
    gone = [int((factors[groups.set_of_neuron == k] == 0).sum()) for k in range(len(groups.sets))]
    scale_neurons(groups, factors)
    remove_zero_channels(network, groups)
    assert model.cost(np.array(gone)) == count_macs(network, EXAMPLE.shape[1:])


@pytest.mark.parametrize("build", [lambda: ERFNet(7, 0.25), depthwise_network])
def test_parameter_costs_are_the_weights(build) -> None:  # type: ignore[no-untyped-def]
    network = build()
    model = parameter_costs(network, find_groups(network, EXAMPLE), EXAMPLE)
    weights = [parameter.numel() for parameter in network.parameters() if parameter.ndim > 1]
    assert model.cost() == sum(weights)


def test_odd_widths_cost_as_much_as_the_next_block() -> None:
    network = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
    groups = find_groups(network, torch.zeros(1, 4))
    model = block_costs(network, groups, torch.zeros(1, 4), block=8, call_macs=100.0)
    costs = [model.cost(np.array([gone])) for gone in (0, 3, 4, 12)]
    assert costs == [200 + 64 * 6, 200 + 64 * 6, 200 + 64 * 4, 200 + 64 * 2]
    assert set_costs(groups, model) == {"0": 64 * 2 / 8}


def test_least_worth_for_its_cost_goes_until_the_budget_is_met() -> None:
    torch.manual_seed(0)
    network = ERFNet(7, 0.5)
    groups = find_groups(network, EXAMPLE)
    model = block_costs(network, groups, EXAMPLE, call_macs=0.0)
    importance = torch.rand(groups.neurons, generator=torch.Generator().manual_seed(1))
    dead = zero_to_cost(groups, model, 0.5 * model.cost(), importance=importance)
    assert torch.equal(zero_neurons(groups), dead)
    gone = np.array([int(dead[groups.set_of_neuron == k].sum()) for k in range(len(groups.sets))])
    assert (gone % 8 == 0).all() and model.cost(gone) <= 0.5 * model.cost()
    for k in np.flatnonzero(gone):  # the last bundle was needed, whichever set it came from
        less = gone.copy()
        less[k] -= 8
        ids = torch.nonzero(groups.set_of_neuron == k).flatten()
        assert importance[ids[dead[ids]]].max() <= importance[ids[~dead[ids]]].min() and len(ids) - gone[k] >= 8
    before = copy.deepcopy(network).eval()
    removal = remove_zero_channels(network, groups, multiple_of=8)
    assert sum(group.neurons for group in removal.groups.sets) == groups.neurons - gone.sum()
    assert block_costs(network, removal.groups, EXAMPLE, call_macs=0.0).cost() == pytest.approx(model.cost(gone))
    frames = torch.rand(2, 3, 32, 64)
    torch.testing.assert_close(network.eval()(frames), before(frames), rtol=0, atol=1e-5)


def test_greedy_is_the_best_choice_of_bundles_where_costs_do_not_meet() -> None:
    """Three hidden layers between fixed maps: what one saves does not depend on the others, so all choices can be tried."""

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.ModuleList(nn.Linear(4, 8 * size) for size in (2, 3, 4))
            self.outside = nn.ModuleList(nn.Linear(8 * size, 4) for size in (2, 3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = zip(self.inside, self.outside, strict=True)
            a, b, c = (outer(torch.relu(inner(x))) for inner, outer in parts)
            return a + b + c

    network = Parallel()
    groups = find_groups(network, torch.zeros(1, 4))
    model = block_costs(network, groups, torch.zeros(1, 4), call_macs=0.0)
    importance = torch.rand(groups.neurons, generator=torch.Generator().manual_seed(2))
    worth = [np.sort(importance[groups.set_of_neuron == k].numpy()) for k in range(3)]
    choices = itertools.product(range(2), range(3), range(4))
    best = min(
        (sum(float(w[: 8 * n].sum()) for w, n in zip(worth, gone, strict=True)), gone)
        for gone in choices
        if model.cost(8 * np.array(gone)) <= 0.6 * model.cost()
    )
    dead = zero_to_cost(groups, model, 0.6 * model.cost(), importance=importance)
    assert importance[dead].sum().item() == pytest.approx(best[0])


def test_what_the_proximal_step_zeroed_goes_first() -> None:
    torch.manual_seed(0)
    groups = find_groups(ERFNet(7, 0.5), EXAMPLE)
    target = next(k for k, group in enumerate(groups.sets) if group.neurons == 64)
    factors = torch.ones(groups.neurons)
    factors[torch.nonzero(groups.set_of_neuron == target).flatten()[:24]] = 0
    scale_neurons(groups, factors)
    model = block_costs(groups.network, groups, EXAMPLE)
    dead = zero_to_cost(groups, model, model.cost() * 0.98)
    assert bool(dead[factors == 0].all()) or not bool(dead[factors == 1].any())


def test_sets_that_are_mostly_zero_are_priced_by_the_neurons_that_are_left() -> None:
    """A median of zero must not make the others infinite, whose shares are no numbers and whose order is none."""
    network, example = Blocks(3, 32), torch.zeros(1, 8)
    groups = find_groups(network, example)
    factors = torch.ones(groups.neurons)
    for k in range(3):
        factors[torch.nonzero(groups.set_of_neuron == k).flatten()[:17]] = 0
    scale_neurons(groups, factors)
    worth = _relative_squares(groups)
    norms = neuron_norms(groups).double()
    for k in range(3):
        own = norms[groups.set_of_neuron == k]
        expected = (own / own[own > 0].median()).square()
        torch.testing.assert_close(worth[groups.set_of_neuron == k], expected)
    model = block_costs(network, groups, example, call_macs=0.0)
    dead = zero_to_cost(groups, model, 0.5 * model.cost(), lost="share")
    gone = [int(dead[groups.set_of_neuron == k].sum()) for k in range(3)]
    assert gone == [16, 16, 16]  # free ones alone, from every set


def test_impossible_budgets_are_refused() -> None:
    groups = find_groups(ERFNet(7, 0.25), EXAMPLE)
    model = block_costs(groups.network, groups, EXAMPLE)
    with pytest.raises(InputError, match="cannot be reached"):
        zero_to_cost(groups, model, 0.01 * model.cost())
    with pytest.raises(InputError, match="at least"):
        zero_to_cost(groups, model, model.cost(), bundle=0)


def test_measured_costs_grow_with_every_layer() -> None:
    torch.manual_seed(0)
    network = depthwise_network()
    groups = find_groups(network, EXAMPLE)
    model = measured_costs(network, groups, EXAMPLE, repeats=3)
    assert model.unit == "ms" and (model.call >= 0).all() and (model.pair >= 0).all()
    assert (model.call + model.pair > 0).all() and len(model.layers) == 5


def test_costs_follow_the_network_to_its_device() -> None:
    network, example = ERFNet(5, width=0.25), torch.zeros(1, 3, 16, 16)
    expected = block_costs(network, find_groups(network, example), example).cost()
    network.to("meta")  # a device other than the example's, as a GPU is
    assert block_costs(network, find_groups(network, example), example).cost() == expected


def widths_left(lost: str) -> list[int]:
    """Give the widths of four layers of almost equal neurons when half of the network must go."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(),
        nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1),
    )  # fmt: skip
    example = torch.zeros(1, 3, 16, 16)
    groups = find_groups(network, example)
    model = parameter_costs(network, groups, example)
    alike = torch.linspace(1.0, 1.1, groups.neurons)
    zero_to_cost(groups, model, 0.5 * model.cost(), bundle=4, minimum_channels=4, importance=alike, lost=lost)
    removal = remove_zero_channels(network, groups, multiple_of=4)
    return [layer.channels_after for layer in removal.layers[:4]]


def test_shares_leave_no_bottleneck_where_sums_empty_a_layer() -> None:
    assert min(widths_left("sum")) == 4
    assert min(widths_left("share")) == 16


def test_shares_of_bundles_add_up_to_what_the_set_lost() -> None:
    worth = np.sort(np.random.default_rng(0).random(12))
    steps = [_loss(worth[start:], 3, "share") for start in (0, 3, 6)]
    assert sum(steps) == pytest.approx(np.log(worth.sum() / worth[9:].sum()))
    assert steps == sorted(steps) and _loss(np.array([0.0, 0.0, 1.0]), 2, "share") == 0


class Blocks(nn.Module):
    """Residual blocks of linear layers of equal cost after one layer whose outputs are fixed by the output."""

    def __init__(self, blocks: int = 3, inside: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.ModuleList(nn.Linear(8, inside) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(inside, 8) for _ in range(blocks))
        self.relu = nn.ModuleList(nn.ReLU() for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, relu, second in zip(self.first, self.relu, self.second, strict=True):
            x = x + second(relu(first(x)))
        return x


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_greedy_with_branches_is_the_best_choice_where_costs_are_alike(share: float) -> None:
    """Each of three blocks keeps two bundles, one, or is silenced: all choices can be tried."""
    network, example = Blocks(), torch.zeros(1, 8)
    groups = find_groups(network, example)
    branches = find_branches(network, groups, example)
    model = block_costs(network, groups, example, call_macs=0.0)
    assert [branch.modules for branch in branches] == [(f"first.{k}", f"relu.{k}", f"second.{k}") for k in range(3)]
    importance = torch.rand(groups.neurons, generator=torch.Generator().manual_seed(3))
    worth = [np.sort(importance[groups.set_of_neuron == k].numpy()) for k in range(3)]
    choices = [gone for gone in itertools.product((0, 8, 16), repeat=3) if 1 - sum(gone) / 48 <= share]
    best = min(sum(float(w[:n].sum()) for w, n in zip(worth, gone, strict=True)) for gone in choices)
    dead = zero_to_cost(groups, model, share * model.cost(), importance=importance, branches=branches)
    assert importance[dead].sum().item() == pytest.approx(best)


def test_branches_reach_budgets_that_neurons_alone_do_not() -> None:
    torch.manual_seed(0)
    network = ERFNet(7, 0.25)
    groups = find_groups(network, EXAMPLE)
    branches = find_branches(network, groups, EXAMPLE)
    model = block_costs(network, groups, EXAMPLE)
    importance = torch.rand(groups.neurons, generator=torch.Generator().manual_seed(1))
    budget = 0.4 * model.cost()
    with pytest.raises(InputError, match="cannot be reached"):
        zero_to_cost(groups, model, budget, importance=importance)
    dead = zero_to_cost(groups, model, budget, importance=importance, branches=branches)
    assert torch.equal(zero_neurons(groups), dead)
    before = copy.deepcopy(network).eval()
    closing = close_zero_branches(network, groups, branches)
    assert 0 < len(closing.closed) < len(branches)
    remove_zero_channels(network, closing.groups, multiple_of=8)
    left = block_costs(network, find_groups(network, EXAMPLE), EXAMPLE)
    assert left.cost() <= budget and len(left.layers) == len(model.layers) - 4 * len(closing.closed)
    frames = torch.rand(2, 3, 32, 64)
    torch.testing.assert_close(network.eval()(frames), before(frames), rtol=0, atol=1e-5)


def test_shares_close_no_stage_while_anything_else_saves() -> None:
    """Four blocks of equal neurons: sums may take them in any order, shares grow dearer and leave one of them."""
    network, example = Blocks(4, 8), torch.zeros(1, 8)
    groups = find_groups(network, example)
    branches = find_branches(network, groups, example)
    model = block_costs(network, groups, example)
    importance = torch.linspace(1.0, 1.1, groups.neurons)
    zero_to_cost(groups, model, 0.25 * model.cost(), importance=importance, branches=branches, lost="share")
    closing = close_zero_branches(network, groups, branches)
    assert [branch.modules[0] for branch in closing.open] == ["first.3"]
    zero_to_cost(
        closing.groups, block_costs(network, closing.groups, example), 0.0, branches=closing.open, lost="share"
    )
    assert bool(zero_neurons(closing.groups).all())  # nothing else was left to save
