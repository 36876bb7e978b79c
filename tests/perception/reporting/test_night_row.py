"""A night folded into one row: the gravest end counts, and figures are those that tasks told."""

from typing import Any

import pytest

from perception.reporting.night_row import NightRow, culprit, fold, status_of


def record(name: str, status: str = "done", started: float = 1_800_000_000.0, **told: Any) -> dict[str, Any]:
    return {"name": name, "status": status, "started": started, "seconds": 1800.0, "values": told}


GOOD = [
    record("resolve", base="data-v3"),
    record("gather", started=1_800_001_800.0, news="some", new=40),
    record("select", started=1_800_003_600.0, chosen=8),
    record("evaluate", started=1_800_005_400.0, miou=0.5, verdict="hold"),
]


def test_a_good_night_is_its_tasks_figures_and_hours() -> None:
    assert fold(GOOD) == NightRow(
        date="2027-01-15", status="done", base="data-v3", new=40, chosen=8, miou=0.5, verdict="hold", hours=2.0
    )


def test_a_night_without_news_is_a_good_night_that_says_so() -> None:
    row = fold([record("resolve", base="data-v3"), record("gather", news="nothing", new=0)])
    assert (row.status, row.new, row.chosen, row.verdict) == ("nothing_new", 0, None, None)


def test_a_night_of_which_nothing_is_known_has_no_figures() -> None:
    assert fold([]) == NightRow(date=None, status="done")


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
    assert (status_of(records), fold(records).by) == (status, by)
    guilty = culprit(records)
    assert guilty is not None and guilty["name"] == by
