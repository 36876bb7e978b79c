"""Exchange layers inside a network."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

# A convolution or a linear layer: torch types the attributes that they share as Tensor | Module.
Layer = Any


def set_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place called `name`; give the network, which is `module` itself for the empty name."""
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
    return network


def exchange_parameters(optimizer: Optimizer, old: nn.Module, new: nn.Module) -> None:
    """Hand the parameters of `new` to `optimizer` in place of those of `old`, in the same parameter group.

    The moments of the old parameters have no counterpart and are dropped.
    """
    gone = {id(parameter) for parameter in old.parameters()}
    for group in optimizer.param_groups:
        if any(id(parameter) in gone for parameter in group["params"]):
            group["params"] = [p for p in group["params"] if id(p) not in gone] + list(new.parameters())
            break
    for parameter in old.parameters():
        optimizer.state.pop(parameter, None)
