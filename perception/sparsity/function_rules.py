"""What each function and tensor method does to channels."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from torch import fx

from perception.sparsity.walk import ChannelWalk, Value, describe, flatten_channels, map_shapes, not_followed, shape_of

# Per-channel functions with f(0) = 0.
POINTWISE_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "tanh"),
    *("softsign", "abs", "neg", "dropout", "dropout_", "dropout2d", "feature_dropout"),
)
ZERO_KEEPING_NAMES = frozenset(
    (
        *(*POINTWISE_NAMES, "sqrt", "interpolate"),
        *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
        *("contiguous", "clone", "detach", "float", "half", "double", "to", "type_as"),
    )
)
ZERO_BREAKING_NAMES = frozenset(
    ("sigmoid", "hardsigmoid", "softplus", "logsigmoid", "exp", "cos", "clamp", "clamp_min", "clamp_max")
)
SUM_NAMES = ("add", "add_", "iadd", "sub", "sub_", "isub", "rsub")
PRODUCT_NAMES = ("mul", "mul_", "imul")
QUOTIENT_NAMES = ("div", "div_", "truediv", "itruediv", "true_divide")
EXTREME_NAMES = ("maximum", "minimum")
ZeroOf = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of two operands: which channels of the result are zero


def visit_function(walk: ChannelWalk, node: fx.Node, values: list[Value], known: dict[fx.Node, Any]) -> Any:
    """Give the channels that come out of a function or method call; `values` are those that go in."""
    name = function_name(node)
    if node.op == "call_function" and name == "getitem":
        return _getitem(walk, node, values, known)
    if name in ("size", "dim") or (name == "getattr" and node.args[1] in ("shape", "ndim", "device", "dtype")):
        return None
    if name in ZERO_KEEPING_NAMES and map_shapes(node, len) == len(shape_of(node.all_input_nodes[0])):
        return values[0]
    if name in ZERO_BREAKING_NAMES:
        return values[0].with_zero(False)
    if name in DIMENSION_MOVERS and len(values) == 1:
        return DIMENSION_MOVERS[name](node, values[0])
    if name in FUNCTION_VISITORS:
        return FUNCTION_VISITORS[name](walk, node, values)
    return not_followed(walk, node, values)


def function_name(node: fx.Node) -> str:
    """Give the name by which a function or method is known; one that is not torch's or an operator has none."""
    if node.op == "call_method":
        return str(node.target)
    origin = getattr(node.target, "__module__", None) or "torch"  # torch's built-in functions name no module
    known = origin.split(".")[0] in ("torch", "_operator", "operator", "builtins")
    return getattr(node.target, "__name__", "") if known else ""


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _joined(walk: ChannelWalk, node: fx.Node, values: list[Value], zero_of: ZeroOf) -> Any:
    """Tie two operands of an element-wise operation channel by channel."""
    first, second = values
    tensors = [source for source in node.all_input_nodes if hasattr(source.meta.get("tensor_meta"), "shape")]
    if first.dim != second.dim or len({len(shape_of(source)) for source in tensors}) > 1:
        return not_followed(walk, node, values)
    if len(first.atoms) != len(second.atoms):  # one channel broadcast over many
        single, many = sorted(values, key=lambda value: len(value.atoms))
        walk.fix(single.atoms, f"is broadcast over channels by {describe(node)}")
        return many.with_zero(zero_of(many.zero, np.zeros(many.zero.shape, bool)))
    walk.tie(first.atoms, second.atoms)
    return first.with_zero(zero_of(first.zero, second.zero))


def _binary(walk: ChannelWalk, node: fx.Node, values: list[Value], zero_of: ZeroOf, keeps_zero: bool) -> Any:
    """Join two operands, or pass one through beside a constant, which a product keeps at zero and a sum does not."""
    if len(values) == 2:
        return _joined(walk, node, values, zero_of)
    return _with_constant(walk, node, values[0], keeps_zero)


