"""Exponential moving average of a network's weights while it trains."""

from __future__ import annotations

import torch
from torch import nn

from perception.errors import InputError


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, iteration: int) -> None:
    """Move the average, in place, by 1 - decay towards the network: weights and running statistics alike.

    In the first iterations the decay is at most (1 + iteration) / (10 + iteration), so that the initial weights are
    soon forgotten. Raises InputError when the two networks differ in shape.
    Source: Tarvainen, Valpola, "Mean teachers", NeurIPS 2017; the early decay as in TensorFlow's moving averages.
    """
    weight = 1 - min(decay, (1 + iteration) / (10 + iteration))
    averaged, latest = average.state_dict(), network.state_dict()
    shapes, latest_shapes = ({name: value.shape for name, value in state.items()} for state in (averaged, latest))
    for name in shapes | latest_shapes:
        if shapes.get(name) != latest_shapes.get(name):
            raise InputError(f"average: {name!r} differs in shape from the network's; remove the same channels in it")
    for name, value in averaged.items():
        if value.is_floating_point():
            value.lerp_(latest[name].to(value.dtype), weight)
        else:
            value.copy_(latest[name])
