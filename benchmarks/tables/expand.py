"""ExpandNets against the compact network that they contract to: both at tuned learning rates, and what contracting costs."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.tables.results import Report, markdown_table
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.shrinking import Task, open_task, score_percent, seeded, train_arm
from benchmarks.tables.statistics import mean_and_spread
from perception.compression.expansion import Kind, contract_network, expand_network, linearise
from perception.errors import InputError
from perception.metrics.differences import paired_difference
from perception.models.small import SmallNet

ABOUT = "ExpandNets (CK, CK with FC, initialisation from the nonlinear network) against the compact network"
KERNEL, RATE = 5, 4
RATES = (0.003, 0.01, 0.03)
EPOCHS = {"small": 6, "full": 150}
KINDS: dict[str, tuple[Kind, ...]] = {"compact": (), "ck": ("CK",), "ck_fc": ("CK", "FC"), "ck_init": ("CK",)}
ARMS = {"compact": "compact", "ck": "CK", "ck_fc": "CK + FC", "ck_init": "CK + Init"}
SWEPT = ("compact", "ck")  # the rate of CK serves its variants


def cells(request: Request) -> list[Cell]:
    task = open_task(request)
    if task.score != "accuracy":
        raise InputError("table expand wants images with one label each: CIFAR-10 or Fashion-MNIST as DATA")
    settings = {"epochs": EPOCHS[request.size], "kernel": KERNEL, "rate": RATE}
    make = functools.partial(_trained, task=task, request=request)
    sweep = [
        Cell(
            name=f"{arm}_lr{rate:g}_0",
            compute=functools.partial(make, arm=arm, seed=0, rate=rate),
            settings=settings,
        )
        for arm in SWEPT
        for rate in RATES
    ]
    others = [
        Cell(name=f"{arm}_{seed}", compute=functools.partial(make, arm=arm, seed=seed), settings=settings)
        for seed in range(request.seeds)
        for arm in ARMS
        if seed > 0 or arm not in SWEPT
    ]
    return sweep + others


def best_rate(results: Mapping[str, Found], arm: str) -> float:
    """Give the learning rate that seed 0 liked best, of the arm or of the one it is a variant of."""
    swept = arm if arm in SWEPT else "ck"
    return max(RATES, key=lambda rate: float(results[f"{swept}_lr{rate:g}_0"]["score_percent"]))


def _trained(
    before: Mapping[str, Found], *, arm: str, seed: int, task: Task, request: Request, rate: float | None = None
) -> Found:
    rate = best_rate(before, arm) if rate is None else rate
    network = _network(task, arm, seed)
    options: dict[str, Any] = {"learning_rate": rate, "seed": seed, "optimiser": "sgd"}
    seconds = 0.0
    if arm == "ck_init":  # half of the epochs go to the nonlinear network, so that the arm costs no more
        half = EPOCHS[request.size] // 2
        seconds = train_arm(task, network, request, epochs=half, **options)["train_seconds"]
        network = linearise(network)
        options["epochs"] = EPOCHS[request.size] - half
    found = train_arm(task, network, request, **{"epochs": EPOCHS[request.size], **options})
    found["train_seconds"] += seconds
    return found | {"rate": rate} | _contracted(task, network)


def _network(task: Task, arm: str, seed: int) -> nn.Module:
    channels, side, _ = task.shape
    # The compact network's weights come first from the seed, so that arms share them where they share layers.
    build = functools.partial(SmallNet, task.classes, kernel=KERNEL, in_channels=channels, image_px=side)
    if arm == "compact":
        return seeded(build, seed)
    kinds, nonlinear = KINDS[arm], arm == "ck_init"
    return seeded(
        lambda: expand_network(build(), RATE, kinds=kinds, nonlinear=nonlinear, image_channels=channels), seed
    )


def _contracted(task: Task, network: nn.Module) -> Found:
    """Contract, and say what that changed: the score, and seconds a batch."""
    network.eval()
    result = contract_network(network)
    images = task.test.images[:64].float() / 255
    times = {"expanded_ms": _least_ms(network, images), "contracted_ms": _least_ms(result.network, images)}
    return {
        "contracted_score_percent": score_percent(task, result.network),
        "contracted_parameters": sum(p.numel() for p in result.network.parameters()),
        "contraction_error": result.max_abs_error,
        **times,
    }


@torch.inference_mode()
def _least_ms(network: nn.Module, images: torch.Tensor) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        network(images)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def _of_seed(results: Mapping[str, Found], arm: str, seed: int) -> Found:
    swept = seed == 0 and arm in SWEPT
    return results[f"{arm}_lr{best_rate(results, arm):g}_0" if swept else f"{arm}_{seed}"]


def report(request: Request, results: Mapping[str, Found]) -> Report:
    task, seeds = open_task(request), range(request.seeds)
    compact = [_of_seed(results, "compact", seed)["score_percent"] for seed in seeds]
    rows, figures = [], {}
    for arm, about in ARMS.items():
        found = [_of_seed(results, arm, seed) for seed in seeds]
        scores = [each["score_percent"] for each in found]
        mean = {name: sum(each[name] for each in found) / len(found) for name in ("loss", "train_seconds")}
        rows.append(
            [
                about,
                f"{found[0]['rate']:g}",
                mean_and_spread(scores),
                "" if arm == "compact" else paired_difference(scores, compact).words(),
                f"{mean['loss']:.3f}",
                f"{found[0]['parameters']:,}",
                f"{found[0]['contracted_parameters']:,}",
                f"{max(each['contraction_error'] for each in found):.1e}",
                f"{mean['train_seconds']:.0f}",
            ]
        )
        figures[arm] = {
            name: [each[name] for each in found]
            for name in ("score_percent", "contracted_score_percent", "loss", "train_seconds", "contraction_error")
        } | {"rate": found[0]["rate"]}
    header = ["arm", "lr", "accuracy, %", "to compact, points", "last loss", "trained parameters", "shipped", "error"]
    table = markdown_table([*header, "train s"], rows)
    sweep = [
        [ARMS[arm], *[f"{results[f'{arm}_lr{rate:g}_0']['score_percent']:.2f}" for rate in RATES]] for arm in SWEPT
    ]
    figures["sweep"] = {row[0]: row[1:] for row in sweep}
    shown = markdown_table(["seed 0, accuracy at lr", *[f"{rate:g}" for rate in RATES]], sweep)
    moved = max(
        abs(each["score_percent"] - each["contracted_score_percent"])
        for arm in ARMS
        for each in (_of_seed(results, arm, seed) for seed in seeds)
    )
    text = (
        f"SmallNet, kernel {KERNEL}, expansion rate {RATE}; {len(task.train):,} images, {EPOCHS[request.size]} epochs, "
        f"SGD with momentum and a cosine, {request.seeds} seeds. Both arms get their own best learning rate of seed 0. "
        "The paper's +1.6 points for CK are an end point after 150 epochs on all of CIFAR-10; this size shows how fast "
        "the arms learn. CK + Init spends half of the epochs on the nonlinear network.\n\n"
        f"{table}\n\n{shown}\n\nContracting moved no accuracy by more than {moved:.2f} points."
    )
    return Report(title="ExpandNets", body=text, figures=figures, plot=_plot(results, figures))


def _plot(results: Mapping[str, Found], figures: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 3.5))
    left, right = figure.subplots(1, 2)
    for arm in SWEPT:
        left.plot(RATES, [results[f"{arm}_lr{rate:g}_0"]["score_percent"] for rate in RATES], "o-", label=ARMS[arm])
    left.set_xscale("log")
    left.set_xlabel("learning rate, seed 0")
    left.set_ylabel("accuracy, %")
    left.legend()
    for position, arm in enumerate(ARMS):
        scores = figures[arm]["score_percent"]
        right.plot([position] * len(scores), scores, "o")
    right.set_xticks(range(len(ARMS)), list(ARMS.values()))
    right.set_xlabel("every seed, at the best rate")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
