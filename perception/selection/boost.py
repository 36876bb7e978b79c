"""Raise the scores of frames like those on which the last network failed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.errors import InputError

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


def read_queries(path: Path) -> tuple[FailureQuery, ...]:
    """Read the queries that an evaluation wrote as query.json; raises InputError for a file that is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(_query(entry) for entry in content["queries"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an evaluation's query.json") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a failure query ({error}); give an evaluation's query.json") from None


def _query(entry: Mapping[str, Any]) -> FailureQuery:
    weight = float(entry["weight"])
    if not (math.isfinite(weight) and 0 <= weight <= MAX_WEIGHT):
        raise ValueError(f"weight {weight} must lie in [0, {MAX_WEIGHT:g}]")
    where = {str(column): str(value) for column, value in entry["where"].items()}
    if not where:
        raise ValueError("a query without conditions would boost every frame")
    return FailureQuery(where=where, weight=weight, about=str(entry.get("about", "")))


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
