"""What is left of a residual branch that no longer computes anything: one number a channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClosedBranch(nn.Module):
    """Give a learnt constant per channel, `shift`: (channel,), whatever comes in.

    rank: the number of dimensions of what comes in and out; dim: its channel dimension. The output has size 1 in all
    others and broadcasts in the sum that it goes to. whole: give the constant at the input's full size, as a sum that
    writes into its first operand (`y += x`) needs it.
    """

    def __init__(self, channels: int, rank: int = 4, dim: int = 1, whole: bool = False) -> None:
        super().__init__()
        self.channels, self.rank, self.dim, self.whole = channels, rank, dim, whole
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of `rank` dimensions to (1, channel, 1, 1), or to its own shape where `whole`."""
        shift = self.shift.view([-1 if d == self.dim else 1 for d in range(self.rank)])
        # A copy: what goes out may be written into, and a view of a parameter asks for gradients even where none are kept.
        return (shift.expand_as(x) if self.whole else shift).clone()

    def extra_repr(self) -> str:
        """Name the arguments as torch's layers do."""
        return f"{self.channels}, rank={self.rank}, dim={self.dim}, whole={self.whole}"
