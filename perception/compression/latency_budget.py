"""Let neurons go where they cost time: a model of a network's latency by its widths, and a shrink to a share of it.

Kernels compute channels in blocks (8 in onnxruntime on a CPU with AVX2), so a layer costs
    call + pair * ceil(inputs / block) * ceil(outputs / block)
and an odd width costs as much as the next multiple. `block_costs` counts that in multiplications, the same on every
machine; `measured_costs` fits call and pair of each layer to what onnxruntime takes here. `zero_to_cost` then gives up,
bundle by bundle, the neurons that are worth least for the time that they take, and whole residual branches among them.
Source: the latency look-up and the precedence of HALP (Shen, Yin, Molchanov, Mao, Liu, Alvarez, "Structural pruning via
latency-saliency knapsack", NeurIPS 2022), greedy instead of by dynamic programming, since what a neuron costs depends
on how many its layer still reads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.compression.cost import measure_layers
from perception.compression.modules import Layer, layer_calls
from perception.errors import InputError
from perception.sparsity.branches import Branch
from perception.sparsity.groups import Groups
from perception.sparsity.proximal import neuron_norms, scale_neurons

Lost = Literal["sum", "share"]
BLOCK_CHANNELS = 8
# What a call costs beside its multiplications, with the additions, rectifiers and reorderings around it, as so many
# multiplications: fitted to ERFNets of five widths on a two-core AVX2 machine (1.1 ms for 60 layers at 57 MAC/ns). With
# 0 to 17 closed blocks at three widths the fit gives 0.9e6 at 64x128 and 1.6e6 at 128x256, to 20 % of the times.
CALL_MACS = 1.0e6
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclass(frozen=True)
class CostModel:
    """What a network costs by the number of neurons that each of its group sets has lost.

    unit: of all costs; block: channels that are computed at once; layers: names; call, pair: (layer,) float64;
    widths: (layer, 2) int64, the channels along the first two dimensions of its weight; cuts: (layer, 2, set) int64,
    the channels that it loses there for a neuron of the set.
    """

    unit: Literal["MACs", "ms", "parameters"]
    block: int
    layers: tuple[str, ...]
    call: NDArray[np.float64]
    pair: NDArray[np.float64]
    widths: NDArray[np.int64]
    cuts: NDArray[np.int64]

    def cost(self, gone: NDArray[np.int64] | None = None, layers: NDArray[np.bool_] | None = None) -> float:
        """Give the cost when gone: (set,) neurons of each set have left and layers: (layer,) bool are still there.

        None: the network as it is.
        """
        widths = self.widths if gone is None else self.widths - self.cuts @ gone
        blocks = -(-widths // self.block)
        costs = self.call + self.pair * blocks.prod(1)
        return float((costs if layers is None else costs[layers]).sum())


def block_costs(
    network: nn.Module, groups: Groups, example: Tensor, *, block: int = BLOCK_CHANNELS, call_macs: float = CALL_MACS
) -> CostModel:
    """Count each layer's multiplications for one frame with its channels rounded up to whole blocks, plus `call_macs`.

    example: (frame, channel, height, width); the result depends on shapes alone, so it is the same everywhere.
    """
    shapes = _layer_shapes(network, example)
    modules = {name: network.get_submodule(name) for name in shapes}
    pair = [float(block * block * _applications(modules[name], *shapes[name])) for name in shapes]
    return _model("MACs", groups, modules, [call_macs] * len(modules), pair, block)


def measured_costs(network: nn.Module, groups: Groups, example: Tensor, *, repeats: int = 15) -> CostModel:
    """Fit each layer's call and pair to its onnxruntime time here, at full width and at one block.

    example: (frame, channel, height, width). One thread; layers of one shape are measured once. What lies between the
    layers (additions, pools) is left out, so shares of this cost overstate what a network gains.
    """
    shapes = _layer_shapes(network, example)
    modules = {name: network.get_submodule(name) for name in shapes}
    kinds = [(str(layer), shapes[name][0]) for name, layer in modules.items()]
    one_of_each = dict(zip(kinds, modules.values(), strict=True))
    fitted = {kind: _fit(layer, kind[1], BLOCK_CHANNELS, repeats) for kind, layer in one_of_each.items()}
    call, pair = ([fitted[kind][k] for kind in kinds] for k in (0, 1))
    return _model("ms", groups, modules, call, pair, BLOCK_CHANNELS)


def parameter_costs(network: nn.Module, groups: Groups, example: Tensor) -> CostModel:
    """Count each layer's weights: for a shrink to a number of parameters that prefers neurons with many of them."""
    modules = {name: network.get_submodule(name) for name in _layer_shapes(network, example)}
    pair = [float(math.prod(getattr(layer, "kernel_size", ()))) for layer in modules.values()]
    return _model("parameters", groups, modules, [0.0] * len(modules), pair, 1)


