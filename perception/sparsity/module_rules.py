"""What each kind of layer does to channels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx, nn

from perception.models.closed_branch import ClosedBranch
from perception.sparsity.walk import ChannelWalk, Value, describe, flatten_channels, map_shapes, not_followed, shape_of

# Per-channel operations with f(0) = 0: what a removed channel leaves behind stays exactly zero.
POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Tanh, nn.Softsign, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
ZERO_KEEPING_MODULES: tuple[type[nn.Module], ...] = (
    *POINTWISE_MODULES, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
ZERO_BREAKING_MODULES: tuple[type[nn.Module], ...] = (nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_HOOKED = (
    "whose hooks or computed weights are not followed: make them part of the weights (torch.nn.utils.prune.remove, "
    "remove_weight_norm, remove_spectral_norm, parametrize.remove_parametrizations)"
)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def visit_module(walk: ChannelWalk, node: fx.Node, module: nn.Module, values: list[Value]) -> Any:
    """Give the channels that come out of a layer; `values` are those that go in."""
    if module._forward_hooks or module._forward_pre_hooks or _is_computed(module):
        return not_followed(walk, node, values, _HOOKED)
    if isinstance(module, ZERO_KEEPING_MODULES) and map_shapes(node, len) == len(shape_of(node.all_input_nodes[0])):
        return values[0]
    if isinstance(module, ZERO_BREAKING_MODULES):
        return values[0].with_zero(False)
    if isinstance(module, nn.Hardtanh):
        return values[0].with_zero(values[0].zero & (module.min_val <= 0 <= module.max_val))
    if isinstance(module, nn.ConstantPad1d | nn.ConstantPad2d | nn.ConstantPad3d):
        return values[0].with_zero(values[0].zero & (module.value == 0))
    if isinstance(module, nn.Flatten):
        return flatten_channels(walk, node, values, module.start_dim, module.end_dim)
    if isinstance(module, ClosedBranch):
        return _closed_branch(walk, node, module)
    visitor = next((visit for kinds, visit in _LAYER_VISITORS if isinstance(module, kinds)), None)
    if visitor is None or len(values) != 1:
        return not_followed(walk, node, values)
    if id(module) in walk.visits:
        return _visit_again(walk, node, module, values[0])
    given = visitor(walk, node, module, values[0])
    if isinstance(given, Value):
        walk.visits[id(module)] = (values[0], given)
    return given


def _is_computed(module: nn.Module) -> bool:
    """Tell whether the weight or bias of a layer is no parameter of it but made of others, as by a mask or a norm."""
    return any(hasattr(module, name) and name not in module._parameters for name in ("weight", "bias"))


def _closed_branch(walk: ChannelWalk, node: fx.Node, module: ClosedBranch) -> Value:
    """Own the constant that is left of a branch; it is no layer, since it reads nothing."""
    given = walk.new(module.channels)
    walk.record("own", str(node.target), module, "shift", 0, given)
    return Value(module.dim % module.rank, given, np.ones(len(given), bool))


def _visit_again(walk: ChannelWalk, node: fx.Node, module: nn.Module, value: Value) -> Any:
    """Tie the channels of a layer that is called more than once: one set of filters serves every call."""
    read, given = walk.visits[id(module)]
    if read.dim != value.dim or len(read.atoms) != len(value.atoms):
        return not_followed(walk, node, [read, value])
    walk.require_zero(value, describe(node))
    walk.tie(read.atoms, value.atoms)
    return given.with_zero(given.zero & value.zero) if given.atoms is read.atoms else given


def _convolution(walk: ChannelWalk, node: fx.Node, module: nn.Conv2d, value: Value) -> Any:
    if value.dim != 1 or len(shape_of(node)) != module.weight.ndim:
        return not_followed(walk, node, [value])
    layer, groups = str(node.target), module.groups
    transposed = isinstance(module, TRANSPOSED_CONVOLUTIONS)
    if groups > 1 and groups == module.in_channels:  # depthwise: an output channel lives and dies with its one input
        given = np.repeat(value.atoms, module.out_channels // groups)
        walk.record("own", layer, module, "weight", 0, value.atoms if transposed else given)
    else:
        walk.require_zero(value, layer)
        read = value.atoms.reshape(groups, -1)
        given = walk.new(module.out_channels)
        # All groups of a grouped convolution must keep equal sizes, so its j-th channels go together.
        for other_read, other_given in zip(read[1:], given.reshape(groups, -1)[1:], strict=True):
            walk.tie(read[0], other_read)
            walk.tie(given[: len(other_given)], other_given)
        per_group = given[: module.out_channels // groups]
        walk.record("own", layer, module, "weight", int(transposed), per_group if transposed else given)
        walk.record("induced", layer, module, "weight", int(not transposed), value.atoms if transposed else read[0])
    walk.record("own", layer, module, "bias", 0, given)
    walk.layers[layer] = given
    return Value(1, given, np.ones(len(given), bool))


def _linear(walk: ChannelWalk, node: fx.Node, module: nn.Linear, value: Value) -> Any:
    layer, last = str(node.target), len(shape_of(node)) - 1
    if value.dim != last:
        return not_followed(walk, node, [value])
    walk.require_zero(value, layer)
    given = walk.new(module.out_features)
    walk.record("own", layer, module, "weight", 0, given)
    walk.record("own", layer, module, "bias", 0, given)
    walk.record("induced", layer, module, "weight", 1, value.atoms)
    walk.layers[layer] = given
    return Value(last, given, np.ones(len(given), bool))


def _channel_norm(walk: ChannelWalk, node: fx.Node, module: nn.BatchNorm2d, value: Value) -> Any:
    if value.dim != 1:
        return not_followed(walk, node, [value])
    layer = str(node.target)
    for name in ("weight", "bias"):
        walk.record("own", layer, module, name, 0, value.atoms)
    for name in ("running_mean", "running_var"):
        walk.record("carried", layer, module, name, 0, value.atoms)
    if module.weight is not None:
        return value.with_zero(True)  # gamma = beta = 0 silences the channel whatever comes in
    return value.with_zero(value.zero & (not module.track_running_stats))


def _mixing_norm(walk: ChannelWalk, node: fx.Node, module: nn.GroupNorm | nn.LayerNorm, value: Value) -> Any:
    if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels and value.dim == 1:
        for name in ("weight", "bias"):
            walk.record("own", str(node.target), module, name, 0, value.atoms)
        return value.with_zero(True)
    walk.fix(value.atoms, f"is normalised together with other channels by {node.target}")
    return value


def _prelu(walk: ChannelWalk, node: fx.Node, module: nn.PReLU, value: Value) -> Any:
    if module.num_parameters > 1:
        if value.dim != 1:
            return not_followed(walk, node, [value])
        walk.record("carried", str(node.target), module, "weight", 0, value.atoms)
    return value


_LAYER_VISITORS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[ChannelWalk, fx.Node, Any, Value], Any]], ...] = (
    (CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS, _convolution),
    ((nn.Linear,), _linear),
    (BATCH_NORMS + INSTANCE_NORMS, _channel_norm),
    ((nn.GroupNorm, nn.LayerNorm), _mixing_norm),
    ((nn.PReLU,), _prelu),
)
