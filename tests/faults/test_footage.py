"""Damaged footage, reduced: forty cuts and forty flipped bits. `make faults CAMPAIGN=footage` runs all."""

from pathlib import Path

from tests.faults.counting import table
from tests.faults.footage import footage_rows


def test_what_is_undamaged_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    cut, flipped = footage_rows(tmp_path / "footage", cuts=40, flips=40)
    assert (cut.losses, flipped.losses) == ((), ()), table([cut, flipped])
    assert cut.cases == flipped.cases == 40
