"""Tables that grow entry by entry: what arrived, what was labelled, night after night.

    entries/<yyyy-mm>/<name>.json        an entry, in the registry's git: for each table how many rows, and their hashes
    files/md5/...                        its rows, a Parquet part a table, on the registry's remote by content

An entry never changes.  Its number says its place: main is linear, so 1, 2, 3 ... without a gap.  Parts are on the remote and
proved before the entry is committed, so a killed call leaves nothing to see or the whole entry, and the same call
completes it.  git grows by about a kilobyte an entry, however many rows that has; a month's entries share a folder, since
every commit writes the list of its folder anew.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from perception.errors import InputError
from perception.versioning.parts import Part, fetched, holding, in_blocks, put_parts, read_kept
from perception.versioning.processes import Clone, read_all_committed
from perception.versioning.records import FORMAT, RUN_RULE, json_bytes, parse_record
from perception.versioning.repository import configured_remote, push_commit, trailers
from perception.versioning.verified import verified_clone

FOLDER = "entries"
DENIES = "denied"  # table of what was erased: whoever began before one of its entries must not go on


class Overtaken(InputError):
    """Report that another night wrote an entry meanwhile which this one must know: run again, from what there is now."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that grows: its name and the columns that every reader finds; parts may have more columns, of numbers."""

    name: str
    schema: pa.Schema


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one step of one night added."""

    format: int
    number: int  # place along main: 1, 2, 3 ...
    name: str  # unique in the registry
    kind: str  # what it is about: arrivals, batch, labels, recall, ...
    when_utc: str  # ISO 8601
    tables: Mapping[str, Part]

    @property
    def when(self) -> datetime:
        """Give the moment, in UTC."""
        return datetime.fromisoformat(self.when_utc)


@dataclass(frozen=True)
class Book:
    """All entries of a registry up to some moment, in their order."""

    registry: str
    remote: str  # where the parts lie
    entries: tuple[Entry, ...]
    kept: Path | None = field(default=None, compare=False)  # folder in which this machine keeps what it fetched

    def before(self, name: str) -> "Book":
        """Give the book as it was before the entry of this name; as it is where there is none.

        A step that is run again reads this, and so finds what it found the first time.
        """
        numbers = [entry.number for entry in self.entries if entry.name == name]
        earlier = tuple(entry for entry in self.entries if entry.number < numbers[0]) if numbers else self.entries
        return replace(self, entries=earlier)

    def only(self, entry: Entry) -> "Book":
        """Give one entry alone, to read its rows."""
        return replace(self, entries=(entry,))


def open_book(registry: str | Path, kept: Path | None = None) -> Book:
    """Read all entries of a registry, but none of their rows.

    kept: folder in which this machine keeps what it fetched, for the next night; without one every table is fetched anew.
    Raises InputError for an entry that a newer Nightdrive wrote, and for a gap in their numbers: then somebody edited them.
    """
    with verified_clone(registry) as clone:
        return book_at(clone, kept)


def book_at(clone: Clone, kept: Path | None = None, revision: str = "HEAD") -> Book:
    """Read all entries at a commit of the clone, as open_book does."""
    return Book(clone.registry, configured_remote(clone), _entries_at(clone, revision), kept)


def _entries_at(clone: Clone, revision: str) -> tuple[Entry, ...]:
    committed = read_all_committed(clone, FOLDER, revision)
    found = sorted(
        (_entry(content, f"{path} of registry {clone.url}") for path, content in committed.items()),
        key=lambda entry: entry.number,
    )
    for place, entry in enumerate(found, start=1):
        if entry.number != place:
            raise InputError(
                f"registry {clone.url} has entry {entry.number} ({entry.name}) in place {place}: "
                "entries were removed or edited; restore them from its history"
            )
    return tuple(found)


@lru_cache(maxsize=10_000)
def _entry(content: bytes, where: str) -> Entry:
    """Read an entry; one that was read before is not parsed again, since entries never change."""
    return parse_record(content, Entry, where)


def entry_objects(clone: Clone) -> dict[str, str]:
    """Give every object on the remote that the entries at a clone's head need, with the table that it is a part of."""
    entries = _entries_at(clone, "HEAD")
    return {part.md5: f"{name} of entry {entry.name}" for entry in entries for name, part in entry.tables.items()}


# --- writing


