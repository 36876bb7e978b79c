"""What the night table says: the rows, what each stage adds, and whether the promise holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.results import markdown_table
from benchmarks.tables.night.plan import Plan
from benchmarks.tables.results import draw_rows
from benchmarks.tables.runner import Found, Request
from benchmarks.tables.shrinking import verdict
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from perception.errors import InputError
from perception.metrics.differences import paired_difference

ROWS = {
    "full": "all labels, dense",
    "full_longer": "all labels, as long as the last rows in all",
    "random": "10 % of the labels, at random",
    "chosen": "10 % of the labels, chosen",
    "chosen_longer": "10 %, chosen, as long as the last rows in all",
    "pretrained": "no label, simulator alone",
    "simulator": "+ simulator",
    "pseudo": "+ pseudo-labels",
    "pruned": "+ pruned while it learns",
    "compressed": "+ compressed",
}
SHRUNK = ("pruned", "compressed")
SHARE, PARAMETER_SHARE, SPEED_UP, LOSS_POINTS = 95.0, 0.10, 4.0, 1.0  # the promise


def page(plan: Plan, request: Request, results: Mapping[str, Found]) -> tuple[str, dict[str, Any]]:
    """Return the section's Markdown and its figures: row → a value a seed."""
    seeds = range(request.seeds)
    done = [row for row in ROWS if all(f"{row}-seed{seed}" in results for seed in seeds)]
    if "full" not in done:
        raise InputError("table night: the row of full supervision is not done in every seed; run the command again")
    figures = {row: _of_row(row, [results[f"{row}-seed{seed}"] for seed in seeds], results) for row in done}
    parts = [
        _setting(plan, request),
        _table(figures),
        "### What each stage adds\n\n" + _steps(figures),
        "### What of the promise holds\n\n" + _promise(figures),
    ]
    return "\n\n".join(parts), {"seeds": request.seeds, "rows": figures}


def _of_row(row: str, found: list[Found], results: Mapping[str, Found]) -> dict[str, list[Any]]:
    figures = {name: [each[name] for each in found] for name in ("miou", "worst_clip_miou", "parameters", "macs")}
    measured = results.get("latency", {"latency_ms": {}, "bytes": {}})
    # Dense networks have one structure, so that of the first row is measured for all.
    names = [f"{row}-seed{seed}" if row in SHRUNK else "full-seed0" for seed in range(len(found))]
    for key in ("latency_ms", "bytes"):
        if all(name in measured[key] for name in names):
            figures[key] = [measured[key][name] for name in names]
    return figures


def _setting(plan: Plan, request: Request) -> str:
    return (
        f"CamVid at {plan.width_px}x{plan.height_px} pixels: 367 train frames, judged on the 101 of the published val part. "
        f"ERFNet at width {plan.width:g}; {plan.steps} steps of {plan.batch_frames} frames a row, "
        f"{count_of_seeds(request.seeds)}. Chosen: {plan.choice.first_percent} % at random, then by "
        f"{plan.chosen_by.replace('_', '-')} of a Deep Probabilistic Ensemble of {plan.choice.members} that learnt from "
        f"these. + simulator: from the network that learnt from {plan.simulator_frames} simulator frames alone for "
        f"{plan.simulator_steps} steps. + pseudo-labels: from the row before, which labels all frames without a label. "
        "Pruned: from there as well, with the labels of the row before it. As long as the last rows in all: "
        f"{plan.steps_in_all} steps. "
        f"Pruned after {plan.prune_epoch + 1} of {plan.epochs} epochs to {plan.cost_share:g} of the cost, in multiples of "
        "8 channels; low-rank pairs where onnxruntime is faster with them. Worst clip: of 10 consecutive frames. Latency: "
        "onnxruntime, one thread, one frame, taking turns. Mean ± standard deviation over seeds."
    )


def _table(figures: Mapping[str, Mapping[str, list[Any]]]) -> str:
    full = np.mean(figures["full"]["miou"])
    rows = []
    for row, found in figures.items():
        timed = "latency_ms" in found
        shares = [f"{100 * np.mean(found['miou']) / full:.1f}", mean_and_spread(found["worst_clip_miou"], 1)]
        sizes = [f"{np.mean(found['parameters']):,.0f}", f"{np.mean(found['macs']) / 1e6:.1f}"]
        shipped = (
            [mean_and_spread(found["latency_ms"], 2), f"{np.mean(found['bytes']) / 1024:,.0f}"] if timed else ["–"] * 2
        )
        rows.append([ROWS[row], mean_and_spread(found["miou"], 1), *shares, *sizes, *shipped])
    header = ["row", "mIoU, %", "of full, %", "worst clip, %", "parameters", "MMAC", "ms a frame", "KiB"]
    return markdown_table(header, rows)


def _steps(figures: Mapping[str, Mapping[str, list[Any]]]) -> str:
    pairs = (("chosen", "random"), ("simulator", "chosen"), ("pseudo", "simulator"), ("pseudo", "chosen_longer"),
             ("pruned", "pseudo"), ("compressed", "pruned"))  # fmt: skip
    rows = [
        [f"{ROWS[first]} − {ROWS[second]}", paired_difference(figures[first]["miou"], figures[second]["miou"]).words(1)]
        for first, second in pairs
        if first in figures and second in figures
    ]
    return markdown_table(["difference, paired by seed, with the 95 % interval", "mIoU, points"], rows)


def _promise(figures: Mapping[str, Mapping[str, list[Any]]]) -> str:
    mean = {row: {key: float(np.mean(values)) for key, values in found.items()} for row, found in figures.items()}
    lines = []
    if "pseudo" in mean:
        for row, how in (("full", ""), ("full_longer", " that learns for as many steps in all")):
            if row in mean:
                share = 100 * mean["pseudo"]["miou"] / mean[row]["miou"]
                words = f"a tenth of the labels and the simulator reach {share:.1f} % of full supervision{how}"
                lines.append((share >= SHARE, f"{words} (goal {SHARE:g})"))
    last = next((row for row in reversed(SHRUNK) if row in mean), None)
    if last is not None and "latency_ms" in mean[last]:
        ours, dense = mean[last], mean["full"]
        size, speed = ours["parameters"] / dense["parameters"], dense["latency_ms"] / ours["latency_ms"]
        words = f"the network that ships keeps {100 * size:.1f} % of the parameters (goal {100 * PARAMETER_SHARE:g})"
        lines.append((size <= PARAMETER_SHARE, words))
        lines.append((speed >= SPEED_UP, f"it is {speed:.1f} times faster (goal {SPEED_UP:g})"))
        cost = paired_difference(figures[last]["miou"], figures["pseudo"]["miou"])
        words = f"the network that ships is {cost.words(1)} points from the row before it (goal at most {LOSS_POINTS:g} lost)"
        lines.append((cost.low >= -LOSS_POINTS, words))
    return verdict(lines)


def plot(figures: Mapping[str, Any]) -> Figure:
    """Draw every row's mIoU, seeds as dots, and the line that 95 % of full supervision is."""
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    rows = figures["rows"]
    supervised, baselines = (ROWS["full"], ROWS["full_longer"]), (ROWS["random"], ROWS["chosen_longer"])
    draw_rows(
        axes, {ROWS[row]: found["miou"] for row, found in rows.items()}, supervised=supervised, baselines=baselines
    )
    goal = SHARE / 100 * float(np.mean(rows["full"]["miou"]))
    axes.axvline(goal, color="#b3372f", linewidth=1, linestyle="--")
    axes.set_xlabel("mIoU on CamVid val, %; dots are seeds; dashed: 95 % of full supervision")
    return figure
