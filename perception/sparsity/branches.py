"""Find the residual branches of a network that can go whole, so that it gets shallower as well as narrower.

In a sum x + f(x) the branch f may vanish: what it adds is then a constant per channel. Sources: Alvarez and Salzmann,
Learning the Number of Neurons in Deep Networks, NIPS 2016, section 3 (a layer under a skip connection whose neurons are
all zero can be removed); Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016 (depth).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn

from perception.errors import InputError
from perception.models.closed_branch import ClosedBranch
from perception.models.modes import evaluation_mode
from perception.sparsity.channels import trace_network
from perception.sparsity.function_rules import POINTWISE_NAMES, function_name
from perception.sparsity.groups import Groups, GroupSet
from perception.sparsity.module_rules import BATCH_NORMS, CONVOLUTIONS, POINTWISE_MODULES, TRANSPOSED_CONVOLUTIONS
from perception.sparsity.walk import shape_of

_LAYERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
_POINTWISE = (*POINTWISE_MODULES, nn.Sigmoid, nn.Hardsigmoid)
# Functions that may stay in a closed branch, where they meet the block's input and their result is not used.
_POINTWISE_NAMES = (*POINTWISE_NAMES, "sigmoid", "hardsigmoid")
_SUM_NAMES = ("add", "add_", "iadd")


@dataclass(frozen=True)
class Branch:
    """The branch f of a sum x + f(x).

    name: what its modules' names begin with; modules: those that leave with it, in order; reader: the last convolution
    or linear layer among them; reads: names of the group sets that make up all of the reader's input; gates: for each
    layer before the reader the names of the sets of its neurons, any one of which silences the branch by leaving;
    sets: all of these sets, which no other part of the network holds; stream: names of the sets that the sum's channels
    belong to, in order. rank, dim: the dimensions of what it adds, and which one the channels lie along. whole: the sum
    writes into the branch's output, whose size must therefore be kept. copies: an operation that writes in place stays
    behind in the branch and must not meet the block's input itself.
    """

    name: str
    modules: tuple[str, ...]
    reader: str
    reads: tuple[str, ...]
    gates: tuple[tuple[str, ...], ...]
    sets: tuple[str, ...]
    stream: tuple[str, ...]
    rank: int = 4
    dim: int = 1
    whole: bool = False
    copies: bool = False


@dataclass(frozen=True)
class _Step:
    """One operation of a chain: the module that leaves with the branch, or "" for what stays behind."""

    module: str
    in_place: bool


def find_branches(network: nn.Module, groups: Groups, example_input: Tensor | tuple[Tensor, ...]) -> tuple[Branch, ...]:
    """Find the branches of sums x + f(x) that `close_zero_branches` can close, in the order of the graph.

    groups: those of `network`; example_input: as for find_groups. The branch is a chain of modules (element-wise
    functions may lie between) from the other operand itself, an identity shortcut; its last layer reads nothing but
    prunable neurons that the chain alone holds, and only normalisations and element-wise modules follow that layer. The
    network is run to see that its forward needs nothing of these modules but their outputs.
    Raises InputError for groups of another network and for one that cannot be traced.
    """
    if groups.network is not network:
        raise InputError("groups belong to another network: find_groups again on the network whose branches are wanted")
    graph = trace_network(network, example_input).graph
    modules = dict(network.named_modules(remove_duplicate=False))
    uses = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    places = Counter(id(module) for module in modules.values())
    alone = {name for name, module in modules.items() if uses[id(module)] == places[id(module)] == 1}
    found = []
    for node in graph.nodes:
        for output, source in _operands(node):
            steps = _steps(output, source, modules, alone)
            branch = _branch(steps, len(shape_of(output)), modules, groups) if steps else None
            if branch is not None:
                found.append(branch)
    written = _written_into(network, found, example_input) if found else set()
    found = [replace(branch, whole=branch.modules[-1] in written) for branch in found]
    if not _runs_without(network, found, example_input):
        found = [branch for branch in found if _runs_without(network, [branch], example_input)]
    return tuple(found)


def new_constant(branch: Branch, reader: Any) -> ClosedBranch:
    """Make the constant, all zero, that a branch with this last layer leaves."""
    channels = reader.out_features if isinstance(reader, nn.Linear) else reader.out_channels
    return ClosedBranch(channels, branch.rank, branch.dim, branch.whole).to(reader.weight)


def put_constant(network: nn.Module, branch: Branch, leaf: ClosedBranch) -> None:
    """Put `leaf`, what a branch adds from now on, where its last module was, and what passes its input on before."""
    layers = {name: network.get_submodule(name) for name in branch.modules}
    for name, layer in layers.items():
        network.set_submodule(name, nn.Identity().train(layer.training))
    if branch.copies:  # the identity in a copy, which what stays behind may write into
        first = next(name for name, layer in layers.items() if _holds(layer))
        network.set_submodule(first, nn.LeakyReLU(1.0).train(layers[first].training))
    network.set_submodule(branch.modules[-1], leaf.train(layers[branch.reader].training))


def _operands(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Give the pairs (possible branch, possible shortcut) of a sum of two values of one shape."""
    summed = node.op in ("call_function", "call_method") and function_name(node) in _SUM_NAMES
    if not summed or len(node.args) != 2 or node.kwargs:
        return []
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return []
    shapes = [getattr(each.meta.get("tensor_meta"), "shape", None) for each in (first, second)]
    return [(first, second), (second, first)] if shapes[0] is not None and shapes[0] == shapes[1] else []


