"""The networks that a file can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from perception.errors import InputError
from perception.models.decomposed import Dec3, Dec8
from perception.models.erfnet import ERFNet
from perception.models.resnet import ResNet18
from perception.models.small import MLP, SmallNet

# Each is a class whose instances keep their constructor's arguments, as JSON values, in `arguments`.
NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {kind.__name__: kind for kind in (ERFNet, ResNet18, SmallNet, MLP, Dec3, Dec8)}
)


def build_network(name: str, *, seed: int, **arguments: Any) -> nn.Module:
    """Build a registered network whose initial weights depend on nothing but the seed.

    The global random state is left as it was. Raises InputError for an unknown name or unknown arguments.
    """
    if name not in NETWORKS:
        raise InputError(f"network {name!r}: unknown; use one of {', '.join(sorted(NETWORKS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return NETWORKS[name](**arguments)
        except TypeError as error:
            raise InputError(f"network {name!r}: {error}; give the arguments that its class takes") from error
