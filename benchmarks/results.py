"""Write what a benchmark found into docs/results: figures for machines, pages and plots, each whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display, and pictures that a diff can read

from matplotlib.figure import Figure

from perception.data.files import replace_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("docs/results")


def write_figures(path: Path, found: Any) -> None:
    """Write figures as JSON that a diff can read."""
    replace_file(path, (json.dumps(found, indent=1) + "\n").encode())


def write_page(path: Path, text: str) -> Path:
    """Write a page of Markdown and return its path."""
    replace_file(path, text.encode())
    return path


def write_plot(path: Path, figure: Figure) -> None:
    """Write a plot as SVG; equal plots give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The salt makes ids, and the missing date makes the file, the same every time.
    with matplotlib.rc_context({"svg.hashsalt": "nightdrive", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; every column but the first is aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