def set_costs(groups: Groups, model: CostModel, bundle: int = BLOCK_CHANNELS) -> dict[str, float]:
    """Give what one neuron of each group set costs in the network as it is: by its first `bundle` neurons."""
    whole = model.cost()
    costs = {}
    for k, group in enumerate(groups.sets):
        gone = np.zeros(len(groups.sets), np.int64)
        gone[k] = min(bundle, group.neurons)
        costs[group.name] = (whole - model.cost(gone)) / gone[k]
    return costs


@torch.no_grad()
def zero_to_cost(
    groups: Groups,
    model: CostModel,
    budget: float,
    *,
    bundle: int = BLOCK_CHANNELS,
    minimum_channels: int = BLOCK_CHANNELS,
    importance: Tensor | None = None,
    lost: Lost = "sum",
    branches: Sequence[Branch] = (),
) -> Tensor:
    """Zero neurons in place, `bundle` of one set at a time or whole branches, until the model's cost is at most `budget`.

    Each time the bundle or branch goes that loses least importance for the cost it saves; within a set the least
    important neurons go first. importance: (neuron,), at least 0; by default the square of the neuron's norm as a
    multiple of its set's median (of those that are not zero, where most are), so that neurons that the proximal steps
    have zeroed go first and free. lost: what a bundle loses is the sum of its importance, or by how much the logarithm
    of its set's importance falls ("share"): then a set grows dearer as it empties and no layer becomes a bottleneck.
    Every set keeps `minimum_channels` neurons.

    branches: of find_branches, which may be silenced: all their own neurons become zero, their layers' whole cost is
    saved (close_zero_branches must follow), and lost is what is left in the layer that has least, since emptying any one
    of a branch's layers silences it. With "share" it is by how much the logarithm of that importance, summed over the
    branches that add to the same channels, falls, times the layers that the branch empties: the last one of a stage goes
    only when nothing else saves anything.
    Returns (neuron,) bool, the neurons zeroed. Raises InputError when the budget cannot be reached or an importance is
    negative.
    """
    worth = (_relative_squares(groups) if importance is None else importance.double().cpu()).numpy()
    if bundle < 1 or minimum_channels < 1 or not (worth >= 0).all():
        raise InputError(f"bundle {bundle}, minimum_channels {minimum_channels}: at least 1; importance: at least 0")
    spending = _Spending(groups, model, worth, branches, bundle, minimum_channels, lost)
    while spending.cost > budget:
        if not spending.step():
            raise InputError(
                f"budget {budget:.4g} {model.unit} cannot be reached: with {minimum_channels} neurons left in every set "
                f"the network costs {spending.cost:.4g}; ask for less or lower minimum_channels"
            )
    result = torch.from_numpy(spending.dead())
    scale_neurons(groups, ~result)
    return result


