"""Near-duplicates: frames of one drive that look alike or lie within moments of each other."""

import numpy as np
import pandas as pd

from perception.errors import InputError
from perception.selection.settings import SelectionSettings


class NearDuplicates:
    """Find the candidates that a chosen frame makes superfluous."""

    def __init__(self, candidates: pd.DataFrame, points: np.ndarray | None, settings: SelectionSettings) -> None:
        """Index the candidates by drive.

        candidates: drive_id str, and timestamp_utc where duplicate_gap_s is set. points: (candidate, dimension).
        Raises InputError when one of them is missing.
        """
        self.settings = settings
        self.points = points
        self.seconds: np.ndarray | None = None
        self.is_on = settings.duplicate_distance is not None or settings.duplicate_gap_s is not None
        if not self.is_on:
            return
        _require(candidates, "drive_id")
        self.drive, _ = pd.factorize(candidates["drive_id"])
        self.rows_of_drive = dict(pd.Series(np.arange(len(candidates))).groupby(self.drive).indices)
        if settings.duplicate_gap_s is not None:
            _require(candidates, "timestamp_utc")
            stamps = pd.to_datetime(candidates["timestamp_utc"], utc=True)
            self.seconds = (stamps - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)

    def of(self, row: int) -> np.ndarray:
        """Return the rows that duplicate `row`, itself among them; unknown drives and times duplicate nothing."""
        if not self.is_on or self.drive[row] < 0:
            return np.array([row])
        rows = self.rows_of_drive[self.drive[row]]
        limits = []
        if self.settings.duplicate_distance is not None and self.points is not None:
            distances = np.linalg.norm(self.points[rows] - self.points[row], axis=1)
            limits.append(distances < self.settings.duplicate_distance)
        if self.seconds is not None:
            # Comparison with an unknown time (NaN) is False.
            limits.append(np.abs(self.seconds[rows] - self.seconds[row]) < self.settings.duplicate_gap_s)
        close = np.all(limits, axis=0) if self.settings.duplicate_rule == "all" else np.any(limits, axis=0)
        return np.union1d(rows[close], [row])


def _require(candidates: pd.DataFrame, column: str) -> None:
    if column not in candidates.columns:
        raise InputError(
            f"candidates have no column {column!r}, which near-duplicate suppression needs: join it from the manifest, "
            "or leave duplicate_distance and duplicate_gap_s out"
        )