def _quotient(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    numerator = node.args[0]
    if len(values) == 2 or not isinstance(numerator, fx.Node) or numerator.op == "get_attr":
        return not_followed(walk, node, values)
    return _with_constant(walk, node, values[0], keeps_zero=True)


def _with_constant(walk: ChannelWalk, node: fx.Node, value: Value, keeps_zero: bool) -> Any:
    """Pass through an operation with a number, or with a tensor that is the same for every channel."""
    for other in node.all_input_nodes:
        shape = map_shapes(other, tuple) or ()
        untracked = other.op == "get_attr" or len(shape) == 1  # what is tracked has a frame and a channel dimension
        if untracked and math.prod(shape) > 1:
            walk.fix(value.atoms, f"is combined with {describe(other)}, a tensor that no layer holds")
    return value.with_zero(value.zero & keeps_zero)


def _concatenation(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    parts, dim = _argument(node, 0, "tensors", ()), _argument(node, 1, "dim", 0)
    first = values[0]
    dim %= len(shape_of(node))
    if len(values) != len(parts) or any(value.dim != first.dim for value in values):
        return not_followed(walk, node, values)
    if dim == first.dim:
        return Value(dim, np.concatenate([v.atoms for v in values]), np.concatenate([v.zero for v in values]))
    for other in values[1:]:
        walk.tie(first.atoms, other.atoms)
    return first.with_zero(np.logical_and.reduce([value.zero for value in values]))


def _flatten_call(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    return flatten_channels(walk, node, values, _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1))


def _view(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    value, before, after = values[0], shape_of(node.all_input_nodes[0]), shape_of(node)
    sizes = node.args[1:] if not isinstance(node.args[1], tuple | list) else tuple(node.args[1])
    if value.dim != 1 or len(after) != 2 or after[0] != before[0]:
        return not_followed(walk, node, values)
    if isinstance(sizes[1], int) and sizes[1] != -1:
        walk.fix(value.atoms, f"goes through {describe(node)} with the size {sizes[1]} written in the code")
    return flatten_channels(walk, node, values, 1, -1)


def _reduction(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    value, rank = values[0], len(shape_of(node.all_input_nodes[0]))
    dims = _argument(node, 1, "dim", None)
    reduced = {d % rank for d in ((dims,) if isinstance(dims, int) else dims or range(rank))}
    if value.dim in reduced or not isinstance(map_shapes(node, len), int):
        return not_followed(walk, node, values)
    kept_all = len(shape_of(node)) == rank
    return value.with_dim(value.dim - (0 if kept_all else sum(d < value.dim for d in reduced)))


def _permutation(node: fx.Node, value: Value) -> Value:
    rank = len(shape_of(node))
    first = _argument(node, 1, "dims", ())
    order = first if isinstance(first, tuple | list) else cast(Sequence[int], node.args[1:])
    return value.with_dim([d % rank for d in order].index(value.dim))


def _transposition(node: fx.Node, value: Value) -> Value:
    rank, dim = len(shape_of(node)), value.dim
    a, b = _argument(node, 1, "dim0", 0) % rank, _argument(node, 2, "dim1", 1) % rank
    return value.with_dim({a: b, b: a}.get(dim, dim))


def _chunk(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    value, count, dim = values[0], _argument(node, 1, "chunks", 1), _argument(node, 2, "dim", 0)
    if dim % len(shape_of(node.all_input_nodes[0])) != value.dim:
        return [value] * count
    if len(value.atoms) % count:
        return not_followed(walk, node, values)
    atoms, zero = value.atoms.reshape(count, -1), value.zero.reshape(count, -1)
    for part in atoms[1:]:  # equal parts must stay equal for the same call to cut at the same places
        walk.tie(atoms[0], part)
    return [Value(value.dim, atoms[k], zero[k]) for k in range(count)]


def _pad(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    value, widths, rank = values[0], _argument(node, 1, "pad", ()), len(shape_of(node))
    constant = _argument(node, 3, "value", None) or 0
    if rank - len(widths) // 2 <= value.dim:
        return not_followed(walk, node, values)
    return value.with_zero(value.zero & (constant == 0))


def _squeeze(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    value, rank = values[0], len(shape_of(node.all_input_nodes[0]))
    dim = _argument(node, 1, "dim", None)
    if not isinstance(dim, int) or dim % rank == value.dim:
        return not_followed(walk, node, values)
    removed = len(shape_of(node)) < rank and dim % rank < value.dim
    return value.with_dim(value.dim - int(removed))


def _unsqueeze(node: fx.Node, value: Value) -> Value:
    dim = _argument(node, 1, "dim", 0) % len(shape_of(node))
    return value.with_dim(value.dim + int(dim <= value.dim))


def _getitem(walk: ChannelWalk, node: fx.Node, values: list[Value], known: dict[fx.Node, Any]) -> Any:
    source, index = cast(tuple[fx.Node, Any], node.args)
    held: Any = known.get(source)
    if not isinstance(held, Value | list):
        return not_followed(walk, node, values)
    if isinstance(held, list):
        return held[index] if isinstance(index, int) else not_followed(walk, node, values)
    cuts = index if isinstance(index, tuple) else (index,)
    whole = held.dim >= len(cuts) or cuts[held.dim] == slice(None)
    if not whole or not all(isinstance(cut, slice) for cut in cuts):
        return not_followed(walk, node, values)
    return held


def _maximum(walk: ChannelWalk, node: fx.Node, values: list[Value]) -> Any:
    return _joined(walk, node, values, np.logical_and) if len(values) == 2 else not_followed(walk, node, values)


FUNCTION_VISITORS: dict[str, Callable[[ChannelWalk, fx.Node, list[Value]], Any]] = {
    **dict.fromkeys(SUM_NAMES, partial(_binary, zero_of=np.logical_and, keeps_zero=False)),
    **dict.fromkeys(PRODUCT_NAMES, partial(_binary, zero_of=np.logical_or, keeps_zero=True)),
    **dict.fromkeys(QUOTIENT_NAMES, _quotient),
    **dict.fromkeys(EXTREME_NAMES, _maximum),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenation),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("mean", "sum", "amax"), _reduction),
    "flatten": _flatten_call,
    "chunk": _chunk,
    "pad": _pad,
    "squeeze": _squeeze,
}
DIMENSION_MOVERS: dict[str, Callable[[fx.Node, Value], Value]] = {
    "permute": _permutation,
    "transpose": _transposition,
    "unsqueeze": _unsqueeze,
}
