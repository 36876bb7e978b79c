"""Run a network in evaluation mode and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Give every module its own training or evaluation mode back afterwards, also after an error."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, without gradients, and give every module its mode back afterwards."""
    with modes_kept(network), torch.no_grad():
        network.eval()
        yield
