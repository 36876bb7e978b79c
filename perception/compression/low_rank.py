"""Replace layers by pairs of thinner ones from their singular value decomposition.

A kernel W: (out, in, ...) is read as a matrix with one row an output channel (Alvarez and Salzmann, Compression-aware
Training of Deep Networks, NIPS 2017, section 3). At rank r the layer becomes in → r with the original kernel shape,
stride, padding and dilation and no bias, then r → out with a 1x1 kernel and the bias.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.compression.cost import measure_latency_ms
from perception.compression.export import write_onnx
from perception.compression.modules import exchange_parameters, set_module
from perception.errors import InputError

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
# Candidates by name and the input that they take → milliseconds by name.
Measure = Callable[[Mapping[str, nn.Module], Tensor], Mapping[str, float]]


@dataclass(frozen=True)
class LayerChoice:
    """What became of one layer: rank and relative_error (Frobenius, of the kernel) are those of the pair considered.

    latency_ms_dense and latency_ms_pair are None where nothing was measured.
    """

    layer: str
    choice: Literal["dense", "low_rank"]
    rank: int
    full_rank: int
    relative_error: float
    parameters_before: int
    parameters_after: int
    latency_ms_dense: float | None = None
    latency_ms_pair: float | None = None


@dataclass(frozen=True)
class Factorisation:
    """A network with some layers replaced, and a row for each layer that could have been."""

    network: nn.Module
    layers: tuple[LayerChoice, ...]


def can_factorise(layer: nn.Module) -> bool:
    """Tell whether `layer` is a linear layer or an ungrouped convolution with zero padding."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and "weight" in layer._parameters
    return isinstance(layer, nn.Linear) and "weight" in layer._parameters


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
def factorise_layer(layer: nn.Module, rank: int) -> nn.Sequential:
    """Give the best rank-`rank` pair for a layer (Eckart-Young); the parts keep its device, dtype and mode.

    Raises InputError for a layer that cannot be factorised or a rank outside [1, full rank].
    """
    if not can_factorise(layer):
        raise InputError(f"layer {layer} cannot be factorised: give an ungrouped convolution or a linear layer")
    weight = layer.weight
    full = min(weight.shape[0], weight[0].numel())
    if not 1 <= rank <= full:
        raise InputError(f"rank {rank} of {layer}: it lies in [1, {full}]")
    u, s, vt = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    root = s[:rank].sqrt()  # shared by both parts, so that their gradients are of one scale when training goes on
    pair = _empty_pair(layer, rank).to(weight.device, weight.dtype)
    first, second = pair
    first.weight.copy_((root[:, None] * vt[:rank]).view_as(first.weight))
    second.weight.copy_((u[:, :rank] * root).view_as(second.weight))
    if layer.bias is not None:
        second.bias.copy_(layer.bias)
    return pair.train(layer.training)


