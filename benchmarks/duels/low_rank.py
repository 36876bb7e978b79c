"""Duel: a convolution factorised to a given error, ours against tensorly-torch's CP and Tucker, in milliseconds.

Work: a 3x3 convolution of 128 channels on 32x64 whose kernel is nearly of rank 24. Each peer decomposes it to a quarter
of its parameters; ours takes the smallest rank, low rank or separable, whose kernel error is not above the better
peer's, and keeps whichever is faster. All run in torch, take turns, and the least time of each counts. The limit is
the dense layer's time divided by the ratio of multiplications. The last line is JSON.
"""

import time
import warnings
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.compression.low_rank import factorise_layer

HEIGHT, WIDTH, TRUE_RANK, SHARE = 32, 64, 24, 0.25


@click.command()
@click.option("--rounds", default=9)
@click.option("--threads", default=1)
@click.option("--channels", default=128)
def duel(rounds: int, threads: int, channels: int) -> int:
    """Factorise a convolution to a given error, against tensorly-torch."""
    import tltorch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dense = _nearly_low_rank(channels).eval()
    peers, seconds_to_decompose, errors = {}, {}, {}
    for kind in ("cp", "tucker"):
        start = time.perf_counter()
        peers[kind] = tltorch.FactorizedConv.from_conv(
            dense, rank=SHARE, factorization=kind, implementation="factorized"
        ).eval()
        seconds_to_decompose[kind] = time.perf_counter() - start
        errors[kind] = _kernel_error(dense, peers[kind].weight.to_tensor().view_as(dense.weight))
    start = time.perf_counter()
    ours = {shape: _smallest_pair(dense, shape, min(errors.values())) for shape in ("low_rank", "separable")}
    seconds_to_decompose["ours"] = time.perf_counter() - start
    x = torch.rand(1, channels, HEIGHT, WIDTH)
    runs: dict[str, nn.Module] = {"dense": dense, **peers, **{shape: pair for shape, (pair, _) in ours.items()}}
    with torch.no_grad():
        calls = {name: _call(module, x) for name, module in runs.items()}
        seconds = least_seconds(calls, rounds, warm_rounds=1)
    return finish(_report(seconds, seconds_to_decompose, errors, ours, dense))


def _call(module: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: module(x)


@torch.no_grad()
def _nearly_low_rank(channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    low = torch.randn(channels, TRUE_RANK) @ torch.randn(TRUE_RANK, channels * 9)
    noise = torch.randn(channels, channels * 9)
    layer.weight.copy_((low / low.norm() + 0.1 * noise / noise.norm()).view_as(layer.weight))
    return layer


@torch.no_grad()
def _kernel_error(layer: nn.Conv2d, kernel: Tensor) -> float:
    return float((layer.weight - kernel).norm() / layer.weight.norm())


@torch.no_grad()
def _pair_kernel(pair: nn.Sequential, layer: nn.Conv2d) -> Tensor:
    """Give the kernel that a pair stands for, by its answer to single pixels."""
    pixels = torch.eye(layer.in_channels)[:, :, None, None]
    framed = torch.zeros(layer.in_channels, layer.in_channels, 5, 5)
    framed[:, :, 2:3, 2:3] = pixels
    answer = pair(framed) - pair(torch.zeros_like(framed))
    return answer[:, :, 1:4, 1:4].flip(2, 3).transpose(0, 1)


def _smallest_pair(layer: nn.Conv2d, shape: str, error: float) -> tuple[nn.Sequential, float]:
    """Give the pair of smallest rank whose kernel error is at most `error`, by bisection, and its error."""
    low, high = 1, layer.out_channels if shape == "low_rank" else 3 * layer.out_channels
    while low < high:
        middle = (low + high) // 2
        found = _kernel_error(layer, _pair_kernel(factorise_layer(layer, middle, shape), layer))  # type: ignore[arg-type]
        low, high = (low, middle) if found <= error else (middle + 1, high)
    pair = factorise_layer(layer, low, shape)  # type: ignore[arg-type]
    return pair.eval(), _kernel_error(layer, _pair_kernel(pair, layer))


def _report(
    seconds: dict[str, float],
    decompose: dict[str, float],
    errors: dict[str, float],
    ours: dict[str, tuple[nn.Sequential, float]],
    dense: nn.Conv2d,
) -> dict[str, object]:
    best, peer = min(ours, key=lambda shape: seconds[shape]), min(errors, key=lambda kind: seconds[kind])
    pair, error = ours[best]
    parameters = sum(p.numel() for p in pair.parameters())
    limit = seconds["dense"] * parameters / sum(p.numel() for p in dense.parameters())  # one map size: MACs as weights
    return result(
        "low_rank",
        ours=1e3 * seconds[best],
        peer=1e3 * seconds[peer],
        limit_share=limit / seconds[best],
        passed=error <= min(errors.values()),
        peer_kind=peer,
        dense=1e3 * seconds["dense"],
        shape=best,
        rank=pair[0].out_channels,
        milliseconds={name: 1e3 * value for name, value in seconds.items()},
        relative_error={"ours": error} | errors,
        seconds_to_decompose=decompose,
    )
