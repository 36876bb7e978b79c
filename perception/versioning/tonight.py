"""Tonight: the night's name and date, and how much of the registry's book it starts from."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import pandas as pd

from perception.versioning.growing import Book, book_at, open_book, read_table
from perception.versioning.nights import news, read_nights, used_tonight
from perception.versioning.pool import ARRIVALS
from perception.versioning.processes import git_text
from perception.versioning.verified import verified_clone


@dataclass(frozen=True, kw_only=True)
class Tonight:
    """Name a night, and say how much of the book lies before it."""

    night: str  # its name, unique in the registry
    date: str  # UTC, ISO 8601
    entries: int  # of the book, before its own

    @property
    def moment(self) -> datetime:
        """Give the beginning of the night's day: the same whenever a night is tried again."""
        return datetime.fromisoformat(self.date).replace(tzinfo=UTC)


def book_and_commit(registry: str, kept: Path | None) -> tuple[Book, str]:
    """Return the registry's book and the commit that it is at, from one clone."""
    with verified_clone(registry) as clone:
        return book_at(clone, kept), git_text(clone, "rev-parse", "HEAD")


def begin_night(book: Book, night: str, date: str) -> Tonight:
    """Return the night of this name as it begins, or as it began when it is run again; book: of the registry as it is."""
    return Tonight(night=night, date=date, entries=len(book.before(night).entries))


def left_unused(book: Book, tonight: Tonight, *, parameters: str, code: str) -> tuple[str, ...]:
    """Return what of frames, labels, parameters and code no finished night has used; book: before this night; the others: hashes."""
    used = used_tonight(book, parameters=parameters, code=code)
    return news(used, [each for each in read_nights(book.registry) if each.night != tonight.night])


def book_of(registry: str, tonight: Tonight, kept: Path | None) -> Book:
    """Return the book that a night starts from."""
    return starts_from(open_book(registry, kept), tonight)


def starts_from(book: Book, tonight: Tonight) -> Book:
    """Return of a book what a night starts from."""
    return replace(book, entries=book.entries[: tonight.entries])


def read_already(book: Book, tonight: Tonight) -> pd.DataFrame | None:
    """Return the files that the night has recorded as read, when it is tried again; None where it recorded none yet."""
    own = [entry for entry in book.entries if entry.name == tonight.night]
    return read_table(book.only(own[0]), ARRIVALS) if own else None


def seen_by(registry: str, tonight: Tonight, kept: Path | None) -> Book:
    """Return the book that a night has seen: what it starts from, and its own entries where no other night's lies between."""
    book = open_book(registry, kept)
    later = book.entries[tonight.entries :]
    own = takewhile(lambda entry: entry.name in (tonight.night, labels_entry(tonight)), later)
    return replace(book, entries=(*book.entries[: tonight.entries], *own))


def labels_entry(tonight: Tonight) -> str:
    """Return the name of the entry that holds a night's events of the ledger."""
    return f"{tonight.night}-labels"


def kept_beside(store: str) -> Path | None:
    """Return the folder in which this machine keeps what it fetched of the book; None where the store is no folder."""
    return None if "://" in store else Path(f"{store}.kept")
