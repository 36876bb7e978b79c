"""Replace layers by pairs of thinner ones from a singular value decomposition.

low_rank: a kernel W (out, in, ...) is read as a matrix with one row an output channel (Alvarez and Salzmann,
Compression-aware Training of Deep Networks, NIPS 2017, section 3). At rank r the layer becomes in → r with the original
kernel shape, stride, padding and dilation and no bias, then r → out with a 1x1 kernel and the bias.
separable: a two-dimensional kernel is read as a matrix (in, vertical) x (out, horizontal), so that it becomes a
vertical in → r and a horizontal r → out (Alvarez and Petersson, DecomposeMe, 2016, without the rectifier between).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.compression.cost import measure_layers
from perception.compression.modules import Layer, exchange_parameters, layer_calls, set_module
from perception.errors import InputError

# Candidates by name and the input that they take → milliseconds by name.
Measure = Callable[[Mapping[str, nn.Module], Tensor], Mapping[str, float]]


Shape = Literal["dense", "low_rank", "separable"]


@dataclass(frozen=True)
class LayerChoice:
    """What became of one layer.

    rank and relative_error (Frobenius, of the kernel) are those of the choice: full_rank and 0 for a layer that stays.
    latency_ms: of every shape that was measured, empty where nothing was.
    """

    layer: str
    choice: Shape
    rank: int
    full_rank: int
    relative_error: float
    parameters_before: int
    parameters_after: int
    latency_ms: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """One way to write a layer at a given energy."""

    shape: Shape
    rank: int
    relative_error: float
    parameters: int


@dataclass(frozen=True)
class Factorisation:
    """A network with some layers replaced, and a row for each layer that could have been."""

    network: nn.Module
    layers: tuple[LayerChoice, ...]


def can_factorise(layer: nn.Module) -> TypeGuard[Layer]:
    """Tell whether `layer` is a linear layer or an ungrouped convolution with zero padding."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and "weight" in layer._parameters
    return isinstance(layer, nn.Linear) and "weight" in layer._parameters


