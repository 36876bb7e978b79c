"""Duel: an expanded layer against the layer that it contracts to: exactness, and milliseconds.

Work: a 3x3 convolution of 64 channels on 64x128, expanded at rate 4 (1x1, 3x3, 1x1). Outputs must agree to 1e-12 in
float64 and to 1e-5 in float32 before anything is timed. The peer of the speed is the expanded layer; the peer of the
folding itself is the tap-by-tap loop of the published code. The limit is a plain convolution of the same shape. Rounds
alternate; the least time of each counts. The last line is JSON.
"""

from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.compression.expansion import contract_layer, expand_layer

CHANNELS, HEIGHT, WIDTH, RATE = 64, 64, 128, 4


@click.command()
@click.option("--rounds", default=7)
@click.option("--threads", default=1)
def duel(rounds: int, threads: int) -> int:
    """Contract an expanded layer, against the expanded layer."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    compact = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    chain = expand_layer(compact, "CL", RATE).eval()
    errors = {str(dtype).split(".")[1]: _error(chain, dtype) for dtype in (torch.float64, torch.float32)}
    assert errors["float64"] < 1e-12 and errors["float32"] < 1e-5, errors
    chain.float()
    contracted = contract_layer(chain)
    assert torch.allclose(contracted.weight, _loop_fold(chain), atol=1e-5)
    x = torch.rand(1, CHANNELS, HEIGHT, WIDTH)
    runs: dict[str, Callable[[], object]] = {
        "contracted": lambda: contracted(x),
        "expanded": lambda: chain(x),
        "compact": lambda: compact(x),
        "fold": lambda: contract_layer(chain),
        "loop_fold": lambda: _loop_fold(chain),
    }
    with torch.no_grad():
        seconds = least_seconds(runs, rounds, warm_rounds=1)
    return finish(_report(seconds, errors))


@torch.no_grad()
def _error(chain: nn.Sequential, dtype: torch.dtype) -> float:
    chain.to(dtype)
    x = torch.randn(2, CHANNELS, 32, 32, dtype=dtype)
    return float((chain(x) - contract_layer(chain)(x)).abs().max())


@torch.no_grad()
def _loop_fold(chain: nn.Sequential) -> Tensor:
    """Fold 1x1, 3x3, 1x1 tap by tap, as published code does it."""
    first, middle, last = (link.weight for link in chain)
    folded = torch.zeros(last.shape[0], first.shape[1], 3, 3)
    for row in range(3):
        for column in range(3):
            folded[:, :, row, column] = last[:, :, 0, 0] @ middle[:, :, row, column] @ first[:, :, 0, 0]
    return folded


def _report(seconds: dict[str, float], errors: dict[str, float]) -> dict[str, object]:
    return result(
        "contraction",
        ours=1e3 * seconds["contracted"],
        peer=1e3 * seconds["expanded"],
        limit_share=seconds["compact"] / seconds["contracted"],
        max_abs_error_float64=errors["float64"],
        max_abs_error_float32=errors["float32"],
        fold_float64_ms=1e3 * seconds["fold"],
        loop_fold_float32_ms=1e3 * seconds["loop_fold"],
    )
