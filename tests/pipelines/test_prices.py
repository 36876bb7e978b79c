"""What an hour of each task costs, by what it asks for."""

import pytest

from components.stage.parameters import build_parameters
from components.stage.registry import all_stages
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.nightly import nightly
from pipelines.prices import Prices
from pipelines.settings import load_settings

NIGHT = nightly()


def test_an_hour_costs_its_cores_memory_and_gpus() -> None:
    prices = build_parameters(Prices, {"core_hour": 0.1, "memory_gib_hour": 0.01, "gpu_hour": 2.0}, where="prices")
    given = {"stages": {"adapt": {"cpu_cores": 4, "memory_gib": 20, "gpu_count": 2}}, "nodes": {"adapt": 3}}
    cluster = build_parameters(Cluster, {**given, "shared_claim": "shared"}, where="cluster")
    by_task = prices.by_task(NIGHT, cluster)
    assert by_task["adapt"] == pytest.approx((0.1 * 4 + 0.01 * 20 + 2.0 * 2) * 3)
    assert (
        by_task["gate_adapt"]
        == by_task["gate_ingest"]
        == pytest.approx(0.1 + 0.01 * all_stages()["gate"].needs.memory_gib)
    )
    assert set(by_task) == set(NIGHT.tasks)
    assert build_parameters(Prices, {}, where="prices").by_task(NIGHT, cluster) == {}


def test_the_report_is_told_and_another_price_is_no_other_night() -> None:
    settings = load_settings(NIGHT, "nightly")
    assert settings["report"]["currency"] == "EUR" and settings["report"]["price_per_hour"]["score"] > 2.5
    dearer = load_settings(NIGHT, "nightly", ["prices.gpu_hour=9"])
    assert dearer["report"]["price_per_hour"]["score"] > 9
    assert dearer["gather"]["settings_sha256"] == settings["gather"]["settings_sha256"], "nothing is new"
    assert load_settings(NIGHT, "smoke")["report"]["price_per_hour"] == {}


@pytest.mark.parametrize(
    ("wrong", "said"), [("gpu_hour=-1", "prices.gpu_hour"), ("currency=euro", "three capital letters")]
)
def test_a_price_that_is_none_is_refused(wrong: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_settings(NIGHT, "nightly", [f"prices.{wrong}"])
