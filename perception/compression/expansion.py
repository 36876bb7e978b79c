"""ExpandNets: train a layer as a longer chain of linear layers, then contract the chain into the layer, exactly.

Guo, Alvarez and Salzmann, ExpandNets: Linear Over-parameterization to Train Compact Convolutional Networks, NeurIPS
2020. With rate r a convolution m → n with kernel k becomes
  CL  1x1 m → rm, k r m → rn (the stride here), 1x1 rn → n            any k, grouped and depthwise too
  CK  (k - 1) / 2 convolutions 3x3: m → rm → rn → ... → n (the stride on the last)     odd k > 3
  FC  m → rm → rn → n                                                  linear layers
The padding goes to the first layer of the chain: zeros that were put in later would meet biases at the border.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.compression.modules import Layer, set_module
from perception.errors import InputError
from perception.models.copies import copied

Kind = Literal["CL", "CK", "FC"]
_CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = 1e-4  # share of the largest output by which a contracted layer may differ from its chain


class LinearExpansion(nn.Sequential):
    """A chain of linear layers that equals one layer, with nothing between them."""


class NonlinearExpansion(nn.Sequential):
    """The same chain with rectifiers between its layers, trained first for the initialisation of a LinearExpansion."""


@dataclass(frozen=True)
class ContractedLayer:
    """One chain that became a layer; max_abs_error is measured on seeded random input in the layer's own dtype."""

    layer: str
    parameters_before: int
    parameters_after: int
    max_abs_error: float


@dataclass(frozen=True)
class Contraction:
    """A network without expansions and the largest error that contracting any of them made."""

    network: nn.Module
    layers: tuple[ContractedLayer, ...]
    max_abs_error: float


def kinds_for(layer: nn.Module) -> tuple[Kind, ...]:
    """List the expansions that fit a layer, best first (CK gains more than CL where it fits)."""
    if isinstance(layer, nn.Linear):
        return ("FC",)
    if not isinstance(layer, _CONVOLUTIONS) or layer.padding_mode != "zeros":
        return ()
    sizes = {size for size in layer.kernel_size if size > 1}
    if layer.groups == 1 and len(sizes) == 1 and min(sizes) > 3 and min(sizes) % 2 == 1:
        return ("CK", "CL")
    return ("CL",) if sizes else ()


def expand_layer(
    layer: Layer, kind: Kind, rate: int = 4, *, nonlinear: bool = False, keep_input_width: bool = False
) -> LinearExpansion | NonlinearExpansion:
    """Give a freshly initialised chain in the place of `layer` (the framework's default initialisation).

    nonlinear: rectifiers between, for the +Init scheme. keep_input_width: the first layer of the chain stays as wide
    as its input, as published for layers that read an image. Raises InputError for a kind that does not fit.
    """
    if kind not in kinds_for(layer) or rate < 1:
        raise InputError(f"expansion {kind} at rate {rate} does not fit {layer}: fitting kinds are {kinds_for(layer)}")
    chain = _linear_chain(layer, rate) if isinstance(layer, nn.Linear) else _chain(layer, kind, rate, keep_input_width)
    chain = [part.to(layer.weight.device, layer.weight.dtype) for part in chain]
    if nonlinear:
        chain = [part for link in chain[:-1] for part in (link, nn.ReLU())] + chain[-1:]
    expansion = NonlinearExpansion(*chain) if nonlinear else LinearExpansion(*chain)
    return expansion.train(layer.training)


def _linear_chain(layer: nn.Linear, rate: int) -> list[nn.Module]:
    widths = (layer.in_features, rate * layer.in_features, rate * layer.out_features, layer.out_features)
    return [nn.Linear(m, n, bias=layer.bias is not None) for m, n in pairwise(widths)]


