"""State of one walk over a network's graph: channels as atoms, ties between them, and who holds them.

Each channel that a layer produces is an atom. Operations copy, concatenate or tie atoms (union-find); an operation
that is not understood fixes the atoms it reads, so the fall-back costs sparsity and never correctness.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import fx, nn

Role = Literal["own", "carried", "induced"]


@dataclass(frozen=True)
class Value:
    """Channels of one tensor of the graph.

    dim: the tensor's channel dimension; atoms: (channel,) int64; zero: (channel,) bool, whether the channel is
    certainly zero here once every parameter that its atom owns is zero.
    """

    dim: int
    atoms: np.ndarray
    zero: np.ndarray

    def with_zero(self, zero: np.ndarray | bool) -> "Value":
        return Value(self.dim, self.atoms, np.broadcast_to(np.asarray(zero), self.atoms.shape))

    def with_dim(self, dim: int) -> "Value":
        return Value(dim, self.atoms, self.zero)


@dataclass(frozen=True)
class Record:
    """Position i of `tensor` along `dim` belongs to atoms[i]: judged (own), only cut (carried) or read (induced)."""

    role: Role
    layer: str
    tensor: str
    dim: int
    atoms: np.ndarray


class ChannelWalk:
    """What one walk over the graph has found: ties between atoms, fixed atoms with reasons, records, layers."""

    def __init__(self, modules: dict[str, nn.Module], shared_parameters: set[int]) -> None:
        self.modules = modules
        self.shared_parameters = shared_parameters
        self.parents: list[int] = []
        self.reasons: dict[int, str] = {}
        self.records: list[Record] = []
        self.layers: dict[str, np.ndarray] = {}  # layer name → (output channel,) atoms
        self.visits: dict[int, tuple[Value, Value]] = {}  # id(module) → what its first call read and gave

    def new(self, count: int) -> np.ndarray:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, atom: int) -> int:
        while self.parents[atom] != atom:
            self.parents[atom] = self.parents[self.parents[atom]]
            atom = self.parents[atom]
        return atom

    def roots(self, atoms: np.ndarray) -> np.ndarray:
        return np.array([self.find(int(atom)) for atom in atoms], dtype=np.int64)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(self.roots(first).tolist(), self.roots(second).tolist(), strict=True):
            keep, gone = min(self.find(a), self.find(b)), max(self.find(a), self.find(b))
            self.parents[gone] = keep
            if gone in self.reasons:
                self.reasons.setdefault(keep, self.reasons.pop(gone))

    def fix(self, atoms: np.ndarray, reason: str) -> None:
        for root in set(self.roots(atoms).tolist()):
            self.reasons.setdefault(root, reason)

    def require_zero(self, value: Value, reader: str) -> None:
        """Fix channels that would still feed a constant to `reader` after their removal."""
        self.fix(value.atoms[~value.zero], f"{reader} would read a constant that is not zero in its place")

    def fresh(self, node: fx.Node, dim: int, reason: str) -> Any:
        """Give the outputs of `node` new atoms that can never be removed."""
        return map_shapes(node, lambda shape: self._fixed(shape, dim, reason))

    def _fixed(self, shape: torch.Size, dim: int, reason: str) -> Value | None:
        if len(shape) <= dim:
            return None
        atoms = self.new(shape[dim])
        self.fix(atoms, reason)
        return Value(dim, atoms, np.zeros(len(atoms), bool))

    def record(self, role: Role, layer: str, module: nn.Module, tensor: str, dim: int, atoms: np.ndarray) -> None:
        held = getattr(module, tensor, None)
        if held is None:
            return
        assert held.shape[dim] == len(atoms), (layer, tensor, held.shape, dim, len(atoms))
        self.records.append(Record(role, layer, f"{layer}.{tensor}" if layer else tensor, dim, atoms))
        if tensor in module._parameters and id(held) in self.shared_parameters:
            self.fix(atoms, f"{layer}.{tensor} is shared with another layer or function")


def map_shapes(node: fx.Node, give: Callable[[torch.Size], Any]) -> Any:
    """Apply `give` to the shape of every tensor that `node` returns, keeping tuples as lists."""
    meta = node.meta.get("tensor_meta")
    if meta is None:
        return None
    if hasattr(meta, "shape"):
        return give(meta.shape)
    return [give(part.shape) if hasattr(part, "shape") else None for part in meta]


def shape_of(node: fx.Node) -> torch.Size:
    return cast(torch.Size, node.meta["tensor_meta"].shape)


def values_in(argument: Any, known: dict[fx.Node, Any]) -> Iterator[Value]:
    """Yield the channel values of every node inside nested arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    for node in found:
        held = known.get(node)
        for value in held if isinstance(held, list) else [held]:
            if isinstance(value, Value):
                yield value


def not_followed(
    walk: ChannelWalk, node: fx.Node, values: list[Value], why: str = "through which channels are not followed"
) -> Any:
    name = describe(node)
    for value in values:
        walk.fix(value.atoms, f"is read by {name}, {why}")
    return walk.fresh(node, 1, f"comes out of {name}, {why}")


def describe(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return f"{node.target if node.op == 'call_method' else getattr(node.target, '__name__', node.target)}()"


def flatten_channels(walk: ChannelWalk, node: fx.Node, values: list[Value], start: int, end: int) -> Any:
    value, shape = values[0], shape_of(node.all_input_nodes[0])
    start, end = start % len(shape), end % len(shape)
    if value.dim < start:
        return value
    if value.dim > end:
        return value.with_dim(value.dim - (end - start))
    if value.dim != start:
        return not_followed(walk, node, values)
    repeats = math.prod(shape[start + 1 : end + 1])
    return Value(start, np.repeat(value.atoms, repeats), np.repeat(value.zero, repeats))
