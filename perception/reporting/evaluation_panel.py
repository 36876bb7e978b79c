"""Turn an evaluation's figures (the content of evaluation.json) into the charts and tables that pages show of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from perception.reporting import charts

Json = Mapping[str, Any]
MAX_SLICES = 16
LIMITS = {"judgements": 40, "cells": 12, "left_out": 12}  # rows of tables


def in_words(name: str) -> str:
    """Write a slice as people say it: `time_of_day=night,weather=rain` is "night, rain"."""
    return ", ".join(part.partition("=")[2] or part for part in name.split(",")).replace("_", " ")


def evaluation_charts(figures: Json) -> dict[str, Any]:
    """Give every chart of an evaluation by name; an empty text where it was not measured."""
    return {
        "slices": slice_chart(figures),
        "domain": domain_chart(figures),
        "reliability": reliability_chart(figures),
        "shift": shift_chart(figures),
        "categories": category_chart(figures),
    }


def class_chart(figures: Json) -> Markup:
    """Draw IoU by class, the worst first, with intervals as whiskers and the champion as ticks."""
    champion = (figures["comparison"] or {}).get("champion_iou_by_class", {})
    intervals = figures["iou_interval_by_class"]
    bars = [
        charts.Bar(
            label=name.replace("_", " "), value=value, reference=champion.get(name), interval=ends(intervals[name])
        )
        for name, value in worst_first(figures["iou_by_class"])
    ]
    return charts.horizontal_bars(bars, title="IoU by class, %", maximum=1.0, reference_name="champion")


def category_chart(figures: Json) -> Markup | str:
    """Draw IoU by category."""
    values = figures["iou_by_category"]
    bars = [charts.Bar(label=name.replace("_", " "), value=value, tone=1) for name, value in worst_first(values)]
    return charts.horizontal_bars(bars, title="IoU by category, %", maximum=1.0) if bars else ""


def slice_chart(figures: Json) -> Markup | str:
    """Draw mIoU by slice with intervals, the worst first; slices with too few frames or drives are named as unknown."""
    champion = (figures["comparison"] or {}).get("champion_miou_by_condition", {})
    rows = [row for row in figures["slices"] if row["known"]]
    bars = [
        charts.Bar(
            label=in_words(row["name"]),
            value=row["miou"],
            note=f"{row['frames']} frames, {row['drives']} drives",
            interval=ends(row["interval"]),
            reference=champion.get(row["name"]),
            tone=1 if row["cell"] else 0,
        )
        for row in rows[:MAX_SLICES]
    ]
    title = f"mIoU by slice, %, the worst {min(len(rows), MAX_SLICES)} of {len(rows)}"
    return charts.horizontal_bars(bars, title=title, maximum=1.0, reference_name="champion") if bars else ""


def domain_chart(figures: Json) -> Markup | str:
    """Draw the operating domain: light down, weather across, one grid a kind of road; mIoU in each cell, hatched unseen."""
    cells = figures["domain"]
    if not cells:
        return ""
    measured = {row["name"]: row for row in figures["slices"] if row["cell"]}
    scenes = list(dict.fromkeys(cell["scene"] for cell in cells))
    return Markup("").join(
        _scene_grid(scene, [cell for cell in cells if cell["scene"] == scene], measured) for scene in scenes
    )


def _scene_grid(scene: str, cells: Sequence[Json], measured: Mapping[str, Json]) -> Markup:
    lights = list(dict.fromkeys(cell["time_of_day"] for cell in cells))
    weathers = list(dict.fromkeys(cell["weather"] for cell in cells))
    at = {(cell["time_of_day"], cell["weather"]): cell for cell in cells}
    rows = [[_domain_cell(at[light, weather], measured) for weather in weathers] for light in lights]
    return charts.grid([light.replace("_", " ") for light in lights], weathers, rows, title=f"{scene}: mIoU, %")


def _domain_cell(cell: Json, measured: Mapping[str, Json]) -> charts.Cell:
    name = f"time_of_day={cell['time_of_day']},weather={cell['weather']},scene={cell['scene']}"
    row = measured.get(name)
    if row is None or row["miou"] is None:
        return charts.Cell(value=None, text="", described=f"{in_words(name)}: no test frame, unknown")
    few = "" if row["known"] else "; too few to count"
    described = f"{in_words(name)}: mIoU {charts.percent(row['miou'])} % on {row['frames']} frames{few}"
    return charts.Cell(value=row["miou"], text=f"{100 * row['miou']:.0f}", described=described, faint=not row["known"])


def reliability_chart(figures: Json) -> Markup | str:
    """Draw how often the network is right when it is so and so sure."""
    calibration = figures["calibration"]
    if not calibration:
        return ""
    bins = [(each["confidence"], each["accuracy"], each["share"]) for each in calibration["bins"]]
    return charts.reliability_diagram(
        bins, title="Right how often, when so sure; dashed: perfect; pale: how many pixels"
    )


def shift_chart(figures: Json) -> Markup | str:
    """Draw calibration error under corruptions beside the one without."""
    rows = figures["shift"]
    if not rows:
        return ""
    clean = rows[0]
    groups = [charts.Group(label="as recorded", values=(clean["miou"], clean["calibration_error"]))]
    strongest = max(row["strength"] for row in rows)
    groups += [
        charts.Group(label=row["kind"], values=(row["miou"], row["calibration_error"]))
        for row in sorted(rows, key=lambda row: row["miou"])
        if row["strength"] == strongest
    ]
    title = f"Under shift, strength {strongest} of {strongest}, %"
    return charts.grouped_bars(groups, ("mIoU", "calibration error"), title=title, maximum=1.0)


def worst_first(figures: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """Sort by value, lowest first; what was not measured comes last."""
    return sorted(figures.items(), key=lambda item: (item[1] is None or item[1] != item[1], item[1] or 0.0, item[0]))


def ends(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """Return an interval as a pair; None where there is none."""
    return (interval[0], interval[1]) if interval else None
