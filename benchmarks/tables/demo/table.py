"""Does what the demo promises hold? One whole night a seed, `make run` with another seed, each in a store and registry of its own.

A seed draws the streets, the test set and everything random. Figures are those of each night's summary.json.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.results import ROOT, markdown_table
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from components.stage.registry import all_stages
from components.stage.source_hash import source_hashes
from perception.errors import InputError

TABLE_SIZES = ("small",)
FIGURES = {
    "selection": ("miou_selected", "miou_random"),
    "adaptation": ("miou_source_only", "miou_fused", "miou_pseudo"),
    "model": (
        *("miou_dense", "miou_compressed", "parameters_dense", "parameters_compressed"),
        *("latency_ms_dense", "latency_ms_compressed"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Say what is claimed of a night: a figure of it, in its unit, whose mean over seeds is at least or at most a bound."""

    about: str
    figure: Callable[[Found], float]
    least: float | None = None
    most: float | None = None

    def holds(self, mean: float) -> bool:
        """Tell whether a mean over seeds is within the bound."""
        return (self.least is None or mean >= self.least) and (self.most is None or mean <= self.most)

    @property
    def bound(self) -> str:
        """Write the bound."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


def _points(first: str, second: str) -> Callable[[Found], float]:
    return lambda night: 100 * (night[first] - night[second])


CLAIMS = (
    Claim(about="chosen above random frames, points of mIoU", figure=_points("miou_selected", "miou_random"), least=0),
    Claim(about="fused above the simulator alone, points", figure=_points("miou_fused", "miou_source_only"), least=0),
    Claim(about="taught above fused, points", figure=_points("miou_pseudo", "miou_fused"), least=0),
    Claim(about="the dense network, % mIoU", figure=lambda night: 100 * night["miou_dense"], least=27),
    Claim(about="dense above what ships, points", figure=_points("miou_dense", "miou_compressed"), most=1),
    Claim(
        about="what ships is faster by the factor",
        figure=lambda night: night["latency_ms_dense"] / night["latency_ms_compressed"],
        least=2.5,
    ),
    Claim(
        about="its share of the parameters, %",
        figure=lambda night: 100 * night["parameters_compressed"] / night["parameters_dense"],
        most=20,
    ),
    Claim(about="seconds of a night", figure=lambda night: night["seconds"], most=600),
)


def cells(request: Request) -> list[Cell]:
    """Return a night for each seed."""
    if request.data is not None:
        raise InputError("table demo: its nights render their own streets; leave DATA out")
    code = source_hashes({name: f"components.{name}" for name in all_stages()})
    parameters = hashlib.sha256((ROOT / "params.yaml").read_bytes()).hexdigest()
    settings = {"code": code, "params.yaml": parameters}
    stamp = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[
        :8
    ]  # no night goes on with other code
    return [
        Cell(name=f"night-seed{n}", compute=partial(_night, request.folder / f"runs{n}-{stamp}", n), settings=settings)
        for n in range(request.seeds)
    ]


def _night(runs: Path, seed: int, _before: Mapping[str, Found]) -> Found:
    """Run a night, or go on with it, and return its figures; one that has ended is not followed by a second."""
    told = runs / "latest" / "summary.json"
    if not told.exists():
        command = [sys.executable, "-m", "pipelines.commands", "run", "--runs", str(runs.resolve())]
        done = subprocess.run([*command, "--set", f"common.seed={seed}"], cwd=ROOT, check=False)
        if done.returncode:
            raise InputError(f"the night of seed {seed} ended with exit code {done.returncode}; see {runs}")
    summary = json.loads(told.read_text())
    if summary["status"] != "done":
        raise InputError(
            f"the night of seed {seed} is {summary['status']}; read {told.with_name('report.html')}, then remove {runs}"
        )
    found = {name: summary[part][name] for part, names in FIGURES.items() for name in names}
    return found | {"seconds": summary["seconds"]}


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say of each claim what the nights had and whether it holds in their mean."""
    names = [f"night-seed{seed}" for seed in range(request.seeds)]
    nights = [results[name] for name in names if name in results]  # a partial table has some of them
    lines, figures = [], {}
    for claim in CLAIMS:
        values = [claim.figure(night) for night in nights]
        lines.append([claim.about, claim.bound, mean_and_spread(values), _listed(values), _verdict(claim, values)])
        figures[claim.about] = values
    body = (
        f"`make run` for {count_of_seeds(len(nights))}; the mean ± standard deviation over seeds, and each of them. What "
        "holds holds in the mean.\n\n" + markdown_table(["what", "asked", "mean", "by seed", "holds"], lines)
    )
    return Report(title="What the demo promises", body=body, figures={"claims": figures, "nights": nights})


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _verdict(claim: Claim, values: Sequence[float]) -> str:
    return "yes" if claim.holds(sum(values) / len(values)) else "no"
