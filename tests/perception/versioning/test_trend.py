"""The nights of a registry, each with where its version stands."""

from datetime import date

import pytest

from perception.versioning.decisions import standing
from perception.versioning.nights import Night, Used, record_night
from perception.versioning.recorded import Decision
from perception.versioning.registry import create_registry
from perception.versioning.trend import read_trend

TAGS = ["data/a-00000001", "data/b-00000002", "data/c-00000003", "data/d-00000004"]


def decision(action: str, tag: str) -> Decision:
    return Decision(
        action=action,
        tag=tag,
        manifest_sha256="0",
        names=("Ada",),
        reason="why",
        previous=None,
        decided_utc="2026-11-30",
    )


@pytest.mark.parametrize(
    ("tag", "stands"), list(zip(TAGS, ["was current", "current", "rejected", "proposed"], strict=True))
)
def test_where_a_version_stands(tag: str, stands: str) -> None:
    decisions = [decision("promote", TAGS[0]), decision("promote", TAGS[1]), decision("reject", TAGS[2])]
    assert standing(tag, TAGS[1], decisions) == stands
    assert standing(TAGS[0], TAGS[0], decisions) == "current", "after a rollback"


def test_a_night_without_a_version_of_its_own_waits_for_nobody(tmp_path) -> None:
    registry = str(tmp_path / "data.git")
    create_registry(registry, str(tmp_path / "remote"))
    used = Used(arrivals=0, labels=0, erasures=0, parameters="p", code="c")
    for number, version in enumerate((TAGS[0], None), start=1):
        day = date(2026, 11, number)
        record_night(
            registry,
            Night(night=str(day), date=day, profile="smoke", base=None, version=version, status="done", used=used),
        )
    assert [(each.night.version, each.decision) for each in read_trend(registry)] == [
        (TAGS[0], "proposed"), (None, None),
    ]  # fmt: skip
