"""Write docs/results/TABLE.md, TABLE.json and its plots: a table's sections, one a data set and size."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import write_figures, write_page, write_plot
from benchmarks.tables.runner import Request, read_object

SUPERVISED, BASELINE, OURS = "#2e8540", "#9aa5b1", "#2f6db3"  # the colours of a table's rows


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a table's finished cells say."""

    title: str  # of the page: the same for every section of a table
    body: str  # Markdown: set-up, table, what holds and what does not
    figures: dict[str, Any]  # the same for machines
    plot: Figure | None = None


def write_results(out: Path, request: Request, report: Report, command: str, seconds: float, machines: str) -> Path:
    """Replace this section of the table's page and leave its other sections; return the page.

    machines: what the cells ran on, in words. Raises InputError where the figures beside the page are damaged.
    """
    store = out / f"{request.table}.json"
    known = _known(store) if store.exists() else {"sections": {}}
    section = {"command": command, "hardware": machines, "seconds": round(seconds), "plot": None}
    section |= {"body": report.body, "figures": report.figures}
    if report.plot is not None:
        section["plot"] = f"{request.table}_{request.section}.svg"
        write_plot(out / section["plot"], report.plot)
    sections = dict(sorted({**known["sections"], request.section: section}.items()))
    known |= {"title": report.title, "sections": sections}
    write_figures(store, known)
    return write_page(out / f"{request.table}.md", _page(known))


def _known(store: Path) -> dict[str, Any]:
    otherwise = "not the figures of a table; restore this file, or remove it to begin a new page"
    return read_object(store, lambda known: isinstance(known.get("sections"), dict), otherwise)


def _page(known: dict[str, Any]) -> str:
    parts = [f"# {known['title']}", "Written by the commands below; the figures for machines are beside this page."]
    for name, section in known["sections"].items():
        parts.append(f"## {name.replace('_', ' ').replace('-', ', ')}")
        parts.append(f"    {section['command']}")
        parts.append(f"{section['hardware']}; {_duration(section['seconds'])} in all cells.")
        parts.append(section["body"].strip())
        if section["plot"]:
            parts.append(f"![{known['title']}, {name}]({section['plot']})")
    return "\n\n".join(parts) + "\n"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def draw_rows(
    axes: Axes,
    rows: Mapping[str, Sequence[float]],
    *,
    supervised: Collection[str] = (),
    baselines: Collection[str] = (),
) -> None:
    """Draw a bar for the mean of every row, the first on top, with a dot for each seed.

    rows: values of the seeds by the row's name. supervised, baselines: names of the rows that have their colours.
    """
    for position, (name, values) in enumerate(reversed(rows.items())):
        color = SUPERVISED if name in supervised else BASELINE if name in baselines else OURS
        axes.barh(position, float(np.mean(values)), color=color, height=0.6)
        axes.plot(values, [position] * len(values), "o", color="black", markersize=3)
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.spines[["top", "right"]].set_visible(False)


def plot_by_share(
    curves: Mapping[str, Mapping[Any, Sequence[float]]], percents: Sequence[float], keys: Sequence[Any], axis: str
) -> Figure:
    """Draw what every row reached at each labelled share of the pool: mean and spread of its seeds.

    curves: by the row's name, the values of the seeds by key; keys: of the shares `percents`, in their order.
    """
    figure = Figure(figsize=(6.5, 3.6))
    axes = figure.subplots()
    for name, found in curves.items():
        shown = [(percent, np.asarray(found[key])) for percent, key in zip(percents, keys, strict=True) if key in found]
        spread = [values.std(ddof=1) if len(values) > 1 else 0.0 for _, values in shown]
        axes.errorbar(
            [percent for percent, _ in shown], [values.mean() for _, values in shown], spread, capsize=2, label=name
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(percents, [f"{percent:g} %" for percent in percents])
    axes.set_xlabel("labelled share of the pool")
    axes.set_ylabel(axis)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
