"""Read what one stage left for another: a table with the columns that are needed, a JSON record of a declared form."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from perception.errors import InputError

Record = TypeVar("Record")
_KINDS = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "number": lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
    "whole number": pa.types.is_integer,
    "flag": pa.types.is_boolean,
    "vector": lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type),
}
_REMEDY = "run the stage that writes it again"


def read_table(path: Path, columns: Mapping[str, str], *, key: str | None = None) -> pd.DataFrame:
    """Return a Parquet table, all of its columns, once those that are needed are known to hold what they should.

    columns: name → text, number, whole number, flag or vector; with a ? behind it rows may be empty. Under the name *
    stands what every column that is not named must hold. key: the column in which no value comes twice.
    Raises InputError that names file and column where one is missing, holds something else or has an empty row.
    """
    wanted = check_schema(path, columns)
    try:
        table = pd.read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({type(error).__name__}); {_REMEDY}") from None
    for name, kind in wanted.items():
        if not kind.endswith("?") and table[name].isna().any():
            raise InputError(f"{path}: column {name!r} is empty in a row, must hold a {kind} in each; {_REMEDY}")
    twice = table[key][table[key].duplicated()] if key else table[:0]
    if len(twice):
        raise InputError(f"{path}: has two rows with {key} {twice.iloc[0]!r}, must have one; {_REMEDY}")
    return table


def check_schema(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Return what each column of a Parquet file must hold; raise InputError, as read_table does, for a wrong type.

    Reads no rows, so that a table of any size can be checked before it is read part by part.
    """
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; {_REMEDY}") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({type(error).__name__}); {_REMEDY}") from None
    wanted = {name: kind for name, kind in columns.items() if name != "*"}
    wanted |= {name: columns["*"] for name in schema.names if "*" in columns and name not in columns}
    for name, kind in wanted.items():
        if name not in schema.names:
            raise InputError(f"{path}: has no column {name!r}, must have it; {_REMEDY}")
        found = schema.field(name).type
        if not pa.types.is_null(found) and not _KINDS[kind.removesuffix("?")](found):
            raise InputError(f"{path}: column {name!r} holds {found}, must hold a {kind} in each row; {_REMEDY}")
    return wanted


def read_record(path: Path, kind: type[Record]) -> Record:
    """Return a JSON file's content as a `kind`: a dataclass or TypedDict, whose fields say what the file must hold.

    Raises InputError that names file and key where one is missing or holds something else.
    """
    from pydantic import TypeAdapter, ValidationError  # a tenth of a second, which readers of tables need not pay

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where + ': ' if where else ''}{first['msg'].lower()}; {_REMEDY}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from None
