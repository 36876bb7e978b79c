"""Copy networks whose code is the user's."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from perception.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """Return a deep copy of a network; raises InputError with the layer for one that holds what cannot be copied.

    A pruning mask and a weight norm leave such a thing: a weight that torch computes anew before every call.
    """
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        held = [
            f"{name or type(network).__name__}.{attribute}"
            for name, module in network.named_modules()
            for attribute, value in vars(module).items()
            if not attribute.startswith("_") and not _can_be_copied(value)
        ]
        raise InputError(
            f"network {type(network).__name__} cannot be copied: {held[0] if held else str(error).splitlines()[0]} is computed "
            "or no plain value; make it part of the weights (torch.nn.utils.prune.remove, remove_weight_norm), or compute "
            "it in forward"
        ) from error


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except (RuntimeError, TypeError):
        return False
    return True
