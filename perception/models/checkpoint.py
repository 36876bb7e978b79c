"""Network files: safetensors whose metadata holds a blueprint, so that a file alone rebuilds its network.

The blueprint names the network and its constructor's arguments, and lists every leaf module at its dotted path with its
type and arguments. Loading builds the network, puts the listed leaves in place of its own, and loads the weights
strictly. So a network that lost channels, whose convolutions became chains of convolutions (nn.Sequential) or whose
normalisation was folded away (nn.Identity) needs no history. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from perception.errors import InputError
from perception.models.registry import NETWORKS

Networks = Mapping[str, Callable[..., nn.Module]]
Blueprint = dict[str, Any]

_FORMAT = "nightdrive-network-1"
# One key only: safetensors keeps its metadata in a hash map, whose order would differ from file to file.
_METADATA_KEY = "nightdrive"
_NOT_AN_ARGUMENT = {"self", "device", "dtype"}


def save_network(network: nn.Module, path: Path, metadata: Mapping[str, str], networks: Networks = NETWORKS) -> str:
    """Write a network to one file, whole or not at all, and give the file's sha256; equal networks give equal bytes.

    `metadata` is kept as it is (data version, commit, ...). Devices and the training mode are not kept.
    Raises InputError when the blueprint cannot rebuild the network (an unregistered network, a leaf of unknown type,
    tied weights) or the folder does not exist.
    """
    path = Path(path)
    blueprint = network_blueprint(network, networks)
    _check_rebuilds(network, blueprint, networks)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    header = {
        "format": _FORMAT,
        "blueprint": blueprint,
        "metadata": dict(metadata),
        "tensors_sha256": tensors_sha256(tensors),
    }
    text = json.dumps(header, sort_keys=True)
    data = safetensors_bytes(tensors, metadata={_METADATA_KEY: f"{_text_sha256(text)} {text}"})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load_network(path: Path, networks: Networks = NETWORKS) -> nn.Module:
    """Rebuild the network of a file, in evaluation mode on the CPU; the global random state is left alone.

    Raises InputError when the file is missing, truncated, altered, or names a network or a leaf that is not known.
    """
    header, tensors = _read(Path(path), with_tensors=True)
    where = f"network file {path}"
    if tensors_sha256(tensors) != header["tensors_sha256"]:
        raise InputError(f"{where}: the weights differ from the checksum that they were saved with; write it again")
    network = _rebuild(header["blueprint"], networks, where)
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"{where}: the weights do not fit the blueprint ({_one_line(error)}); write it again"
        ) from error
    return network.eval()


def network_metadata(path: Path) -> dict[str, str]:
    """Read the metadata that a network was saved with; raises InputError when the file is missing or no network."""
    return _read(Path(path), with_tensors=False)[0]["metadata"]


def network_blueprint(network: nn.Module, networks: Networks = NETWORKS) -> Blueprint:
    """Describe how to rebuild a network: {"network", "arguments", "leaves": [[path, type, arguments], ...]}.

    Raises InputError when the network is not registered or a leaf's type is not known.
    """
    name = type(network).__name__
    if networks.get(name) is not type(network):
        raise InputError(f"network {name!r}: not registered; save one of {', '.join(sorted(networks))}")
    leaves = [[path, *_describe_leaf(path, leaf)] for path, leaf in _leaves(network)]
    return {"network": name, "arguments": dict(network.arguments), "leaves": leaves}


def apply_blueprint(network: nn.Module, blueprint: Blueprint, where: str = "blueprint") -> None:
    """Give a network, in place, the leaves that the blueprint lists; leaves that already agree keep their weights.

    New leaves have freshly initialised weights. Raises InputError when the blueprint does not fit the network.
    """
    present = {path: _describe_leaf(path, leaf) for path, leaf in _leaves(network)}
    for path, kind, arguments in blueprint["leaves"]:
        if present.get(path) != (kind, arguments):
            _place(network, path, _build_leaf(path, kind, arguments, where), where)
    _drop_unlisted(network, {path for path, _, _ in blueprint["leaves"]})
    rebuilt = [[path, *_describe_leaf(path, leaf)] for path, leaf in _leaves(network)]
    if rebuilt != blueprint["leaves"]:
        raise InputError(f"{where}: its layers do not fit network {blueprint['network']!r}; save it again")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and values of contiguous CPU tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it; raises InputError when its folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"file {path}: cannot be written ({error.strerror}); give a folder that exists") from error
    finally:
        temporary.unlink(missing_ok=True)


def _leaf_types() -> dict[str, type[nn.Module]]:
    types = (
        nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Dropout2d, nn.MaxPool2d,
        nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity,
    )  # fmt: skip
    return {kind.__name__: kind for kind in types}


def _leaves(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in network.named_modules() if not any(module.children())]


def _describe_leaf(path: str, leaf: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name a leaf's type and its constructor's arguments, which torch's leaves keep as attributes of the same name."""
    kind = type(leaf).__name__
    if _leaf_types().get(kind) is not type(leaf):
        raise InputError(f"layer {path!r}: type {kind} cannot be saved; use one of {', '.join(sorted(_leaf_types()))}")
    names = inspect.signature(type(leaf).__init__).parameters.keys() - _NOT_AN_ARGUMENT - {"args", "kwargs"}
    arguments = {name: getattr(leaf, name) for name in sorted(names)}
    if "bias" in arguments:
        arguments["bias"] = leaf.bias is not None
    return kind, json.loads(json.dumps(arguments))


