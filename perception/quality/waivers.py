"""Waivers: written, dated and signed permission to go on although one expectation fails."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Strict

from perception.errors import InputError
from perception.parameters import BrokenRule, checked
from perception.quality.suites import SUITES_FOLDER, Text, built, load_suite, read_yaml

WAIVERS_FILE = Path(__file__).parent / "waivers.yaml"


@checked
class Waiver:
    """Permission for one expectation of one suite to fail for one source of frames or one profile."""

    suite: Text
    id: Text  # of the expectation
    applies_to: Text  # name of a profile, or of an ingest source
    reason: Text
    who: Text
    granted: Annotated[date, Strict()]
    expires: Annotated[date, Strict()]  # the last day on which it holds

    def __post_init__(self) -> None:
        if self.expires < self.granted:
            raise BrokenRule("expires", str(self.expires), f"is before it is granted, on {self.granted}")

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
    waivers = tuple(
        built(Waiver, entry, f"{path.name}, entry {number}") for number, entry in enumerate(content, start=1)
    )
    for number, waiver in enumerate(waivers, start=1):
        known = (SUITES_FOLDER / f"{waiver.suite}.yaml").is_file()
        if not known or waiver.id not in {each.id for each in load_suite(waiver.suite).expectations}:
            raise InputError(
                f"{path.name}, entry {number} is about {waiver.suite}/{waiver.id}, which does not exist; name a shipped "
                "suite and the id of one of its expectations"
            )
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
