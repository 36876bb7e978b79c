"""Two whole nights, each run once, that the end-to-end tests look at."""

from pathlib import Path

import pytest

from tests.end_to_end.nights import SmallNight, figures, run_night, small
from tests.footage import write_footage


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke night."""
    runs = tmp_path_factory.mktemp("nights")
    done = run_night(runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / "smoke"


@pytest.fixture(scope="session")
def small_night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """A finished small night on eight drives of footage in a folder."""
    root = tmp_path_factory.mktemp("small")
    write_footage(root / "footage", 3, 8, 3, 32, 64)
    done = run_night(root / "runs", overrides=small(root / "footage"))
    run = root / "runs" / "smoke"
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return SmallNight(run, root / "footage", figures(run))