def _steps(output: fx.Node, source: fx.Node, modules: dict[str, nn.Module], alone: set[str]) -> list[_Step] | None:
    """Follow a chain back to `source`; None where it is no chain or does something that cannot be left out."""
    steps: list[_Step] = []
    node = output
    while node is not source:
        step = _step(node, modules, alone) if len(node.users) == len(node.all_input_nodes) == 1 else None
        if step is None:
            return None
        steps.append(step)
        node = node.all_input_nodes[0]
    return steps[::-1]


def _step(node: fx.Node, modules: dict[str, nn.Module], alone: set[str]) -> _Step | None:
    if node.op == "call_module":
        name = str(node.target)
        in_place = bool(getattr(modules[name], "inplace", False))
        if name in alone:
            return _Step(name, in_place)
        return _Step("", in_place) if isinstance(modules[name], _POINTWISE) else None
    if node.op not in ("call_function", "call_method") or function_name(node) not in _POINTWISE_NAMES:
        return None
    flags = (*node.args[1:], node.kwargs.get("inplace"))
    return _Step("", function_name(node).endswith("_") or any(flag is True for flag in flags))


def _branch(steps: list[_Step], rank: int, modules: dict[str, nn.Module], groups: Groups) -> Branch | None:
    first = next((k for k, step in enumerate(steps) if step.module and _holds(modules[step.module])), None)
    if first is None or any(step.in_place for step in steps[:first]):  # it would write into the shortcut
        return None
    reader = _reader(steps, modules, rank)
    names = tuple(step.module for step in steps if step.module)
    private = [
        group
        for group in groups.sets
        if {part.tensor.rpartition(".")[0] for part in group.own + group.carried + group.induced} <= set(names)
    ]
    reads = () if reader is None else _reads(reader, modules, private)
    if reader is None or not reads:
        return None
    return Branch(
        name=_shared_beginning(names) or names[0],
        modules=names,
        reader=reader,
        reads=reads,
        gates=_gates(names, reader, private, groups) or (reads,),
        sets=tuple(group.name for group in private),
        stream=_sets_of(reader, groups),
        rank=rank,
        dim=rank - 1 if isinstance(modules[reader], nn.Linear) else 1,
        copies=any(step.in_place for step in steps if not step.module),
    )


def _shared_beginning(names: tuple[str, ...]) -> str:
    """Give the part of dotted names that all of them begin with."""
    levels = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))


