"""A sample of the campaign of killed erasures; `make faults CAMPAIGN=erasure` kills 210."""

from pathlib import Path

from tests.faults.counting import table
from tests.faults.erasure import build_home, erasure_row


def test_an_erasure_that_was_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    row = erasure_row(build_home(tmp_path / "home"), seed=7, kills=4)
    assert row.losses == (), table([row])
