"""What became of a night: the gravest end counts, and figures are those that tasks told."""

from typing import Any

import pytest

from perception.reporting.night_row import culprit, status_of, told_by


def record(name: str, status: str = "done", started: float = 1_800_000_000.0, **told: Any) -> dict[str, Any]:
    return {"name": name, "status": status, "started": started, "seconds": 1800.0, "values": told}


def test_a_night_without_news_is_a_good_night_that_says_so() -> None:
    records = [record("resolve", base="data-v3"), record("gather", news="nothing", new=0)]
    assert status_of(records) == "nothing_new"
    assert told_by(records) == {"base": "data-v3", "news": "nothing", "new": 0}


def test_a_night_of_which_nothing_is_known_has_told_nothing() -> None:
    assert (status_of([]), told_by([])) == ("done", {})


@pytest.mark.parametrize(
    ("ends", "status", "by"),
    [
        (["done", "failed"], "failed", "task1"),
        (["running", "refused"], "refused", "task1"),
        (["failed", "bad_input", "refused"], "refused", "task2"),
        (["running", "bad_input", "failed"], "failed", "task1"),
        (["running", "failed"], "failed", "task1"),
        (["running", "running"], "failed", "task0"),
    ],
)
def test_the_gravest_end_is_the_nights(ends: list[str], status: str, by: str) -> None:
    records = [record(f"task{number}", end, started=float(number)) for number, end in enumerate(ends)]
    assert status_of(records) == status
    guilty = culprit(records)
    assert guilty is not None and guilty["name"] == by
