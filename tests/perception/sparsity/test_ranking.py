"""What a neuron is worth to the loss."""

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import InputError
from perception.models.erfnet import ERFNet
from perception.sparsity.groups import find_groups
from perception.sparsity.proximal import neuron_norms
from perception.sparsity.ranking import loss_importance


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
