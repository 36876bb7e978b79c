"""DecomposeMe: pairs of one-dimensional convolutions against the square ones that they stand for."""

import functools
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn

from benchmarks.tables.plans import settings_of
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.shrinking import (
    Task,
    arm_cells,
    arms_table,
    finished,
    latency_ms,
    open_task,
    scatter,
    train_arm,
    verdict,
)  # fmt: skip
from benchmarks.tables.statistics import count_of_seeds
from perception.errors import InputError
from perception.metrics.differences import paired_difference
from perception.models.decomposed import DecomposedConv
from perception.models.erfnet import ERFNet, NonBottleneck1D
from perception.training.setup import seeded

TABLE_SIZES = ("small", "medium", "full")
SETTINGS = settings_of("decompose")
KERNEL = 5
WIDTHS = {"small": (16, 32), "medium": (32, 64, 128), "full": (32, 64, 128)}  # of the classifier's layers, each pooled
ARMS = {"square": "square filters", "decomposed": "decomposed", "linear": "decomposed, no inner rectifier"}


class SquareBlock(nn.Module):
    """Stand for ERFNet's block with two square 3x3 convolutions in place of its four one-dimensional ones."""

    def __init__(self, block: NonBottleneck1D) -> None:
        super().__init__()
        channels, dilation = block.conv_3x1.out_channels, block.conv_3x1_dilated.dilation[0]
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_1, self.relu_1 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm_2, self.relu_2 = nn.BatchNorm2d(channels), nn.ReLU()

    def forward(self, x: Any) -> Any:
        """Map (frame, channel, h, w) to the same shape."""
        return self.relu_2(self.norm_2(self.conv_2(self.relu_1(self.norm_1(self.conv_1(x))))) + x)


def cells(request: Request) -> list[Cell]:
    task = open_task(request)
    settings = SETTINGS[task.score][request.size]
    make = functools.partial(_trained, task=task, request=request, settings=settings)
    return arm_cells(request, _arms(task), make, lambda _: settings, {}, lambda _: _latency(task))


def _arms(task: Task) -> dict[str, str]:
    return ARMS if task.score == "accuracy" else {name: ARMS[name] for name in ("square", "decomposed")}


def _network(task: Task, arm: str) -> nn.Module:
    if task.score == "mIoU":
        return _segmentation_network(task, arm)
    channels, height, _ = task.shape
    layers: list[nn.Module] = []
    widths = WIDTHS[task.size]
    for inputs, outputs in pairwise((channels, *widths)):
        if arm == "square":
            layers += [nn.Conv2d(inputs, outputs, KERNEL, padding=KERNEL // 2), nn.ReLU()]
        else:
            layers.append(DecomposedConv(inputs, outputs, KERNEL, inner_relu=arm == "decomposed"))
        layers += [nn.BatchNorm2d(outputs), nn.MaxPool2d(2)]
    side = height // 2 ** len(widths)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, task.classes))


def _segmentation_network(task: Task, arm: str) -> nn.Module:
    network = ERFNet(task.classes, width=0.5, dropout_quarter=0.0, dropout_eighth=0.0)
    if arm == "square":
        for part in (network.encoder, network.decoder):
            for name, block in list(part.named_children()):
                if isinstance(block, NonBottleneck1D):
                    setattr(part, name, SquareBlock(block))
    return network


def _trained(
    _: Mapping[str, Found], *, arm: str, seed: int, task: Task, request: Request, settings: dict[str, Any]
) -> Found:
    if request.data is None:
        raise InputError("table decompose wants DATA: a folder with Fashion-MNIST or CamVid, or CIFAR-10 as .npz")
    network = seeded(lambda: _network(task, arm), seed)
    return train_arm(task, network, request, seed=seed, **settings)


def _latency(task: Task) -> Found:
    return latency_ms(task, {arm: seeded(functools.partial(_network, task, arm), 0) for arm in _arms(task)})


def report(request: Request, results: Mapping[str, Found]) -> Report:
    task, latency = open_task(request), results["latency"]
    arms = finished(_arms(task), results, range(request.seeds))
    figures = {
        name: {"score_percent": arm.scores}
        | {size: arm.found[0][size] for size in ("parameters", "macs")}
        | {"latency_ms": latency[name]}
        for name, arm in arms.items()
    }
    columns = {
        "parameters": lambda name: f"{figures[name]['parameters']:,}",
        "MMAC": lambda name: f"{figures[name]['macs'] / 1e6:.2f}",
        "ms a frame": lambda name: f"{latency[name]:.3f}",
        "train s": lambda name: f"{arms[name].mean('train_seconds'):.0f}",
    }
    settings = SETTINGS[task.score][request.size]
    what = "ERFNet at half width, 3x3 blocks"
    if task.score == "accuracy":
        what = f"{KERNEL}x{KERNEL} layers of {', '.join(map(str, WIDTHS[task.size]))} channels"
    text = (
        f"{what}; {len(task.train):,} frames to learn from, {settings['epochs']} epochs, Adam "
        f"{settings['learning_rate']:g} with a cosine, {count_of_seeds(request.seeds)}. Latency: onnxruntime, one thread.\n\n"
        f"{arms_table(task, arms, 'square', columns)}\n\n{_verdicts(figures)}"
    )
    points = {
        f"{arm.about}, {figures[name]['parameters']:,} parameters": ([latency[name]] * len(arm.scores), arm.scores)
        for name, arm in arms.items()
    }
    plot = scatter(task, "ms a frame, onnxruntime, one thread", points)
    return Report(title="Filter decomposition", body=text, figures=figures, plot=plot)


def _verdicts(figures: dict[str, Any]) -> str:
    square, pair = figures["square"], figures["decomposed"]
    gap = paired_difference(pair["score_percent"], square["score_percent"])
    gone = 1 - pair["parameters"] / square["parameters"]
    faster = pair["latency_ms"] < square["latency_ms"]
    return verdict(
        [
            (gone > 0 and gap.mean >= -2, f"{gone:.0%} fewer parameters at {gap.words()} points (at most 2 lost)"),
            (faster, f"{pair['latency_ms']:.3f} ms against {square['latency_ms']:.3f} ms a frame"),
        ]
    )