def _gates(
    names: tuple[str, ...], reader: str, private: Sequence[GroupSet], groups: Groups
) -> tuple[tuple[str, ...], ...]:
    """Name for each layer before the reader the sets of its neurons, where these are private and all it has."""
    held = {group.name for group in private}
    whole = [name for name in names if name != reader and _sets_of(name, groups)]
    whole = [name for name in whole if bool((groups.layer_neurons[name] < groups.neurons).all())]
    return tuple(dict.fromkeys(gate for gate in (_sets_of(n, groups) for n in whole) if held.issuperset(gate)))


def _holds(module: nn.Module) -> bool:
    """Tell whether a module has parameters: what has none may write into what it reads."""
    return next(module.parameters(), None) is not None


def _reader(steps: list[_Step], modules: dict[str, nn.Module], rank: int) -> str | None:
    """Find the last layer, after which nothing may come but what maps a constant to a constant."""
    normalised = False
    for step in reversed(steps):
        module = modules.get(step.module) if step.module else None
        normalised |= isinstance(module, BATCH_NORMS)  # along dimension 1, which must be the layer's
        if isinstance(module, _LAYERS):
            return None if normalised and isinstance(module, nn.Linear) and rank != 2 else step.module
        if not isinstance(module, (*BATCH_NORMS, *_POINTWISE)):
            return None
    return None


def _reads(reader: str, modules: dict[str, nn.Module], private: Sequence[GroupSet]) -> tuple[str, ...]:
    """Name the private sets that make up the reader's whole input; none where something else is read too."""
    parts = [(group.name, part) for group in private for part in group.induced if part.tensor == f"{reader}.weight"]
    if not parts:
        return ()
    read = {position for _, part in parts for position in part.index.flatten().tolist()}
    size = modules[reader].weight.shape[parts[0][1].dim]  # type: ignore[union-attr,index]
    return tuple(name for name, _ in parts) if len(read) == size else ()


def _sets_of(layer: str, groups: Groups) -> tuple[str, ...]:
    """Name the sets of a layer's prunable output channels, in the order of the sets."""
    numbers = groups.layer_neurons.get(layer, torch.empty(0, dtype=torch.int64))
    present = groups.set_of_neuron.cpu()[numbers[numbers < groups.neurons]].unique()
    return tuple(groups.sets[int(k)].name for k in present)


def _run(network: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> None:
    given = example_input if isinstance(example_input, tuple) else (example_input,)
    device = next(network.parameters()).device
    with torch.inference_mode(False), evaluation_mode(network):  # tensors of inference mode count no writing
        network(*(value.to(device) for value in given))


def _written_into(
    network: nn.Module, branches: Sequence[Branch], example_input: Tensor | tuple[Tensor, ...]
) -> set[str]:
    """Name the last modules whose outputs the sums write into, which a graph of torch.fx does not always show."""
    outputs: dict[str, tuple[Tensor, int]] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: outputs.update({name: (output, output._version)})

    with ExitStack() as hooks:
        for name in (branch.modules[-1] for branch in branches):
            hooks.enter_context(network.get_submodule(name).register_forward_hook(keep(name)))
        _run(network, example_input)
    return {name for name, (output, version) in outputs.items() if output._version != version}


def _runs_without(network: nn.Module, branches: Sequence[Branch], example_input: Tensor | tuple[Tensor, ...]) -> bool:
    """Tell whether the forward also runs where the branches are closed: its code may ask a layer for more than a call.

    It may read a layer's stride or weight, call it with a second argument, or hold it in a list of its own.
    """
    layers = {name: network.get_submodule(name) for branch in branches for name in branch.modules}
    with ExitStack() as undo:
        for name, layer in layers.items():
            undo.enter_context(layer.register_forward_pre_hook(_refuse))
            undo.callback(network.set_submodule, name, layer)
        try:
            for branch in branches:
                put_constant(network, branch, new_constant(branch, layers[branch.reader]))
            _run(network, example_input)
        except Exception:  # whatever the forward's code makes of it
            return False
    return True


def _refuse(*_: object) -> None:
    raise RuntimeError("a layer that has left is called")
