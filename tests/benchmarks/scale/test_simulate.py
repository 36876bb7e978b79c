"""The prediction of a fleet's night: against sums done by hand, its bottleneck against what it was starved of, its limits."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks.scale import simulate
from benchmarks.scale.command import simulate as command
from benchmarks.scale.fleet_night import (
    Fleet,
    FleetCluster,
    Gpu,
    Limits,
    Plan,
    Prices,
    Rates,
    World,
    forecast,
    night_hours,
    stages_of,
)  # fmt: skip
from components.stage.program import run_program
from perception.errors import InputError
from pipelines.nightly import nightly
from pipelines.settings import load_settings


def world(**cluster: float) -> World:
    """A night of 1,000,000 raw frames, where every pod is alike, nothing dies and pods start at once."""
    plain = {
        "cpu_pods": 10, "cores_a_pod": 1, "gpus": 4, "training_gpus": 2, "training_efficiency": 1.0, "store_gbit_s": 1e6,
        "pod_start_s": 0.0, "ingest_pods": 10, "score_shards": 4, "shard_spread": 0.0, "death_share": 0.0,
    }  # fmt: skip
    return World(
        fleet=Fleet(
            bytes_a_year=3.65e11, frame_bytes=1000.0, pool_every=10, curated_share=0.01, nights_a_year=365, window_hours=8.0
        ),
        cluster=FleetCluster(**plain | cluster),  # type: ignore[arg-type]
        limits=Limits(
            workflow_nodes=3500, nodes_an_iteration=3, etcd_request_bytes=1.5e6, parameter_bytes=2.6e5, pod_memory_gib=64.0
        ),
        gpu=Gpu(trained_frames_a_s=100.0, forward_share=0.5),
        prices=Prices(gpu_hour=2.0, core_hour=0.1, stored_tb_month=20.0, moved_tb=1.0),
        rates=Rates(**dict.fromkeys((each.name for each in fields(Rates)), 1e-6) | {"ingest_core_s": 0.1}),
        plan=Plan(members=8, ensemble_passes=72_000.0, compare_passes=36_000.0, adapt_passes=144_000.0, train_passes=216_000.0),
    )  # fmt: skip


def hours(given: World) -> dict[str, float]:
    return {stage.name: stage.hours for stage in stages_of(given)}


def test_the_frames_of_a_night_follow_from_the_bytes_of_a_year() -> None:
    fleet = world().fleet
    assert (round(fleet.raw_frames), fleet.pool_frames, fleet.curated_frames) == (1_000_000, 100_000, 10_000)


def test_stages_take_what_a_sum_says_where_nothing_waits() -> None:
    found = hours(world())
    assert found["ingest"] == pytest.approx(100_000 * 0.1 / 10 / 3600)
    assert found["score"] == pytest.approx(100_000 * 8 / 200 / 4 / 3600)
    assert found["train_prune"] == pytest.approx(216_000 / 100 / 2 / 3600)
    assert found["select"] == pytest.approx((100_000 * 1e-6 + 2 * 10_000**2 * 1e-6) / 3600)
    score = next(stage for stage in stages_of(world()) if stage.name == "score")
    assert score.gpu_hours == pytest.approx(100_000 * 8 / 200 / 3600) and score.pods == 4


def test_starts_of_pods_count_once_in_every_step_of_the_chain() -> None:
    waiting, at_once = night_hours(stages_of(world(pod_start_s=36.0))), night_hours(stages_of(world()))
    # 10 stages of one step each on the critical path (compare is beside it), the fan-outs in a single round, and 11 small steps.
    assert waiting - at_once == pytest.approx((10 + 11) * 0.01)


def test_a_slow_store_is_what_ingest_waits_for() -> None:
    slow = world(store_gbit_s=8e-6)  # 1,000 bytes a second
    assert hours(slow)["ingest"] == pytest.approx(2 * 100_000 * 1000 / 1000 / 3600)
    assert forecast(slow).bottleneck == "the store's bandwidth"


@pytest.mark.parametrize(
    ("starved", "bottleneck"),
    [
        ({"cpu_pods": 1}, "processor pods"),
        ({"gpus": 1, "training_gpus": 500}, "GPUs that score"),
        (
            {"training_gpus": 1, "gpus": 500, "score_shards": 500, "cpu_pods": 500, "ingest_pods": 500},
            "GPUs that train",
        ),
        ({"pod_start_s": 5000.0}, "starts of pods (half as long)"),
    ],
)
def test_the_bottleneck_is_what_the_night_is_starved_of(starved: dict[str, float], bottleneck: str) -> None:
    found = forecast(world(**starved))
    assert found.bottleneck == bottleneck and found.hours_if_doubled[bottleneck] < found.hours


def test_slow_stages_of_one_process_are_a_bottleneck_too() -> None:
    plain = world()
    slow = replace(plain, rates=replace(plain.rates, gate_row_s=1.0))
    assert forecast(slow).bottleneck == "stages of one process (twice as fast)"


def test_costs_are_hours_and_bytes_times_prices() -> None:
    found = forecast(world())
    assert found.cost["GPUs"] == pytest.approx(2.0 * found.gpu_hours)
    assert found.cost["traffic"] == pytest.approx(sum(stage.moved_tb for stage in found.stages))
    assert found.cost["storage of a month"] == pytest.approx(20 * (100_000 + 10_000) * 1000 / 1e12)


def test_limits_that_a_night_breaks_are_named_with_what_to_do() -> None:
    assert forecast(world()).exceeded == ()
    many = forecast(world(ingest_pods=40_000)).exceeded
    assert "nodes" in many[0] and "list of sources" in many[1]
    plain = world()
    heavy = replace(plain, rates=replace(plain.rates, gate_row_bytes=1e6))
    assert any("gate_ingest holds 93 GiB" in each for each in forecast(heavy).exceeded)
    assert any("window" in each for each in forecast(world(cpu_pods=1, pod_start_s=3600)).exceeded)


def test_the_plan_is_read_out_of_the_nights_own_parameters() -> None:
    settings = load_settings(nightly(), "nightly")
    plan = Plan.of(settings)
    assert plan.members == 8 and plan.ensemble_passes == 8 * 150 * 3000
    assert plan.train_passes == 150 * 20_000


def rates_file(folder: Path) -> Path:
    rates = dict.fromkeys((each.name for each in fields(Rates)), 1e-5) | {"frame_bytes": 5e5}
    found = {"command": "by hand", "hardware": "a test", "date": "2026-11-26", "rates": rates}
    (folder / "rates.json").write_text(json.dumps(found))
    return folder / "rates.json"


def test_the_command_prints_the_bottleneck_and_draws_the_night(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rates", str(rates_file(tmp_path)), "--out", str(tmp_path / "out"), "--set", "cluster.gpus=64"]
    assert run_program(command, arguments, "simulate") == 0
    said = capsys.readouterr().out
    assert "18,264,840 in the pool, 547,945 curated" in said and "bottleneck: " in said and "a test, 2026-11-26" in said
    page = (tmp_path / "out" / "fleet.md").read_text()
    assert 'SET="cluster.gpus=64"' in page and "fleet.svg" in page
    assert (tmp_path / "out" / "fleet.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gpus=3", "must be SECTION.NAME=VALUE"),
        ("cluster.gpu=3", "did you mean 'gpus'"),
        ("cluster.gpus=0", "must be at least 1"),
        ("fleet.pool_every=5000", "must fit into the pool"),
    ],
)  # fmt: skip
def test_mistakes_are_named_and_end_with_code_2(
    tmp_path: Path, override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(command, ["--rates", str(rates_file(tmp_path)), "--set", override], "simulate") == 2
    assert words in capsys.readouterr().err


def test_rates_that_were_never_measured_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmarks\.scale fleet_rates"):
        simulate.load_world(simulate.FLEET_FILE, tmp_path / "none.json", "nightly", [])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="holds no measured rates"):
        simulate.load_world(simulate.FLEET_FILE, tmp_path / "bad.json", "nightly", [])
