"""Whom to trust, as a registry's address says it: ADDRESS#root=SHA256&least=COMMIT&days=DAYS.

The address is a parameter, so this lies outside the registry: whoever can write the registry cannot change it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from perception.errors import InputError

_ANCHORED = re.compile(
    "(?P<address>[^#]+)#root=(?P<root>[0-9a-f]{64})(?:&least=(?P<least>[0-9a-f]{40}))?(?:&days=(?P<days>[1-9][0-9]{0,3}))?"
)


@dataclass(frozen=True)
class Anchor:
    """Say what a registry's history must hold."""

    root: str = (
        ""  # sha256 of the first list of allowed signers; empty: the registry itself is asked whether it has one
    )
    least: str = ""  # commit that must be in its history; empty: any history that begins with that list
    days: int = 0  # that the newest commit may be old; 0: any age


def split_address(registry: str | Path) -> tuple[str, Anchor]:
    """Return a registry's address without its anchor, and the anchor; raises InputError for one that is none."""
    text = str(registry)
    if "#root=" not in text:
        return text, Anchor()
    found = _ANCHORED.fullmatch(text)
    if found is None:
        raise InputError(
            f"registry {text}: what follows # must be root=SHA256, then &least=COMMIT and &days=NUMBER where they are wanted; correct it"
        )
    return found["address"], Anchor(found["root"], found["least"] or "", int(found["days"] or 0))


def with_anchor(address: str, anchor: Anchor) -> str:
    """Return a registry's address with an anchor; as it is without a root."""
    if not anchor.root:
        return address
    least, days = (f"&least={anchor.least}" if anchor.least else ""), (f"&days={anchor.days}" if anchor.days else "")
    return f"{address}#root={anchor.root}{least}{days}"
