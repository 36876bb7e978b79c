"""Data-parallel training: every process takes a share of each batch and all end each step with the same weights.

Gradients are those of one process that sees the whole batch: losses are normalised over all processes, and batch
normalisation takes its statistics over all of them (on the CPU too, where torch's SyncBatchNorm does not work). What is
done with every frame once, such as counting, labelling and judging, is shared out by whole batches, so that each
frame's result is that of one process.
Without a process group every function here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import InputError

Value = TypeVar("Value")


def is_distributed() -> bool:
    """Tell whether a process group of more than one process is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Give this process's number, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Give the number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, over NCCL where each has a GPU, else gloo; do nothing without torchrun.

    Inside another process_group nothing is joined again; so one goes around all that a process does, since torch's second
    joining of the same processes waits for ever. Raises InputError when some but not all of torchrun's variables
    are set.
    """
    expected = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in expected if name in os.environ]
    if not present or (dist.is_available() and dist.is_initialized()):
        yield
        return
    if len(present) < len(expected):
        raise InputError(
            f"environment: {set(expected) - set(present)} missing beside {present}; start through torchrun"
        )
    own_gpu = device.startswith("cuda") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))
    dist.init_process_group("nccl" if own_gpu else "gloo")
    yield
    # Not after an error: the others would fail too, and say so before this process has said what it met.
    dist.destroy_process_group()


def own_share() -> slice:
    """Give the part of each training batch that is this process's."""
    return slice(rank(), None, world_size())


def own_frames(count: int, batch_frames: int = 1) -> list[int]:
    """Number the frames, of `count`, that this process does once: every so many-th batch of them in their order."""
    starts = range(rank() * batch_frames, count, world_size() * batch_frames)
    return [index for start in starts for index in range(start, min(start + batch_frames, count))]


def share_of_mean(total: Tensor, count: Tensor) -> Tensor:
    """Divide this process's sum so that the mean over processes is (sum of sums) / (sum of counts); 0 when none."""
    if is_distributed():
        count = count.detach().clone()
        dist.all_reduce(count)
        total = total * dist.get_world_size()
    return total / count.clamp_min(torch.finfo(total.dtype).tiny)


def broadcast_state(network: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if is_distributed():
        for tensor in network.state_dict().values():
            whole = tensor.contiguous()  # as messages are; weights may lie channels last
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes, in one message for each dtype.

    The same parameters must have a gradient in every process.
    """
    if not is_distributed():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a tensor over processes."""
    if not is_distributed():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def gather(value: Any) -> list[Any]:
    """Collect one value from every process, in the order of their ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def in_order(found: Iterable[tuple[int, Value]]) -> list[Value]:
    """Collect what every process found, as (number of the frame, value), and give the values in the order of the frames."""
    pairs = [pair for each in gather(list(found)) for pair in each]
    return [value for _, value in sorted(pairs, key=itemgetter(0))]


def sum_over_processes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add up integer counts of all processes; any shape, the same in each."""
    total: NDArray[np.int64] = np.sum(gather(counts), axis=0)
    return total


@contextmanager
def synchronised_batch_norm(network: nn.Module) -> Iterator[None]:
    """Let the network's batch normalisations, while in training mode, take their statistics over all processes."""
    if not is_distributed():
        yield
        return
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # The method is replaced and not the layer, so that types, parameters and the order of layers stay as they are.
    for layer in layers:
        layer.forward = partial(_batch_norm_over_processes, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _SumOverProcesses(torch.autograd.Function):
    """Add a tensor over processes; the gradient is added likewise, since every process's loss reads the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient.contiguous())


def _batch_norm_over_processes(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if not layer.training:
        return nn.BatchNorm2d.forward(layer, x)
    pixels = torch.full((1,), float(x.numel() // x.shape[1]), dtype=x.dtype, device=x.device)
    sums = _SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), pixels]))
    count, mean = sums[-1], sums[:-1] / sums[-1]
    centred = x - mean.view(1, -1, 1, 1)
    # The second pass over the data keeps the variance exact where the mean is large.
    variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
    _update_running_statistics(layer, mean.detach(), variance.detach() * count / (count - 1))
    y = centred * (variance + layer.eps).rsqrt().view(1, -1, 1, 1)
    if layer.affine:
        y = y * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    return y


@torch.no_grad()
def _update_running_statistics(layer: nn.BatchNorm2d, mean: Tensor, unbiased_variance: Tensor) -> None:
    running_mean, running_var, batches = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if running_mean is None or running_var is None or batches is None:
        return
    batches += 1
    momentum = 1 / float(batches) if layer.momentum is None else layer.momentum
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased_variance.to(running_var.dtype), momentum)
