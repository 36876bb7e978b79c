"""Find the sets of channels that must be pruned together, from the graph of any network.

A *neuron* is one coupled channel: the filter that produces it, its bias and the normalisation that follows (the
network zeroes all of them or none), over every layer that a residual sum, a concatenation or a depthwise convolution
ties to it. A *group set* is all neurons of the same make-up, so that whole layers are handled at once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.sparsity.channels import walk_channels
from perception.sparsity.walk import ChannelWalk, Record


@dataclass(frozen=True)
class Slice:
    """What neurons hold of one tensor.

    tensor: its name in the network; dim: the dimension that is cut; index: (neuron, position) int64.
    """

    tensor: str
    dim: int
    index: Tensor


@dataclass(frozen=True)
class GroupSet:
    """Neurons of the same make-up.

    name: the first layer that produces them; layers: every layer that produces them; own: the slices that are zero
    together (filter, bias, normalisation); carried: slices that only follow (running statistics); induced: the input
    slices of the layers that read them; parameters_per_neuron: P_l, the length of one neuron's own vector.
    """

    name: str
    layers: tuple[str, ...]
    own: tuple[Slice, ...]
    carried: tuple[Slice, ...]
    induced: tuple[Slice, ...]
    parameters_per_neuron: int

    @property
    def neurons(self) -> int:
        return self.own[0].index.shape[0]


@dataclass(frozen=True)
class Unprunable:
    """Output channels of a layer that stay, and why."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True)
class OwnTensor:
    """One parameter, as a module holds it now, with the neuron of each position along `dim`.

    neurons: (position,) int64; a position of no neuron has the number of neurons.
    """

    module: nn.Module
    name: str
    dim: int
    neurons: Tensor

    @property
    def parameter(self) -> nn.Parameter:
        parameter = self.module._parameters[self.name]
        if parameter is None or parameter.shape[self.dim] != len(self.neurons):
            raise InputError(
                f"groups are stale: {self.name} of {self.module} has changed its size; "
                "use the groups that remove_zero_channels returned, or find_groups again"
            )
        return parameter


@dataclass(frozen=True)
class Groups:
    """All prunable neurons of `network`, numbered set after set, and what cannot be pruned.

    layer_neurons: for each layer (output channel,) int64 numbers of its neurons; unprunable channels have the number
    of neurons. tensors: the parameters that neurons own, by the modules that hold them. set_of_neuron: (neuron,) int64.
    """

    network: nn.Module
    sets: tuple[GroupSet, ...]
    unprunable: tuple[Unprunable, ...]
    layer_neurons: dict[str, Tensor]
    tensors: tuple[OwnTensor, ...]
    set_of_neuron: Tensor

    @property
    def neurons(self) -> int:
        return len(self.set_of_neuron)


def find_groups(network: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> Groups:
    """Find every prunable group of output channels of `network`.

    example_input: (frame, channel, height, width) float, or a tuple of inputs; only its shape matters. Raises
    InputError for a network that cannot be traced and for one without any prunable channel. Source: group definition
    of Alvarez and Salzmann, Learning the Number of Neurons in Deep Networks, NIPS 2016, section 3.
    """
    walk = walk_channels(network, example_input)
    members = _members(walk)
    unprunable = _unprunable(walk, members)
    if not members:
        named = [f"{entry.layer}: {entry.reason}" for entry in unprunable] or list(dict.fromkeys(walk.reasons.values()))
        reasons = "; ".join(named[:3]) or "it has no layer"
        raise InputError(
            f"network {type(network).__name__} has no prunable channel ({reasons}): "
            "give it at least one hidden convolution or linear layer whose channels can be followed"
        )
    sets, number = _sets(walk, members)
    absent = len(number)
    layer_neurons = {
        layer: torch.tensor([number.get(int(root), absent) for root in walk.roots(atoms)])
        for layer, atoms in walk.layers.items()
    }
    return assemble(network, sets, unprunable, layer_neurons)


def assemble(
    network: nn.Module, sets: Iterable[GroupSet], unprunable: tuple[Unprunable, ...], layer_neurons: dict[str, Tensor]
) -> Groups:
    """Put group sets and the parameters of `network` that they name together."""
    sets = tuple(sets)
    starts = np.cumsum([0] + [group.neurons for group in sets])
    parameters = dict(network.named_parameters(remove_duplicate=False))
    held: dict[tuple[str, int], Tensor] = {}
    for start, group in zip(starts, sets, strict=False):
        for part in group.own:
            parameter = parameters[part.tensor]
            empty = torch.full((parameter.shape[part.dim],), int(starts[-1]))
            numbers = held.setdefault((part.tensor, part.dim), empty)
            numbers[part.index] = torch.arange(group.neurons)[:, None] + int(start)
    device = next(network.parameters()).device
    tensors = tuple(
        OwnTensor(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], dim, numbers.to(device))
        for (name, dim), numbers in held.items()
    )
    sizes = torch.tensor([group.neurons for group in sets], dtype=torch.int64)  # none where all have left
    set_of_neuron = torch.repeat_interleave(torch.arange(len(sets)), sizes)
    return Groups(network, sets, unprunable, layer_neurons, tensors, set_of_neuron.to(device))


