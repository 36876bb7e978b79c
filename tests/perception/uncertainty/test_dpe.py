import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from perception.errors import InputError
from perception.uncertainty.dpe import (
    EnsembleLoss,
    dpe_loss,
    ensemble_loss,
    gaussian_kl,
    kl_penalty,
    l2_loss,
    member_cross_entropy,
    omega,
)
from perception.uncertainty.ensemble import Ensemble, make_ensemble
from perception.uncertainty.priors import Prior


class Holder(nn.Module):
    """One weight tensor in a 1 x 1 convolution without bias: n weights with prior N(0, 2 / outputs)."""

    def __init__(self, values):
        super().__init__()
        self.layer = nn.Conv2d(values.numel(), 1, 1, bias=False, dtype=torch.float64)
        self.layer.weight = nn.Parameter(values.reshape(1, -1, 1, 1))


def holders(values):
    """values: (member, weight) float64."""
    return [Holder(row.clone()) for row in values]


def small_net(_seed=0):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def batch(frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        images=torch.rand(frames, 3, 4, 4, generator=generator),
        labels=torch.randint(0, 3, (frames,), generator=generator),
    )


def test_weights_spread_like_the_prior_cost_nothing_and_are_not_pushed():
    spread = math.sqrt(2.0)  # prior variance of a 1 x 1 convolution with one output
    values = torch.tensor([spread, -spread] * 4, dtype=torch.float64).reshape(8, 1)
    members = holders(values)
    penalty = kl_penalty(members)
    penalty.backward()
    assert penalty.item() == pytest.approx(0, abs=1e-12)
    assert all(abs(member.layer.weight.grad.item()) < 1e-12 for member in members)


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_any_other_spread_costs_something(direction):
    prior = Prior(0.5, 0.02)
    mean = torch.linspace(-2, 3, 21, dtype=torch.float64)[:, None]
    variance = torch.logspace(-4, 2, 25, dtype=torch.float64)[None, :]
    divergence = gaussian_kl(mean, variance, prior, direction)
    assert (divergence > 0).all()


def test_penalty_is_the_divergence_of_normal_distributions_prior_first():
    values = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    members = holders(values)
    prior = Normal(torch.tensor(0.0, dtype=torch.float64), math.sqrt(2.0))
    posterior = Normal(values.mean(0), values.std(0, correction=0))
    assert kl_penalty(members).item() == pytest.approx(kl_divergence(prior, posterior).sum().item(), rel=1e-12)
    backwards = kl_divergence(posterior, prior).sum().item()
    assert kl_penalty(members, direction="qp").item() == pytest.approx(backwards, rel=1e-12)


def test_the_published_number_that_tells_the_directions_apart():
    mean, variance = torch.tensor(0.3), torch.tensor(0.05)
    assert gaussian_kl(mean, variance, Prior(0.0, 0.02), "pq").item() == pytest.approx(1.0581, abs=1e-4)
    assert gaussian_kl(mean, variance, Prior(0.0, 0.02), "qp").item() == pytest.approx(2.5418, abs=1e-4)


