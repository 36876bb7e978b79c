"""A whole night, once, that the end-to-end tests look at."""

from pathlib import Path

import pytest

from tests.end_to_end.nights import run_night


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke night."""
    runs = tmp_path_factory.mktemp("nights")
    done = run_night(runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / "smoke"
