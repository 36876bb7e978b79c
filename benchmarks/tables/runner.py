"""Run a table's cells one by one, and keep what each of them found."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from perception.data.files import replace_file
from perception.errors import InputError

SIZES = ("small", "medium", "long", "full")

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
    eager: bool = False  # on a GPU kernels are launched one by one instead of being replayed as a graph
    work: Path = Path("build/tables")  # where cells keep what later ones need
    workers: int = 1  # processes that prepare data

    @property
    def section(self) -> str:
        """Return the name of this table's section in docs/results."""
        return f"{self.data_kind}-{self.size}"

    @property
    def folder(self) -> Path:
        """Return where the cells of this section are kept."""
        return self.work / self.table / self.section


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of work: up to a few minutes, its result a few kilobytes of JSON."""

    name: str  # unique in the table, usable as a file name
    compute: Callable[[Mapping[str, Found]], Found]  # given the results of the cells before
    settings: Mapping[str, Any] = field(default_factory=dict)  # whatever changes the result; a change runs it again
    needs: tuple[str, ...] = ()  # cells before, without whose results it waits for another call
    # It measures what the cells before made, side by side on this machine's processor: left out by a call for a GPU,
    # which shares its processor with other work, and run again when the cells before are no longer the same.
    side_by_side: bool = False


def run_cells(
    cells: Sequence[Cell], request: Request, minutes: float = 0.0, only: str | None = None
) -> tuple[dict[str, Found], float]:
    """Run the cells that are not done yet, in order; start none after `minutes`, where above 0.

    only: run no cell in whose name this expression is not found, so that several processes can share a table.
    Returns the results by cell name (of those that are done), and the seconds that all of them took when they ran.
    """
    started, results, seconds = time.monotonic(), {}, 0.0
    for number, cell in enumerate(cells, 1):
        kept = _kept(request.folder, cell, results)
        spent = bool(minutes) and time.monotonic() - started > 60 * minutes
        wanted = only is None or re.search(only, cell.name) is not None
        if kept is None and not spent and wanted and _can_run(cell, request, results):
            kept = _run(cell, request, results)
            print(f"[{number}/{len(cells)}] {cell.name}: {_short(kept['found'])} ({kept['seconds']:.0f} s)", flush=True)
        if kept is not None:
            results[cell.name] = kept["found"]
            seconds += kept["seconds"]
    return results, seconds


def machines(cells: Sequence[Cell], request: Request) -> str:
    """Say on which machines the kept cells ran, and where those that measure side by side did, if elsewhere."""
    found: dict[bool, list[str]] = {False: [], True: []}
    for cell in cells:
        path = request.folder / f"{cell.name}.json"
        if path.exists():
            found[cell.side_by_side].append(_read(path).get("hardware", "machine not recorded"))
    trained, measured = (" and ".join(dict.fromkeys(names)) for names in (found[False], found[True]))
    return trained if measured in ("", trained) else f"{trained}; latency on {measured}"


def _can_run(cell: Cell, request: Request, results: Mapping[str, Found]) -> bool:
    if cell.side_by_side and request.device != "cpu":
        return False
    return all(name in results for name in cell.needs)


def _kept(folder: Path, cell: Cell, results: Mapping[str, Found]) -> dict[str, Any] | None:
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    kept = _read(path)
    if cell.side_by_side and kept.get("before") != sorted(results):
        return None
    return kept if kept["settings"] == json.loads(json.dumps(dict(cell.settings))) else None


def _read(path: Path) -> dict[str, Any]:
    """Read a kept result; raises InputError for a file that is damaged."""
    otherwise = "no result of a cell; remove this file, and the same command computes it again"
    return read_object(path, lambda kept: {"settings", "seconds", "found"} <= kept.keys(), otherwise)


def read_object(path: Path, fits: Callable[[dict[str, Any]], bool], otherwise: str) -> dict[str, Any]:
    """Read a JSON object that a table wrote, NaN included; raises InputError, in these words, where it is none that fits."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not fits(found):
        raise InputError(f"{path}: {otherwise}")
    return found


def _run(cell: Cell, request: Request, results: Mapping[str, Found]) -> dict[str, Any]:
    start = time.perf_counter()
    found = cell.compute(results)
    kept = {
        "settings": dict(cell.settings),
        "seconds": time.perf_counter() - start,
        "hardware": hardware(request.device),
        "before": sorted(results) if cell.side_by_side else None,
        "found": found,
    }
    replace_file(request.folder / f"{cell.name}.json", json.dumps(kept).encode())
    return kept


def _short(found: Found) -> str:
    """Return the plain numbers of a result for the progress line."""
    numbers = {key: value for key, value in found.items() if isinstance(value, (int, float))}
    return ", ".join(f"{key} {value:.4g}" for key, value in list(numbers.items())[:5])
