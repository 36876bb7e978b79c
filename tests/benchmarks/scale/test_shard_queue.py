"""The queue of shards against closed forms: one pod, pods without end, a store that is the bottleneck, and failed tries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.shard_queue import Shard, even_shards, max_min_share, run_shards
from perception.errors import InputError

FAST = 1e18  # bytes a second: never the bottleneck


def shards(*seconds: float, traffic: float = 0.0) -> list[Shard]:
    return [Shard(compute_seconds=each, traffic_bytes=traffic) for each in seconds]


def test_one_pod_does_one_shard_after_the_other() -> None:
    found = run_shards(shards(3, 5, 2), pods=1, start_seconds=7, bandwidth_bytes_per_s=FAST)
    assert found.seconds == pytest.approx(3 * 7 + 10) and found.pod_seconds == pytest.approx(31)
    assert found.pods == 3 and found.waiting_share == 0 and found.tail_seconds == pytest.approx(7 + 2)


def test_with_pods_without_end_the_longest_shard_counts() -> None:
    found = run_shards(shards(3, 5, 2), pods=100, start_seconds=7, bandwidth_bytes_per_s=FAST)
    assert found.seconds == pytest.approx(12) and found.pod_seconds == pytest.approx(3 * 7 + 10)


def test_shards_are_taken_in_order_by_whoever_is_free() -> None:
    found = run_shards(shards(4, 1, 1, 1), pods=2, start_seconds=0, bandwidth_bytes_per_s=FAST)
    assert found.seconds == pytest.approx(4)
    assert run_shards(shards(1, 1, 1, 4), pods=2, start_seconds=0, bandwidth_bytes_per_s=FAST).seconds == pytest.approx(
        5
    )


@pytest.mark.parametrize("pods", [1, 4, 16])
def test_a_slow_store_decides_however_many_pods_there_are(pods: int) -> None:
    found = run_shards(shards(*[1.0] * 16, traffic=1000.0), pods=pods, start_seconds=0, bandwidth_bytes_per_s=100.0)
    assert found.seconds == pytest.approx(16 * 1000 / 100)
    assert found.waiting_share == pytest.approx(1 - 1 / (160 * pods / 16))


def test_a_shard_that_needs_no_store_does_not_wait_for_one() -> None:
    mixed = [Shard(compute_seconds=10, traffic_bytes=0), Shard(compute_seconds=1, traffic_bytes=200)]
    found = run_shards(mixed, pods=2, start_seconds=0, bandwidth_bytes_per_s=10.0)
    assert found.seconds == pytest.approx(20)  # the store's 200 bytes; the other was done after 10 s
    assert found.pod_seconds == pytest.approx(30)


def test_a_try_that_dies_costs_its_part_and_a_new_start() -> None:
    broken = [Shard(compute_seconds=10, traffic_bytes=0, dies_at=(0.25, 0.5))]
    found = run_shards(broken, pods=1, start_seconds=3, bandwidth_bytes_per_s=FAST)
    assert found.seconds == pytest.approx(3 * 3 + 2.5 + 5 + 10) and found.pods == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 50), min_size=1, max_size=25), st.integers(1, 30), st.floats(0, 10), st.floats(0, 100),
    st.floats(1, 1000),
)  # fmt: skip
def test_no_schedule_beats_its_bounds(
    seconds: list[float], pods: int, start: float, traffic: float, bandwidth: float
) -> None:
    found = run_shards(
        shards(*seconds, traffic=traffic), pods=pods, start_seconds=start, bandwidth_bytes_per_s=bandwidth
    )
    work = sum(seconds) + start * len(seconds)
    least = max(work / pods, max(seconds) + start, start + traffic * len(seconds) / bandwidth)
    assert found.seconds >= least * (1 - 1e-9)
    assert found.seconds <= work + traffic * len(seconds) / bandwidth + 1e-6  # one after the other is the worst
    assert found.pod_seconds >= work * (1 - 1e-9) and found.pods == len(seconds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.1, 500))
def test_bandwidth_is_shared_max_min_fairly(wishes: list[float], capacity: float) -> None:
    wanted = np.array(wishes)
    given_ = max_min_share(wanted, capacity)
    assert np.all(given_ <= wanted + 1e-9)
    assert given_.sum() == pytest.approx(min(capacity, wanted.sum()))
    short = given_ < wanted - 1e-6
    if short.any():  # whoever gets less than it wants gets as much as anybody
        assert np.all(given_[short] >= given_.max() - 1e-6)


def test_even_shards_keep_the_sum_and_fail_as_often_as_they_are_told() -> None:
    made = even_shards(4000, compute_seconds=8000, traffic_bytes=4e9, spread=0.4, death_share=0.2, seed=1)
    assert sum(each.compute_seconds for each in made) == pytest.approx(8000)
    assert sum(each.traffic_bytes for each in made) == pytest.approx(4e9)
    assert np.std(np.log([each.compute_seconds for each in made])) == pytest.approx(0.4, rel=0.05)
    deaths = sum(len(each.dies_at) for each in made)
    assert deaths / (deaths + len(made)) == pytest.approx(0.2, rel=0.1)
    alike = even_shards(3, compute_seconds=6, traffic_bytes=0, spread=0, death_share=0, seed=1)
    assert [each.compute_seconds for each in alike] == pytest.approx([2, 2, 2])


def test_what_cannot_be_simulated_is_told() -> None:
    with pytest.raises(InputError, match="at least one pod"):
        run_shards(shards(1), pods=0, start_seconds=0, bandwidth_bytes_per_s=1)
