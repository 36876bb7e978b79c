"""Take zeroed channels out of a network for good: parameters, buffers, optimiser state and averaged copies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.errors import InputError
from perception.models.closed_branch import ClosedBranch
from perception.sparsity.groups import Groups, Slice, own_size, renumbered
from perception.sparsity.proximal import zero_neurons

Cuts = dict[str, dict[int, Tensor]]  # tensor name → dimension → (kept position,) int64


@dataclass(frozen=True)
class LayerRemoval:
    """Output channels of one layer before and after."""

    layer: str
    channels_before: int
    channels_after: int


@dataclass(frozen=True)
class Removal:
    """A network whose zeroed channels are gone, its groups from now on, and what every layer lost."""

    network: nn.Module
    groups: Groups
    layers: tuple[LayerRemoval, ...]
    parameters_before: int
    parameters_after: int


@torch.no_grad()
def remove_zero_channels(
    network: nn.Module,
    groups: Groups,
    *,
    minimum_channels: int = 1,
    multiple_of: int = 1,
    optimizer: Optimizer | None = None,
    averaged: Sequence[nn.Module] = (),
) -> Removal:
    """Remove every neuron of `groups` that is all zero, in place; the outputs of the network stay as they are.

    network: the network of `groups`; its layers keep their identity and hooks and get smaller parameters.
    minimum_channels: output channels that every layer keeps at least; multiple_of: a group set keeps zeroed neurons
    until it has such a multiple, where hardware runs odd widths slower. optimizer: its parameters are exchanged and
    its per-parameter state (moments) is cut alike, so that training goes on. averaged: networks of the same structure
    (moving averages) that lose the same channels. `groups` is stale afterwards: use the one returned. Raises
    InputError when `groups` are not those of `network` or a count is below 1.
    """
    if groups.network is not network:
        raise InputError("groups belong to another network: find_groups again on the network to be pruned")
    if minimum_channels < 1 or multiple_of < 1:
        raise InputError(f"minimum_channels {minimum_channels} and multiple_of {multiple_of} must be at least 1")
    alive = _kept(groups, ~zero_neurons(groups).cpu(), minimum_channels, multiple_of)
    before = sum(parameter.numel() for parameter in network.parameters())
    cuts = _cuts(groups, alive, network)
    for member in (network, *averaged):
        _cut_network(member, cuts, optimizer if member is network else None)
    kept = {layer: _alive_channels(numbers, alive) for layer, numbers in groups.layer_neurons.items()}
    layers = tuple(
        LayerRemoval(layer, len(numbers), int(kept[layer].sum())) for layer, numbers in groups.layer_neurons.items()
    )
    after = sum(parameter.numel() for parameter in network.parameters())
    return Removal(network, _renumbered(groups, alive, cuts, kept), layers, before, after)


def _alive_channels(numbers: Tensor, alive: Tensor) -> Tensor:
    """Tell which channels of a layer stay: unprunable ones do."""
    return torch.cat([alive, torch.ones(1, dtype=torch.bool)])[numbers]


def _kept(groups: Groups, alive: Tensor, minimum_channels: int, multiple_of: int) -> Tensor:
    """Bring back zeroed neurons, lowest number first, until every layer and set is wide enough."""
    alive = alive.clone()
    sizes = [group.neurons for group in groups.sets]
    for part in torch.split(alive, sizes):  # views: writing to them writes to `alive`
        wanted = min(-(-int(part.sum()) // multiple_of) * multiple_of, len(part))
        part[torch.nonzero(~part).flatten()[: wanted - int(part.sum())]] = True
    for numbers in groups.layer_neurons.values():
        short = minimum_channels - int(_alive_channels(numbers, alive).sum())
        candidates = numbers[numbers < groups.neurons]
        alive[torch.unique(candidates[~alive[candidates]])[: max(short, 0)]] = True
    return alive


def _cuts(groups: Groups, alive: Tensor, network: nn.Module) -> Cuts:
    """Give for every tensor and dimension that loses something the positions that stay."""
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    keep: dict[str, dict[int, Tensor]] = {}
    for group, stays in zip(groups.sets, torch.split(alive, [g.neurons for g in groups.sets]), strict=True):
        for part in group.own + group.carried + group.induced:
            everything = torch.ones(tensors[part.tensor].shape[part.dim], dtype=torch.bool)
            mask = keep.setdefault(part.tensor, {}).setdefault(part.dim, everything)
            mask[part.index[~stays]] = False
    return {
        tensor: {dim: torch.nonzero(mask).flatten() for dim, mask in dims.items()}
        for tensor, dims in keep.items()
        if any(not bool(mask.all()) for mask in dims.values())
    }


def _cut(tensor: Tensor, dims: dict[int, Tensor]) -> Tensor:
    """Take the positions that stay out of a tensor, in its order in memory, which index_select does not keep."""
    channels_last = tensor.dim() == 4 and not tensor.is_contiguous()
    for dim, kept in dims.items():
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def _cut_network(network: nn.Module, cuts: Cuts, optimizer: Optimizer | None) -> None:
    changed = set()
    for name, dims in cuts.items():
        layer, _, held = name.rpartition(".")
        module: Any = network.get_submodule(layer)
        depthwise = getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1
        changed.add((layer, depthwise))
        if held in module._buffers:
            module._buffers[held] = _cut(module._buffers[held], dims)
            continue
        old = module._parameters[held]
        new = nn.Parameter(_cut(old.detach(), dims), requires_grad=old.requires_grad)
        module._parameters[held] = new
        if optimizer is not None:
            _follow(optimizer, old, new, dims)
    for layer, depthwise in changed:
        _set_sizes(network.get_submodule(layer), depthwise)


def _follow(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, dims: dict[int, Tensor]) -> None:
    """Exchange a parameter inside an optimiser and cut its moments the same way."""
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if state:
        optimizer.state[new] = {
            key: _cut(value, dims) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in state.items()
        }


def _set_sizes(module: Any, depthwise: bool) -> None:
    """Bring a layer's size attributes in line with its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        rows, columns = module.weight.shape[:2]
        if depthwise:  # one input channel a group, so groups follow the channels
            ratio = module.out_channels // module.in_channels
            module.groups = rows if module.transposed else rows // ratio
        first, second = rows, columns * module.groups
        module.in_channels, module.out_channels = (first, second) if module.transposed else (second, first)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = len(module.weight)
    elif isinstance(module, ClosedBranch):
        module.channels = len(module.shift)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    else:  # batch and instance normalisation
        module.num_features = len(module.weight if module.weight is not None else module.running_mean)


def _renumbered(groups: Groups, alive: Tensor, cuts: Cuts, kept: dict[str, Tensor]) -> Groups:
    """Give the groups of the smaller network without tracing it again."""
    sets = []
    for group, stays in zip(groups.sets, torch.split(alive, [g.neurons for g in groups.sets]), strict=True):
        if not bool(stays.any()):
            continue
        own, carried, induced = (
            tuple(_moved(part, stays, cuts) for part in parts) for parts in (group.own, group.carried, group.induced)
        )
        size = own_size(groups.network, own)
        sets.append(replace(group, own=own, carried=carried, induced=induced, parameters_per_neuron=size))
    left = {layer: numbers[kept[layer]] for layer, numbers in groups.layer_neurons.items()}
    return renumbered(groups, sets, alive, left)


def _moved(part: Slice, stays: Tensor, cuts: Cuts) -> Slice:
    """Renumber the positions of the neurons that stay."""
    kept = cuts.get(part.tensor, {}).get(part.dim)
    index = part.index[stays]
    return replace(part, index=index if kept is None else torch.searchsorted(kept, index))
