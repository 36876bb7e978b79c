"""ExpandNets against the compact network that they contract to: both at tuned learning rates, and what contracting costs."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from benchmarks.results import markdown_table
from benchmarks.tables.plans import settings_of
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.shrinking import Arm, Task, finished, open_task, score_percent, train_arm, verdict
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from perception.compression.cost import count_parameters
from perception.compression.expansion import Kind, contract_network, expand_network, linearise
from perception.errors import InputError
from perception.metrics.differences import paired_difference
from perception.models.small import SmallNet
from perception.training.setup import seeded

TABLE_SIZES = ("small", "medium", "full")
SETTINGS = settings_of("expand")
RATE = 4  # of expansion
KINDS: dict[str, tuple[Kind, ...]] = {"compact": (), "ck": ("CK",), "ck_fc": ("CK", "FC"), "ck_init": ("CK",)}
ARMS = {"compact": "compact", "ck": "CK", "ck_fc": "CK + FC", "ck_init": "CK + Init"}
SWEPT = ("compact", "ck")  # the rate of CK serves its variants


def cells(request: Request) -> list[Cell]:
    task = open_task(request)
    if task.score != "accuracy":
        raise InputError("table expand wants images with one label each: CIFAR-10 or Fashion-MNIST as DATA")
    settings = SETTINGS[request.size]
    common = {name: settings[name] for name in ("epochs", "batch_frames", "kernel")} | {"expansion": RATE}
    make = functools.partial(_trained, task=task, request=request)
    swept = [
        Cell(
            name=f"{arm}_lr{rate:g}_{seed}",
            compute=functools.partial(make, arm=arm, seed=seed, rate=rate),
            settings=common,
        )
        for seed in range(request.seeds)
        for arm in SWEPT
        for rate in settings["rates"]
    ]
    variants = [
        Cell(
            name=f"{arm}_{seed}",
            compute=functools.partial(make, arm=arm, seed=seed),
            settings=common | {"rates": settings["rates"]},
            needs=tuple(cell.name for cell in swept if cell.name.startswith("ck_lr")),
        )
        for seed in range(request.seeds)
        for arm in ARMS
        if arm not in SWEPT
    ]
    return swept + variants


def best_rate(results: Mapping[str, Found], arm: str, request: Request) -> float:
    """Give the learning rate of the best mean, of the arm or of the one it is a variant of.

    The mean is over the seeds that have been trained at every rate.
    """
    rates, swept = SETTINGS[request.size]["rates"], arm if arm in SWEPT else "ck"
    seeds = [seed for seed in range(request.seeds) if all(f"{swept}_lr{rate:g}_{seed}" in results for rate in rates)]
    if not seeds:
        raise InputError(f"table expand: {swept} has not been trained at every learning rate; give it more MINUTES")
    return max(rates, key=lambda rate: sum(_scores(results, f"{swept}_lr{rate:g}", seeds)))


def _scores(results: Mapping[str, Found], arm: str, seeds: Iterable[int]) -> list[float]:
    return [float(results[f"{arm}_{seed}"]["score_percent"]) for seed in seeds if f"{arm}_{seed}" in results]


def _trained(
    before: Mapping[str, Found], *, arm: str, seed: int, task: Task, request: Request, rate: float | None = None
) -> Found:
    settings = SETTINGS[request.size]
    task = dataclasses.replace(task, batch_frames=settings["batch_frames"])
    rate = best_rate(before, arm, request) if rate is None else rate
    network = _network(task, arm, seed, settings["kernel"])
    options: dict[str, Any] = {"learning_rate": rate, "seed": seed, "optimiser": "sgd"}
    seconds = 0.0
    if arm == "ck_init":  # half of the epochs go to the nonlinear network, so that the arm costs no more
        half = settings["epochs"] // 2
        seconds = train_arm(task, network, request, epochs=half, **options)["train_seconds"]
        network = linearise(network)
        options["epochs"] = settings["epochs"] - half
    found = train_arm(task, network, request, **{"epochs": settings["epochs"], **options})
    found["train_seconds"] += seconds
    return found | {"rate": rate} | _contracted(task, network, request.device)


def _network(task: Task, arm: str, seed: int, kernel: int) -> nn.Module:
    channels, side, _ = task.shape
    # The compact network's weights come first from the seed, so that arms share them where they share layers.
    build = functools.partial(SmallNet, task.classes, kernel=kernel, in_channels=channels, image_px=side)
    if arm == "compact":
        return seeded(build, seed)
    kinds, nonlinear = KINDS[arm], arm == "ck_init"
    return seeded(
        lambda: expand_network(build(), RATE, kinds=kinds, nonlinear=nonlinear, image_channels=channels), seed
    )


def _contracted(task: Task, network: nn.Module, device: str) -> Found:
    """Contract, and say what that changed."""
    # On the processor: a GPU multiplies float32 with a shorter mantissa, which would be taken for an error.
    result = contract_network(network.eval().cpu())
    return {
        "contracted_score_percent": score_percent(task, result.network.to(device), device),
        "contracted_parameters": count_parameters(result.network),
        "contraction_error": result.max_abs_error,
    }


def _at_best(results: Mapping[str, Found], arm: str, request: Request) -> str:
    """Name an arm's cells at its best learning rate, without the seed."""
    return f"{arm}_lr{best_rate(results, arm, request):g}" if arm in SWEPT else arm