class _Spending:
    """What has gone so far on the way to a budget, and what would go next."""

    def __init__(
        self,
        groups: Groups,
        model: CostModel,
        worth: NDArray[np.float64],
        branches: Sequence[Branch],
        bundle: int,
        minimum_channels: int,
        lost: Lost,
    ) -> None:
        self.model, self.bundle, self.minimum_channels, self.lost = model, bundle, minimum_channels, lost
        owner = groups.set_of_neuron.cpu().numpy()
        members = [np.flatnonzero(owner == k) for k in range(len(groups.sets))]
        self.order = [ids[np.argsort(worth[ids], kind="stable")] for ids in members]
        self.worth = [worth[ids] for ids in self.order]  # of each set's neurons, in rising order
        self.gone = np.zeros(len(self.order), np.int64)
        self.open = np.ones(len(model.layers), bool)
        self.branches = dict(enumerate(branches))  # those that may still be silenced
        number = {group.name: k for k, group in enumerate(groups.sets)}
        self.gates = [[[number[name] for name in gate] for gate in branch.gates] for branch in branches]
        self.sets = [[number[name] for name in branch.sets] for branch in branches]
        self.layers = [np.isin(model.layers, branch.modules) for branch in branches]
        self.cost = model.cost()

    def step(self) -> bool:
        """Let the cheapest bundle or branch go; False when there is none."""
        spare = [len(ids) - self.gone[k] - self.bundle for k, ids in enumerate(self.order)]
        bundles = [self._bundle(k) for k, left in enumerate(spare) if left >= self.minimum_channels]
        candidates = bundles + [self._branch(j) for j in self.branches]
        if not candidates:
            return False
        _, self.cost, self.gone, self.open, silenced = min(candidates, key=lambda candidate: candidate[0])
        if silenced is not None:
            del self.branches[silenced]
        return True

    def dead(self) -> NDArray[np.bool_]:
        """Tell which neurons have gone: (neuron,) bool."""
        dead = np.zeros(sum(len(ids) for ids in self.order), bool)
        for ids, count in zip(self.order, self.gone, strict=True):
            dead[ids[:count]] = True
        return dead

    def _bundle(self, k: int) -> "_Candidate":
        gone = self.gone.copy()
        gone[k] += self.bundle
        return self._priced(_loss(self.worth[k][self.gone[k] :], self.bundle, self.lost), gone, self.open, None)

    def _branch(self, j: int) -> "_Candidate":
        gone = self.gone.copy()
        gone[self.sets[j]] = [len(self.order[k]) for k in self.sets[j]]
        return self._priced(self._branch_loss(j), gone, self.open & ~self.layers[j], j)

    def _priced(
        self, loss: float, gone: NDArray[np.int64], layers: NDArray[np.bool_], silenced: int | None
    ) -> "_Candidate":
        cost = self.model.cost(gone, layers)
        price = loss / (self.cost - cost) if cost < self.cost else np.inf
        return price, cost, gone, layers, silenced

    def _branch_loss(self, j: int) -> float:
        going = self._least(j)
        if self.lost == "sum" or going == 0:
            return going
        others = [k for k, branch in self.branches.items() if k != j and branch.stream == self.branches[j].stream]
        staying = sum(self._least(other) for other in others)
        return len(self.gates[j]) * math.log((going + staying) / staying) if staying > 0 else np.inf

    def _least(self, j: int) -> float:
        """Give the importance that is left in the emptiest layer of a branch."""
        return min(sum(float(self.worth[k][self.gone[k] :].sum()) for k in gate) for gate in self.gates[j])


# Price, cost afterwards, neurons gone from each set, layers still there, and the branch that is silenced, if any.
_Candidate = tuple[float, float, NDArray[np.int64], NDArray[np.bool_], int | None]


def _loss(worth: NDArray[np.float64], bundle: int, lost: Lost) -> float:
    """Say what is lost with the first `bundle` of the neurons that a set still has, worth: (neuron,) in rising order."""
    going, staying = float(worth[:bundle].sum()), float(worth[bundle:].sum())
    if lost == "sum" or going == 0:
        return going
    return math.log((going + staying) / staying)  # above 0: the neurons that stay are worth no less than those that go


