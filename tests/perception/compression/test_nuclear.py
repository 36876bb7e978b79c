"""The nuclear-norm step against its optimality conditions and a numerical optimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from perception.compression.nuclear import calibrate_nuclear_strength, nuclear_prox, nuclear_step
from perception.errors import InputError


@pytest.mark.parametrize("shape", [(5, 8), (9, 4), (70, 90), (120, 66)])
@pytest.mark.parametrize("threshold", [0.3, 1.5, 6.0, 100.0])
def test_singular_values_shrink_by_the_threshold(shape: tuple[int, int], threshold: float) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    given = nuclear_prox(torch.from_numpy(matrix), threshold).numpy()
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(given, u * np.maximum(s - threshold, 0) @ vt, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_numerical_optimum(seed: int) -> None:
    """Minimise over factors: min_X 1/2||X - M||^2 + t||X||_* = min_{A, B} 1/2||AB - M||^2 + t/2 (||A||^2 + ||B||^2)."""
    generator = np.random.default_rng(seed)
    matrix, threshold = generator.normal(size=(4, 6)), generator.uniform(0.2, 1.5)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = flat[:16].reshape(4, 4), flat[16:].reshape(4, 6)
        rest = a @ b - matrix
        value = 0.5 * np.sum(rest**2) + 0.5 * threshold * np.sum(flat**2)
        return value, np.concatenate([(rest @ b.T + threshold * a).ravel(), (a.T @ rest + threshold * b).ravel()])

    found = minimize(
        objective, generator.normal(size=40), jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 5000}
    )
    best = found.x[:16].reshape(4, 4) @ found.x[16:].reshape(4, 6)
    given = nuclear_prox(torch.from_numpy(matrix), threshold).numpy()
    np.testing.assert_allclose(given, best, rtol=0, atol=1e-8)


def test_fast_path_in_float32_and_zero_cases() -> None:
    matrix = torch.randn(100, 130, generator=torch.Generator().manual_seed(0))
    exact = nuclear_prox(matrix.double(), 2.0)
    torch.testing.assert_close(nuclear_prox(matrix, 2.0).double(), exact, rtol=0, atol=1e-6)
    assert torch.equal(nuclear_prox(matrix, 0.0), matrix)
    assert torch.equal(nuclear_prox(torch.zeros(70, 80), 1.0), torch.zeros(70, 80))
    with pytest.raises(InputError):
        nuclear_prox(matrix, -1.0)


def test_step_reaches_every_layer_that_can_be_factorised() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(32, 5))
    strength = calibrate_nuclear_strength(network, 0.1, 0.2)
    before = [layer.weight.detach().clone() for layer in (network[0], network[1], network[3])]
    nuclear_step(network, 0.1, strength)
    for old, layer in ((before[0], network[0]), (before[2], network[3])):
        expected = (torch.linalg.svdvals(old.flatten(1)) - 0.1 * strength).clamp_min(0)
        torch.testing.assert_close(torch.linalg.svdvals(layer.weight.detach().flatten(1)), expected, rtol=0, atol=1e-5)
    assert torch.equal(before[1], network[1].weight)
    with pytest.raises(InputError):
        calibrate_nuclear_strength(nn.Conv2d(4, 4, 3, groups=4), 0.1)
