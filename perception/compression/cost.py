"""What a network costs to run: multiplications, parameters, and milliseconds measured side by side."""

import copy
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.compression.export import open_session, write_onnx
from perception.errors import InputError
from perception.models.modes import evaluation_mode

WARM_UP_TURNS = 3  # whose times are not counted


@dataclass(frozen=True)
class Latency:
    """Latency of one model at one batch size over `repeats` calls; spread_ms is the interquartile range."""

    model: str
    batch_frames: int
    median_ms: float
    spread_ms: float
    minimum_ms: float
    repeats: int


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Count multiply-accumulate operations of convolutions and matrix products for one frame.

    input_shape: (channel, height, width). The network is run once, on zeros and in eval mode.
    """
    parameter = next(network.parameters())
    with evaluation_mode(network), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    return int(counter.get_total_flops()) // 2


def count_parameters(network: nn.Module) -> int:
    """Count parameters, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def measure_latency_ms(
    models: Mapping[str, Path], *, batch_sizes: Sequence[int] = (1,), repeats: int = 20, threads: int = 1
) -> list[Latency]:
    """Measure ONNX files in onnxruntime on this CPU, one row a model and batch size.

    The models take turns call by call, in an order that rotates, so that a change of the machine's load meets all of
    them and ratios stay fair. Inputs are seeded random numbers of each model's own shape; a free height or width is
    not supported. Raises InputError for a missing file, a free size, or repeats below 1.
    """
    if repeats < 1 or not models or any(batch < 1 for batch in batch_sizes):
        raise InputError(f"repeats {repeats}, batch sizes {list(batch_sizes)}, {len(models)} models: each at least 1")
    missing = [str(path) for path in models.values() if not path.is_file()]
    if missing:
        raise InputError(f"no ONNX file at {missing[0]}: export the network first")
    sessions = {name: open_session(path, threads) for name, path in models.items()}
    rows = []
    for batch in batch_sizes:
        feeds = {name: _feed(name, session, batch) for name, session in sessions.items()}
        seconds = _interleaved(sessions, feeds, repeats)
        rows += [summarised(name, batch, seconds[name]) for name in sessions]
    return rows


def measure_layers(
    layers: Mapping[str, tuple[nn.Module, Tensor]], *, batch_frames: int = 1, repeats: int = 20
) -> list[Latency]:
    """Measure modules as measure_latency_ms does, each on the shape of its example; the modules are left alone."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in layers}
        for name, (layer, example) in layers.items():
            write_onnx(copy.deepcopy(layer).cpu().float().eval(), paths[name], example.cpu().float())
        return measure_latency_ms(paths, batch_sizes=(batch_frames,), repeats=repeats)


def _feed(name: str, session: onnxruntime.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    feed = {}
    for entry in session.get_inputs():
        free = [size for size in entry.shape[1:] if not isinstance(size, int)]
        if free:
            raise InputError(f"model {name}: input {entry.name} has a free size {free[0]}; export it at a fixed one")
        feed[entry.name] = generator.random((batch, *entry.shape[1:]), dtype=np.float32)
    return feed


def _interleaved(
    sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Mapping[str, dict[str, np.ndarray]], repeats: int
) -> dict[str, list[float]]:
    names = list(sessions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(WARM_UP_TURNS + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            sessions[name].run(None, feeds[name])
            if turn >= WARM_UP_TURNS:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarised(name: str, batch: int, seconds: list[float]) -> Latency:
    lower, median, upper = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return Latency(name, batch, 1e3 * median, 1e3 * (upper - lower), 1e3 * min(seconds), len(seconds))