def report(request: Request, results: Mapping[str, Found]) -> Report:
    task, settings = open_task(request), SETTINGS[request.size]
    best = {arm: _at_best(results, arm, request) for arm in ARMS}
    seeds = [seed for seed in range(request.seeds) if all(f"{best[arm]}_{seed}" in results for arm in SWEPT)]
    if not seeds:
        raise InputError("table expand: no seed has both arms at their best learning rates; give it more MINUTES")
    arms = {arm: Arm(ARMS[arm], [results[f"{best[arm]}_{seed}"] for seed in seeds]) for arm in SWEPT}
    arms |= {name: arm for name, arm in finished(ARMS, results, seeds).items() if name not in SWEPT}
    compact = arms["compact"].scores
    rows, figures = [], {}
    for name, arm in arms.items():
        first, gap = arm.found[0], "" if name == "compact" else paired_difference(arm.scores, compact).words()
        error, seconds = max(each["contraction_error"] for each in arm.found), f"{arm.mean('train_seconds'):.0f}"
        sizes = [f"{first[size]:,}" for size in ("parameters", "contracted_parameters")]
        row = [arm.about, f"{first['rate']:g}", mean_and_spread(arm.scores), gap, f"{arm.mean('loss'):.3f}", *sizes]
        rows.append([*row, f"{error:.1e}", seconds])
        shown = ("score_percent", "contracted_score_percent", "loss", "train_seconds", "contraction_error")
        figures[name] = arm.values(*shown) | {"rate": first["rate"]}
    header = ["arm", "lr", "accuracy, %", "to compact, points", "last loss", "trained parameters", "shipped", "error"]
    table = markdown_table([*header, "train s"], rows)
    rates = [f"{rate:g}" for rate in settings["rates"]]
    sweep = {
        ARMS[arm]: {head: _scores(results, f"{arm}_lr{head}", range(request.seeds)) for head in rates} for arm in SWEPT
    }
    shown = markdown_table(
        ["accuracy at lr", *rates], [[about, *map(mean_and_spread, scores.values())] for about, scores in sweep.items()]
    )
    moved = max(
        abs(each["score_percent"] - each["contracted_score_percent"]) for arm in arms.values() for each in arm.found
    )
    text = (
        f"SmallNet, kernel {settings['kernel']}, expansion rate {RATE}; {len(task.train):,} images, "
        f"{settings['epochs']} epochs of batches of {settings['batch_frames']}, SGD with momentum and a cosine, "
        f"{count_of_seeds(len(seeds))}. Compact and CK each get their own best learning rate, by the mean over whole seeds; the "
        "variants of CK get CK's. The paper's +1.6 points for CK are an end point after 150 epochs on all of CIFAR-10. "
        "CK + Init spends half of the epochs on the nonlinear network.\n\n"
        f"{table}\n\n{shown}\n\n{_verdicts(figures)}\n\nContracting moved no accuracy by more than {moved:.2f} points."
    )
    return Report(title="ExpandNets", body=text, figures=figures | {"sweep": sweep}, plot=_plot(figures, sweep))


def _verdicts(figures: dict[str, Any]) -> str:
    gain = paired_difference(figures["ck"]["score_percent"], figures["compact"]["score_percent"])
    return verdict([(gain.mean > 0, f"CK is {gain.words()} points from the compact network, both at their best rates")])


def _plot(figures: dict[str, Any], sweep: dict[str, dict[str, list[float]]]) -> Figure:
    figure = Figure(figsize=(8, 3.5))
    left, right = figure.subplots(1, 2)
    for about, scores in sweep.items():
        means, spreads = ([measure(each) for each in scores.values()] for measure in (np.mean, np.std))
        left.errorbar([float(rate) for rate in scores], means, spreads, fmt="o-", label=about)
    left.set_xscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel("accuracy, %")
    left.legend()
    for position, each in enumerate(figures.values()):
        right.plot([position] * len(each["score_percent"]), each["score_percent"], "o")
    right.set_xticks(range(len(figures)), [ARMS[arm] for arm in figures])
    right.set_xlabel("every seed, at the best rate")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
