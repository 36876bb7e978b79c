"""Nights as records in the registry: what each took in, chose, measured and cost, and what it has used of what there was.

nights/<yyyy-mm>/<night>.json
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from perception.errors import InputError
from perception.versioning.growing import DENIES, Book, read_table
from perception.versioning.ledger import LEDGER
from perception.versioning.pool import FRAMES
from perception.versioning.processes import Clone, read_all_committed
from perception.versioning.records import FORMAT, RUN_RULE, json_bytes, parse_record
from perception.versioning.repository import push_commit, trailers
from perception.versioning.verified import verified_clone

FOLDER = "nights"
_MORE = ("failed", "refused", "nothing_new", "done")  # a later one says more about the same night
_FINISHED = ("nothing_new", "done")


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a night has seen of all that can be new, as far as it goes."""

    arrivals: int  # number of the newest entry that brought frames; 0: none
    labels: int  # number of the newest entry that brought accepted labels
    erasures: int  # how many erasures had been decided
    parameters: str  # hash of its parameters
    code: str  # hash of its code


@dataclass(frozen=True, kw_only=True)
class NightFigures:
    """What is listed of a night; None: not measured."""

    new_frames: int | None = None
    repeated_frames: int | None = None
    rejected_frames: int | None = None
    denied_frames: int | None = None  # files that the deny list turned away
    pool_frames: int | None = None  # that wait unlabelled
    labelled_frames: int | None = None  # accepted tonight
    human_labels: int | None = None  # training frames of its data version with a label by people
    frames_at_annotators: int | None = None
    chosen_frames: int | None = None
    miou: float | None = None
    miou_by_condition: Mapping[str, float | None] | None = None  # "time_of_day=night": mIoU
    worst_condition: str | None = None
    verdict: str | None = None
    fresh_frames: int | None = (
        None  # drawn uniformly and labelled since the night before: they judge, and teach tomorrow
    )
    fresh_accuracy: float | None = None  # share of their pixels that the night's network gets right, mean over frames
    fresh_accuracy_champion: float | None = None  # likewise of the champion of that night
    reference: str | None = None  # sha256 of the reference release's exported network
    miou_since_reference: float | None = None
    miou_since_reference_lower_95: float | None = None  # one-sided, each of the two
    miou_since_reference_upper_95: float | None = None
    seconds: float | None = None
    cost: float | None = None
    currency: str | None = None  # of cost


@dataclass(frozen=True, kw_only=True)
class Night:
    """One night's row."""

    night: str  # its name, unique in the registry
    date: date  # UTC
    profile: str
    base: str | None  # tag of the data version that it started from; None: there was none
    version: str | None = None  # tag of the one that it published; None: it made no other
    status: Literal["failed", "refused", "nothing_new", "done"]
    used: Used
    registry_commit: str | None = None  # of the registry when the night began; None: not known
    figures: NightFigures = field(default_factory=NightFigures)
    format: int = FORMAT


def next_night_name(taken: Collection[str], now: datetime) -> str:
    """Return the name of a night that begins now: its UTC date, with -2, -3 ... where that is taken."""
    day = now.astimezone(UTC).date().isoformat()
    names = [day, *(f"{day}-{number}" for number in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


def record_night(registry: str | Path, night: Night) -> Night:
    """Record a night; return its row as the registry has it then: another record stays where it says more.

    A record says more by its status (done, nothing_new, refused, failed) or, with the same one, by more figures that are known.
    The same call again changes nothing.
    """
    if not re.fullmatch(RUN_RULE, night.night):
        raise InputError(f"night {night.night!r} must match {RUN_RULE}; rename it")
    kept = [night]
    with verified_clone(registry) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            there = _nights_at(clone, head)
            path = next((path for path, each in there.items() if each.night == night.night), None)
            if path and _says(there[path]) >= _says(night):
                kept[:] = [there[path]]
                return None
            kept[:] = [night]
            record = asdict(night) | {"date": night.date.isoformat()}
            wanted = path or f"{FOLDER}/{night.date:%Y-%m}/{night.night}.json"
            return {wanted: json_bytes(record)}, trailers(f"Record night {night.night}: {night.status}", "")

        push_commit(clone, changes)
    return kept[0]


def _says(night: Night) -> tuple[int, int]:
    return _MORE.index(night.status), sum(figure is not None for figure in asdict(night.figures).values())


def read_nights(registry: str | Path) -> list[Night]:
    """Return all nights, by their date and their place in it; raises InputError for a record of a newer Nightdrive."""
    with verified_clone(registry) as clone:
        return nights_at(clone)


def nights_at(clone: Clone) -> list[Night]:
    """Return all nights at a clone's head, as read_nights does."""
    return sorted(_nights_at(clone, "HEAD").values(), key=_order)


def _order(night: Night) -> tuple[date, int, str]:
    place = re.fullmatch(r".*-(\d+)", night.night.removeprefix(night.date.isoformat()))
    return night.date, int(place[1]) if place else 1, night.night


def _nights_at(clone: Clone, revision: str) -> dict[str, Night]:
    committed = read_all_committed(clone, FOLDER, revision)
    return {
        path: parse_record(content, Night, f"{path} of registry {clone.url}") for path, content in committed.items()
    }


# --- what is new


def used_tonight(book: Book, *, parameters: str, code: str) -> Used:
    """Return what a night that starts from this book can use; parameters, code: their hashes."""
    arrivals = [e.number for e in book.entries if FRAMES.name in e.tables and e.tables[FRAMES.name].rows]
    labels = (
        entry.number
        for entry in reversed(book.entries)
        if LEDGER.name in entry.tables and (read_table(book.only(entry), LEDGER).event == "accepted").any()
    )
    return Used(
        arrivals=max(arrivals, default=0),
        labels=next(labels, 0),
        erasures=sum(DENIES in entry.tables for entry in book.entries),
        parameters=parameters,
        code=code,
    )


def news(tonight: Used, nights: Sequence[Night]) -> tuple[str, ...]:
    """Return what no finished night has used: frames, labels, erasures, parameters or code; nothing: there is no news.

    What a refused or failed night took in is new for the next one.
    """
    finished = [night.used for night in nights if night.status in _FINISHED]
    grown = {
        "frames": tonight.arrivals > max((each.arrivals for each in finished), default=0),
        "labels": tonight.labels > max((each.labels for each in finished), default=0),
        "erasures": tonight.erasures > max((each.erasures for each in finished), default=0),
        "parameters or code": (tonight.parameters, tonight.code) not in {(e.parameters, e.code) for e in finished},
    }
    return tuple(what for what, is_new in grown.items() if is_new)
