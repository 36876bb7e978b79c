"""Pruned while it learns, against networks of the same cost: who keeps the accuracy, and what it buys in milliseconds."""

import functools
from collections.abc import Collection, Mapping
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
    network_for,
    open_task,
    scatter,
    structured,
    structures_latency_ms,
    torch_pruning_hooks,
    train_arm,
    training_options,
    verdict,
)  # fmt: skip
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.metrics.differences import Difference, paired_difference
from perception.training.setup import seeded

TABLE_SIZES = ("small", "medium", "full")
SETTINGS = settings_of("prune")
SPREAD = ("first_reload", "spread_target")
MULTIPLE = 8  # of channels
LOST_POINTS = 0.5  # that may be lost at most, to the dense network and to the peer
ARMS = {
    "dense": "dense",
    "ours": "group lasso, pruned while it learns",
    "scratch": "the same structure from scratch",
    "spread": "group lasso, in two steps, by shares",
    "peer": "Torch-Pruning, group norm",
    "narrow": "uniform narrowing, from scratch",
}


def cells(request: Request) -> list[Cell]:
    task = open_task(request)
    settings = SETTINGS[task.score][request.size]
    make = functools.partial(_trained, task=task, request=request, settings=settings)
    after, latency = {"scratch": "ours", "narrow": "ours"}, functools.partial(_latency, task=task)
    return arm_cells(request, ARMS, make, lambda arm: _of_arm(arm, settings), after, latency)