def append(
    book: Book,
    name: str,
    kind: str,
    tables: Mapping[Table, pd.DataFrame],
    *,
    when: datetime,
    check: Callable[[Book], None] | None = None,
) -> Book:
    """Add an entry to the registry that a book was read from; return the book up to it.  The same call again adds nothing.

    book: what the rows were worked out from.  check: given the entries since then that others wrote, raises Overtaken where
    the rows no longer hold.  when: of the entry, with its time zone.
    Raises InputError for rows that do not fit their table, a name that another entry has, or when the remote cannot be
    written.
    """
    if not re.fullmatch(RUN_RULE, name):
        raise InputError(f"entry {name!r} must match {RUN_RULE}; rename the night")
    parts = put_parts(book.remote, {table.name: typed(rows, table) for table, rows in tables.items()})
    moment = when.astimezone(UTC)
    facts: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "when_utc": moment.isoformat(timespec="seconds"),
        "tables": parts,
    }
    with verified_clone(book.registry) as clone:
        written = [book]

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            now = _entries_at(clone, head)
            if now[: len(book.entries)] != book.entries:
                raise Overtaken(
                    f"registry {clone.url}: entries changed since they were read: by an erasure, or by hand (restore its history then); "
                    f"run {name} again"
                )
            entry = Entry(format=FORMAT, number=len(now) + 1, **facts)
            there = next((each for each in now if each.name == name), None)
            if there:
                _check_same(there, entry)
                written[:] = [replace(book, entries=now[: there.number])]
                return None
            written[:] = [replace(book, entries=(*now, entry))]
            if any(DENIES in each.tables for each in now[len(book.entries) :]):
                raise Overtaken(f"frames were erased since {name} began; run it again: it goes on without them")
            if check and len(now) > len(book.entries):
                check(replace(book, entries=now[len(book.entries) :]))
            rows = ", ".join(f"{part.rows} rows of {table}" for table, part in parts.items())
            return entry_file(entry), trailers(f"Add {kind} {name}", rows)

        push_commit(clone, changes)
    return written[0]


def entry_file(entry: Entry) -> dict[str, bytes | None]:
    """Return the path of an entry in the registry, and its content."""
    return {f"{FOLDER}/{entry.when:%Y-%m}/{entry.name}.json": json_bytes(asdict(entry))}


def _check_same(there: Entry, wanted: Entry) -> None:
    if (there.kind, there.tables) != (wanted.kind, wanted.tables):
        raise InputError(
            f"entry {there.name} exists with other rows; entries never change: give the night another name"
        )


def typed(rows: pd.DataFrame, table: Table) -> pa.Table:
    """Return rows as a table holds them: its columns in order and typed, then any others, which must be numbers or flags.

    Only conversions that lose nothing are made.  Raises InputError that names table and column.
    """
    missing = [field.name for field in table.schema if field.name not in rows and not field.nullable]
    if missing:
        raise InputError(f"table {table.name} needs column {missing[0]}; add it to the rows")
    others = [pa.field(str(name), _number_type(rows[name], table)) for name in rows if name not in table.schema.names]
    schema = pa.schema([*table.schema, *others])
    return pa.table([_column(rows, field, table) for field in schema], schema=schema)


def _number_type(values: "pd.Series[Any]", table: Table) -> pa.DataType:
    kind = pa.array(values, from_pandas=True).type
    if pa.types.is_null(kind):
        return pa.float64()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"table {table.name} has no column {values.name}, and it holds {kind}; leave it out")
    return kind


def _column(rows: pd.DataFrame, field: pa.Field, table: Table) -> pa.Array | pa.ChunkedArray:
    if field.name not in rows:
        return pa.nulls(len(rows), field.type)
    try:
        column = pa.array(rows[field.name], from_pandas=True).cast(field.type)
    except (pa.ArrowException, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"table {table.name}: column {field.name} must hold {field.type} ({reason})") from None
    if column.null_count and not field.nullable:
        raise InputError(f"table {table.name}: column {field.name} is empty in a row, must not be; fill it in")
    return column


# --- reading


def read_table(
    book: Book,
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    where: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Return a table's rows, in the order in which they were written; a column keeps its type where no row fills it.

    columns: by default all.  where: only rows that hold, in one of the named columns, one of its values; memory is then needed
    for those alone.
    Raises InputError when the remote lost a part or holds other bytes.
    """
    schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
    every = [entry.tables[table.name] for entry in book.entries if table.name in entry.tables]
    parts = [part for part in every if part.rows]
    found = [schema.empty_table()]
    if where is None and book.kept:
        found += [read_kept(path, columns) for path in in_blocks(book.remote, parts, book.kept)]
    else:
        if where is not None and book.kept:
            hit = [holding(book.remote, parts, name, values, book.kept) for name, values in where.items()]
            parts = [parts[place] for place in sorted(set().union(*hit))]
        with fetched(book.remote, parts, book.kept) as paths:
            found += [_rows(path, columns, where) for path in paths]
    rows = pa.concat_tables(found, promote_options="permissive").combine_chunks()
    return rows.to_pandas(date_as_object=False)


def _rows(path: Path, columns: Sequence[str] | None, where: Mapping[str, Collection[str]] | None) -> pa.Table:
    """Read a part; of one that has no wanted row only the columns that are asked about are decoded."""
    if where is None:
        return read_kept(path, columns)
    keys = read_kept(path, list(where))
    hits = (pc.is_in(keys[name], value_set=pa.array(values, pa.string())) for name, values in where.items())
    hit = reduce(pc.or_, hits)
    return read_kept(path, columns if pc.any(hit).as_py() else []).filter(hit)
