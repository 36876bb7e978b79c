"""Run a table's cells one by one, and keep what each of them found."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception.data.files import replace_file

SIZES = ("small", "full")

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Say which table is wanted, of what and how large."""

    table: str
    data: Path | None  # None: procedural scenes
    data_kind: str  # one of data.DATA_KINDS
    size: str = "small"  # one of SIZES
    seeds: int = 3  # independent repetitions
    device: str = "cpu"

    @property
    def section(self) -> str:
        """Return the name of this table's section in docs/results."""
        return f"{self.data_kind}-{self.size}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of work: up to a few minutes, its result a few kilobytes of JSON."""

    name: str  # unique in the table, usable as a file name
    compute: Callable[[Mapping[str, Found]], Found]  # given the results of the cells before
    settings: Mapping[str, Any] = field(default_factory=dict)  # whatever changes the result; a change runs it again


def run_cells(
    cells: Sequence[Cell], request: Request, work: Path, minutes: float = 0.0
) -> tuple[dict[str, Found], float]:
    """Run the cells that are not done yet, in order; start none after `minutes`, where above 0.

    Returns the results by cell name (those of all cells, unless the minutes were spent), and the seconds that all of
    them took when they ran.
    """
    folder = work / request.table / request.section
    folder.mkdir(parents=True, exist_ok=True)
    started, results, seconds = time.monotonic(), {}, 0.0
    for number, cell in enumerate(cells, 1):
        kept = _kept(folder, cell)
        if kept is None:
            if minutes and time.monotonic() - started > 60 * minutes:
                break
            kept = _run(folder, cell, results)
            print(f"[{number}/{len(cells)}] {cell.name}: {_short(kept['found'])} ({kept['seconds']:.0f} s)", flush=True)
        results[cell.name] = kept["found"]
        seconds += kept["seconds"]
    return results, seconds


def _kept(folder: Path, cell: Cell) -> dict[str, Any] | None:
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept if kept["settings"] == json.loads(json.dumps(dict(cell.settings))) else None


def _run(folder: Path, cell: Cell, results: Mapping[str, Found]) -> dict[str, Any]:
    start = time.perf_counter()
    found = cell.compute(results)
    kept = {"settings": dict(cell.settings), "seconds": time.perf_counter() - start, "found": found}
    replace_file(folder / f"{cell.name}.json", json.dumps(kept).encode())
    return kept


def _short(found: Found) -> str:
    """Return the plain numbers of a result for the progress line."""
    numbers = {key: value for key, value in found.items() if isinstance(value, (int, float))}
    return ", ".join(f"{key} {value:.4g}" for key, value in list(numbers.items())[:5])
