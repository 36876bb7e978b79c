"""A whole night, once, that the end-to-end tests look at."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAST: tuple[str, ...] = ()


def run_night(
    runs: Path, *arguments: str, profile: str = "smoke", overrides: Sequence[str] = FAST
) -> "subprocess.CompletedProcess[str]":
    """Run a night as `make run` does, in a folder of runs of its own."""
    sets = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "pipelines.local", "--runs", str(runs), "--profile", profile, *sets, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke night."""
    runs = tmp_path_factory.mktemp("nights")
    done = run_night(runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / "smoke"
