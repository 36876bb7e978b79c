"""Run nights as `make run` does, small ones on footage in a folder, to which more may arrive."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.nights import TINY

ROOT = Path(__file__).parents[2]


def night_command(runs: Path, *arguments: str, profile: str = "smoke", overrides: Sequence[str] = ()) -> list[str]:
    """Return the command of a night in a folder of runs of its own."""
    sets = [word for override in overrides for word in ("--set", override)]
    named = [] if "--run" in arguments else ["--run", profile]
    return [
        sys.executable,
        "-m",
        "pipelines.commands",
        "run",
        "--runs",
        str(runs),
        "--profile",
        profile,
        *sets,
        *named,
        *arguments,
    ]


def run_night(
    runs: Path, *arguments: str, profile: str = "smoke", overrides: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run a night to its end."""
    command = night_command(runs, *arguments, profile=profile, overrides=overrides)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


def small(footage: Path, labels: str = "oracle", labelled: int = 6) -> list[str]:
    """Return the overrides of the smallest whole night on a folder of footage that prunes its network, in two batches."""
    fleet = {"format": "scenes_folder", "path": str(footage), "domain": "real", "split": "pool", "labels": labels}
    kept = [override for override in TINY if not override.startswith("sources.fleet")]
    return [
        *kept,
        "batches=2",
        "train_prune.latency_share=0.85",
        "select.fresh_share=0",  # a label that comes tomorrow would be news
        f"sources.fleet={json.dumps(fleet | {'initial_labelled_frames': labelled})}",
    ]


def figures(run: Path) -> dict[str, Any]:
    """Return summary.json without what may differ from run to run: times, memory and names."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    for name in ("seconds", "stages", "run"):
        del summary[name]
    for name in ("latency_ms_dense", "latency_ms_compressed"):
        del summary["model"][name]
    return summary


@dataclass(frozen=True)
class Night:
    """A night that was run once, whose footage, registry and run a test may go on with."""

    run: Path
    footage: Path
    figures: dict[str, Any]  # of the first run

    def next(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Run another night on the same footage and registry, or the same again."""
        return run_night(self.run.parent, "--run", name, overrides=small(self.footage))
