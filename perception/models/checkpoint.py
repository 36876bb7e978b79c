"""Network files: safetensors whose header holds a blueprint, so that a file alone rebuilds its network.

The blueprint names the network and its constructor's arguments, and lists every leaf module at its dotted path with its
type and, for torch's common layers, its arguments. Loading builds the network, puts the listed leaves in place of its
own, and loads the weights strictly. So a network that lost channels or whole branches (ClosedBranch), whose convolutions became chains of
convolutions (nn.Sequential) or whose normalisation was folded away (nn.Identity) needs no history.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.models.closed_branch import ClosedBranch
from perception.models.registry import NETWORKS, Networks
from perception.models.tensor_file import read_header, read_tensors, write_tensors

Blueprint = dict[str, Any]  # network, arguments, leaves: [[path, type, arguments], ...]

_FORMAT = "nightdrive-network-1"
_LEAF_TYPES: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
        nn.SiLU, nn.GELU, nn.Sigmoid, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
        nn.Flatten, nn.Identity, ClosedBranch,
    )
}  # fmt: skip
_NOT_AN_ARGUMENT = {"self", "device", "dtype", "args", "kwargs"}


def save_network(network: nn.Module, path: Path, metadata: Mapping[str, str], networks: Networks = NETWORKS) -> str:
    """Write a network to one file, whole or not at all, and give the file's sha256; equal networks give equal bytes.

    `metadata` is kept as it is (data version, commit, ...). Devices and the training mode are not kept.
    networks: those that may be named; known_networks of a choice. Raises InputError when the blueprint cannot rebuild the
    network (one that is not among them, tied weights) or the folder does not exist.
    """
    origin = getattr(network, "origin", None)  # of a network that a user's factory built
    name = origin or type(network).__name__
    if name not in networks or (origin is None and networks[name] is not type(network)):
        raise InputError(f"network {name!r}: not registered; save one of {', '.join(sorted(networks))}")
    blueprint = {"network": name, "arguments": network.arguments, "leaves": describe_leaves(network)}
    _check_rebuilds(network, blueprint, networks)
    header = {"blueprint": blueprint, "metadata": dict(metadata)}
    return write_tensors(Path(path), network.state_dict(), header, _FORMAT)


def load_network(path: Path, networks: Networks = NETWORKS) -> nn.Module:
    """Rebuild the network of a file, in evaluation mode on the CPU; the global random state is left alone.

    Raises InputError when the file is missing, truncated, altered, or names a network or a leaf that is not known.
    """
    header, tensors = read_tensors(Path(path), _FORMAT)
    where = f"file {path}"
    network = _rebuild(header["blueprint"], networks, where)
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(f"{where}: its weights do not fit its layers ({_one_line(error)}); write it again") from error
    return network.eval()


def network_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network's file by their names, without building the network; raises InputError as load_network does."""
    return read_tensors(Path(path), _FORMAT)[1]


def network_metadata(path: Path) -> dict[str, str]:
    """Read the metadata that a network was saved with; raises InputError when the file is missing or no network."""
    return read_header(Path(path), _FORMAT)["metadata"]


def describe_leaves(network: nn.Module) -> list[list[Any]]:
    """List [path, type, arguments] of every module without children; no arguments for a type that only its network builds."""
    leaves = [(path, module) for path, module in network.named_modules() if not any(module.children())]
    return [[path, *_describe_leaf(leaf)] for path, leaf in leaves]


def apply_leaves(network: nn.Module, leaves: list[list[Any]], where: str) -> None:
    """Give a network, in place, exactly the leaves that are listed; those that it has already keep their weights.

    New leaves have freshly initialised weights. Arguments that a type did not have yet when the leaves were listed have
    their defaults. Raises InputError, which begins with `where`, when they do not fit.
    """
    leaves = [[path, kind, _completed(kind, arguments)] for path, kind, arguments in leaves]
    present = {path: [kind, arguments] for path, kind, arguments in describe_leaves(network)}
    for path, kind, arguments in leaves:
        if present.get(path) != [kind, arguments]:
            _place(network, path, _build_leaf(path, kind, arguments, where), where)
    _drop_unlisted(network, {path for path, _, _ in leaves})
    if describe_leaves(network) != leaves:
        raise InputError(f"{where}: its layers do not fit {type(network).__name__}; save it again with this version")