def _of_arm(arm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give what an arm depends on."""
    if arm == "dense":
        return training_options(settings)
    return {name: value for name, value in settings.items() if arm == "spread" or name not in SPREAD}


def _trained(
    before: Mapping[str, Found], *, arm: str, seed: int, task: Task, request: Request, settings: dict[str, Any]
) -> Found:
    network, hooks, raised = _arm(before, arm, seed, task, settings)
    found = train_arm(task, network, request, seed=seed, **training_options(settings), **hooks)
    return found | {"raised": raised}


def _arm(
    before: Mapping[str, Found], arm: str, seed: int, task: Task, settings: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """Build the network of an arm, the hooks that it trains with, and a list for errors of the peer."""
    if arm == "scratch":
        return structured(lambda: network_for(task), before[f"ours_{seed}"]["leaves"], seed + 1000), {}, []
    if arm == "narrow":
        width = _narrow_width(task, before[f"ours_{seed}"]["parameters"])
        return seeded(lambda: network_for(task, width), seed), {}, []
    network = seeded(lambda: network_for(task), seed)
    if arm in ("ours", "spread"):
        reloads = ("first_reload", "prune_epoch") if arm == "spread" else ("prune_epoch",)
        shrink = ShrinkSettings(
            strength_share=settings["press"],
            reload_epochs=tuple(settings[name] for name in reloads),
            multiple_of=MULTIPLE,
            **settings["target" if arm == "ours" else "spread_target"],
        )
        hooks = CompressionAwareTraining(network, task.example, settings["learning_rate"], shrink)
        return network, {"after_epoch": hooks.after_epoch}, []
    if arm == "peer":
        last = [module for module in network.modules() if not any(module.children())][-1]
        ratio, epoch = settings["peer_ratio"], settings["prune_epoch"]
        step, epoch, raised = torch_pruning_hooks(
            network, task, ratio=ratio, epoch=epoch, multiple_of=MULTIPLE, outputs=[last]
        )
        return network, {"after_step": step, "after_epoch": epoch}, raised
    return network, {}, []


def _narrow_width(task: Task, parameters: int) -> float:
    """Give the largest width, in 64ths, of a uniformly narrowed network with at most so many parameters."""
    for step in range(63, 10, -1):
        if sum(p.numel() for p in network_for(task, step / 64).parameters()) <= parameters:
            return step / 64
    return 11 / 64


def _latency(before: Mapping[str, Found], *, task: Task) -> Found:
    """Measure all arms side by side, those of one structure by seed 0 alone."""
    names = [name for name in before if not name.startswith(("dense", "narrow")) or name.endswith("_0")]
    return structures_latency_ms(task, before, names)


def report(request: Request, results: Mapping[str, Found]) -> Report:
    task, seeds, times = open_task(request), range(request.seeds), results["latency"]
    arms = finished(ARMS, results, seeds)
    figures = {
        name: arm.values("score_percent", "parameters", "macs", "train_seconds")
        | {"latency_ms": [times.get(f"{name}_{seed}", times[f"{name}_0"]) for seed in seeds]}
        for name, arm in arms.items()
    }
    columns = {
        "parameters": lambda name: f"{arms[name].mean('parameters'):,.0f}",
        "gone, %": lambda name: f"{arms[name].less('parameters', arms['dense']):.1f}",
        "MMAC": lambda name: f"{arms[name].mean('macs') / 1e6:.2f}",
        "ms a frame": lambda name: mean_and_spread(figures[name]["latency_ms"], 3),
        "train s": lambda name: f"{arms[name].mean('train_seconds'):.0f}",
    }
    table = arms_table(task, arms, "dense", columns)
    body = f"{_set_up(request, task, figures)}\n\n{table}\n\n{_verdicts(figures, results)}"
    points = {ARMS[arm]: (each["latency_ms"], each["score_percent"]) for arm, each in figures.items()}
    plot = scatter(task, "ms a frame, onnxruntime, one thread", points)
    return Report(title="Joint train and prune", body=body, figures=figures, plot=plot)


def _set_up(request: Request, task: Task, arms: Collection[str]) -> str:
    settings = SETTINGS[task.score][request.size]
    steps = f"after {settings['first_reload'] + 1} epochs, and then"
    says = {
        "ours": f"ours to {_words(settings['target'])}",
        "spread": f"in two steps ({steps}) to {_words(settings['spread_target'])}",
        "peer": f"the peer by a ratio of {settings['peer_ratio']:g}",
    }
    return (
        f"{len(task.train):,} frames to learn from, {len(task.test):,} to test, {count_of_seeds(request.seeds)}, "
        f"{settings['epochs']} epochs for every arm, Adam {settings['learning_rate']:g} with a cosine. Ours and the peer "
        f"press for {settings['prune_epoch'] + 1} epochs, prune, and learn on; "
        f"{', '.join(text for arm, text in says.items() if arm in arms)}, in multiples of {MULTIPLE} channels. Latency: "
        "onnxruntime, one thread, all arms taking turns. Means ± standard deviation over seeds; gaps are paired, with a "
        "95 % interval. Training seconds are the processor's, or the clock's where a GPU trains."
    )


def _words(target: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in target.items())


def _verdicts(figures: dict[str, Any], results: Mapping[str, Found]) -> str:
    raised = sorted({error for found in results.values() for error in found.get("raised", [])})
    return verdict(claims(figures)) + "".join(
        f"\n- Torch-Pruning's regularize() fails on this network ({error}); it prunes without pressing"
        for error in raised
    )


def claims(figures: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return what the arms are held to; a difference counts by the end of its 95 % interval, so one seed shows none."""
    lines = [line for arm in ("ours", "spread") if arm in figures for line in _claims_of(arm, figures)]
    if "scratch" in figures:
        behind = _ahead(figures, "scratch", "ours")
        words = f"from scratch the same structure is {behind.words()} points from the pruned network"
        lines.append((behind.high < 0, words))
    return lines


def _claims_of(arm: str, figures: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Hold one of our arms to the dense network and, where it has been trained, to the peer."""
    mean = {
        each: {name: sum(values) / len(values) for name, values in kinds.items()} for each, kinds in figures.items()
    }
    ours, dense, name = mean[arm], mean["dense"], f"{ARMS[arm]}: "
    gone, saved = (1 - ours[kind] / dense[kind] for kind in ("parameters", "train_seconds"))
    gap = _ahead(figures, arm, "dense")
    kept, at = gap.low >= -LOST_POINTS, f"at {gap.words()} points (at most {LOST_POINTS:g} lost)"
    found = [
        (gone >= 0.6 and kept, f"{name}{gone:.0%} of the parameters are gone {at}"),
        (saved >= 0.4 and kept, f"{name}it trains in {saved:.0%} less time than the dense network {at}"),
    ]
    if "peer" in mean:
        ours_ms, peer_ms, ahead = ours["latency_ms"], mean["peer"]["latency_ms"], _ahead(figures, arm, "peer")
        line = f"{name}{ours_ms:.3f} ms against Torch-Pruning's {peer_ms:.3f} ms, {ahead.words()} points from it"
        found.append((ours_ms <= peer_ms and ahead.low >= -LOST_POINTS, line))
    return found


def _ahead(figures: Mapping[str, Any], arm: str, other: str) -> Difference:
    return paired_difference(figures[arm]["score_percent"], figures[other]["score_percent"])
