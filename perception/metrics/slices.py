"""Slices of a test set: the frames that share values of manifest columns, such as night, or night and rain and urban."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.manifest import SCENES, TIMES_OF_DAY, WEATHERS
from perception.errors import InputError

CONDITIONS = ("time_of_day", "weather", "scene")
DOMAIN: Mapping[str, tuple[str, ...]] = {"time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES}


@dataclass(frozen=True, eq=False)
class Slice:
    """Name the rows of a table that have the values `where`; rows: (row,) bool."""

    name: str
    where: Mapping[str, str]
    rows: NDArray[np.bool_]


def slice_name(where: Mapping[str, str]) -> str:
    """Write a slice as `time_of_day=night`, or `time_of_day=night,weather=rain` for a cell of several columns."""
    return ",".join(f"{column}={value}" for column, value in where.items())


def check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise InputError for a column to slice by that the table lacks."""
    for column in columns:
        if column not in table.columns:
            raise InputError(
                f"slice column {column!r} is not in the manifest; it has {', '.join(map(str, table.columns))}"
            )


def column_slices(table: pd.DataFrame, columns: Sequence[str]) -> list[Slice]:
    """Cut a table into one slice for every value of every column, in order of column and value; null is in none."""
    return [
        Slice(slice_name({column: value}), {column: value}, np.asarray(table[column].to_numpy(object) == value, bool))
        for column in columns
        for value in sorted({value for value in table[column] if isinstance(value, str)})
    ]


def cell_slices(table: pd.DataFrame, columns: Sequence[str]) -> list[Slice]:
    """Cut a table into the cells that it has: one for every combination of values; rows with a null are in none."""
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for number, values in enumerate(zip(*(table[column].to_numpy(object) for column in columns), strict=True)):
        if all(isinstance(value, str) for value in values):
            rows_of.setdefault(values, []).append(number)
    found = []
    for values, numbers in sorted(rows_of.items()):
        where = dict(zip(columns, values, strict=True))
        rows = np.zeros(len(table), bool)
        rows[numbers] = True
        found.append(Slice(slice_name(where), where, rows))
    return found


def domain_grid(table: pd.DataFrame) -> pd.DataFrame:
    """Count frames and drives in every cell of the operating domain light x weather x road.

    table: one row a drive and condition, with drive_id, frames and the three columns. Returns one row for each of the
    5 x 5 x 3 cells, seen or not: the columns, frames, drives.
    """
    counted = table.dropna(subset=list(CONDITIONS)).groupby(list(CONDITIONS))
    found = counted.agg(frames=("frames", "sum"), drives=("drive_id", "nunique"))
    every = pd.MultiIndex.from_product([DOMAIN[column] for column in CONDITIONS], names=list(CONDITIONS))
    return found.reindex(every, fill_value=0).astype(int).reset_index()