def can_separate(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether `layer` can become a vertical and a horizontal convolution."""
    return can_factorise(layer) and isinstance(layer, nn.Conv2d) and min(layer.kernel_size) > 1


def rank_for_energy(singular_values: Tensor, energy: float) -> int:
    """Give the smallest rank whose singular values sum to at least `energy` of all of them (at least 1).

    singular_values: (rank,) in falling order; values below the rounding error of the largest count as zero. Source:
    NIPS 2017, section 3.3, energy as a share of the nuclear norm.
    """
    if not 0 < energy <= 1:
        raise InputError(f"energy {energy}: the share of the nuclear norm that is kept lies in (0, 1]")
    values = singular_values.double()
    floor = len(values) * torch.finfo(singular_values.dtype).eps * values[0]
    values = torch.where(values > floor, values, 0.0)
    reached = values.cumsum(0) >= energy * values.sum() * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


@torch.no_grad()
def factorise_layer(layer: Layer, rank: int, shape: Shape = "low_rank") -> nn.Sequential:
    """Give the best rank-`rank` pair for a layer (Eckart-Young); the parts keep its device, dtype and mode.

    Raises InputError for a layer that cannot take that shape or a rank outside [1, full rank].
    """
    if not can_factorise(layer) or (shape == "separable" and not can_separate(layer)):
        raise InputError(f"layer {layer} has no {shape} pair: give an ungrouped convolution or a linear layer")
    matrix = _matrix(layer, shape).double()
    if not 1 <= rank <= min(matrix.shape):
        raise InputError(f"rank {rank} of {layer}: it lies in [1, {min(matrix.shape)}]")
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()  # shared by both parts, so that their gradients are of one scale when training goes on
    left, right = u[:, :rank] * root, root[:, None] * vt[:rank]
    pair: Layer = _empty_pair(layer, rank, shape).to(layer.weight.device, layer.weight.dtype)
    if shape == "separable":
        (rows, columns), size = layer.kernel_size, layer.in_channels
        pair[0].weight.copy_(right.view(rank, size, rows, 1))
        pair[1].weight.copy_(left.view(layer.out_channels, columns, rank).transpose(1, 2)[:, :, None])
    else:
        pair[0].weight.copy_(right.view_as(pair[0].weight))
        pair[1].weight.copy_(left.view_as(pair[1].weight))
    if layer.bias is not None:
        pair[1].bias.copy_(layer.bias)
    return cast(nn.Sequential, pair.train(layer.training))


def _matrix(layer: Layer, shape: Shape) -> Tensor:
    """Read the kernel as (out, in and taps), or as (out and horizontal taps, in and vertical taps)."""
    weight: Tensor = layer.weight.detach()
    if shape == "separable":
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def _empty_pair(layer: Layer, rank: int, shape: Shape) -> nn.Sequential:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        return nn.Sequential(first, nn.Linear(rank, layer.out_features, bias=has_bias))
    kind, m, n = type(layer), layer.in_channels, layer.out_channels
    if shape == "low_rank":
        same = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return nn.Sequential(kind(m, rank, layer.kernel_size, bias=False, **same), kind(rank, n, 1, bias=has_bias))
    (k, w), (s, t), (d, e) = layer.kernel_size, layer.stride, layer.dilation
    p, q = (layer.padding,) * 2 if isinstance(layer.padding, str) else ((layer.padding[0], 0), (0, layer.padding[1]))
    vertical = nn.Conv2d(m, rank, (k, 1), stride=(s, 1), padding=p, dilation=(d, 1), bias=False)
    return nn.Sequential(vertical, nn.Conv2d(rank, n, (1, w), stride=(1, t), padding=q, dilation=(1, e), bias=has_bias))


def candidates(layer: Layer, energy: float) -> list[Candidate]:
    """List the pairs at `energy` that have fewer parameters than the layer."""
    dense = sum(parameter.numel() for parameter in layer.parameters())
    bias = 0 if layer.bias is None else layer.weight.shape[0]
    shapes: list[Shape] = ["low_rank", "separable"] if can_separate(layer) else ["low_rank"]
    found = []
    for shape in shapes:
        matrix = _matrix(layer, shape)
        values = torch.linalg.svdvals(matrix)
        rank = rank_for_energy(values, energy) if float(values[0]) > 0 else 1
        parameters = rank * sum(matrix.shape) + bias
        if parameters < dense:
            total = max(float(values.double().square().sum()), 1e-300)
            error = math.sqrt(float(values[rank:].double().square().sum()) / total)
            found.append(Candidate(shape, rank, error, parameters))
    return found


def factorise_by_energy(
    network: nn.Module, energy: float, *, least_saving: float = 0.0, optimizer: Optimizer | None = None
) -> Factorisation:
    """Replace in place every layer whose low-rank pair at `energy` has fewer parameters.

    least_saving: share of the layer's parameters that its pair must save; two calls cost more than one, so a pair that
    saves little is slower. optimizer: takes over the new parameters in the groups of the old ones, with fresh moments.
    Use the network that is returned (it differs only where the network is a single layer). Raises InputError for energy
    outside (0, 1] or least_saving outside [0, 1).
    """
    if not 0 <= least_saving < 1:
        raise InputError(f"least_saving {least_saving}: the share of parameters to save lies in [0, 1)")
    rows = []
    for name, layer in _layers(network):
        most = (1 - least_saving) * sum(parameter.numel() for parameter in layer.parameters())
        pairs = (each for each in candidates(layer, energy) if each.shape == "low_rank" and each.parameters <= most)
        chosen = next(pairs, None)
        rows.append(_choice(name, layer, chosen, {}))
        if chosen is not None:
            network = _replace(network, name, layer, chosen, optimizer)
    return Factorisation(network, tuple(rows))


def factorise_by_latency(
    network: nn.Module, example: Tensor, energy: float, measure: Measure | None = None, *, minimum_gain: float = 0.05
) -> Factorisation:
    """Write in place every layer in the shape that is measured to be fastest: dense, low rank, or separable.

    Only pairs with fewer parameters are measured. example: (frame, channel, height, width); each layer is measured on
    the input that it gets there. measure: gives milliseconds for named candidates on one input (onnxruntime on this
    CPU, one thread, when None). A pair must be faster by `minimum_gain` of the dense layer's time, else the layer stays
    as it is. Raises InputError for energy outside (0, 1].
    """
    measure = measure or measure_modules_ms
    inputs = _layer_inputs(network, example)
    rows: list[LayerChoice] = []
    known: dict[tuple[object, ...], Mapping[str, float]] = {}
    for name, layer in _layers(network):
        found = {candidate.shape: candidate for candidate in candidates(layer, energy)} if name in inputs else {}
        times: Mapping[str, float] = {}
        if found:
            key = (str(layer), *[c.rank for c in found.values()], inputs[name].shape)  # time depends on shapes alone
            if key not in known:
                pairs: dict[str, nn.Module] = {
                    shape: factorise_layer(layer, c.rank, shape) for shape, c in found.items()
                }
                known[key] = measure({"dense": layer, **pairs}, inputs[name])
            times = known[key]
        chosen = found.get(_fastest(times, minimum_gain))
        rows.append(_choice(name, layer, chosen, times))
        if chosen is not None:
            network = _replace(network, name, layer, chosen, None)
    return Factorisation(network, tuple(rows))


def _fastest(times: Mapping[str, float], minimum_gain: float) -> Shape:
    best = min(times, key=lambda shape: times[shape], default="dense")
    return cast(Shape, best) if times and times[best] <= (1 - minimum_gain) * times["dense"] else "dense"


def measure_modules_ms(candidates: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    """Measure modules in onnxruntime on this CPU with one thread, taking turns; give the median of each."""
    given = {name: (module, example) for name, module in candidates.items()}
    rows = measure_layers(given, batch_frames=len(example), repeats=15)
    return {row.model: row.median_ms for row in rows}


def _layers(network: nn.Module) -> list[tuple[str, Layer]]:
    return [(name, layer) for name, layer in network.named_modules() if can_factorise(layer)]


def _choice(name: str, layer: Layer, chosen: Candidate | None, times: Mapping[str, float]) -> LayerChoice:
    before = sum(parameter.numel() for parameter in layer.parameters())
    full = min(_matrix(layer, "low_rank" if chosen is None else chosen.shape).shape)
    if chosen is None:
        return LayerChoice(name, "dense", full, full, 0.0, before, before, times)
    return LayerChoice(name, chosen.shape, chosen.rank, full, chosen.relative_error, before, chosen.parameters, times)


def _replace(network: nn.Module, name: str, layer: Layer, chosen: Candidate, optimizer: Optimizer | None) -> nn.Module:
    pair = factorise_layer(layer, chosen.rank, chosen.shape)
    for parameter in pair.parameters():
        parameter.requires_grad_(layer.weight.requires_grad)
    if optimizer is not None:
        exchange_parameters(optimizer, layer, pair)
    return set_module(network, name, pair)


def _layer_inputs(network: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Give the first input of every layer that can be factorised, as the example reaches it."""
    return layer_calls(network, dict(_layers(network)), example, lambda given, _: given.detach())
