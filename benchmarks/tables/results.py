"""Write docs/results/TABLE.md, TABLE.json and its plots: a table's sections, one a data set and size."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")  # no display, and pictures that a diff can read

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables.machine import hardware
from benchmarks.tables.runner import Request, read_object
from perception.data.files import replace_file

SUPERVISED, BASELINE, OURS = "#2e8540", "#9aa5b1", "#2f6db3"  # the colours of a table's rows


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a table's finished cells say."""

    title: str  # of the page: the same for every section of a table
    body: str  # Markdown: set-up, table, what holds and what does not
    figures: dict[str, Any]  # the same for machines
    plot: Figure | None = None


def write_results(
    out: Path, request: Request, report: Report, command: str, seconds: float, machines: str | None = None
) -> Path:
    """Replace this section of the table's page and leave its other sections; return the page.

    machines: what the cells ran on, in words; without it this machine and the request's device are described. Raises
    InputError where the figures beside the page are damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    store = out / f"{request.table}.json"
    known = _known(store) if store.exists() else {"sections": {}}
    section = {
        "command": command,
        "hardware": machines or hardware(request.device),
        "seconds": round(seconds),
        "body": report.body,
        "figures": report.figures,
        "plot": None,
    }
    if report.plot is not None:
        section["plot"] = f"{request.table}_{request.section}.svg"
        # The salt makes ids, and the missing date makes the file, the same every time.
        with matplotlib.rc_context({"svg.hashsalt": "nightdrive", "svg.fonttype": "none"}):
            report.plot.savefig(out / section["plot"], metadata={"Date": None}, bbox_inches="tight")
    known |= {"title": report.title, "sections": dict(sorted({**known["sections"], request.section: section}.items()))}
    replace_file(store, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    page = out / f"{request.table}.md"
    replace_file(page, _page(known).encode())
    return page


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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; every column but the first is aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
