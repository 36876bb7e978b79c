"""Tell frames apart by what they show instead of by a network's features."""

import numpy as np
import pandas as pd

from perception.errors import InputError

LEAST_SPREAD = 1e-3  # of a class's share of the pixels: a class that hardly occurs must not decide by its noise alone


def embedded_by_classes(candidates: pd.DataFrame, labelled: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables with embeddings made of class_share: each class's predicted share of the pixels over its spread.

    Divided by its standard deviation over the candidates (LEAST_SPREAD at least), a rare class such as cyclists tells
    frames apart as well as the road does; pooled features hardly notice either. candidates are a shortlist, so that
    the spread is the same however the pool is divided into shards. class_share: (class,) floats a row.
    Raises InputError when a table has frames but no class_share.
    """
    for name, table in (("candidates", candidates), ("labelled frames", labelled)):
        if len(table) and "class_share" not in table.columns:
            raise InputError(f"{name} have no column 'class_share', which distances by classes need: score them again")
    if candidates.empty:
        return candidates, labelled
    spread = np.maximum(np.stack(candidates["class_share"].tolist()).astype(np.float64).std(0), LEAST_SPREAD)

    def embedded(table: pd.DataFrame) -> pd.DataFrame:
        if table.empty:
            return table
        points = np.stack(table["class_share"].tolist()).astype(np.float64) / spread
        return table.assign(embedding=list(points))

    return embedded(candidates), embedded(labelled)
