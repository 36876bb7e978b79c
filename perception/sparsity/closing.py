"""Take silent residual branches out of a network for good: only a constant per channel stays of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.errors import InputError
from perception.models.modes import evaluation_mode
from perception.sparsity.branches import Branch, new_constant, put_constant
from perception.sparsity.groups import Groups, GroupSet, Slice, own_size, renumbered
from perception.sparsity.module_rules import BATCH_NORMS
from perception.sparsity.proximal import zero_neurons


@dataclass(frozen=True)
class Closing:
    """A network whose silent branches are closed: its groups from now on, what was closed, and what is still open."""

    groups: Groups
    closed: tuple[Branch, ...]
    open: tuple[Branch, ...]


@torch.no_grad()
def close_zero_branches(
    network: nn.Module,
    groups: Groups,
    branches: Sequence[Branch],
    *,
    settle: bool = False,
    optimizer: Optimizer | None = None,
    averaged: Sequence[nn.Module] = (),
) -> Closing:
    """Close, in place, every branch whose last layer reads nothing but zero neurons: a ClosedBranch takes its place.

    branches: of find_branches. What the branch adds is then a constant per channel (the layer's bias, through the
    normalisation after it in evaluation mode), and the network's outputs in evaluation mode stay as they are. settle:
    take what that normalisation gives once its statistics have followed, its own bias, which keeps the mean that the
    branch had where its neurons were zeroed just now. optimizer: parameters of the branches leave it, the constants
    join the group of their layer's weight. averaged: networks of the same structure that lose the same branches.
    `groups` is stale afterwards: use the one returned. Raises InputError when `groups` are not those of `network`.
    """
    if groups.network is not network:
        raise InputError("groups belong to another network: find_groups again on the network to be pruned")
    zero = torch.split(zero_neurons(groups).cpu(), [group.neurons for group in groups.sets])
    dead = {group.name for group, part in zip(groups.sets, zero, strict=True) if bool(part.all())}
    closed = tuple(branch for branch in branches if dead.issuperset(branch.reads))
    for member in (network, *averaged):
        for branch in closed:
            _close(member, branch, settle, optimizer if member is network else None)
    left = tuple(branch for branch in branches if branch not in closed)
    return Closing(_renumbered(groups, closed) if closed else groups, closed, left)


def _close(network: nn.Module, branch: Branch, settle: bool, optimizer: Optimizer | None) -> None:
    layers = {name: network.get_submodule(name) for name in branch.modules}
    reader: Any = layers[branch.reader]
    before = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    shift = _constant(branch, list(layers.values()), reader, settle)
    leaf = new_constant(branch, reader)
    leaf.shift.copy_(shift.flatten())
    leaf.shift.requires_grad_(reader.weight.requires_grad)
    put_constant(network, branch, leaf)
    if optimizer is not None:
        gone = before - {id(parameter) for parameter in network.parameters()}
        _exchange(optimizer, gone, reader.weight, leaf.shift)


def _constant(branch: Branch, layers: list[Any], reader: Any, settle: bool) -> Tensor:
    """Give what comes out of a branch whose reader reads zeros, with size 1 along all but the channel dimension."""
    outputs = reader.out_features if isinstance(reader, nn.Linear) else reader.out_channels
    bias = reader.weight.new_zeros(outputs) if reader.bias is None else reader.bias
    value: Tensor = bias.view([-1 if d == branch.dim else 1 for d in range(branch.rank)])
    for module in layers[layers.index(reader) + 1 :]:
        if isinstance(module, BATCH_NORMS) and (settle or module.running_mean is None):
            value = torch.zeros_like(value) if module.bias is None else module.bias.view_as(value)
        else:
            with evaluation_mode(module):
                value = module(value.clone())
    return value


def _exchange(optimizer: Optimizer, gone: set[int], weight: nn.Parameter, shift: nn.Parameter) -> None:
    for group in optimizer.param_groups:
        joins = any(parameter is weight for parameter in group["params"])
        left = [parameter for parameter in group["params"] if id(parameter) not in gone]
        group["params"] = [*left, shift] if joins else left
    for parameter in [parameter for parameter in optimizer.state if id(parameter) in gone]:
        del optimizer.state[parameter]


def _renumbered(groups: Groups, closed: Sequence[Branch]) -> Groups:
    """Give the groups of the shallower network without tracing it again."""
    gone = {name for branch in closed for name in branch.modules}
    sets, alive = [], []
    starts = torch.tensor([0] + [group.neurons for group in groups.sets]).cumsum(0).tolist()
    for start, group in zip(starts, groups.sets, strict=False):
        shifts = [part for branch in closed if (part := _shift_slice(groups, branch, start, group)) is not None]
        own = _left(group.own, gone) + tuple(shifts)
        alive.append(torch.full((group.neurons,), bool(own)))
        if own:
            sets.append(
                replace(
                    group,
                    layers=tuple(layer for layer in group.layers if layer not in gone),
                    own=own,
                    carried=_left(group.carried, gone),
                    induced=_left(group.induced, gone),
                    parameters_per_neuron=own_size(groups.network, own),
                )
            )
    left = {layer: held for layer, held in groups.layer_neurons.items() if layer not in gone}
    return renumbered(groups, sets, torch.cat(alive), left)


def _left(parts: tuple[Slice, ...], gone: set[str]) -> tuple[Slice, ...]:
    return tuple(part for part in parts if part.tensor.rpartition(".")[0] not in gone)


def _shift_slice(groups: Groups, branch: Branch, start: int, group: GroupSet) -> Slice | None:
    """Give a stream's neurons of one set their positions in the constant that is left of a branch."""
    numbers = groups.layer_neurons[branch.reader]
    positions = torch.nonzero((numbers >= start) & (numbers < start + group.neurons)).flatten()
    if not len(positions):
        return None
    index = positions[numbers[positions].argsort(stable=True)].view(group.neurons, -1)
    return Slice(f"{branch.modules[-1]}.shift", 0, index)
