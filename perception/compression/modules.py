"""Exchange layers inside a network."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from perception.models.modes import evaluation_mode

# A convolution or a linear layer: torch types the attributes that they share as Tensor | Module.
Layer = Any
Fact = TypeVar("Fact")


def set_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place called `name`; give the network, which is `module` itself for the empty name."""
    if not name:
        return module
    network.set_submodule(name, module)
    return network


def layer_calls(
    network: nn.Module, layers: Mapping[str, nn.Module], example: Tensor, fact: Callable[[Tensor, Tensor], Fact]
) -> dict[str, Fact]:
    """Give `fact` of what each layer gets and makes of the example at its first call, by name in the order of the calls.

    The network is run in evaluation mode on its own device.
    """
    calls: dict[str, Fact] = {}

    def keep(name: str, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if name not in calls:
            calls[name] = fact(given[0], output)

    with ExitStack() as hooks, evaluation_mode(network):
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(keep, name)))
        network(example.to(next(network.parameters()).device))
    return calls


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