def _describe_leaf(leaf: nn.Module) -> tuple[str, dict[str, Any] | None]:
    """Name a leaf's type and its constructor's arguments, which torch's leaves keep as attributes of the same name."""
    kind = type(leaf).__name__
    if _LEAF_TYPES.get(kind) is not type(leaf):
        return kind, None
    names = inspect.signature(type(leaf).__init__).parameters.keys() - _NOT_AN_ARGUMENT
    arguments = {name: getattr(leaf, name) for name in sorted(names)}
    if "bias" in arguments:
        arguments["bias"] = leaf.bias is not None
    return kind, json.loads(json.dumps(arguments))


def _completed(kind: str, arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """Add the defaults of arguments that are not listed: torch gives its layers new ones from time to time."""
    if kind not in _LEAF_TYPES or arguments is None:
        return arguments
    known = inspect.signature(_LEAF_TYPES[kind].__init__).parameters.values()
    optional = [each for each in known if each.name not in _NOT_AN_ARGUMENT and each.default is not each.empty]
    return {each.name: each.default for each in optional} | arguments


def _build_leaf(path: str, kind: str, arguments: dict[str, Any] | None, where: str) -> nn.Module:
    if kind not in _LEAF_TYPES or arguments is None:
        raise InputError(
            f"{where}: layer {path!r} is a {kind}, which no file can build; use {', '.join(sorted(_LEAF_TYPES))}"
        )
    as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    try:
        return _LEAF_TYPES[kind](**as_tuples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: layer {path!r} cannot be built ({_one_line(error)}); write it again") from error


def _place(network: nn.Module, path: str, leaf: nn.Module, where: str) -> None:
    """Put a leaf at its path; a leaf on the way gives way to a chain, and a chain takes new members at its end."""
    parent = network
    *folders, name = path.split(".")
    for folder in folders:
        child = parent._modules.get(folder)
        if child is None or not any(child.children()):
            _check_place(parent, folder, path, where)
            child = nn.Sequential()
            parent.register_module(folder, child)
        parent = child
    _check_place(parent, name, path, where)
    parent.register_module(name, leaf)


def _check_place(parent: nn.Module, name: str, path: str, where: str) -> None:
    """Allow new members in chains only: no other module would call them."""
    if name not in parent._modules and not isinstance(parent, nn.Sequential):
        raise InputError(f"{where}: layer {path!r} has no place in the network; use a file of this version")


def _drop_unlisted(network: nn.Module, listed: set[str]) -> None:
    """Remove from chains what is not listed, such as a block that was removed."""
    for path, module in list(network.named_modules()):
        if type(module) is not nn.Sequential:
            continue
        for name in list(module._modules):
            inside = f"{path}.{name}" if path else name
            if not any(leaf == inside or leaf.startswith(f"{inside}.") for leaf in listed):
                del module._modules[name]


def _rebuild(blueprint: Blueprint, networks: Networks, where: str) -> nn.Module:
    """Build a network as its blueprint says, with weights that mean nothing."""
    name, arguments = blueprint["network"], blueprint["arguments"]
    if name not in networks:
        raise InputError(
            f"{where}: network {name!r} is unknown; known are {', '.join(sorted(networks))}; a network of yours is "
            "known to a stage whose parameter `network` names it"
        )
    with torch.random.fork_rng(devices=[]):
        try:
            network = networks[name](**arguments)
        except TypeError as error:
            raise InputError(
                f"{where}: network {name!r} cannot be built ({error}); use a file of this version"
            ) from error
        apply_leaves(network, blueprint["leaves"], where)
    vars(network).update({"arguments": arguments} | ({"origin": name} if ":" in name else {}))
    return network


def _check_rebuilds(network: nn.Module, blueprint: Blueprint, networks: Networks) -> None:
    """Refuse now what would not load later."""
    where = f"network {blueprint['network']!r}"
    if len(list(network.named_parameters(remove_duplicate=False))) != len(list(network.named_parameters())):
        raise InputError(f"{where}: two layers share a weight, which its file cannot express; untie them first")
    rebuilt = _rebuild(json.loads(json.dumps(blueprint)), networks, where)
    shapes, rebuilt_shapes = _shapes(network), _shapes(rebuilt)
    differing = [name for name in shapes | rebuilt_shapes if shapes.get(name) != rebuilt_shapes.get(name)]
    if differing:
        raise InputError(
            f"{where}: {min(differing)!r} has another shape than its layer says; set the layer's sizes too"
        )


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
