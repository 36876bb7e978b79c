"""The proximal step against a numerical optimum, a slow loop, and its definition."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from perception.errors import InputError
from perception.sparsity.groups import Groups, find_groups
from perception.sparsity.proximal import calibrate_strength, measure_sparsity, neuron_norms, proximal_step, zero_neurons


def small_network(seed: int = 0) -> tuple[nn.Sequential, Groups]:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ConvTranspose2d(5, 4, 2), nn.Flatten(), nn.Linear(4 * 25, 3)]
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network, find_groups(network, torch.zeros(1, 2, 6, 6, dtype=torch.float64))


def neuron_vectors(groups: Groups) -> list[np.ndarray]:
    """Read every neuron's vector by the slices that its set names: slow, and independent of the step's own lay-out."""
    parameters = dict(groups.network.named_parameters())
    return [
        np.concatenate(
            [parameters[p.tensor].detach().index_select(p.dim, p.index[k]).flatten().numpy() for p in group.own]
        )
        for group in groups.sets
        for k in range(group.neurons)
    ]


def numerical_optimum(vector: np.ndarray, step: float, strength: float, alpha: float) -> np.ndarray:
    """Minimise ||x - vector||^2 / 2t + r(x) with x = a - b, a, b >= 0, which makes the l1 part smooth."""
    size = len(vector)
    weight = (1 - alpha) * strength * math.sqrt(size)

    def objective(ab: np.ndarray) -> tuple[float, np.ndarray]:
        x = ab[:size] - ab[size:]
        norm = np.linalg.norm(x)
        smooth = (x - vector) / step + (weight * x / norm if norm > 0 else 0)
        value = np.sum((x - vector) ** 2) / (2 * step) + weight * norm + alpha * strength * ab.sum()
        return value, np.concatenate([smooth, -smooth]) + alpha * strength

    start = np.concatenate([np.maximum(vector, 0), np.maximum(-vector, 0)])
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * size),
        options={"ftol": 1e-18, "gtol": 1e-13, "maxiter": 20000, "maxfun": 40000},
    )  # fmt: skip
    best = found.x[:size] - found.x[size:]
    at_zero = np.sum(vector**2) / (2 * step)  # the norm has its kink at zero, where a gradient method never lands
    return np.zeros(size) if at_zero <= found.fun else best


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_step_equals_the_numerical_optimum(alpha: float, strength: float) -> None:
    _, groups = small_network()
    before = neuron_vectors(groups)
    proximal_step(groups, 0.4, strength, alpha)
    for old, new in zip(before, neuron_vectors(groups), strict=True):
        np.testing.assert_allclose(
            new, numerical_optimum(old, 0.4, strength, alpha), rtol=0, atol=1e-8 * np.abs(old).max()
        )


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_no_perturbation_lowers_the_objective(alpha: float) -> None:
    generator = np.random.default_rng(1)
    for seed in range(20):
        _, groups = small_network(seed)
        strength, step = generator.uniform(0.05, 3), generator.uniform(0.05, 1)
        before = neuron_vectors(groups)
        proximal_step(groups, step, strength, alpha)
        for old, new in zip(before, neuron_vectors(groups), strict=True):
            trials = new + generator.normal(size=(80, len(new))) * np.logspace(-4, -1, 80)[:, None]
            lowest = min(_objective(x, old, step, strength, alpha) for x in trials)
            assert _objective(new, old, step, strength, alpha) <= lowest + 1e-12


def _objective(x: np.ndarray, old: np.ndarray, step: float, strength: float, alpha: float) -> float:
    group = (1 - alpha) * strength * math.sqrt(len(x)) * np.linalg.norm(x)
    return float(np.sum((x - old) ** 2) / (2 * step) + group + alpha * strength * np.abs(x).sum())


def test_limits_of_the_step() -> None:
    _, groups = small_network()
    before = neuron_vectors(groups)
    proximal_step(groups, 0.1, 0.0, 0.5)
    for old, new in zip(before, neuron_vectors(groups), strict=True):
        np.testing.assert_array_equal(old, new)
    proximal_step(groups, 0.1, 0.5)
    for old, new in zip(before, neuron_vectors(groups), strict=True):
        assert np.abs(np.cross([old[0], old[1], 0], [new[0], new[1], 0])).max() < 1e-12  # collinear
    proximal_step(groups, 1.0, 1e6)
    assert all((vector == 0).all() for vector in neuron_vectors(groups))
    proximal_step(groups, 1.0, 1e6)  # 0/0
    assert bool(zero_neurons(groups).all())
    assert all(bool(p.isfinite().all()) for p in groups.network.parameters())


def test_step_leaves_unprunable_parameters_alone() -> None:
    network, groups = small_network()
    before = network[4].weight.clone(), network[4].bias.clone()
    proximal_step(groups, 1.0, 10.0, 0.5)
    assert torch.equal(before[0], network[4].weight) and torch.equal(before[1], network[4].bias)


def test_step_is_not_expansive() -> None:
    (_, one), (_, two) = small_network(1), small_network(2)
    before = [np.linalg.norm(a - b) for a, b in zip(neuron_vectors(one), neuron_vectors(two), strict=True)]
    for groups in (one, two):
        proximal_step(groups, 0.3, 0.6, 0.5)
    after = [np.linalg.norm(a - b) for a, b in zip(neuron_vectors(one), neuron_vectors(two), strict=True)]
    assert all(new <= old + 1e-12 for new, old in zip(after, before, strict=True))


def test_norms_and_calibration() -> None:
    network, groups = small_network()
    norms = neuron_norms(groups)
    np.testing.assert_allclose(norms, [np.linalg.norm(vector) for vector in neuron_vectors(groups)], rtol=1e-12)
    strength = calibrate_strength(groups, network, 0.05, 0.1, first_layers=1, first_factor=0.5)
    proximal_step(groups, 0.05, strength)
    lost = norms - neuron_norms(groups)
    for k, group in enumerate(groups.sets):
        members = groups.set_of_neuron == k
        share = lost[members] / norms[members].median()
        np.testing.assert_allclose(share, 0.05 if group.name == "0" else 0.1, rtol=1e-9)


def test_metrics_against_counts_by_hand() -> None:
    network, groups = small_network()
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias, network[1].weight, network[1].bias):
            tensor[:2] = 0  # 2 of 5 neurons of layer 0
        network[2].weight[:, 3] = 0
        network[2].bias[3] = 0  # 1 of 4 neurons of layer 2
        network[0].weight[4, 0, 0] = 0  # 3 single zeros
    measured = measure_sparsity(groups)
    layer_0, layer_2, layer_4 = 5 * (18 + 1 + 2), 5 * 4 * 4 + 4, 100 * 3
    total = layer_0 + layer_2
    assert measured.neurons == pytest.approx(100 * 3 / 9)
    assert measured.group_parameters == pytest.approx(100 * (2 * 21 + 21) / total)
    assert measured.total_parameters == pytest.approx(100 * (2 * 21 + 21 + 3) / total)
    remaining = 3 * 21 + (3 * 3 * 4 + 3) + 75 * 3
    assert measured.total_induced == pytest.approx(100 * (1 - remaining / (total + layer_4)))


def test_bad_parameters_are_refused() -> None:
    network, groups = small_network()
    for arguments in ((0.1, 1.0, 1.5), (-0.1, 1.0, 0.0), (0.1, -1.0, 0.0), (0.1, {"0": 1.0}, 0.0)):
        with pytest.raises(InputError):
            proximal_step(groups, *arguments)
    with pytest.raises(InputError):
        calibrate_strength(groups, network, 0.1, 0.0)
    with pytest.raises(InputError):
        calibrate_strength(groups, nn.Linear(1, 1), 0.1)
