"""Which neurons go when a share of the parameters must."""

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import InputError
from perception.models.erfnet import ERFNet
from perception.sparsity.groups import find_groups
from perception.sparsity.proximal import measure_sparsity, neuron_norms, zero_neurons
from perception.sparsity.ranking import loss_importance, zero_weakest


def test_weakest_by_multiples_of_the_median() -> None:
    network = nn.Sequential(
        nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None])  # median (lower) 2
        network[2].weight.copy_(torch.eye(4) * torch.tensor([30.0, 20.0, 80.0, 10.0])[:, None])  # median 20
    groups = find_groups(network, torch.zeros(1, 4))
    dead = zero_weakest(groups, 0.5, minimum_share=0.25)
    # relative: 0.5 1 1.5 2 | 1.5 1 4 0.5; half of eight neurons: 0.5, 0.5, 1, 1
    assert dead.tolist() == [True, True, False, False, False, True, False, True]
    assert torch.equal(zero_neurons(groups), dead)
    assert bool((network[4].weight != 0).all())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_share_is_reached_from_below(share: float) -> None:
    torch.manual_seed(0)
    groups = find_groups(ERFNet(5, 0.25), torch.zeros(1, 3, 32, 32))
    largest = max(group.parameters_per_neuron for group in groups.sets)
    total = sum(group.neurons * group.parameters_per_neuron for group in groups.sets)
    before = neuron_norms(groups)
    dead = zero_weakest(groups, share)
    gone = sum(groups.sets[k].parameters_per_neuron for k in groups.set_of_neuron[dead].tolist())
    assert share * total - largest < gone <= share * total
    np.testing.assert_array_equal(neuron_norms(groups)[~dead], before[~dead])
    for k in range(len(groups.sets)):
        assert not bool(dead[groups.set_of_neuron == k].all())
    assert (measure_sparsity(groups).group_parameters > 0) == (share > 0)


def test_already_zero_neurons_count_first() -> None:
    torch.manual_seed(0)
    groups = find_groups(ERFNet(5, 0.25), torch.zeros(1, 3, 32, 32))
    first = zero_weakest(groups, 0.3)
    assert torch.equal(zero_weakest(groups, 0.3), first)


def test_bad_shares_are_refused() -> None:
    groups = find_groups(ERFNet(5, 0.25), torch.zeros(1, 3, 32, 32))
    for share, minimum in ((1.0, 0.1), (-0.1, 0.1), (0.5, 0.0)):
        with pytest.raises(InputError):
            zero_weakest(groups, share, minimum_share=minimum)


def trained_a_little(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(4, 3, 16, 16, generator=generator)).square().mean().backward()
        optimizer.step()


def test_importance_by_the_loss_equals_a_slow_sum() -> None:
    torch.manual_seed(0)
    network = ERFNet(3, width=0.25)
    groups = find_groups(network, torch.zeros(1, 3, 16, 16))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    trained_a_little(network, optimizer)
    parameters, slow = dict(network.named_parameters()), []
    for group in groups.sets:
        for neuron in range(group.neurons):
            worth = 0.0
            for part in group.own:
                parameter = parameters[part.tensor]
                kept = part.index[neuron]
                weights = parameter.detach().index_select(part.dim, kept).double()
                squares = optimizer.state[parameter]["exp_avg_sq"].index_select(part.dim, kept).double()
                worth += float((weights**2 * squares).sum()) / 2
            slow.append(worth)
    np.testing.assert_allclose(loss_importance(groups, optimizer).numpy(), slow, rtol=1e-10)


def test_a_strong_neuron_that_nobody_listens_to_is_worth_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        network[0].weight[2] *= 100
        network[2].weight[:, 2] = 0
    network[2].weight.requires_grad_(False)
    groups = find_groups(network, torch.zeros(1, 3, 16, 16))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    trained_a_little(network, optimizer)
    worth = loss_importance(groups, optimizer)
    assert worth[2] == 0 and (worth[[0, 1, 3]] > 0).all() and neuron_norms(groups).argmax() == 2


def test_importance_by_the_loss_wants_squares_of_gradients() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    groups = find_groups(network, torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match="SGD keeps no running squares"):
        loss_importance(groups, torch.optim.SGD(network.parameters(), lr=0.1))
