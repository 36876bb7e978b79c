"""How many frames are labelled in which round."""

from perception.errors import InputError


def exponential_sizes(first_frames: int, rounds: int) -> list[int]:
    """Return the sizes of the labelled set when every round doubles it: 4, 8, 16, 32 % of the pool as published."""
    _check(first_frames, rounds)
    return [first_frames * 2**index for index in range(rounds)]


def linear_sizes(last_frames: int, rounds: int) -> list[int]:
    """Return the sizes of the labelled set when `rounds` equal steps lead to `last_frames` (linear-k with k rounds)."""
    _check(last_frames, rounds)
    return [round(last_frames * index / rounds) for index in range(1, rounds + 1)]


def next_budget(sizes: list[int], labelled_frames: int) -> int:
    """Return how many frames to label now: up to the first size above what is labelled; 0 when the schedule is done."""
    return next((size - labelled_frames for size in sizes if size > labelled_frames), 0)


def _check(frames: int, rounds: int) -> None:
    if frames < 1 or rounds < 1:
        raise InputError(f"a schedule over {frames} frames in {rounds} rounds is empty: both must be at least 1")
