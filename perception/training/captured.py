"""Replay a gradient step as one CUDA graph, so that small networks do not wait for their kernels to be launched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_EAGER_STEPS = 3  # that find the fastest kernels and make the optimiser's state, before a step can be recorded


class CapturedStep:
    """Make gradient steps, the first ones one kernel at a time, the later ones as a recorded graph.

    step: makes one gradient step for a batch on the device and returns its loss, detached, without asking the device
    for a value: nothing in it may depend on the batch's values but through tensors. A batch of another shape than the
    first is met by a step without the graph; parameters that were replaced, by a new recording.
    Source: whole-network capture, "CUDA Graphs" in PyTorch's notes on CUDA semantics.
    """

    def __init__(self, network: nn.Module, step: Callable[[Any], Tensor]) -> None:
        self._network, self._step = network, step
        self._stream = torch.cuda.Stream()
        self._places: list[int] = []  # of the parameters in memory, which a recording is bound to
        self._forget()

    def _forget(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._shapes: list[Any] = []  # of the batches that are recorded
        self._batch: Any = None
        self._loss: Tensor | None = None
        self._done = 0

    def __call__(self, batch: Any) -> Tensor:
        """Make one gradient step; the returned loss is overwritten by the next call."""
        parts, places = (
            list(tensors_of(batch).values()),
            [parameter.data_ptr() for parameter in self._network.parameters()],
        )
        if places != self._places:
            self._forget()
            self._places = places
        shapes = [(part.shape, part.dtype) for part in parts]
        if not self._shapes:
            self._shapes = shapes
        if shapes != self._shapes or self._done < _EAGER_STEPS:
            return self._eager(batch)
        if self._graph is None:
            self._record(batch)
        for kept, part in zip(tensors_of(self._batch).values(), parts, strict=True):
            kept.copy_(part, non_blocking=True)
        assert self._graph is not None and self._loss is not None
        self._graph.replay()
        return self._loss

    def _eager(self, batch: Any) -> Tensor:
        """Make a step on a stream of its own, as what precedes a recording must be."""
        self._done += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, batch: Any) -> None:
        parts = {name: value.clone() for name, value in tensors_of(batch).items()}
        self._batch = dataclasses.replace(batch, **parts)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._loss = self._step(self._batch)
        self._graph = graph


def tensors_of(batch: Any) -> dict[str, Tensor]:
    """Return a batch's tensors by the names of its fields."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