def _relative_squares(groups: Groups) -> Tensor:
    norms, sets = neuron_norms(groups).double().cpu(), groups.set_of_neuron.cpu()
    relative = torch.zeros_like(norms)
    for k in range(len(groups.sets)):
        members = norms[sets == k]
        living = members if members.median() > 0 else members[members > 0]
        if len(living):  # by 0 they would be infinite, and a sum of them no number
            relative[sets == k] = members / living.median()
    return relative.square()


def _model(
    unit: Literal["MACs", "ms", "parameters"],
    groups: Groups,
    modules: Mapping[str, nn.Module],
    call: list[float],
    pair: list[float],
    block: int,
) -> CostModel:
    index = {f"{name}.weight": k for k, name in enumerate(modules)}
    cuts = np.zeros((len(modules), 2, len(groups.sets)), np.int64)
    for number, group in enumerate(groups.sets):
        for part in group.own + group.induced:
            if part.tensor in index and part.dim < 2:
                cuts[index[part.tensor], part.dim, number] += part.index.shape[1]
    sizes = [layer.weight.shape[:2] for layer in modules.values()]  # type: ignore[index]
    widths = np.array(sizes, np.int64).reshape(-1, 2)  # also where every layer has left
    return CostModel(unit, block, tuple(modules), np.array(call), np.array(pair), widths, cuts)


def _applications(layer: Layer, given: torch.Size, output: torch.Size) -> int:
    """Count how often one weight of a layer is applied to one frame, over all taps of its kernel."""
    if isinstance(layer, nn.Linear):
        return int(np.prod(output[1:-1], dtype=np.int64))
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    pixels = (given if transposed else output)[2:]
    return int(np.prod(pixels, dtype=np.int64) * np.prod(layer.kernel_size, dtype=np.int64))


def _layer_shapes(network: nn.Module, example: Tensor) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Give the shapes that every layer gets and makes of the example, in the order of the modules, on its own device."""
    named = network.named_modules()
    layers = {name: layer for name, layer in named if isinstance(layer, _LAYERS) and "weight" in layer._parameters}
    return layer_calls(network, layers, example, lambda given, output: (given.shape, output.shape))


def _fit(layer: Layer, given: torch.Size, block: int, repeats: int) -> tuple[float, float]:
    """Solve call + pair * blocks = milliseconds at the layer's width and at one block of everything."""
    narrow, narrow_given = _narrowed(layer, given, block)
    layers = {"wide": (layer, torch.zeros(given)), "narrow": (narrow, torch.zeros(narrow_given))}
    times = {row.model: row.minimum_ms for row in measure_layers(layers, repeats=repeats)}
    blocks = {
        name: math.prod(-(-size // block) for size in each.weight.shape[:2]) for name, (each, _) in layers.items()
    }
    if blocks["wide"] == blocks["narrow"]:
        return 0.0, times["wide"] / blocks["wide"]
    pair = max(0.0, (times["wide"] - times["narrow"]) / (blocks["wide"] - blocks["narrow"]))
    return max(0.0, times["wide"] - pair * blocks["wide"]), pair


def _narrowed(layer: Layer, given: torch.Size, block: int) -> tuple[Layer, torch.Size]:
    """Build a layer of the same kind with at most one block of channels, and the shape that it takes."""
    shape = list(given)
    if isinstance(layer, nn.Linear):
        shape[-1] = min(block, layer.in_features)
        return nn.Linear(shape[-1], min(block, layer.out_features), layer.bias is not None), torch.Size(shape)
    groups = layer.groups if layer.groups == 1 else min(block, layer.groups)
    inputs, outputs = (
        groups * min(block if groups == 1 else 1, channels // layer.groups)
        for channels in (layer.in_channels, layer.out_channels)
    )
    shape[1] = inputs
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": groups}
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        options["output_padding"] = layer.output_padding
    narrow = type(layer)(inputs, outputs, layer.kernel_size, bias=layer.bias is not None, **options)
    return narrow, torch.Size(shape)
