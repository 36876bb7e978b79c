"""Waivers: written, dated and signed permission to go on although one expectation fails."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from perception.errors import InputError
from perception.quality.suites import SUITES_FOLDER, load_suite, read_yaml

WAIVERS_FILE = Path(__file__).parent / "waivers.yaml"


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """Permission for one expectation of one suite to fail for one source of frames or one profile."""

    suite: str
    id: str  # of the expectation
    applies_to: str  # name of a profile, or of an ingest source
    reason: str
    who: str
    granted: date
    expires: date  # the last day on which it holds

    def in_words(self) -> str:
        """Say who allowed it, until when and why."""
        return f"{self.who}, {self.granted} to {self.expires}, for {self.applies_to}: {self.reason}"


def load_waivers(path: Path = WAIVERS_FILE) -> tuple[Waiver, ...]:
    """Load the reviewed file of waivers; raise InputError for anything unknown, missing, doubled or without an end."""
    content = read_yaml(path)
    if content is None:
        return ()
    if not isinstance(content, list):
        raise InputError(f"{path.name} is not a list; write one entry for each waiver")
    waivers = tuple(_waiver(entry, f"{path.name}, entry {number}") for number, entry in enumerate(content, start=1))
    keys = [(waiver.suite, waiver.id, waiver.applies_to) for waiver in waivers]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{path.name} waives {'/'.join(key)} twice; keep one entry")
    return waivers


def find_waiver(
    waivers: Iterable[Waiver],
    suite: str,
    identifier: str,
    names: Collection[str],
    sources: Collection[str],
    today: date,
) -> tuple[Waiver | None, str | None]:
    """Find what allows a failure: the waiver that holds today, or a note about one that does not.

    names: what runs, such as its profile; a waiver for one of them covers the failure. sources: where the offending
    frames come from; a waiver for a source covers the failure only where all of them come from it.
    """
    note = None
    for waiver in waivers:
        covers = waiver.applies_to in names or set(sources) == {waiver.applies_to}
        if (waiver.suite, waiver.id) != (suite, identifier) or not covers:
            continue
        if waiver.expires < today:
            note = f"waiver expired on {waiver.expires} ({waiver.in_words()})"
        elif waiver.granted > today:
            note = f"waiver holds only from {waiver.granted} ({waiver.in_words()})"
        else:
            return waiver, None
    return None, note


def _waiver(entry: Any, where: str) -> Waiver:
    names = {field.name for field in fields(Waiver)}
    if not isinstance(entry, dict) or set(entry) != names:
        given = ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)
        raise InputError(f"{where} has {given}; it needs exactly {', '.join(sorted(names))}")
    for name, value in entry.items():
        if name in ("granted", "expires"):
            if not isinstance(value, date) or isinstance(value, datetime):
                raise InputError(f"{where}: {name} is {value!r}; write a date such as 2026-11-23")
        elif not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {name} is {value!r}; write a text")
    content: dict[str, Any] = {name: " ".join(v.split()) if isinstance(v, str) else v for name, v in entry.items()}
    waiver = Waiver(**content)
    if waiver.expires < waiver.granted:
        raise InputError(
            f"{where} expires on {waiver.expires}, before it is granted on {waiver.granted}; mend the dates"
        )
    if not (SUITES_FOLDER / f"{waiver.suite}.yaml").is_file():
        raise InputError(f"{where} is about the suite {waiver.suite!r}, which does not exist; name a shipped suite")
    if waiver.id not in {expectation.id for expectation in load_suite(waiver.suite).expectations}:
        raise InputError(f"{where} is about {waiver.suite}/{waiver.id}, which does not exist; name an existing id")
    return waiver
