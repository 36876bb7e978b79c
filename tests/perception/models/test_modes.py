"""A network looked at in evaluation mode gets every module's own mode back."""

import pytest
import torch
from torch import nn

from perception.models.modes import evaluation_mode, modes_kept


def network_with_a_frozen_part() -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    network.train()
    network[1][0].eval()  # as a frozen normalisation is
    return network


def modes_of(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


@pytest.mark.parametrize("context", [evaluation_mode, modes_kept])
def test_modes_come_back_after_an_error_too(context) -> None:
    network = network_with_a_frozen_part()
    before = modes_of(network)
    with pytest.raises(ValueError), context(network):
        network.eval()
        raise ValueError
    assert modes_of(network) == before == [True, True, True, False, True]


def test_inside_nothing_is_random_and_nothing_has_a_gradient() -> None:
    network, x = network_with_a_frozen_part(), torch.ones(4, 2)
    with evaluation_mode(network):
        first, second = network(x), network(x)
        assert torch.equal(first, second) and not first.requires_grad
        assert not any(modes_of(network))
    assert network(x).requires_grad
