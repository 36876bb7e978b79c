"""Raise the scores of frames like those on which the last network failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.tables import read_record

MAX_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class FailureQuery:
    """Ask for frames like those of one cluster of failures.

    where: column and value of the manifest that such frames share; weight: how much more they are wanted, 0 is not at
    all; about: the failures in words.
    """

    where: Mapping[str, str]
    weight: float
    about: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight {self.weight} must lie in [0, {MAX_WEIGHT:g}]")
        if not self.where:
            raise ValueError("a query without conditions would boost every frame")


@dataclass(frozen=True, kw_only=True)
class _QueryFile:
    queries: tuple[FailureQuery, ...]


def read_queries(path: Path) -> tuple[FailureQuery, ...]:
    """Return the queries that an evaluation wrote as query.json; raises InputError for a file that is not one."""
    return read_record(path, _QueryFile).queries


def boost_factors(frames: pd.DataFrame, queries: Sequence[FailureQuery]) -> NDArray[np.float64]:
    """Give the factor of each frame's score: 1 + the greatest weight of the queries that it meets.

    frames: one row a frame with the columns that the queries name; a column that is absent or null meets nothing.
    Returns (frame,) float64, at least 1.
    """
    factors = np.ones(len(frames))
    for query in queries:
        met = np.ones(len(frames), dtype=bool)
        for column, value in query.where.items():
            met &= (frames[column].astype(object) == value).to_numpy(bool) if column in frames else False
        factors[met] = np.maximum(factors[met], 1.0 + query.weight)
    return factors
