"""Low-rank pairs against the truncated decomposition, and when they are used."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.compression.low_rank import (
    can_factorise,
    can_separate,
    candidates,
    factorise_by_energy,
    factorise_by_latency,
    factorise_layer,
    measure_modules_ms,
    rank_for_energy,
)
from perception.errors import InputError

LAYERS = [
    nn.Conv2d(6, 9, 3, padding=1),
    nn.Conv2d(6, 9, (3, 1), stride=2, padding=(2, 0), dilation=(2, 1), bias=False),
    nn.Conv1d(6, 9, 5, stride=3),
    nn.Conv2d(12, 4, 1, padding="same"),
    nn.Linear(6, 9),
    nn.Linear(9, 6, bias=False),
]


def example_for(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Linear):
        return torch.randn(4, layer.in_features, dtype=torch.float64)
    return torch.randn(2, layer.in_channels, *[11] * (layer.weight.ndim - 2), dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_pair_equals_the_truncated_layer(layer: nn.Module, rank: int) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    x = example_for(layer)
    pair = factorise_layer(layer, rank)
    u, s, vt = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), full_matrices=False)
    truncated = copy.deepcopy(layer)
    with torch.no_grad():
        truncated.weight.copy_(torch.from_numpy(u[:, :rank] * s[:rank] @ vt[:rank]).view_as(layer.weight))
        torch.testing.assert_close(pair(x), truncated(x), rtol=0, atol=1e-12)
    dropped = torch.from_numpy(s[rank:])
    error = (layer.weight - truncated.weight).detach().flatten(1)
    assert float(torch.linalg.matrix_norm(error)) == pytest.approx(float(dropped.square().sum().sqrt()), abs=1e-12)


def test_rank_for_energy_is_the_smallest_that_reaches_it() -> None:
    values = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    assert [rank_for_energy(values, e) for e in (0.4, 0.41, 0.7, 0.9, 0.91, 1.0)] == [1, 2, 2, 3, 4, 4]
    assert rank_for_energy(torch.tensor([1.0, 1e-9, 0.0]), 1.0) == 1
    generator = np.random.default_rng(0)
    low = torch.from_numpy(generator.normal(size=(30, 4)) @ generator.normal(size=(4, 50)))
    assert rank_for_energy(torch.linalg.svdvals(low), 1.0) == 4
    assert rank_for_energy(torch.linalg.svdvals(low.float()), 1.0) == 4
    with pytest.raises(InputError):
        rank_for_energy(values, 0.0)


def low_rank_network() -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU(),
        nn.Conv2d(32, 40, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 9, 30),
    )  # fmt: skip
    with torch.no_grad():
        for k, rank in ((4, 5), (7, 3)):
            weight = network[k].weight
            u, s, vt = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            weight.copy_(((u[:, :rank] * s[:rank]) @ vt[:rank]).view_as(weight))
    return network.eval()


def test_energy_one_keeps_outputs_and_finds_the_rank() -> None:
    network = low_rank_network()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        before = network(x)
        result = factorise_by_energy(network, 1.0)
        torch.testing.assert_close(result.network(x), before, rtol=0, atol=1e-5)
    rows = {row.layer: row for row in result.layers}
    assert {name: (row.choice, row.rank) for name, row in rows.items()} == {
        "0": ("dense", 27), "4": ("low_rank", 5), "7": ("low_rank", 3),
    }  # fmt: skip
    assert all(row.parameters_after <= row.parameters_before for row in result.layers)
    assert isinstance(network[4], nn.Sequential) and isinstance(network[2], nn.Conv2d)


def test_training_goes_on_with_the_same_optimizer() -> None:
    network = low_rank_network().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(2, 3, 9, 9)
    network(x).square().mean().backward()
    optimizer.step()
    factorise_by_energy(network, 0.5, optimizer=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in network.parameters()} and len(held) == len(set(map(id, held)))
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


SEPARABLE = [
    nn.Conv2d(6, 9, 3, padding=1),
    nn.Conv2d(6, 5, (5, 3), stride=(2, 3), padding=(2, 0), dilation=(1, 2), bias=False),
    nn.Conv2d(3, 4, 3, padding="same"),
]


@pytest.mark.parametrize("layer", SEPARABLE, ids=str)
def test_separable_pair_equals_the_truncated_kernel(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    x = example_for(layer)
    weight = layer.weight.detach().numpy()
    n, m, k, width = weight.shape
    for rank in (1, 2, 4, min(m * k, n * width)):
        u, s, vt = np.linalg.svd(weight.transpose(1, 2, 0, 3).reshape(m * k, n * width), full_matrices=False)
        low = (u[:, :rank] * s[:rank] @ vt[:rank]).reshape(m, k, n, width).transpose(2, 0, 1, 3)
        truncated = copy.deepcopy(layer)
        pair = factorise_layer(layer, rank, "separable")
        with torch.no_grad():
            truncated.weight.copy_(torch.from_numpy(low))
            torch.testing.assert_close(pair(x), truncated(x), rtol=0, atol=1e-12)
        assert [part.kernel_size for part in pair] == [(k, 1), (1, width)]


def test_candidates_count_parameters_and_errors() -> None:
    layer = low_rank_network()[4]
    for candidate in candidates(layer, 0.6):
        pair = factorise_layer(layer, candidate.rank, candidate.shape)
        assert (
            candidate.parameters
            == sum(p.numel() for p in pair.parameters())
            < sum(p.numel() for p in layer.parameters())
        )
        if candidate.shape == "low_rank":
            kernel = (pair[1].weight.flatten(1) @ pair[0].weight.flatten(1)).view_as(layer.weight)
        else:
            kernel = torch.einsum("nlw,lmk->nmkw", pair[1].weight[:, :, 0], pair[0].weight[..., 0])
        error = float((kernel - layer.weight).detach().norm() / layer.weight.detach().norm())
        assert error == pytest.approx(candidate.relative_error, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("low_rank_ms", "separable_ms", "expected"),
    [(1.0, 3.0, "low_rank"), (1.0, 0.9, "separable"), (1.98, 2.5, "dense"), (3.0, 3.0, "dense")],
)
def test_the_fastest_shape_wins_and_a_layer_that_is_not_faster_stays(
    low_rank_ms: float, separable_ms: float, expected: str
) -> None:
    network = low_rank_network()
    dense = copy.deepcopy(network)
    seen = []

    def measure(given: dict[str, nn.Module], example: Tensor) -> dict[str, float]:
        seen.append(example.shape)
        with torch.no_grad():
            assert len({module(example).shape for module in given.values()}) == 1
        times = {"dense": 2.0, "low_rank": low_rank_ms, "separable": separable_ms}
        return {shape: times[shape] for shape in given}

    result = factorise_by_latency(network, torch.randn(1, 3, 9, 9), 0.99, measure)
    rows = {row.layer: row for row in result.layers}
    assert set(rows["4"].latency_ms) == {"dense", "low_rank", "separable"}
    assert set(rows["7"].latency_ms) == {"dense", "low_rank"}
    assert rows["4"].choice == expected and rows["0"].choice == "dense"
    assert isinstance(network[4], nn.Conv2d if expected == "dense" else nn.Sequential)
    assert seen == [(1, 32, 7, 7), (1, 360)]
    for name, row in rows.items():
        assert row.parameters_before == sum(p.numel() for p in dense.get_submodule(name).parameters())
        assert row.parameters_after == sum(p.numel() for p in network.get_submodule(name).parameters())


def test_measured_times_are_positive() -> None:
    times = measure_modules_ms({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 3)}, torch.zeros(1, 3, 8, 8))
    assert set(times) == {"a", "b"} and min(times.values()) > 0


def test_layers_that_cannot_be_factorised_are_refused() -> None:
    assert not can_factorise(nn.Conv2d(4, 4, 3, groups=2)) and not can_factorise(nn.ConvTranspose2d(4, 4, 3))
    assert not can_factorise(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(InputError):
        factorise_layer(nn.Conv2d(4, 4, 3, groups=2), 1)
    with pytest.raises(InputError):
        factorise_layer(nn.Linear(4, 4), 5)
    assert not can_separate(nn.Conv2d(4, 4, (3, 1))) and not can_separate(nn.Conv1d(4, 4, 3))
    with pytest.raises(InputError):
        factorise_layer(nn.Conv2d(4, 4, (3, 1)), 1, "separable")


def test_a_pair_that_saves_little_is_left_out() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    with torch.no_grad():  # the first layer has rank 1 and its pair saves most of it; the second has full rank
        layer[0].weight.copy_((torch.randn(16, 1) @ torch.randn(1, 144)).view(16, 16, 3, 3))
    choices = {each.layer: each.choice for each in factorise_by_energy(layer, 0.9, least_saving=0.5).layers}
    assert choices == {"0": "low_rank", "1": "dense"}
