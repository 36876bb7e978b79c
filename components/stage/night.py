"""The night that a step on a cluster is part of: where its records lie, and when it ends itself.

A run of Kubeflow's is a night, and names it. The backend ends a night at its deadline without a word: no step is told, the
farewell does not run. So each step ends by itself shortly before, and the farewell has the rest of the time.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from components.stage.parameters import build_parameters
from components.stage.records import FORMAT, NIGHT_FILE, NIGHT_VARIABLE, RECORDS_VARIABLE, read_document
from perception.data.documents import open_documents
from perception.errors import InputError
from perception.parameters import CountOrZero, Positive, checked

NIGHT = "_night"  # among a step's settings, NightSettings; no parameter of a stage begins so
FAREWELL_SECONDS = 600.0  # of a night, kept for the farewell: two pods to start, and a report to write
_RULE = "[A-Za-z0-9][A-Za-z0-9._-]*"


class DeadlineReached(BaseException):
    """End whatever a step does; no Exception, so that no library takes it for a failure of its own."""


@checked
class NightSettings:
    """Say what every step is told of its night."""

    store: str  # a folder or s3://bucket/prefix; the records lie below it
    profile: str  # of the night
    hours: Positive  # after which the backend ends it
    watch_retries: CountOrZero  # how often the watch tries it again after a pod was lost


@dataclass(frozen=True, kw_only=True)
class Night:
    """Hold what the first step of a night wrote down for those after it."""

    format: int
    night: str
    profile: str
    started: float  # seconds since 1970
    deadline: float  # likewise; the backend's


def records_place(store: str, night: str) -> str:
    """Return where the records of a night lie; raises InputError for a name that no night has."""
    if not re.fullmatch(_RULE, night):
        raise InputError(f"night {night!r}: must match {_RULE}; name a run of Kubeflow's")
    return f"{store}/nights/{night}"


def enter_night(given: Mapping[str, Any]) -> Night | None:
    """Have this process keep its records with the night's, and return the night, which its first step writes down.

    given: NightSettings, as the step was told them. None outside a run of Kubeflow's. Raises InputError where the store
    cannot be read or written.
    """
    name = os.environ.get(NIGHT_VARIABLE, "")
    if not name:
        return None
    settings = build_parameters(NightSettings, given, where=NIGHT)
    place = records_place(settings.store, name)
    os.environ[RECORDS_VARIABLE] = place
    known = read_night(place)
    if known is None:
        now = time.time()
        known = Night(
            format=FORMAT, night=name, profile=settings.profile, started=now, deadline=now + settings.hours * 3600
        )
        open_documents(place).write(NIGHT_FILE, json.dumps(asdict(known)).encode())
    return known


def read_night(place: str) -> Night | None:
    """Return what a night's first step wrote down; None where no step has begun; raises InputError as read_document does."""
    said = read_document(place, NIGHT_FILE)
    return None if said is None else Night(**said)


@contextmanager
def until(moment: float, now: Callable[[], float] = time.time) -> Iterator[None]:
    """Raise DeadlineReached in this block at a moment in seconds since 1970, at once where it is past."""

    def reached(*_: Any) -> None:
        raise DeadlineReached

    kept = signal.signal(signal.SIGALRM, reached)
    signal.setitimer(signal.ITIMER_REAL, max(moment - now(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
