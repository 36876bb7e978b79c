"""Keep a network's encoder as it is while the rest learns."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from perception.errors import InputError


class FrozenEncoder(nn.Module):
    """Describe images as the encoder inside does: without gradients, by its running statistics, in whatever mode."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.train()

    def train(self, _mode: bool = True) -> Self:
        """Leave everything inside in evaluation mode."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> Any:
        """Return what the encoder gives."""
        with torch.no_grad():
            return self.encoder(images)


def freeze_encoder(network: nn.Module) -> None:
    """Freeze the `encoder` of a network in place, so that a training changes the rest alone, and faster.

    Raises InputError for a network that has none which is called as a whole.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module) or type(encoder).forward is nn.Module.forward:
        raise InputError(
            f"network {type(network).__name__}: has no module `encoder` with a forward of its own, which could be frozen; "
            "give it one, or train the whole network (compare.trained: network)"
        )
    network.encoder = FrozenEncoder(encoder)