def _members(walk: ChannelWalk) -> dict[int, dict[int, list[int]]]:
    """Give for each prunable root atom: index of record → positions there."""
    members: dict[int, dict[int, list[int]]] = defaultdict(dict)
    for k, record in enumerate(walk.records):
        for position, root in enumerate(walk.roots(record.atoms).tolist()):
            if root not in walk.reasons:
                members[root].setdefault(k, []).append(position)
    judged = {root for root, held in members.items() if any(walk.records[k].role == "own" for k in held)}
    return {root: members[root] for root in sorted(judged)}


def _sets(walk: ChannelWalk, members: dict[int, dict[int, list[int]]]) -> tuple[list[GroupSet], dict[int, int]]:
    """Collect neurons of equal make-up; also give the number of each root."""
    kinds: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for root, held in members.items():
        kinds[tuple((k, len(positions)) for k, positions in held.items())].append(root)
    sets: list[GroupSet] = []
    number: dict[int, int] = {}
    used: set[str] = set()
    for kind, roots in kinds.items():
        records = [walk.records[k] for k, _ in kind]
        indices = [torch.tensor([members[root][k] for root in roots]) for k, _ in kind]
        name = next(record.layer for record in records if record.role == "own")
        name = next(n for n in [name] + [f"{name}#{k}" for k in range(2, len(kinds) + 2)] if n not in used)
        used.add(name)
        number.update({root: len(number) + k for k, root in enumerate(roots)})
        sets.append(_group_set(walk, name, records, indices))
    return sets, number


def _group_set(walk: ChannelWalk, name: str, records: list[Record], indices: list[Tensor]) -> GroupSet:
    by_role: dict[str, list[Slice]] = {"own": [], "carried": [], "induced": []}
    for record, index in zip(records, indices, strict=True):
        by_role[record.role].append(Slice(record.tensor, record.dim, index))
    layers = tuple(dict.fromkeys(r.layer for r in records if r.role == "own" and r.layer in walk.layers))
    own, carried, induced = (tuple(by_role[role]) for role in ("own", "carried", "induced"))
    return GroupSet(name, layers, own, carried, induced, own_size(walk.modules[""], own))


def own_size(network: nn.Module, own: tuple[Slice, ...]) -> int:
    """Count the parameters that one neuron owns in these slices."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return sum(
        part.index.shape[1] * (parameters[part.tensor].numel() // parameters[part.tensor].shape[part.dim])
        for part in own
    )


def renumbered(groups: Groups, sets: Iterable[GroupSet], alive: Tensor, left: dict[str, Tensor]) -> Groups:
    """Give the groups of a network that has lost the neurons that are not alive, (neuron,) bool, without a new trace.

    left: the numbers of the channels that stay, by layer, as they were before.
    """
    number = torch.cat([torch.cumsum(alive.long(), 0) - 1, alive.sum()[None]])
    unprunable = tuple(entry for entry in groups.unprunable if entry.layer in left)
    return assemble(groups.network, sets, unprunable, {layer: number[held] for layer, held in left.items()})


def _unprunable(walk: ChannelWalk, members: dict[int, dict[int, list[int]]]) -> tuple[Unprunable, ...]:
    found = []
    for layer, atoms in walk.layers.items():
        counts = Counter(walk.reasons[root] for root in walk.roots(atoms).tolist() if root not in members)
        found += [Unprunable(layer, channels, reason) for reason, channels in counts.items()]
    return tuple(found)
