"""Turns that alternate, so that a busy moment disturbs all contenders alike."""

import time
from collections.abc import Callable, Mapping


def least_seconds(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_rounds: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Run all contenders in turn, round after round, and return each one's least seconds; warm rounds do not count."""
    least = dict.fromkeys(runs, float("inf"))
    for turn in range(warm_rounds + rounds):
        for name, run in runs.items():
            start = clock()
            run()
            if turn >= warm_rounds:
                least[name] = min(least[name], clock() - start)
    return least
