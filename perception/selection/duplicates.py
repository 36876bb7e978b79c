"""Near-duplicates: frames of one drive that look alike or lie within moments of each other."""

import numpy as np
import pandas as pd

from perception.errors import InputError
from perception.selection.settings import SelectionSettings


class NearDuplicates:
    """Find the candidates that a chosen or labelled frame makes superfluous."""

    def __init__(self, candidates: pd.DataFrame, points: np.ndarray | None, settings: SelectionSettings) -> None:
        """Index the candidates by drive.

        candidates: drive_id str; timestamp_utc where duplicate_gap_s is set, drive_place where duplicate_gap_frames is.
        points: (candidate, dimension). Raises InputError when one of them is missing.
        """
        self.settings, self.points = settings, points
        gaps = (settings.duplicate_distance, settings.duplicate_gap_s, settings.duplicate_gap_frames)
        self.is_on = any(gaps)
        if not self.is_on:
            return
        _require(candidates, "drive_id")
        self.drives = candidates["drive_id"].to_numpy(object)
        groups = pd.Series(np.arange(len(candidates))).groupby(pd.factorize(candidates["drive_id"])[0]).indices
        self.rows_of_drive = {self.drives[rows[0]]: rows for code, rows in groups.items() if code >= 0}
        self.axes = _axes(candidates, settings)

    def of(self, row: int) -> np.ndarray:
        """Return the rows that duplicate `row`, itself among them; unknown drives and times duplicate nothing."""
        if not self.is_on:
            return np.array([row])
        point = None if self.points is None else self.points[row]
        return np.union1d(self._near(self.drives[row], point, [values[row] for values, _ in self.axes]), [row])

    def of_labelled(self, labelled: pd.DataFrame | None, points: np.ndarray | None) -> np.ndarray:
        """Return the rows that duplicate a labelled frame; without their drives nothing is known of that.

        labelled: drive_id, timestamp_utc and drive_place as in the candidates. points: (labelled, dimension) or None.
        """
        if not self.is_on or labelled is None or "drive_id" not in labelled.columns:
            return np.array([], np.int64)
        axes = _axes(labelled, self.settings)
        near = [
            self._near(drive, None if points is None else points[row], [values[row] for values, _ in axes])
            for row, drive in enumerate(labelled["drive_id"])
        ]
        return np.unique(np.concatenate([*near, np.array([], np.int64)])).astype(np.int64)

    def _near(self, drive: object, point: np.ndarray | None, places: list[float]) -> np.ndarray:
        """Return the rows of a drive that are closer to a frame than the limits say."""
        rows = self.rows_of_drive.get(drive, np.array([], np.int64))
        limits = []
        if self.settings.duplicate_distance and self.points is not None:
            distances = np.inf if point is None else np.linalg.norm(self.points[rows] - point, axis=1)
            limits.append(np.broadcast_to(distances < self.settings.duplicate_distance, rows.shape))
        # Comparison with an unknown time (NaN) is False.
        limits += [np.abs(values[rows] - place) < gap for (values, gap), place in zip(self.axes, places, strict=True)]
        if not limits:
            return np.array([], np.int64)
        close = np.all(limits, axis=0) if self.settings.duplicate_rule == "all" else np.any(limits, axis=0)
        return np.asarray(rows[close])


def _axes(frames: pd.DataFrame, settings: SelectionSettings) -> list[tuple[np.ndarray, float]]:
    """Return where each frame is in its drive, by time and by order, where these count, and the gap that is asked for."""
    axes = []
    if settings.duplicate_gap_s:
        _require(frames, "timestamp_utc")
        stamps = pd.to_datetime(frames["timestamp_utc"], utc=True)
        seconds = (stamps - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)
        axes.append((seconds, settings.duplicate_gap_s))
    if settings.duplicate_gap_frames:
        _require(frames, "drive_place")
        axes.append((frames["drive_place"].to_numpy(np.float64), float(settings.duplicate_gap_frames)))
    return axes


def _require(candidates: pd.DataFrame, column: str) -> None:
    if column not in candidates.columns:
        raise InputError(
            f"candidates have no column {column!r}, which near-duplicate suppression needs: join it from the manifest, "
            "or leave duplicate_distance, duplicate_gap_s and duplicate_gap_frames out"
        )