def _chain(layer: Layer, kind: Kind, rate: int, keep_input_width: bool) -> list[nn.Module]:
    m, n, rank = layer.in_channels, layer.out_channels, len(layer.kernel_size)
    first = m if keep_input_width else rate * m
    if kind == "CL":
        widths = [m, first, rate * n, n]
        kernels = [(1,) * rank, tuple(layer.kernel_size), (1,) * rank]
        strided = 1
    else:
        links = (max(layer.kernel_size) - 1) // 2
        widths = [m, first, *[rate * n] * (links - 2), n]
        kernels = [tuple(3 if size > 1 else 1 for size in layer.kernel_size)] * links
        strided = links - 1
    return [
        type(layer)(
            widths[k],
            widths[k + 1],
            kernels[k],
            stride=layer.stride if k == strided else 1,
            padding=_numeric_padding(layer) if k == 0 else 0,
            dilation=layer.dilation if max(kernels[k]) > 1 else 1,
            groups=layer.groups,
            bias=layer.bias is not None,
        )
        for k in range(len(kernels))
    ]


def _numeric_padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(size % 2 for size in reach):
        raise InputError(f"padding 'same' of {layer} is uneven: give the padding in numbers")
    return tuple(size // 2 for size in reach)


def expand_network(
    network: nn.Module,
    rate: int = 4,
    *,
    kinds: Iterable[Kind] = ("CK", "CL", "FC"),
    skip: Iterable[str] = (),
    nonlinear: bool = False,
    image_channels: int = 3,
) -> nn.Module:
    """Give a copy of `network` with every layer expanded that one of `kinds` fits, in the order of kinds_for.

    skip: names of layers that stay. Layers with `image_channels` inputs keep their first width, as published. Raises
    InputError for an unknown name in `skip` and when nothing can be expanded.
    """
    network = copied(network)
    skipped, allowed = set(skip), set(kinds)
    unknown = skipped - {name for name, _ in network.named_modules()}
    if unknown:
        raise InputError(f"no layer called {min(unknown)} to skip: names are those of network.named_modules()")
    expanded = 0
    for name, layer in list(network.named_modules()):
        fitting = [kind for kind in kinds_for(layer) if kind in allowed]
        if not fitting or name in skipped:
            continue
        keep = getattr(layer, "in_channels", 0) == image_channels
        chain = expand_layer(layer, fitting[0], rate, nonlinear=nonlinear, keep_input_width=keep)
        network = set_module(network, name, chain)
        expanded += 1
    if not expanded:
        raise InputError(f"no layer of {type(network).__name__} can be expanded by {sorted(allowed)}: try other kinds")
    return network


def linearise(network: nn.Module) -> nn.Module:
    """Give a copy in which rectified chains became linear ones with the same weights (the +Init scheme)."""
    network = copied(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, NonlinearExpansion):
            links = [part for part in module if not isinstance(part, nn.ReLU)]
            network = set_module(network, name, LinearExpansion(*links).train(module.training))
    return network


@torch.no_grad()
def contract_layer(chain: nn.Sequential) -> nn.Module:
    """Give the one layer that equals a chain of linear layers, composed in float64.

    Any chain of convolutions or of linear layers will do: expansions, and the pairs of low_rank. Raises InputError
    where no single layer equals the chain: padding after the first layer, stride before a larger kernel, different
    groups or dilations, anything that is not linear.
    """
    links: list[Layer] = list(chain)
    if not links or not all(type(link) is type(links[0]) for link in links):
        raise InputError(f"a chain of {[type(link).__name__ for link in links]} is not one linear layer")
    linear = isinstance(links[0], nn.Linear)
    if not linear and not isinstance(links[0], _CONVOLUTIONS):
        raise InputError(
            f"a chain of {type(links[0]).__name__} cannot be contracted: give convolutions or linear layers"
        )
    if not linear:
        _require_composable(links)
    weight, bias = links[0].weight.double(), _bias(links[0])
    for link in links[1:]:
        if linear:
            weight, bias = link.weight.double() @ weight, link.weight.double() @ bias + _bias(link)
        else:
            weight, bias = _compose(weight, bias, link.weight.double(), _bias(link), link.groups)
    has_bias = any(link.bias is not None for link in links)
    outputs, inputs, *kernel_size = weight.shape
    layer = nn.Linear(inputs, outputs, has_bias) if linear else _convolution(links, kernel_size, has_bias)
    layer = layer.to(links[0].weight.device, links[0].weight.dtype).train(links[0].training)
    layer.weight.copy_(weight)
    if has_bias:
        layer.bias.copy_(bias)
    return layer


def _bias(link: Layer) -> Tensor:
    """Give the bias in float64, zeros where there is none: a chain may mix both."""
    bias: Tensor = link.weight.new_zeros(link.weight.shape[0]) if link.bias is None else link.bias
    return bias.double()


def _require_composable(links: list[Layer]) -> None:
    shaped = [link for link in links if max(link.kernel_size) > 1]
    if len({link.groups for link in links}) > 1 or len({link.dilation for link in shaped}) > 1:
        raise InputError("a chain with different groups or dilations is not one convolution")
    if any(link.padding_mode != "zeros" or isinstance(link.padding, str) for link in links):
        raise InputError("a chain with padding that is not zeros, or not given in numbers, is not one convolution")
    if any(any(link.padding) for link in links[1:]):
        raise InputError("padding after the first layer of a chain meets its biases: put it on the first layer")
    for k, link in enumerate(links):
        if max(link.stride) > 1 and any(max(later.kernel_size) > 1 for later in links[k + 1 :]):
            raise InputError("stride before a larger kernel is not one convolution: put it on the last larger kernel")


def _compose(
    first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Compose W[n,m,u] = sum_{p, i+x=u} B[n,p,i] A[p,m,x] and b = sum B a + b' by one transposed convolution."""
    n, p, rank = second.shape[0], second.shape[1], second.ndim - 2
    grouped = second.reshape(groups, n // groups, p, *second.shape[2:])
    by_group = grouped.transpose(0, 1).flatten(1, 2)  # (n / g, g * p / g, kernel)
    flat = _CONVOLVE_TRANSPOSED[rank](by_group, first, groups=groups)  # (n / g, g * m / g, kernel)
    weight = flat.reshape(n // groups, groups, -1, *flat.shape[2:]).transpose(0, 1).flatten(0, 1)
    reads = grouped.flatten(3).sum(3)  # (g, n / g, p / g)
    passed = torch.einsum("gnp,gp->gn", reads, first_bias.reshape(groups, p)).flatten()
    return weight, passed + second_bias


def _convolution(links: list[Layer], kernel_size: Sequence[int], has_bias: bool) -> Layer:
    first, last = links[0], links[-1]
    shaped = next((link for link in links if max(link.kernel_size) > 1), first)
    strides = [link.stride for link in links if max(link.stride) > 1]
    return type(first)(
        first.in_channels,
        last.out_channels,
        tuple(kernel_size),
        stride=tuple(torch.tensor(strides).prod(0).tolist()) if strides else first.stride,
        padding=first.padding,
        dilation=shaped.dilation,
        groups=first.groups,
        bias=has_bias,
    )


@torch.no_grad()
def contract_network(network: nn.Module) -> Contraction:
    """Give a copy of `network` in which every LinearExpansion became one layer, with the error that this made.

    Each layer is compared with its chain on seeded normal input; an error above TOLERANCE of the largest output
    raises InputError, as does a NonlinearExpansion (linearise it and train on).
    """
    network = copied(network)
    rows = []
    for name, module in list(network.named_modules()):
        if isinstance(module, NonlinearExpansion):
            raise InputError(f"{name} has rectifiers inside, so no single layer equals it: linearise, then train on")
        if not isinstance(module, LinearExpansion):
            continue
        layer = contract_layer(module)
        row, largest = _compare(name, module, layer)
        if row.max_abs_error > TOLERANCE * largest:
            raise InputError(f"{name}: contraction differs by {row.max_abs_error:.3g} on outputs up to {largest:.3g}")
        rows.append(row)
        network = set_module(network, name, layer)
    return Contraction(network, tuple(rows), max((row.max_abs_error for row in rows), default=0.0))


def _compare(name: str, chain: nn.Sequential, layer: Layer) -> tuple[ContractedLayer, float]:
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (8, layer.in_features)
    else:
        reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        shape = (2, layer.in_channels, *[size + 6 for size in reach])
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = draw.to(weight.device, weight.dtype)
    expected = chain(x)
    error = float((layer(x) - expected).abs().max())
    before = sum(parameter.numel() for parameter in chain.parameters())
    after = sum(parameter.numel() for parameter in layer.parameters())
    return ContractedLayer(name, before, after, error), float(expected.abs().max())
