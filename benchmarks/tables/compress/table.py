"""Compression while a network learns: reload epochs, low rank, and the same structure from scratch."""

import functools
from collections.abc import Mapping
from typing import Any

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
    train_arm,
    training_options,
    verdict,
)  # fmt: skip
from benchmarks.tables.statistics import count_of_seeds
from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.training.setup import seeded

TABLE_SIZES = ("small", "medium", "full")
SETTINGS = settings_of("compress")
RELOADS = {"early": 1 / 6, "half": 1 / 2, "late": 5 / 6}  # of the epochs
ARMS = {
    "dense": "dense",
    "early": "reload after a sixth",
    "half": "reload after a half",
    "scratch": "structure of the half's reload from scratch",
    "late": "reload after five sixths",
    "low_rank": "reload after a sixth, low rank too",
}


def cells(request: Request) -> list[Cell]:
    task = open_task(request)
    settings = SETTINGS[request.size]
    make = functools.partial(_trained, task=task, request=request, settings=settings)

    def of_arm(arm: str) -> dict[str, Any]:
        return training_options(settings) if arm == "dense" else settings

    return arm_cells(request, ARMS, make, of_arm, {"scratch": "half"}, functools.partial(_latency, task=task))


def _trained(
    before: Mapping[str, Found], *, arm: str, seed: int, task: Task, request: Request, settings: dict[str, Any]
) -> Found:
    options = {**training_options(settings), "seed": seed}
    if arm == "scratch":
        network = structured(lambda: network_for(task), before[f"half_{seed}"]["leaves"], seed + 1000)
        return train_arm(task, network, request, **options)
    network = seeded(lambda: network_for(task), seed)
    if arm == "dense":
        return train_arm(task, network, request, **options)
    low_rank = arm == "low_rank"
    reload_epoch = max(1, round(settings["epochs"] * RELOADS["early" if low_rank else arm])) - 1
    shrink = ShrinkSettings(
        strength_share=settings["press"],
        nuclear_share=0.2 if low_rank else 0.0,
        reload_epochs=(reload_epoch,),
        factorise_energy=settings["energy"] if low_rank else None,
        **settings["target"],
    )
    hooks = CompressionAwareTraining(network, task.example, settings["learning_rate"], shrink)
    found = train_arm(task, network, request, after_epoch=hooks.after_epoch, **options)
    record = hooks.records[reload_epoch]
    return found | {
        "reload_epoch": reload_epoch + 1,
        "neurons_zero_percent": record.neurons_zero,
        "ranks": {row.layer: row.rank for row in record.factorised if row.choice != "dense"},
    }


def _latency(before: Mapping[str, Found], *, task: Task) -> Found:
    """Measure seed 0 of every arm side by side."""
    names = [f"{arm}_0" for arm in ARMS if arm != "scratch" and f"{arm}_0" in before]
    return structures_latency_ms(task, before, names)


def report(request: Request, results: Mapping[str, Found]) -> Report:
    task, settings, arms = open_task(request), SETTINGS[request.size], finished(ARMS, results, range(request.seeds))
    dense, figures = arms["dense"], {}
    for name, arm in arms.items():
        figures[name] = arm.values("score_percent", "parameters", "macs", "train_seconds", "train_macs") | {
            "latency_ms": results["latency"]["half_0" if name == "scratch" else f"{name}_0"],
            "saved_percent": {each: arm.less(each, dense) for each in ("train_seconds", "train_macs")},
        }

    def saved(name: str, what: str) -> str:
        return "" if name == "dense" else f"{figures[name]['saved_percent'][what]:.0f}"

    columns = {
        "parameters": lambda name: f"{arms[name].mean('parameters'):,.0f}",
        "gone, %": lambda name: f"{arms[name].less('parameters', dense):.1f}",
        "ms a frame": lambda name: f"{figures[name]['latency_ms']:.3f}",
        "time saved, %": lambda name: saved(name, "train_seconds"),
        "MACs saved, %": lambda name: saved(name, "train_macs"),
    }
    target = ", ".join(f"{name} {value}" for name, value in settings["target"].items())
    text = (
        f"{len(task.train):,} frames to learn from, {settings['epochs']} epochs for every arm, Adam "
        f"{settings['learning_rate']:g} with a cosine, {count_of_seeds(request.seeds)}; reload to {target}; low rank keeps "
        f"{settings['energy']:.0%} of the nuclear norm. Saved "
        "are shares of the whole training: of its time (the processor's, or the clock's where a GPU trains, which small "
        "networks leave idle), the work of shrinking included, and of its multiplications. Latency: onnxruntime, one "
        f"thread.\n\n{arms_table(task, arms, 'dense', columns)}\n\n{_verdicts(figures)}"
    )
    points = {ARMS[arm]: (each["train_seconds"], each["score_percent"]) for arm, each in figures.items()}
    plot = scatter(task, "training, seconds", points)
    return Report(title="Compression-aware training", body=text, figures=figures, plot=plot)


def _verdicts(figures: dict[str, Any]) -> str:
    mean = {arm: sum(each["score_percent"]) / len(each["score_percent"]) for arm, each in figures.items()}
    saved, gap = figures["early"]["saved_percent"], mean["early"] - mean["dense"]
    text = (
        f"an early reload saves {saved['train_seconds']:.0f} % of the training's time "
        f"({saved['train_macs']:.0f} % of its multiplications) at {gap:+.2f} points"
    )
    lines = [(saved["train_seconds"] >= 40 and gap >= -0.5, text)]
    if "scratch" in mean:
        gain = mean["half"] - mean["scratch"]
        lines.append((gain > 0, f"the same structure from scratch is {-gain:+.2f} points from the reload after a half"))
    return verdict(lines)