def _empty_pair(layer: nn.Module, rank: int) -> nn.Sequential:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
        return nn.Sequential(first, nn.Linear(rank, layer.out_features, bias=has_bias))
    kind = type(layer)
    first = kind(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
    return nn.Sequential(first, kind(rank, layer.out_channels, 1, bias=has_bias))


def pair_parameters(layer: nn.Module, rank: int) -> int:
    """Count the parameters of the pair at `rank`."""
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    return rank * (rows + columns) + (0 if layer.bias is None else rows)


def factorise_by_energy(network: nn.Module, energy: float, *, optimizer: Optimizer | None = None) -> Factorisation:
    """Replace in place every layer whose pair at `energy` has fewer parameters.

    optimizer: takes over the new parameters in the groups of the old ones, with fresh moments. Use the network that
    is returned (it differs only where the network is a single layer). Raises InputError for energy outside (0, 1].
    """
    choices = []
    for name, layer in _layers(network):
        rank, error = _rank_and_error(layer, energy)
        choice = _choice(name, layer, rank, error)
        choices.append(choice)
        if choice.choice == "low_rank":
            network = _replace(network, name, layer, rank, optimizer)
    return Factorisation(network, tuple(choices))


def factorise_by_latency(
    network: nn.Module,
    example: Tensor,
    energy: float,
    measure: Measure | None = None,
    *,
    minimum_gain: float = 0.05,
) -> Factorisation:
    """Replace in place every layer whose pair at `energy` has fewer parameters and is measured to be faster.

    example: (frame, channel, height, width); each layer is measured on the input that it gets there. measure: gives
    milliseconds for named candidates on one input (onnxruntime on this CPU, one thread, when None). A pair must be
    faster by `minimum_gain` of the dense layer's time, else the layer stays as it is. Raises InputError for energy
    outside (0, 1].
    """
    measure = measure or measure_modules_ms
    inputs = _layer_inputs(network, example)
    choices, measured = [], {}
    for name, layer in _layers(network):
        rank, error = _rank_and_error(layer, energy)
        choice = _choice(name, layer, rank, error)
        if choice.choice == "low_rank" and name in inputs:
            key = (str(layer), rank, inputs[name].shape)  # latency depends on shapes alone
            if key not in measured:
                measured[key] = measure({"dense": layer, "pair": factorise_layer(layer, rank)}, inputs[name])
            choice = _timed(choice, measured[key], minimum_gain)
            if choice.choice == "low_rank":
                network = _replace(network, name, layer, rank, None)
        choices.append(choice)
    return Factorisation(network, tuple(choices))


def measure_modules_ms(candidates: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    """Measure modules in onnxruntime on this CPU with one thread, taking turns; give the median of each."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in candidates}
        for name, module in candidates.items():
            write_onnx(_Detached(module), paths[name], example.cpu().float())
        rows = measure_latency_ms(paths, batch_sizes=(len(example),), repeats=15)
    return {row.model: row.median_ms for row in rows}


class _Detached(nn.Module):
    """A float32 copy of a module on the CPU, in eval mode, so that measuring leaves the module alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).cpu().float()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in network.named_modules() if can_factorise(layer)]


def _rank_and_error(layer: nn.Module, energy: float) -> tuple[int, float]:
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    if float(values[0]) == 0:
        return 1, 0.0
    rank = rank_for_energy(values, energy)
    return rank, math.sqrt(float(values[rank:].double().square().sum() / values.double().square().sum()))


def _choice(name: str, layer: nn.Module, rank: int, error: float) -> LayerChoice:
    before = sum(parameter.numel() for parameter in layer.parameters())
    after = pair_parameters(layer, rank)
    full = min(layer.weight.shape[0], layer.weight[0].numel())
    if after < before:
        return LayerChoice(name, "low_rank", rank, full, error, before, after)
    return LayerChoice(name, "dense", rank, full, error, before, before)


def _timed(choice: LayerChoice, times: Mapping[str, float], minimum_gain: float) -> LayerChoice:
    faster = times["pair"] <= (1 - minimum_gain) * times["dense"]
    return replace(
        choice,
        choice="low_rank" if faster else "dense",
        parameters_after=choice.parameters_after if faster else choice.parameters_before,
        latency_ms_dense=times["dense"],
        latency_ms_pair=times["pair"],
    )


def _replace(network: nn.Module, name: str, layer: nn.Module, rank: int, optimizer: Optimizer | None) -> nn.Module:
    pair = factorise_layer(layer, rank)
    for parameter in pair.parameters():
        parameter.requires_grad_(layer.weight.requires_grad)
    if optimizer is not None:
        exchange_parameters(optimizer, layer, pair)
    return set_module(network, name, pair)


def _layer_inputs(network: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Give the first input of every layer that can be factorised, as the example reaches it."""
    inputs: dict[str, Tensor] = {}
    handles = [layer.register_forward_pre_hook(_keeper(inputs, name)) for name, layer in _layers(network)]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return inputs


def _keeper(inputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.setdefault(name, arguments[0].detach())

    return keep