def _build_leaf(path: str, kind: str, arguments: dict[str, Any], where: str) -> nn.Module:
    if kind not in _leaf_types():
        raise InputError(f"{where}: layer {path!r} has the unknown type {kind!r}; use a file of this version")
    as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    try:
        return _leaf_types()[kind](**as_tuples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: layer {path!r} cannot be built ({_one_line(error)}); write it again") from error


def _place(network: nn.Module, path: str, leaf: nn.Module, where: str) -> None:
    """Put a leaf at its path; a leaf on the way gives way to a chain, a missing module on the way becomes one."""
    parent = network
    *folders, name = path.split(".")
    for folder in folders:
        child = parent._modules.get(folder)
        if child is None or not any(child.children()):
            if child is None and not isinstance(parent, nn.Sequential):
                raise InputError(f"{where}: layer {path!r} has no place in the network; use a file of this version")
            child = nn.Sequential()
            parent.register_module(folder, child)
        parent = child
    if name not in parent._modules and not isinstance(parent, nn.Sequential):
        raise InputError(f"{where}: layer {path!r} has no place in the network; use a file of this version")
    parent.register_module(name, leaf)


def _drop_unlisted(network: nn.Module, listed: set[str]) -> None:
    """Remove from chains what the blueprint does not list (a block that was removed)."""
    for path, module in list(network.named_modules()):
        if type(module) is not nn.Sequential:
            continue
        for name in list(module._modules):
            inside = f"{path}.{name}" if path else name
            if not any(leaf == inside or leaf.startswith(f"{inside}.") for leaf in listed):
                del module._modules[name]


def _rebuild(blueprint: Blueprint, networks: Networks, where: str) -> nn.Module:
    """Build a network without weights: its parameters are on the meta device until a state is assigned."""
    name, arguments = blueprint["network"], blueprint["arguments"]
    if name not in networks:
        raise InputError(f"{where}: network {name!r} is unknown; known are {', '.join(sorted(networks))}")
    with torch.device("meta"):
        try:
            network = networks[name](**arguments)
        except TypeError as error:
            raise InputError(
                f"{where}: network {name!r} cannot be built ({error}); use a file of this version"
            ) from error
        apply_blueprint(network, blueprint, where)
    return network


def _check_rebuilds(network: nn.Module, blueprint: Blueprint, networks: Networks) -> None:
    """Refuse now what would not load later."""
    where = f"network {blueprint['network']!r}"
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if len(names) != len(list(network.named_parameters())):
        raise InputError(f"{where}: two layers share a weight, which its file cannot express; untie them first")
    rebuilt = _rebuild(json.loads(json.dumps(blueprint)), networks, where).state_dict()
    state = network.state_dict()
    differing = [
        n
        for n in state.keys() | rebuilt.keys()
        if n not in state or n not in rebuilt or state[n].shape != rebuilt[n].shape
    ]
    if differing:
        raise InputError(
            f"{where}: {min(differing)!r} has another shape than its layer says; set the layer's sizes too"
        )


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"network file {path}: does not exist; give a file that save_network wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            checksum, text = (file.metadata() or {})[_METADATA_KEY].split(" ", 1)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(
            f"network file {path}: truncated or no network file ({_one_line(error)}); write it again"
        ) from error
    if _text_sha256(text) != checksum:
        raise InputError(f"network file {path}: its header was altered; write it again")
    header = json.loads(text)
    if header["format"] != _FORMAT:
        raise InputError(f"network file {path}: format {header['format']}, not {_FORMAT}; write it with this version")
    return header, tensors


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
