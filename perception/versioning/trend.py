"""The nights of a registry as a series, each with where its version stands."""

from dataclasses import dataclass
from pathlib import Path

from perception.versioning.decisions import standing
from perception.versioning.nights import Night, nights_at
from perception.versioning.recorded import decisions_at
from perception.versioning.records import current_at
from perception.versioning.verified import verified_clone


@dataclass(frozen=True, kw_only=True)
class ListedNight:
    """A night, and what people made of it."""

    night: Night
    # on its version: proposed (it waits), current, was current or rejected; None: it made no version
    decision: str | None
    signed: bool = False  # whether the registry has a list of signers, and its row was checked against it


def read_trend(registry: str | Path) -> list[ListedNight]:
    """Return all nights, oldest first; raises InputError as read_nights does."""
    with verified_clone(registry) as clone:
        nights, decisions, pointer = nights_at(clone), decisions_at(clone, "HEAD"), current_at(clone)
        signed = clone.signers is not None
    current = pointer.tag if pointer else None
    return [
        ListedNight(
            night=night,
            decision=standing(night.version, current, decisions) if night.version else None,
            signed=signed,
        )
        for night in nights
    ]
