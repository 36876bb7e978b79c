"""The proximal step of group lasso and sparse group lasso, its strength, and what it has zeroed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.sparsity.groups import Groups

Strength = float | Mapping[str, float]


@torch.no_grad()
def proximal_step(groups: Groups, step_size: float, strength: Strength, alpha: float = 0.0) -> None:
    """Shrink every neuron of `groups` in place by the closed-form proximal operator of (sparse) group lasso.

    step_size: t, usually the learning rate; strength: lambda, one number or one a group set by name; alpha: 0 is group
    lasso, between 0 and 1 sparse group lasso (soft threshold first, then the group), 1 plain lasso. Raises InputError
    for a negative strength or step, alpha outside [0, 1], or a set without strength. Source: Alvarez and Salzmann,
    Learning the Number of Neurons in Deep Networks, NIPS 2016, equations 3 and 6.
    """
    if not 0 <= alpha <= 1 or step_size < 0:
        raise InputError(f"alpha {alpha} and step_size {step_size}: alpha lies in [0, 1] and step_size is at least 0")
    if not groups.sets:  # all have left
        return
    lambdas, flat = _strengths(groups, strength), _numbers(groups)
    root_sizes = _of_neurons(groups, [sqrt(group.parameters_per_neuron) for group in groups.sets])
    absent = lambdas.new_zeros(1)  # positions of no neuron are neither thresholded nor shrunk
    if alpha > 0:
        _soft_threshold(groups, torch.cat([step_size * alpha * lambdas, absent])[flat])
    thresholds = torch.cat([step_size * (1 - alpha) * lambdas * root_sizes, absent])
    norms = torch.cat([neuron_norms(groups, flat), absent])
    scales = torch.where(norms > thresholds, 1 - thresholds / norms, 0.0)
    scales[-1] = 1.0
    _scale(groups, scales[flat])


@torch.no_grad()
def neuron_norms(groups: Groups, flat: Tensor | None = None) -> Tensor:
    """Give the Euclidean norm of each neuron's own parameters: (neuron,) float.

    flat: the concatenated neuron numbers of `groups.tensors`, where the caller already has them.
    """
    if not groups.sets:
        return torch.zeros(0)
    flat = _numbers(groups) if flat is None else flat
    rows = [_row_norms(tensor.parameter, tensor.dim) for tensor in groups.tensors]
    squares = torch.cat(rows).square_()
    return squares.new_zeros(groups.neurons + 1).index_add_(0, flat, squares)[:-1].sqrt_()


@torch.no_grad()
def zero_neurons(groups: Groups) -> Tensor:
    """Tell which neurons own nothing but zeros: (neuron,) bool."""
    if not groups.sets:
        return torch.zeros(0, dtype=torch.bool)
    numbers = _numbers(groups)
    alive = torch.cat([(_rows(t.parameter, t.dim) != 0).any(1) for t in groups.tensors])
    counts = numbers.new_zeros(groups.neurons + 1).index_add_(0, numbers, alive.long())
    return counts[:-1] == 0


@torch.no_grad()
def scale_neurons(groups: Groups, factors: Tensor) -> None:
    """Multiply each neuron's own parameters in place by factors: (neuron,); a factor of 0 gives exact zeros."""
    if not groups.sets:
        return
    factors = factors.to(groups.tensors[0].parameter)
    padded = torch.cat([factors, factors.new_ones(1)])
    _scale(groups, padded[_numbers(groups)])


def calibrate_strength(
    groups: Groups,
    network: nn.Module,
    learning_rate: float,
    share: float = 0.05,
    *,
    first_layers: int = 3,
    first_factor: float = 0.4,
    alpha: float = 0.0,
) -> dict[str, float]:
    """Choose lambda for each group set so that one step takes `share` of its median neuron norm.

    Call it before training, with the initial learning rate. Neurons that touch one of the `first_layers` layers get
    `first_factor` of that, since early layers are to be protected (0.102 against 0.255 in the paper). alpha: the
    mixing that proximal_step will be given; only the group part is calibrated. Raises InputError when `groups` are not
    those of `network`, or share or learning_rate is not positive. Source: derived from NIPS 2016, section 4.
    """
    if groups.network is not network:
        raise InputError("groups belong to another network: find_groups again on the network that will be trained")
    if not 0 < share < 1 or learning_rate <= 0 or not 0 <= alpha < 1:
        raise InputError(
            f"share {share}, learning_rate {learning_rate}, alpha {alpha}: share lies in (0, 1), learning_rate is "
            "positive, alpha lies in [0, 1)"
        )
    norms = neuron_norms(groups).double().cpu()
    set_of_neuron = groups.set_of_neuron.cpu()
    protected = set(list(groups.layer_neurons)[:first_layers])
    strengths = {}
    for k, group in enumerate(groups.sets):
        median = float(norms[set_of_neuron == k].median())
        factor = first_factor if protected.intersection(group.layers) else 1.0
        strengths[group.name] = (
            factor * share * median / (learning_rate * (1 - alpha) * sqrt(group.parameters_per_neuron))
        )
    return strengths


