"""Which parameters learn at which rate, and that the groups survive what happens to a network."""

import pytest
import torch
from torch import nn

from perception.training.rates import parameter_groups, regroup, set_learning_rate


class Parted(nn.Module):
    """A network with an encoder, deep inside as libraries have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"encoder": nn.Linear(2, 3), "encoders": nn.Linear(3, 3)})
        self.head = nn.Linear(3, 1)


def names(network: nn.Module, group: dict[str, list[nn.Parameter]]) -> set[str]:
    found = {id(parameter): name for name, parameter in network.named_parameters()}
    return {found[id(parameter)] for parameter in group["params"]}


def test_the_encoder_has_its_share_of_every_rate() -> None:
    network = Parted()
    optimiser = torch.optim.AdamW(parameter_groups(network, 0.25), lr=1.0)
    rest, encoder = optimiser.param_groups
    assert names(network, encoder) == {"model.encoder.weight", "model.encoder.bias"}
    assert names(network, rest) == {name for name, _ in network.named_parameters()} - names(network, encoder)
    set_learning_rate(optimiser, 0.4)
    assert (rest["lr"], encoder["lr"]) == (0.4, 0.1)


def test_a_rate_on_a_device_stays_in_its_place() -> None:
    groups = parameter_groups(Parted(), 0.5)
    places = [torch.tensor(1.0) for _ in groups]
    for group, place in zip(groups, places, strict=True):
        group["lr"] = place
    optimiser = torch.optim.SGD(groups)
    set_learning_rate(optimiser, 0.5)
    assert [place.item() for place in places] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("network", "share"), [(Parted(), 1.0), (nn.Linear(2, 2), 0.5), (nn.ModuleDict({"encoder": nn.Linear(2, 2)}), 0.5)]
)
def test_there_is_one_group_where_nothing_differs(network: nn.Module, share: float) -> None:
    (group,) = parameter_groups(network, share)
    assert [id(each) for each in group["params"]] == [id(each) for each in network.parameters()]


def test_parameters_that_were_exchanged_find_their_group() -> None:
    network = Parted()
    optimiser = torch.optim.AdamW(parameter_groups(network, 0.5), lr=1.0)
    network.model["encoder"] = nn.Linear(2, 2)
    regroup(network, optimiser)
    assert names(network, optimiser.param_groups[1]) == {"model.encoder.weight", "model.encoder.bias"}
