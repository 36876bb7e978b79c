"""What a network does to colours before its first layer; part of it, so that it travels into every file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtract `mean` from every colour and divide by `scale`: three numbers each, on images in [0, 1]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (frame, 3, h, w) to the same shape."""
        return (images - self.mean) / self.scale
