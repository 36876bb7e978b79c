"""Trace a network and follow every channel from its producer to its readers."""

import contextlib
import io
from collections import Counter
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from perception.errors import InputError
from perception.models.closed_branch import ClosedBranch
from perception.models.modes import evaluation_mode
from perception.sparsity.function_rules import function_name, visit_function
from perception.sparsity.module_rules import visit_module
from perception.sparsity.walk import ChannelWalk, not_followed, values_in


def walk_channels(network: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> ChannelWalk:
    """Follow every channel of `network` from its producer to its readers.

    example_input: one tensor, or a tuple of positional inputs, batch first and channels second, on any device. Raises
    InputError for a network that torch.fx cannot trace or that the example does not fit.
    """
    graph_module = trace_network(network, example_input)
    held = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    shared = {key for key, n in held.items() if n > 1} | _read_by_functions(graph_module)
    walk = ChannelWalk(dict(network.named_modules(remove_duplicate=False)), shared)
    known: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        known[node] = _visit(walk, node, known)
    return walk


def _read_by_functions(graph_module: fx.GraphModule) -> set[int]:
    """Give the ids of the tensors that the forward's own code computes with, beside the layers that hold them."""
    reads = [node for node in graph_module.graph.nodes if node.op == "get_attr" and not all(map(_asks, node.users))]
    return {id(attrgetter(str(node.target))(graph_module)) for node in reads}


def _asks(user: fx.Node) -> bool:
    """Tell whether a node only asks a tensor for its kind."""
    return user.op == "call_function" and function_name(user) == "getattr" and user.args[1] in ("dtype", "device")


class _Tracer(fx.Tracer):
    """Torch's tracer, for which a closed branch is a layer like torch's own; it remembers the layer that it failed in."""

    def __init__(self) -> None:
        super().__init__()
        self.failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ClosedBranch) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise


def trace_network(network: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> fx.GraphModule:
    """Trace `network` in evaluation mode, with the shape of every value for the example in its node's metadata.

    Raises InputError for a network that torch.fx cannot trace or that the example does not fit.
    """
    given = example_input if isinstance(example_input, tuple) else (example_input,)
    device = next((parameter.device for parameter in network.parameters()), None)
    inputs = tuple(value.to(device) for value in given)
    tracer = _Tracer()
    try:
        # ShapeProp prints the traceback of what it raises.
        with evaluation_mode(network), contextlib.redirect_stderr(io.StringIO()):
            graph_module = fx.GraphModule(network, tracer.trace(network))
            ShapeProp(graph_module).propagate(*inputs)
    except Exception as error:
        place = f"layer {tracer.failed_in} of " if tracer.failed_in else ""
        raise InputError(
            f"{place}network {type(network).__name__} cannot be followed channel by channel "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}): its forward must trace with torch.fx and accept the "
            "example input; move data-dependent branches out of it, or ship the network unpruned, prune: none"
        ) from error
    return graph_module


def _visit(walk: ChannelWalk, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        return walk.fresh(node, 1, "carries the network's input")
    if node.op == "output":
        for value in values_in(node.args, known):
            walk.fix(value.atoms, "is an output of the network")
        return None
    if node.op == "get_attr":
        return None
    values = list(values_in((node.args, node.kwargs), known))
    if not values:
        return not_followed(walk, node, values)
    if node.op == "call_module":
        return visit_module(walk, node, walk.modules[str(node.target)], values)
    return visit_function(walk, node, values, known)
