"""A GPU that is none: tensors on it keep their values in the processor's memory and refuse what a real one refuses.

A tensor on another device than its neighbour, an index from there, numpy, and, while a step is recorded as a graph, whatever
asks the device for a value, depends on one for its shape or copies from the processor. What was recorded is replayed
operation by operation on the same memory, so that a number which Python held at the time is frozen, as it is in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

DEVICE, _INSIDE = "cuda:0", "meta"
_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default,
            torch.ops.aten._unsafe_index.Tensor, torch.ops.aten._index_put_impl_.default,
            torch.ops.aten._unsafe_index_put.default}  # fmt: skip
operations = [0]  # done on the device so far
_graphs: list[Graph] = []  # the one that is being recorded, if any


class OnDevice(torch.Tensor):
    """A tensor on the GPU that is none.

    To torch's own code it is on the device meta, which every build of torch knows; to Python's, on cuda.
    """

    held: torch.Tensor
    device = property(lambda _: torch.device(DEVICE))  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    is_meta = property(lambda _: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[OnDevice], held: torch.Tensor) -> OnDevice:
        """Put the values of a tensor of the processor on the device."""
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_INSIDE,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        made: torch.Tensor = OnDevice(self.held.clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def tolist(self) -> Any:
        """Copy the values to the processor and list them."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any) -> torch.Tensor:  # type: ignore[override]
        """Return values on the device, of this tensor's type."""
        return torch.tensor(data, dtype=self.dtype, device=DEVICE)

    def data_ptr(self) -> int:
        """Return where the values lie."""
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Intercept(TorchDispatchMode):
    """See the operations that make tensors on the device out of none."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}  # all memory is the processor's
    tensors = _tensors((args, kwargs))
    here = any(isinstance(each, OnDevice) for each in tensors)
    asked = kwargs.get("device")
    there = torch.device(asked).type != "cpu" if asked is not None else here
    if not here and not there:
        return func(*args, **kwargs)
    operations[0] += 1
    _refuse_mixtures(func, args, tensors)
    if _graphs:
        _refuse_while_recording(func, args, here, there)
    plain_args, plain_kwargs = _each(_plain, (args, kwargs))
    if asked is not None:
        plain_kwargs["device"] = "cpu"
    result = _graphs[-1].done(func, plain_args, plain_kwargs) if _graphs else func(*plain_args, **plain_kwargs)
    if not there or func is torch.ops.aten.copy_.default:
        return args[0] if func is torch.ops.aten.copy_.default else result
    return return_and_correct_aliasing(func, args, kwargs, _each(OnDevice, result))


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors of an operation's operands or results; torch's own pytree takes five times as long."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for each in value for tensor in _tensors(each)]


def _each(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return operands or results with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _each(function, each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([_each(function, each) for each in value])
    return value


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return what lies behind a tensor; a recording holds a number of the processor as it is now."""
    if isinstance(tensor, OnDevice):
        return tensor.held
    return tensor.clone() if _graphs else tensor


def _refuse_mixtures(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raise as CUDA does where operands lie apart; a single number of the processor may meet a tensor of the device."""
    if func in _COPIES:
        return
    if func in _INDEXED and isinstance(args[0], OnDevice):  # which may be indexed from anywhere
        tensors = [each for each in (args[0], *args[2:]) if isinstance(each, torch.Tensor)]
    apart = [each for each in tensors if not isinstance(each, OnDevice) and each.dim() > 0]
    if apart and len(apart) < len(tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {DEVICE} and cpu, in {func}")


def _refuse_while_recording(func: Any, args: Any, here: bool, there: bool) -> None:
    values = torch.Tag.data_dependent_output in func.tags
    shapes = torch.Tag.dynamic_output_shape in func.tags
    if func in _INDEXED:
        indices = [each for each in args[1] if each is not None]
        shapes = any(each.dtype in (torch.bool, torch.uint8) or not isinstance(each, OnDevice) for each in indices)
    crosses = func is torch.ops.aten._to_copy.default and here != there
    if func is torch.ops.aten.copy_.default:
        crosses = isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice)
    if values or shapes or crosses:
        raise RuntimeError(f"operation not permitted when stream is capturing: {func}")


class Graph:
    """Stands for a CUDA graph: what is done while it is recorded has no effect until it is replayed."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.replays = 0

    def done(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do an operation and keep it, with its operands and results."""
        self._remember((args, kwargs))  # all of it: not every operation says what it writes to
        result = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, result))
        return result

    def _remember(self, value: Any) -> None:
        for each in _tensors(value):
            whole = torch.empty(0, dtype=torch.uint8).set_(each.untyped_storage())  # type: ignore[call-overload]
            if whole.data_ptr() not in self._before:
                self._before[whole.data_ptr()] = (whole, whole.clone())

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is done, and undo it."""
        generator = torch.get_rng_state()
        _graphs.append(self)
        try:
            yield
        finally:
            _graphs.remove(self)
            for whole, before in self._before.values():
                whole.copy_(before)
            torch.set_rng_state(generator)

    def replay(self) -> None:
        """Do everything again, in the same places of memory."""
        self.replays += 1
        for func, args, kwargs, kept in self._operations:
            result = func(*args, **kwargs)
            for new, old in zip(_tensors(result), _tensors(kept), strict=True):
                if new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                    old.copy_(new)


def _unseen(function: Any, *given: Any, **named: Any) -> Any:
    """Call what cannot be looked into: the tracer of ONNX, which sees the processor's tensors alone."""
    with _disable_current_modes():
        return function(*given, **named)


class _Stream:
    def wait_stream(self, _other: Any) -> None:
        """Do nothing: all streams are one."""


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    """Give this process a GPU, cuda:0, that is none; yields the graphs as they are made."""
    graphs: list[Graph] = []

    def made() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    with monkeypatch.context() as patch:
        for name, value in {
            "is_available": lambda: True, "_lazy_init": lambda: None, "device_count": lambda: 1, "current_device": lambda: 0,
            "get_rng_state": lambda _device=None: torch.get_rng_state(), "manual_seed": lambda _seed: None,
            "set_rng_state": lambda state, _device=None: torch.set_rng_state(state), "set_device": lambda _device: None,
            "Stream": _Stream, "current_stream": _Stream, "stream": lambda _stream: nullcontext(), "CUDAGraph": made,
            "graph": lambda graph, stream: graph.recording(),  # noqa: ARG005
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.Tensor, "pin_memory", lambda self: self)
        patch.setattr(torch.onnx, "export", partial(_unseen, torch.onnx.export))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) copies where this sees it
        try:
            with _Intercept():
                yield graphs
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
