"""Duel: the proximal group-lasso step on ERFNet, ours against Torch-Pruning's regularize().

Work: one step over all prunable groups of ERFNet at full width. Torch-Pruning cannot follow ERFNet's down-samplers
(they concatenate pooled copies of their input) and its regularize() reads transposed convolutions along the wrong
dimension, so both get a network with plain convolutions there; ours is timed on the unmodified network too. The
training step that the bar refers to is SGD on 4 frames of 128x256. The limit is reading and writing every weight
once. Rounds alternate; the least time of each counts. The last line is JSON.
"""

import copy
from collections.abc import Callable
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.models.erfnet import ERFNet
from perception.sparsity.groups import Groups, find_groups
from perception.sparsity.proximal import calibrate_strength, proximal_step, zero_neurons

BAR_STEP_SHARE = 0.01
FRAMES, HEIGHT, WIDTH, CLASSES = 4, 128, 256, 19


@click.command()
@click.option("--rounds", default=7)
@click.option("--threads", default=1)
def duel(rounds: int, threads: int) -> int:
    """Take the proximal group-lasso step of ERFNet, against Torch-Pruning."""
    import torch_pruning

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 64, 128)
    unmodified, plain = ERFNet(CLASSES), plain_samplers(ERFNet(CLASSES))
    _assert_exact_zeros(plain, example)
    importance = torch_pruning.importance.GroupMagnitudeImportance()
    pruner = torch_pruning.pruner.GroupNormPruner(plain, example, importance, ignored_layers=[plain.classifier])
    groups = {"ours": find_groups(plain, example), "unmodified": find_groups(unmodified, example)}
    _gradients(plain)
    runs: dict[str, Callable[[], object]] = {name: _step(found) for name, found in groups.items()}
    runs |= {"peer": lambda: pruner.regularize(plain), "limit": _read_and_write(unmodified)}
    seconds = least_seconds(runs, rounds, warm_rounds=1)
    seconds |= least_seconds({"sgd_step": _sgd_step(unmodified)}, 3, warm_rounds=1)
    return finish(_report(seconds, _peer_on_unmodified(torch_pruning, example)))


def plain_samplers(network: ERFNet, width: float = 1.0) -> ERFNet:
    """Exchange what the peer cannot follow for plain convolutions of the same widths."""
    for part, name, inputs, outputs in [
        (network.encoder, "downsample_1", 3, 16 * width), (network.encoder, "downsample_2", 16 * width, 64 * width),
        (network.encoder, "downsample_8", 64 * width, 128 * width), (network.decoder, "upsample_17", 128 * width, 64 * width),
        (network.decoder, "upsample_20", 64 * width, 16 * width),
    ]:  # fmt: skip
        up = part is network.decoder
        conv = nn.Conv2d(int(inputs), int(outputs), 3, stride=1 if up else 2, padding=1)
        first = [nn.Upsample(scale_factor=2)] if up else []
        setattr(part, name, nn.Sequential(*first, conv, nn.BatchNorm2d(int(outputs)), nn.ReLU()))
    return network


def _assert_exact_zeros(network: nn.Module, example: torch.Tensor) -> None:
    network = copy.deepcopy(network)
    groups = find_groups(network, example)
    proximal_step(groups, 1.0, 1e3)
    assert bool(zero_neurons(groups).all()), "a step above every norm must leave exact zeros"


def _step(groups: Groups) -> Callable[[], None]:
    strength = calibrate_strength(groups, groups.network, 0.01, 1e-6)
    return lambda: proximal_step(groups, 0.01, strength)


def _gradients(network: nn.Module) -> None:
    """Give every parameter a gradient, to which regularize() adds."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)


def _read_and_write(network: nn.Module) -> Callable[[], None]:
    flat = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    return lambda: flat.mul_(1.0)


def _sgd_step(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    images, labels = torch.rand(FRAMES, 3, HEIGHT, WIDTH), torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def _peer_on_unmodified(torch_pruning: Any, example: torch.Tensor) -> str:
    """Say what Torch-Pruning does with the network as it is."""
    network = ERFNet(CLASSES)
    _gradients(network)
    importance = torch_pruning.importance.GroupMagnitudeImportance()
    try:
        pruner = torch_pruning.pruner.GroupNormPruner(network, example, importance, ignored_layers=[network.classifier])
        pruner.regularize(network)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "works"


def _report(seconds: dict[str, float], peer_on_unmodified: str) -> dict[str, object]:
    share = seconds["unmodified"] / seconds["sgd_step"]
    return result(
        "proximal",
        ours=1e3 * seconds["ours"],
        peer=1e3 * seconds["peer"],
        limit_share=seconds["limit"] / seconds["unmodified"],
        passed=share <= BAR_STEP_SHARE,
        ours_unmodified=1e3 * seconds["unmodified"],
        peer_unmodified=peer_on_unmodified,
        sgd_step=1e3 * seconds["sgd_step"],
        share_of_sgd_step=share,
        share_bar=BAR_STEP_SHARE,
    )
