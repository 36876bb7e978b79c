"""The deny list: what was erased and must never come back. Frames and drives stand in it by the hash of their name, bytes by theirs."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

TOLD = ("reason", "why")  # columns of free text, in which other frames may be named
WORD = re.compile(r"[A-Za-z0-9_-]{1,200}")  # as the name of a frame may be
REASON = "is on the deny list"
FILE = "denied.parquet"  # the list as a step hands it to the next


@dataclass(frozen=True, kw_only=True)
class DenyList:
    """What is denied."""

    frames: frozenset[str] = frozenset()  # digests of names
    drives: frozenset[str] = frozenset()  # likewise
    contents: frozenset[str] = frozenset()  # sha256 of bytes
    marks: frozenset[str] = frozenset()  # of pictures

    def names_frame(self, name: str) -> bool:
        """Say whether this is the name of a frame that is denied."""
        return digest(name) in self.frames

    def names_drive(self, name: str) -> bool:
        """Say whether this is the name of a drive that is denied."""
        return digest(name) in self.drives

    def names(self, name: str) -> bool:
        """Say whether this is the name of a file of what is denied: a frame's, or one in the folder of a drive."""
        return self.names_frame(name) or any(map(self.names_drive, {name, *name.split("/")}))

    def holds(self, frame_id: str, drive_id: str, *contents: str | None) -> bool:
        """Say whether a frame of this name, drive or bytes is denied."""
        return (
            self.names_frame(frame_id) or self.names_drive(drive_id) or any(each in self.contents for each in contents)
        )

    def masked(self, text: str) -> str:
        """Return a text in which no word is the name of a frame that is denied."""
        return WORD.sub(lambda word: "erased" if self.names_frame(word[0]) else word[0], text)

    def rows(self, table: pd.DataFrame) -> "pd.Series[bool]":
        """Return which rows of a table are about what is denied, by those of the columns that tell it which the table has."""
        found = pd.Series(False, table.index)
        for column, holds in (("frame_id", self.names_frame), ("drive_id", self.names_drive), ("object", self.names)):
            if column in table:
                found |= table[column].isin([name for name in table[column].dropna().unique() if holds(name)])
        for column in ("source_sha256", "image_sha256", "image_sha256_actual"):
            if column in table:
                found |= table[column].isin(self.contents)
        return found


NOTHING = DenyList()


@lru_cache(1 << 16)
def digest(name: str) -> str:
    """Return the hash by which the deny list knows a name."""
    return hashlib.sha256(name.encode()).hexdigest()


def from_table(rows: pd.DataFrame) -> DenyList:
    """Return the list that a table holds."""
    values = {about: frozenset(part.value) for about, part in rows.groupby("about")}
    return DenyList(**{f"{about}s": found for about, found in values.items()})


def to_table(denied: DenyList) -> pd.DataFrame:
    """Return a list as a table, in one order."""
    found = {name.removesuffix("s"): values for name, values in vars(denied).items()}
    rows = [(about, value) for about, values in sorted(found.items()) for value in sorted(values)]
    return pd.DataFrame(rows, columns=["about", "value"], dtype=object)


def read_deny_list(folder: Path) -> DenyList:
    """Read the list that a step before left in a folder; an empty one where there is none."""
    path = folder / FILE
    return from_table(pd.read_parquet(path)) if path.exists() else NOTHING
