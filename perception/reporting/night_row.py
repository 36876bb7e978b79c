"""A night as one row: folded from the records that its tasks left behind, whatever became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]
# What ends a night, the gravest first: nobody tries a night again that was refused, though a pod was lost beside the gate.
_BAD = ("refused", "bad_input", "failed", "running")


@dataclass(frozen=True, kw_only=True)
class NightRow:
    """What a list of nights says of one of them; None: it did not get there."""

    date: str | None  # UTC day on which it began
    status: str  # done, nothing_new, refused or failed
    by: str | None = None  # the task that refused or failed
    base: str | None = None  # the data version that it started from
    new: int | None = None  # frames that the base lacks
    chosen: int | None = None  # frames for the annotators
    miou: float | None = None  # of the network as it ships, on the frozen test set
    verdict: str | None = None  # on that network: promote, hold, ...
    hours: float | None = None  # from its first task's beginning to its last one's end


def culprit(records: Sequence[Json]) -> Json | None:
    """Return the record of the task that the night ended at; None where no record says anything bad.

    A task whose record still says `running` was killed: nobody ends a night while a task runs.
    """
    bad = [record for record in records if record["status"] != "done"]
    return min(bad, key=lambda record: (_BAD.index(record["status"]), record["started"]), default=None)


def status_of(records: Sequence[Json]) -> str:
    """Return what became of a night, as its summary has it."""
    guilty = culprit(records)
    if guilty is not None:
        return "refused" if guilty["status"] == "refused" else "failed"
    return "nothing_new" if _told(records).get("news") == "nothing" else "done"


def fold(records: Sequence[Json]) -> NightRow:
    """Return the row of the night that left these records."""
    told, guilty = _told(records), culprit(records)
    begin = min((record["started"] for record in records), default=None)
    end = max((record["started"] + record["seconds"] for record in records), default=None)
    return NightRow(
        date=None if begin is None else f"{datetime.fromtimestamp(begin, UTC):%Y-%m-%d}",
        status=status_of(records),
        by=guilty["name"] if guilty else None,
        hours=None if begin is None or end is None else round((end - begin) / 3600, 3),
        **{name: told.get(name) for name in ("base", "new", "chosen", "miou", "verdict")},
    )


def _told(records: Sequence[Json]) -> dict[str, Any]:
    """Return what all tasks told beside their artifacts."""
    return {name: value for record in records for name, value in record["values"].items()}
