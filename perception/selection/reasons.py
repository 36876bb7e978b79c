"""Say of every chosen frame why it was chosen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perception.selection.settings import SelectionSettings

NEAREST_BLOCK_ROWS = 64
RULES = {
    "top_n": "highest score left",
    "k_centre": "greatest score times distance left",
    "core_set": "farthest from labelled and chosen frames",
    "kmeans_plus_plus": "drawn with chance proportional to score times distance",
    "random": "drawn at random",
}


@dataclass(frozen=True)
class Choice:
    """Hold one choice: the row, the quota that called for it (None: none did), the near-duplicates that it closed."""

    row: int
    due_quota: str | None
    suppressed: np.ndarray


def explain(
    pool: pd.DataFrame,
    points: np.ndarray | None,
    labelled: pd.DataFrame | None,
    labelled_points: np.ndarray | None,
    choices: Sequence[Choice],
    settings: SelectionSettings,
) -> pd.DataFrame:
    """Return the chosen rows with rank, reason, nearest_frame_id, nearest_distance and displaced_frame_id."""
    rows = np.array([choice.row for choice in choices], dtype=np.int64)
    chosen = pool.iloc[rows].drop(columns="embedding", errors="ignore").reset_index(drop=True)
    chosen["rank"] = np.arange(1, len(rows) + 1, dtype=np.int32)
    nearest = _nearest_frames(pool, rows, points, labelled, labelled_points)
    by_score = settings.strategy not in ("random", "core_set")
    gone = displaced(pool, rows) if by_score else [None] * len(rows)
    chosen["nearest_frame_id"] = pd.Series([frame_id for frame_id, _ in nearest], dtype="str")
    chosen["nearest_distance"] = np.array([distance for _, distance in nearest], dtype=np.float64)
    ids = pool["frame_id"].tolist()
    chosen["displaced_frame_id"] = pd.Series([None if row is None else ids[row] for row in gone], dtype="str")
    suppressed_by = {int(row): choice.row for choice in choices for row in choice.suppressed}
    place = {row: number for number, row in enumerate(_by_score(pool).tolist(), 1)}
    measures = chosen["measure"].tolist() if "measure" in chosen else ["score"] * len(rows)
    reasons = []
    for choice, measure, score, near, left_out in zip(
        choices, measures, chosen["score"].tolist(), nearest, gone, strict=True
    ):
        parts = [f"{measure} {score:.4g}, place {place[choice.row]} of {len(pool)} on the shortlist"]
        parts += [RULES[settings.strategy], *_circumstances(choice, *near)]
        if left_out is not None:
            by = suppressed_by.get(left_out)
            parts.append(f"in place of {ids[left_out]}" + ("" if by is None else f", a near-duplicate of {ids[by]}"))
        reasons.append("; ".join(parts))
    return chosen.assign(reason=pd.Series(reasons, dtype="str"))  # also where there is none


def _circumstances(choice: Choice, nearest_frame_id: str | None, distance: float) -> Iterator[str]:
    if choice.due_quota is not None:
        yield f"due to quota {choice.due_quota}"
    if nearest_frame_id is not None:
        yield f"{distance:.4g} from {nearest_frame_id}, the nearest labelled or chosen frame"
    if len(choice.suppressed):
        yield f"suppressed {len(choice.suppressed)} near-duplicates"


def _nearest_frames(
    pool: pd.DataFrame,
    rows: np.ndarray,
    points: np.ndarray | None,
    labelled: pd.DataFrame | None,
    labelled_points: np.ndarray | None,
) -> list[tuple[str | None, float]]:
    if points is None:
        return [(None, float("nan"))] * len(rows)
    ids = [] if labelled is None else labelled["frame_id"].tolist()
    ids += pool["frame_id"].iloc[rows].tolist()
    found = nearest_before(points[rows], labelled_points)
    return [(None if index < 0 else ids[index], distance) for index, distance in found]


def nearest_before(chosen: np.ndarray, labelled: np.ndarray | None) -> list[tuple[int, float]]:
    """Find for every chosen frame the nearest one that was labelled or chosen before it.

    chosen: (frame, dimension) float64 in order of choice. labelled: (other, dimension) float64 or None.
    Returns (index, distance) a frame, index into labelled frames followed by chosen ones; (-1, NaN) where none is.
    """
    offset = 0 if labelled is None else len(labelled)
    earlier = chosen if labelled is None else np.concatenate([labelled, chosen])
    squares = np.einsum("fd,fd->f", earlier, earlier)
    found: list[tuple[int, float]] = []
    for start in range(0, len(chosen), NEAREST_BLOCK_ROWS):
        block = chosen[start : start + NEAREST_BLOCK_ROWS]
        # Squared distances but for a term that is the same along a row.
        relative = squares - 2.0 * (block @ earlier.T)
        for index, (point, row) in enumerate(zip(block, relative, strict=True), start):
            count = offset + index
            nearest = int(np.argmin(row[:count])) if count else -1
            distance = float(np.linalg.norm(earlier[nearest] - point)) if count else float("nan")
            found.append((nearest, distance))
    return found


def displaced(pool: pd.DataFrame, rows: np.ndarray) -> list[int | None]:
    """Find for every chosen row the row whose place it took.

    The frames that the score alone would have chosen and that were not, best first, are those displaced by the chosen
    frames that the score alone would not have chosen, in order of choice. None where nothing was displaced.
    """
    best = _by_score(pool)[: len(rows)]
    left_out = iter(best[~np.isin(best, rows)].tolist())
    return [None if expected else next(left_out) for expected in np.isin(rows, best)]


def _by_score(pool: pd.DataFrame) -> np.ndarray:
    """Return the rows by falling score; the pool is in order of frame_id, and so are equal scores."""
    return np.argsort(-pool["score"].to_numpy(np.float64), kind="stable")
