"""The learning rate of each parameter: an encoder that knows something already learns more slowly than what is new."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

SHARE = "share_of_rate"  # a parameter group's, of the rate that is set


def parameter_groups(network: nn.Module, encoder_rate_share: float) -> list[dict[str, Any]]:
    """Return an optimiser's groups: the parameters that lie in a module called `encoder`, with their share of the rate, last.

    One group where they have the whole rate, or where there is no such module or nothing else.
    """
    named = list(network.named_parameters())
    inside = [parameter for name, parameter in named if _in_encoder(name)]
    outside = [parameter for name, parameter in named if not _in_encoder(name)]
    if encoder_rate_share == 1 or not inside or not outside:
        return [{"params": [parameter for _, parameter in named], SHARE: 1.0}]
    return [{"params": outside, SHARE: 1.0}, {"params": inside, SHARE: encoder_rate_share}]


def regroup(network: nn.Module, optimiser: Optimizer) -> None:
    """Put a network's present parameters into the groups of its optimiser, in place."""
    shares = [group.get(SHARE, 1.0) for group in optimiser.param_groups]
    for group, fresh in zip(optimiser.param_groups, parameter_groups(network, shares[-1]), strict=True):
        group["params"] = fresh["params"]


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the rate of all parameters: in its place on the device where it is a tensor, from which a recorded step reads it."""
    for group in optimiser.param_groups:
        own = rate * group.get(SHARE, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def _in_encoder(name: str) -> bool:
    return "encoder" in name.split(".")[:-1]
