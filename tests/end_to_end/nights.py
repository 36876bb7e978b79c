"""Run nights as `make run` does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_night(
    runs: Path, *arguments: str, profile: str = "smoke", overrides: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run a night as `make run` does, in a folder of runs of its own."""
    sets = [word for override in overrides for word in ("--set", override)]
    night = ["run", "--runs", str(runs), "--profile", profile, *sets, *arguments]
    command = [sys.executable, "-m", "pipelines.commands", *night]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
