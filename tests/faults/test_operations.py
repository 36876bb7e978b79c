"""A sample of the campaign of operations; `make faults CAMPAIGN=nights` does a thousand of them."""

from tests.faults.operations import operations


def test_random_operations_lose_no_label_choose_no_frame_twice_and_move_no_batch() -> None:
    tally = operations(seed=6, examples=2, steps=9)
    assert tally["operations"] > 8 and tally["kills"]
