"""What the adaptation table says: IoU by class for every row, means over foreground and background, the gap that is closed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.results import markdown_table
from benchmarks.tables.adaptation.plan import Plan
from benchmarks.tables.results import draw_rows
from benchmarks.tables.runner import Found, Request
from benchmarks.tables.statistics import mean_and_spread
from perception.data.taxonomies import Taxonomy
from perception.errors import InputError
from perception.metrics.differences import paired_difference

# Row: the cell that it comes from and the key of its IoU by class.
ROWS = {
    "source only": ("source", "iou"),
    "joint baseline": ("joint", "iou"),
    "fused, every instance": ("fused", "iou"),
    "fused, thresholded": ("fused", "iou_thresholded"),
    "plain pseudo-labels": ("plain", "iou"),
    "fused + pseudo-labels": ("pseudo", "iou"),
    "fully supervised": ("full", "iou"),
    "fully supervised, longer": ("longer", "iou"),
}
GOALS = {"fully supervised": "gap closed", "fully supervised, longer": "gap closed, longer"}
MEANS = ("mIoU", "foreground", "background")


def page(plan: Plan, request: Request, taxonomy: Taxonomy, results: Mapping[str, Found]) -> tuple[str, dict[str, Any]]:
    """Return the section's Markdown and its figures: row → by class and means, a value a seed."""
    seeds = list(range(request.seeds))
    rows = {name: row for name, row in ROWS.items() if all(f"{row[0]}-seed{seed}" in results for seed in seeds)}
    if "source only" not in rows:
        raise InputError(
            "table adaptation: the row of the source alone is not done in every seed; run the command again"
        )
    by_row = {name: _of_row(cell, key, seeds, taxonomy, results) for name, (cell, key) in rows.items()}
    parts = [
        _setting(plan, request, len(seeds)),
        "### Means, %\n\n" + _means_table(by_row),
        "### What follows\n\n" + _differences(by_row),
        "### IoU by class, %, mean over seeds\n\n" + _class_table(by_row, taxonomy),
        "### Pseudo-labels and the detector\n\n" + _parts_table(seeds, results),
    ]
    return "\n\n".join(parts), {"seeds": len(seeds), "classes": list(taxonomy.classes), "rows": by_row}


def _of_row(
    cell: str, key: str, seeds: list[int], taxonomy: Taxonomy, results: Mapping[str, Found]
) -> dict[str, list[Any]]:
    found = [np.array([np.nan if v is None else v for v in results[f"{cell}-seed{seed}"][key]]) for seed in seeds]
    flags = np.array(taxonomy.foreground)
    return {
        "mIoU": [float(np.nanmean(each)) for each in found],
        "foreground": [float(np.nanmean(each[flags])) for each in found],
        "background": [float(np.nanmean(each[~flags])) for each in found],
        "by_class": [[None if np.isnan(v) else float(v) for v in each] for each in found],
    }


def _setting(plan: Plan, request: Request, seeds: int) -> str:
    height, width = plan.camvid_px if request.data_kind == "camvid" else plan.street_px
    streets = f"{plan.street_test_frames} street frames"
    where = "CamVid's published val part" if request.data_kind == "camvid" else streets
    return (
        f"ERFNet at width {plan.width:g} on {width}x{height} pixels, judged on {where} at that size; "
        f"{plan.simulator_frames} simulator frames, {plan.foreground_frames} more with foreground in random textures; "
        f"{plan.steps} steps of {plan.batch_frames} frames, the detector {plan.detector_steps}, pseudo-labels "
        f"{plan.rounds} x {plan.student_steps}. No target label is used but by full supervision, which learns for as many "
        "steps as the source alone and, longer, for as many as the student in all. Mean ± standard deviation "
        f"over {seeds} seeds. *Every instance* is the paper's rule; *thresholded* leaves out instances below the score "
        "that is best on held-out simulator frames in random textures. Pseudo-labels take every instance."
    )


