"""A whole small night, run once, that the end-to-end tests look at."""

import pytest

from perception.simulator.folder import write_scenes
from perception.simulator.world import world_from_dict
from tests.end_to_end.nights import Night, figures, run_night, small


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A finished night on eight drives of footage in a folder; only test_second_night.py, the last, goes on with it."""
    root = tmp_path_factory.mktemp("night")
    write_scenes(root / "footage", world_from_dict({}), "street", 3, 8, 3, 32, 64)
    done = run_night(root / "runs", overrides=small(root / "footage"))
    run = root / "runs" / "smoke"
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Night(run, root / "footage", figures(run))