def test_omega_is_the_papers_expression():
    values = torch.randn(5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    members = holders(values)
    mean, variance = values.mean(0), values.var(0, correction=0)
    expected = (variance.log() + 2 / (1 * 1 * 1 * variance) + mean**2 / variance).sum()
    assert omega(members).item() == pytest.approx(expected.item(), rel=1e-12)
    halved = 0.5 * (omega(members).item() - 30 * math.log(2.0) - 30)
    assert halved == pytest.approx(kl_penalty(members).item(), rel=1e-12)
    expected = ((variance + mean**2) / 2 - variance.log()).sum()
    assert omega(members, direction="qp").item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradient_is_the_closed_form():
    members_count = 6
    values = torch.randn(members_count, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    members = holders(values)
    omega(members).backward()
    mean, variance, prior = values.mean(0), values.var(0, correction=0), 2.0
    expected = (2 * (values - mean) / members_count) * (1 / variance - prior / variance**2 - mean**2 / variance**2)
    expected += 2 * mean / (members_count * variance)
    found = torch.stack([member.layer.weight.grad.flatten() for member in members])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_least_penalty_for_a_given_mean_is_at_prior_variance_plus_squared_mean():
    prior = Prior(0.0, 0.02)
    variance = torch.linspace(0.001, 1, 100_000, dtype=torch.float64)
    for mean in (0.0, 0.1, 0.5):
        best = variance[gaussian_kl(torch.full_like(variance, mean), variance, prior).argmin()].item()
        assert best == pytest.approx(prior.variance + mean**2, abs=1e-5)


def test_order_of_members_does_not_matter():
    ensemble = make_ensemble(small_net, 5, seed=1)
    members = [member.double() for member in ensemble.members]
    assert kl_penalty(members).item() == pytest.approx(kl_penalty(members[::-1]).item(), rel=1e-12)


def test_linear_layer_equals_one_by_one_convolution():
    linear = [nn.Linear(7, 5) for _ in range(4)]
    convolutions = [nn.Conv2d(7, 5, 1) for _ in range(4)]
    for flat, square in zip(linear, convolutions, strict=True):
        square.weight.data = flat.weight.data[:, :, None, None].clone()
        square.bias.data = flat.bias.data.clone()
    assert kl_penalty(linear).item() == pytest.approx(kl_penalty(convolutions).item(), rel=1e-6)


def test_normalisation_scales_spread_around_one_cost_nothing():
    norms = [nn.BatchNorm2d(1, dtype=torch.float64) for _ in range(4)]
    for norm, sign in zip(norms, (1, -1, 1, -1), strict=True):
        norm.weight.data.fill_(1 + sign * 0.1)
        norm.bias.data.fill_(sign * 0.1)
    assert kl_penalty(norms).item() == pytest.approx(0, abs=1e-12)


def test_parameter_used_twice_counts_once_and_frozen_ones_do_not_count():
    def build():
        first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        second.weight = first.weight
        return nn.Sequential(first, second, nn.Linear(4, 4, bias=False))

    members = [build() for _ in range(4)]
    alone = [nn.Sequential(nn.Linear(4, 4, bias=False)) for _ in range(4)]
    for member, single in zip(members, alone, strict=True):
        member[2].weight.requires_grad_(False)
        single[0].weight = member[0].weight
    assert kl_penalty(members).item() == pytest.approx(kl_penalty(alone).item(), rel=1e-9)


def test_mean_divergence_of_members_drawn_from_the_prior():
    members_count, weights = 8, 200_000
    values = torch.randn(members_count, weights, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = kl_penalty(holders(values * math.sqrt(2.0))).item() / weights
    half = torch.tensor((members_count - 1) / 2)
    closed_form = 0.5 * (
        torch.digamma(half).item() + math.log(2 / members_count) + (members_count + 1) / (members_count - 3) - 1
    )
    assert closed_form == pytest.approx(0.258, abs=0.0005)
    assert found == pytest.approx(0.258, abs=0.005)


@pytest.mark.parametrize("direction", ["pq", "qp"])
@pytest.mark.parametrize("count", [1, 4])
def test_equal_members_give_finite_penalty_and_gradient(direction, count):
    network = small_net()
    members = [copy.deepcopy(network) for _ in range(count)]
    penalty = kl_penalty(members, direction=direction)
    penalty.backward()
    assert math.isfinite(penalty.item())
    assert all(values.grad.isfinite().all() for member in members for values in member.parameters())


def test_loss_is_cross_entropy_summed_over_members_plus_twice_beta_times_divergence():
    ensemble, data, beta = make_ensemble(small_net, 4, seed=2), batch(), 1e-3
    ensemble.eval()
    apart = sum(F.cross_entropy(member(data.images), data.labels) for member in ensemble.members)
    expected = apart + 2 * beta * kl_penalty(ensemble.members)
    assert dpe_loss(ensemble, data, beta).item() == pytest.approx(expected.item(), rel=1e-6)


def test_loss_gradient_is_that_of_cross_entropy_plus_beta_omega():
    ensemble, data, beta = make_ensemble(small_net, 4, seed=2).eval(), batch(), 1e-3
    found = torch.autograd.grad(dpe_loss(ensemble, data, beta), list(ensemble.parameters()))
    objective = member_cross_entropy(ensemble, data) + beta * omega(ensemble.members)
    expected = torch.autograd.grad(objective, list(ensemble.parameters()))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 5.0, 0.5])])