@dataclass(frozen=True)
class Sparsity:
    """Percentages of NIPS 2016, table 2, over the layers that have a prunable channel.

    neurons: zeroed output channels; group_parameters: parameters inside zeroed neurons; total_parameters: all zero
    parameters; total_induced: zeroed neurons' parameters and those of later layers that only read them (which may be
    layers without a prunable channel, the classifier among them: they count in this denominator alone).
    """

    neurons: float
    group_parameters: float
    total_parameters: float
    total_induced: float


def measure_sparsity(groups: Groups) -> Sparsity:
    """Measure how much of the network the proximal steps have zeroed: 0 where no neuron is left to zero."""
    if not groups.sets:
        return Sparsity(0.0, 0.0, 0.0, 0.0)
    dead = zero_neurons(groups).cpu()
    channels = [n for n in groups.layer_neurons.values() if bool((n < groups.neurons).any())]
    padded = torch.cat([dead, torch.zeros(1, dtype=torch.bool)])
    zeroed = sum(int(padded[numbers].sum()) for numbers in channels)
    sizes = torch.tensor([group.parameters_per_neuron for group in groups.sets])
    inside = int(sizes[groups.set_of_neuron.cpu()[dead]].sum())
    own = {id(tensor.parameter): tensor.parameter for tensor in groups.tensors}.values()
    total = sum(parameter.numel() for parameter in own)
    zeros = sum(int((parameter == 0).sum()) for parameter in own)
    shapes, remaining = _remaining_sizes(groups, dead)
    return Sparsity(
        neurons=100 * zeroed / sum(len(numbers) for numbers in channels),
        group_parameters=100 * inside / total,
        total_parameters=100 * zeros / total,
        total_induced=100 * (1 - remaining / shapes),
    )


def _remaining_sizes(groups: Groups, dead: Tensor) -> tuple[int, int]:
    """Count parameters of the tensors that neurons own or induce: now, and after the removal of dead neurons."""
    parameters = dict(groups.network.named_parameters(remove_duplicate=False))
    left: dict[str, list[int]] = {}
    for group, gone in zip(groups.sets, torch.split(dead, [group.neurons for group in groups.sets]), strict=True):
        for part in group.own + group.induced:
            sizes = left.setdefault(part.tensor, list(parameters[part.tensor].shape))
            sizes[part.dim] -= int(gone.sum()) * part.index.shape[1]
    return sum(parameters[name].numel() for name in left), sum(prod(sizes) for sizes in left.values())


def _strengths(groups: Groups, strength: Strength) -> Tensor:
    """Give lambda of each neuron: (neuron,) of the parameters' dtype."""
    if isinstance(strength, Mapping):
        missing = [group.name for group in groups.sets if group.name not in strength]
        if missing:
            raise InputError(f"no strength for group set {missing[0]}: give every name of groups.sets a lambda")
        values = [float(strength[group.name]) for group in groups.sets]
    else:
        values = [float(strength)] * len(groups.sets)
    if min(values) < 0:
        raise InputError(f"strength {min(values)} is negative: lambda is at least 0")
    return _of_neurons(groups, values)


def _of_neurons(groups: Groups, of_sets: list[float]) -> Tensor:
    """Spread one number a set over its neurons, on the device where the network is by now."""
    parameter = groups.tensors[0].parameter
    return parameter.new_tensor(of_sets)[groups.set_of_neuron.to(parameter.device)]


def _numbers(groups: Groups) -> Tensor:
    """Give the neuron of every position of every tensor, in one row: (position,) int64."""
    return torch.cat([tensor.neurons for tensor in groups.tensors]).to(groups.tensors[0].parameter.device)


def _rows(parameter: Tensor, dim: int) -> Tensor:
    """View or copy as (position along dim, everything else)."""
    return parameter.transpose(0, dim).reshape(parameter.shape[dim], -1)


def _row_norms(parameter: Tensor, dim: int) -> Tensor:
    if parameter.ndim == 1:
        return parameter
    norm: Callable[..., Tensor] = torch.linalg.vector_norm
    if dim == 0 and parameter.is_contiguous():
        return norm(parameter.flatten(1), dim=1)  # two and a half times faster than over many dims
    return norm(parameter, dim=[d for d in range(parameter.ndim) if d != dim])


def _spread(groups: Groups, per_position: Tensor) -> list[Tensor]:
    """Cut one number a position into one tensor a parameter that broadcasts over it."""
    parts = torch.split(per_position, [len(tensor.neurons) for tensor in groups.tensors])
    return [
        part
        if tensor.parameter.ndim == 1
        else part.view([1] * tensor.dim + [-1] + [1] * (tensor.parameter.ndim - tensor.dim - 1))
        for tensor, part in zip(groups.tensors, parts, strict=True)
    ]


def _scale(groups: Groups, scales: Tensor) -> None:
    # One call for all tensors, as torch.optim does it: a loop in Python costs more than the multiplications.
    torch._foreach_mul_([tensor.parameter for tensor in groups.tensors], _spread(groups, scales))


def _soft_threshold(groups: Groups, thresholds: Tensor) -> None:
    for tensor, bound in zip(groups.tensors, _spread(groups, thresholds), strict=True):
        magnitude = tensor.parameter.abs().sub_(bound).clamp_min_(0)
        tensor.parameter.sign_().mul_(magnitude)