def _means_table(by_row: Mapping[str, Mapping[str, list[float]]]) -> str:
    goals = [goal for goal in GOALS if goal in by_row]
    header = ["row", *MEANS, *(GOALS[goal] for goal in goals)]
    rows = []
    for name, found in by_row.items():
        closed = [_closed(by_row, name, goal) for goal in goals]
        rows.append([name, *(mean_and_spread(found[key], 1) for key in MEANS), *closed])
    return markdown_table(header, rows)


def _closed(by_row: Mapping[str, Mapping[str, list[float]]], name: str, goal: str) -> str:
    """Write the share of the mIoU gap between source only and full supervision, `goal`, that a row closes."""
    low, high, own = (float(np.mean(by_row[row]["mIoU"])) for row in ("source only", goal, name))
    return f"{100 * (own - low) / (high - low):.0f} %" if high > low else "there is none"


def _differences(by_row: Mapping[str, Mapping[str, list[float]]]) -> str:
    pairs = (
        ("fused, every instance", "source only", "foreground"), ("fused, thresholded", "source only", "foreground"),
        ("fused + pseudo-labels", "fused, every instance", "foreground"),
        ("fused + pseudo-labels", "fused, every instance", "mIoU"),
        ("fused + pseudo-labels", "plain pseudo-labels", "mIoU"), ("fused + pseudo-labels", "source only", "mIoU"),
    )  # fmt: skip
    rows = []
    for first, second, key in pairs:
        if first not in by_row or second not in by_row:
            continue
        ours, theirs = by_row[first][key], by_row[second][key]
        relative = 100 * (np.mean(ours) / max(np.mean(theirs), 1e-9) - 1)
        rows.append([f"{first} - {second}, {key}", paired_difference(ours, theirs).words(1), f"{relative:+.0f} %"])
    return markdown_table(["difference, paired by seed, with the 95 % interval", "points", "relative"], rows)


def _class_table(by_row: Mapping[str, Mapping[str, list[Any]]], taxonomy: Taxonomy) -> str:
    order = sorted(range(len(taxonomy.classes)), key=lambda number: not taxonomy.foreground[number])
    header = ["class", *by_row]
    rows = []
    for number in order:
        values = [[seed[number] for seed in found["by_class"]] for found in by_row.values()]
        rows.append([taxonomy.classes[number], *("–" if None in each else f"{np.mean(each):.1f}" for each in values)])
    return markdown_table(header, rows)


def _parts_table(seeds: list[int], results: Mapping[str, Found]) -> str:
    rows = []
    for name, title in (("plain", "plain pseudo-labels"), ("pseudo", "fused pseudo-labels")):
        for key in ("coverage", "precision") if all(f"{name}-seed{s}" in results for s in seeds) else ():
            rows.append([f"{title}, {key}, %", mean_and_spread([results[f"{name}-seed{s}"][key] for s in seeds], 1)])
    for name, title in (("detector", "detector, random textures"), ("untextured", "detector, simulator's textures")):
        cells = [results.get(f"{name}-seed{s}") for s in seeds]
        for key in [] if None in cells else [k for k in cells[0] if "_ap" in k]:  # type: ignore[union-attr]
            kind, measure, where = key.split("_", 2)
            place = "the target" if where == "test" else "held-out simulator frames"
            values = [cell[key] for cell in cells]  # type: ignore[index]
            rows.append([f"{title}: {kind} {measure.upper()} on {place}, %", mean_and_spread(values, 1)])
    if all(f"fused-seed{s}" in results for s in seeds):
        values = [results[f"fused-seed{s}"]["score_threshold"] for s in seeds]
        rows.append(["score threshold", mean_and_spread(values, 2)])
    return markdown_table(["figure", "mean ± spread"], rows)


def plot(figures: Mapping[str, Any], request: Request) -> Figure:
    """Draw the rows' means over foreground and background; dots are seeds."""
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 3, sharey=True)
    for each, key in zip(axes, MEANS, strict=True):
        values = {name: found[key] for name, found in figures["rows"].items()}
        draw_rows(each, values, supervised=GOALS, baselines=("source only",))
        each.set_xlabel(f"{key}, %" if key == "mIoU" else f"mean IoU, {key}, %")
    figure.suptitle(f"target: {'CamVid' if request.data_kind == 'camvid' else 'street scenes'}")
    return figure