def test_ignored_labels_do_not_count(weights):
    ensemble = Ensemble([nn.Conv2d(3, 3, 1)])
    data = SimpleNamespace(images=torch.rand(2, 3, 4, 4), labels=torch.randint(0, 3, (2, 4, 4)))
    data.labels[0, :2] = 255
    expected = F.cross_entropy(ensemble.members[0](data.images), data.labels, weight=weights, ignore_index=255)
    assert member_cross_entropy(ensemble, data, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    data.labels[:] = 255
    assert member_cross_entropy(ensemble, data, weights).item() == 0


def test_plain_ensemble_pulls_each_weight_by_its_size():
    ensemble, data = Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(48, 3))]), batch()
    plain = torch.autograd.grad(l2_loss(ensemble, data, 0.0), list(ensemble.parameters()))
    decayed = torch.autograd.grad(l2_loss(ensemble, data, 0.1), list(ensemble.parameters()))
    for without, with_decay, values in zip(plain, decayed, ensemble.parameters(), strict=True):
        torch.testing.assert_close(with_decay - without, 0.1 * values, rtol=1e-3, atol=1e-6)


def test_penalty_keeps_members_apart_while_they_train():
    """Without data, descent on the penalty takes nearly equal members (variance 0.0025) towards the prior's 2."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(200, dtype=torch.float64, generator=generator)
    values = centre + 0.05 * torch.randn(8, 200, dtype=torch.float64, generator=generator)
    members = holders(values)
    parameters = [member.layer.weight for member in members]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    before = kl_penalty(members).item()
    for _ in range(200):
        optimizer.zero_grad()
        kl_penalty(members).backward()
        optimizer.step()
    spread = torch.stack([values.flatten() for values in parameters]).var(0, correction=0)
    assert kl_penalty(members).item() < 0.05 * before
    assert 0.1 < spread.median().item() < 2.5


@pytest.mark.parametrize("penalty", ["dpe", "l2", "none"])
def test_every_penalty_trains_through_one_interface(penalty):
    ensemble, data = make_ensemble(small_net, 4, seed=0), batch(frames=16)
    loss = ensemble_loss(EnsembleLoss(penalty=penalty, beta=1e-6))
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(ensemble, data)
        value.backward()
        torch.nn.utils.clip_grad_norm_(ensemble.parameters(), 10.0)
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]


def test_too_few_members_are_refused_in_the_direction_that_needs_four():
    ensemble = make_ensemble(small_net, 3, seed=0)
    with pytest.raises(InputError, match="members = 3"):
        dpe_loss(ensemble, batch(), 1e-5)
    assert math.isfinite(dpe_loss(ensemble, batch(), 1e-5, direction="qp").item())
    assert math.isfinite(dpe_loss(ensemble, batch(), 0.0).item())


def test_members_of_different_structure_are_refused():
    with pytest.raises(InputError, match="differ in parameter 'bias'"):
        kl_penalty([nn.Linear(3, 4), nn.Linear(3, 5)])


def test_a_network_that_is_no_ensemble_is_refused():
    with pytest.raises(InputError, match="not an Ensemble"):
        ensemble_loss(EnsembleLoss())(small_net(), batch())


@pytest.mark.parametrize(
    "wrong",
    [
        {"penalty": "l1"},
        {"direction": "pp"},
        {"beta": -1.0},
        {"beta": math.nan},
        {"weight_decay": math.inf},
        {"variance_floor": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        EnsembleLoss(**wrong)
