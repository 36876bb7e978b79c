"""A sample of the campaign of operations; `make faults CAMPAIGN=nights` does a thousand of them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.faults import operations
from tests.faults.counting import table


def test_random_operations_lose_no_label_choose_no_frame_twice_and_move_no_batch() -> None:
    tally = operations.operations(seed=6, steps=10)
    assert tally["operations"] > 8 and tally["kills"]


def test_a_campaign_that_was_stopped_goes_on_and_a_part_that_fails_is_told_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def part(seed: int, _: int) -> Counter[str]:
        done.append(seed)
        if done == [2000, 2001]:
            raise AssertionError("a label was lost")
        return Counter(operations=30, kills=9, overtaken=1)

    monkeypatch.setattr(operations, "operations", part)
    (broken,) = operations.operation_rows(tmp_path, [2], least=60)
    assert broken.losses == ("part 2001: AssertionError: a label was lost",) and broken.cases == 31
    (whole,) = operations.operation_rows(tmp_path, [2], least=60)
    assert (whole.cases, whole.kills, whole.correct, whole.errors) == (60, 18, 58, 2), table([whole])
    assert done == [2000, 2001, 2001]
