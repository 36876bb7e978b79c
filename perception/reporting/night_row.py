"""What became of a night, by the records that its tasks left behind."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
# What ends a night, the gravest first: nobody tries a night again that was refused, though a pod was lost beside the gate.
_BAD = ("refused", "bad_input", "failed", "running")


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
    return "nothing_new" if told_by(records).get("news") == "nothing" else "done"


def turned_away(told: Json) -> int | None:
    """Return how many files the deny list turned away, by their names before they were read or by their bytes; None: not known."""
    counts = [told[name] for name in ("denied_by_name", "denied") if name in told]
    return sum(counts) if counts else None


def told_by(records: Sequence[Json]) -> dict[str, Any]:
    """Return what all tasks told beside their artifacts."""
    return {name: value for record in records for name, value in record["values"].items()}
