"""The one long table of figures that the gates of training, compression and evaluation judge."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from perception.errors import InputError

COLUMNS = ("stage", "metric", "slice", "value", "lower", "upper", "gate_id", "bounded")
_GIVEN = ("stage", "metric", "slice", "value", "lower", "upper")
_NUMBERS = ("value", "lower", "upper")


def metric_rows(figures: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of figures, one row each.

    A figure gives stage, metric and value (None: could not be measured, which fails) and perhaps slice (a condition, a
    class; default `all`), lower and upper (None: no such bound). Columns: COLUMNS, where gate_id is stage/metric/slice
    and bounded says whether there is a finite bound, since a figure with none passes whatever it is.

    Raises InputError for a missing or unknown key or a value that is not a number.
    """
    table = pd.DataFrame([_row(figure) for figure in figures], columns=list(COLUMNS))
    for name in _NUMBERS:
        table[name] = table[name].astype("float64")
    table["bounded"] = np.isfinite(table["lower"]) | np.isfinite(table["upper"])
    return table


def _row(figure: Mapping[str, Any]) -> dict[str, Any]:
    unknown, missing = set(figure) - set(_GIVEN), {"stage", "metric", "value"} - set(figure)
    if unknown or missing:
        what = f"unknown {', '.join(sorted(unknown))}" if unknown else f"no {', '.join(sorted(missing))}"
        raise InputError(f"figure {dict(figure)!r} has {what}; give {', '.join(_GIVEN)}")
    row = {"slice": "all", "lower": None, "upper": None, **figure}
    for name in ("stage", "metric", "slice"):
        if not isinstance(row[name], str) or not row[name] or "/" in row[name]:
            raise InputError(f"figure {dict(figure)!r}: {name} is {row[name]!r}; write a text without /")
    for name in _NUMBERS:
        number = isinstance(row[name], (int, float, np.number)) and not isinstance(row[name], bool)
        if row[name] is not None and not number:
            raise InputError(f"figure {dict(figure)!r}: {name} is {row[name]!r}; write a number or None")
    return row | {"gate_id": f"{row['stage']}/{row['metric']}/{row['slice']}"}
