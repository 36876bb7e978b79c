"""Simulate one fan-out of a night: shards over pods, each with its start-up, all on one store's bandwidth, some tried again.

A discrete-event model. Between two events every pod works at a constant speed: as fast as its computing goes, or as fast as
its share of the store's bandwidth brings its bytes, whichever is slower. The bandwidth is shared max-min fairly: nobody gets
more than it can use, and what is left over is split evenly among the others.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

_TIE_SECONDS = 1e-9  # events this close happen together


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Describe one shard's work."""

    compute_seconds: float  # of one pod that never waits for the store
    traffic_bytes: float  # that it moves from and to the store meanwhile, evenly
    dies_at: tuple[float, ...] = ()  # shares of the work after which its tries die, one a failed try


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Say how a fan-out went."""

    seconds: float  # from its start to the end of its last shard
    pod_seconds: float  # that pods were held, start-up and failed tries included
    pods: int  # started in all: one a try
    waiting_share: float  # of the working pod-seconds, lost by waiting for the store
    tail_seconds: float  # from the moment when pods ran out of shards to the end: what stragglers cost


def run_shards(shards: Sequence[Shard], *, pods: int, start_seconds: float, bandwidth_bytes_per_s: float) -> Schedule:
    """Run shards in their order on at most `pods` pods at once; every try is a pod of its own. Raises InputError."""
    if pods < 1 or start_seconds < 0 or bandwidth_bytes_per_s <= 0:
        raise InputError(
            f"pods {pods}, start_seconds {start_seconds:g}, bandwidth {bandwidth_bytes_per_s:g} B/s: at least one pod, no "
            "negative start and a bandwidth above 0 are needed; correct them"
        )
    tries = deque((number, 0) for number in range(len(shards)))
    now, held, started, working, lost, last_taken = 0.0, 0.0, 0, 0.0, 0.0, 0.0
    starting: deque[tuple[float, int, int]] = deque()  # (ready at, shard, try): all starts take equally long
    active = _Active.none()
    while tries or starting or active.count:
        while tries and len(starting) + active.count < pods:
            starting.append((now + start_seconds, *tries.popleft()))
            started, last_taken = started + 1, now
        while starting and starting[0][0] <= now + _TIE_SECONDS:
            _, number, attempt = starting.popleft()
            active = active.joined(shards[number], number, attempt)
        if not active.count:
            held += len(starting) * (starting[0][0] - now)
            now = starting[0][0]
            continue
        speed = active.speed(bandwidth_bytes_per_s)
        step = float((active.left / speed).min())
        if starting:
            step = min(step, starting[0][0] - now)
        held += step * (active.count + len(starting))
        working += step * active.count
        lost += step * float((1 - speed * active.compute).sum())
        now += step
        active, done = active.advanced(step * speed)
        # A failed shard goes to the end of the queue, as a retry with a pause does.
        tries.extend((number, attempt + 1) for number, attempt in done if attempt < len(shards[number].dies_at))
    return Schedule(
        seconds=now,
        pod_seconds=held,
        pods=started,
        waiting_share=max(0.0, lost) / working if working else 0.0,
        tail_seconds=now - last_taken,
    )


@dataclass(frozen=True)
class _Active:
    """Hold the shards that pods work on; arrays: (pod,)."""

    who: list[tuple[int, int]]  # shard and try
    left: NDArray[np.float64]  # share of the whole work that this try still does before it ends or dies
    compute: NDArray[np.float64]  # seconds of the whole work without waiting
    traffic: NDArray[np.float64]  # bytes of the whole work

    @classmethod
    def none(cls) -> "_Active":
        return cls([], np.empty(0), np.empty(0), np.empty(0))

    @property
    def count(self) -> int:
        return len(self.who)

    def joined(self, shard: Shard, number: int, attempt: int) -> "_Active":
        share = shard.dies_at[attempt] if attempt < len(shard.dies_at) else 1.0
        return _Active(
            [*self.who, (number, attempt)],
            np.append(self.left, max(share, 1e-12)),
            np.append(self.compute, max(shard.compute_seconds, 1e-9)),
            np.append(self.traffic, shard.traffic_bytes),
        )

    def speed(self, bandwidth: float) -> NDArray[np.float64]:
        """Return by how much of its whole work every shard gets on in a second."""
        wanted = self.traffic / self.compute
        given = max_min_share(wanted, bandwidth)
        return np.divide(given, self.traffic, out=1 / self.compute, where=(self.traffic > 0) & (given < wanted))

    def advanced(self, done: NDArray[np.float64]) -> tuple["_Active", list[tuple[int, int]]]:
        """Return what is left after some work, and whose try ended by it."""
        left = self.left - done
        stays = left > 1e-12
        ended = [who for who, on in zip(self.who, stays, strict=True) if not on]
        who = [who for who, on in zip(self.who, stays, strict=True) if on]
        return _Active(who, left[stays], self.compute[stays], self.traffic[stays]), ended


def max_min_share(wanted: NDArray[np.float64], capacity: float) -> NDArray[np.float64]:
    """Share a capacity max-min fairly: wanted (user,) -> given (user,), none above wanted, in sum at most the capacity."""
    if wanted.sum() <= capacity:
        return wanted.copy()
    ordered = np.sort(wanted)
    # If the k smallest wishes are met, the others get `level` each; the right k is the first whose next wish is above it.
    before = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    level = (capacity - before) / np.arange(len(ordered), 0, -1)
    return np.minimum(wanted, level[np.argmax(ordered >= level)])


def even_shards(
    count: int, *, compute_seconds: float, traffic_bytes: float, spread: float, death_share: float, seed: int
) -> list[Shard]:
    """Cut work into shards that differ as real ones do.

    compute_seconds, traffic_bytes: of all shards together. spread: of the logarithm of a shard's seconds (0: all alike);
    the sum stays. death_share: of all tries that die, at a moment that is drawn evenly from their work.
    """
    rng = np.random.default_rng(seed)
    factors = rng.lognormal(0.0, spread, count)
    factors *= count / factors.sum()
    deaths = rng.geometric(1 - death_share, count) - 1  # failed tries before the one that succeeds
    return [
        Shard(
            compute_seconds=compute_seconds / count * factor,
            traffic_bytes=traffic_bytes / count,
            dies_at=tuple(rng.random(died)),
        )
        for factor, died in zip(factors, deaths, strict=True)
    ]
