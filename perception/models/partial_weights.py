"""Start a network, or a part of it, from the weights of a file that was made for another one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Say what became of a file's tensors."""

    taken: tuple[str, ...]  # names in the network that got the file's values
    left_out: tuple[str, ...]  # names in the file that did not fit, each with the reason
    untouched: tuple[str, ...]  # names in the network for which the file has nothing


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a PyTorch file, which is read without running its code.

    A state dict that lies under "state_dict", "model" or "network", and the prefix "module." of data-parallel training,
    are unwrapped. Raises InputError for a file that is missing or holds no state dict.
    """
    if not path.is_file():
        raise InputError(f"weights {path}: no such file; give a state dict (.safetensors, .pt, .pth)")
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parsers raise many types on broken files
        said = " ".join(str(error).split())[:200]
        raise InputError(f"weights {path}: cannot be read ({said}); give a state dict of tensors") from None
    for key in ("state_dict", "model", "network"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"weights {path}: holds no state dict; save network.state_dict()")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


@torch.no_grad()
def take_weights(part: nn.Module, state: dict[str, Tensor], prefix: str, source: str) -> Taken:
    """Copy the tensors whose name and shape fit into a part of a network, in place; the rest stays as it is.

    prefix: what the part's names begin with in a whole network, such as "encoder."; the file may have it or not. source
    names the file in messages. Raises InputError when not one tensor fits.
    """
    own = part.state_dict()
    taken, left_out = [], []
    for name, value in state.items():
        local = name.removeprefix(prefix)
        if local not in own:
            left_out.append(f"{name} (no such name)")
        elif own[local].shape != value.shape:
            left_out.append(f"{name} (shape {_shape(value)}, here {_shape(own[local])})")
        else:
            own[local].copy_(value)
            taken.append(local)
    if not taken:
        raise InputError(
            f"weights {source}: none of {len(state)} tensors fits by name and shape ({'; '.join(left_out[:3])}); "
            "give weights of the same architecture and width"
        )
    return Taken(taken=tuple(taken), left_out=tuple(left_out), untouched=tuple(sorted(set(own) - set(taken))))


def misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Say where a state dict is first not one of this network's structure, by name and shape; empty where it is one throughout."""
    own = network.state_dict()
    for name in sorted(own.keys() | state.keys()):
        shapes = [_shape(tensors[name]) if name in tensors else "missing" for tensors in (state, own)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]}, here {shapes[1]}"
    return ""


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
