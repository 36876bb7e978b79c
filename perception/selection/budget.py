"""Decide which frames are labelled tonight."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from perception.errors import InputError
from perception.selection.duplicates import NearDuplicates
from perception.selection.k_centre import GUESSED_CENTRES, Spread, best_open
from perception.selection.quotas import QuotaBook
from perception.selection.reasons import Choice, explain
from perception.selection.settings import SelectionSettings
from perception.selection.shortlist import priorities, shortlist

Pick = Callable[[np.ndarray], int | None]
Take = Callable[[int], None]


def choose_frames(
    candidates: pd.DataFrame, settings: SelectionSettings, labelled: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Choose the frames that are labelled tonight, and say why each was chosen.

    From the shortlist, frame after frame: the strategy picks the best open frame, quotas narrow what is open when the
    rest of the budget is due to them, and a labelled or chosen frame closes its near-duplicates.

    candidates: one row a scored frame: frame_id str, score float64 at least 0; embedding (list of float32), drive_id,
    timestamp_utc, drive_place, class_share and condition columns where the settings use them. Order does not matter.
    labelled: frame_id and embedding of the frames that have labels: never chosen, and kept away from; where drive_id (and
    timestamp_utc or drive_place, as the settings use them) are there too, their near-duplicates are closed from the start.

    Returns one row a chosen frame, in order of rank: the candidate's columns but the embedding, and rank int32 from 1,
    reason str, nearest_frame_id str and nearest_distance float64 (the nearest frame labelled or chosen before; null
    without embeddings), displaced_frame_id str (the frame that the score alone would have chosen; null where none).
    Fewer rows than the budget come back only when near-duplicates leave nothing else to choose (or
    kmeans_plus_plus has only frames of score 0 left).
    Raises InputError when the budget is larger than the pool or a column is missing or malformed.
    """
    pool = shortlist(candidates, settings, () if labelled is None else labelled["frame_id"])
    if settings.budget_frames > len(pool):
        raise InputError(
            f"budget_frames = {settings.budget_frames} is larger than the pool of {len(pool)} unlabelled frames: "
            f"set it to {len(pool)} or less, or add footage"
        )
    points = embedding_matrix(pool, settings) if settings.uses_embeddings or "embedding" in pool else None
    known = None if points is None else _labelled_points(labelled, settings, points.shape[1])
    duplicates = NearDuplicates(pool, points, settings)
    quotas = QuotaBook(pool, settings.quotas, settings.budget_frames)
    pick, take = _strategy(pool, points, known, settings)

    is_open = np.ones(len(pool), dtype=bool)
    is_open[duplicates.of_labelled(labelled, known)] = False
    choices: list[Choice] = []
    while len(choices) < settings.budget_frames:
        allowed, due = quotas.allowed(is_open, settings.budget_frames - len(choices))
        row = pick(allowed)
        if row is None:
            break
        closed = duplicates.of(row)
        choices.append(Choice(row, due, closed[is_open[closed] & (closed != row)]))
        is_open[closed] = False
        quotas.spend(row)
        take(row)
    return explain(pool, points, labelled if known is not None else None, known, choices, settings)


def _strategy(
    pool: pd.DataFrame, points: np.ndarray | None, known: np.ndarray | None, settings: SelectionSettings
) -> tuple[Pick, Take]:
    """Return how the best open frame is found, and what has to be noted once it is taken."""
    priority = priorities(pool, settings)
    if points is None or settings.strategy in ("top_n", "random"):
        return _by_value(priority.copy), lambda _: None  # a frame's value does not depend on what was taken
    weights = None if settings.strategy == "core_set" else priority
    guesses = 1 if settings.strategy == "kmeans_plus_plus" else GUESSED_CENTRES
    spread = Spread(points, weights, guesses)
    if known is not None:
        spread.cover(known)
    if settings.strategy == "kmeans_plus_plus":
        return _by_chance(spread, priority, np.random.default_rng(settings.seed)), spread.add
    return _by_value(lambda: spread.values() if spread.is_started else priority.copy()), spread.add


def _by_value(values: Callable[[], np.ndarray]) -> Pick:
    """Pick the allowed frame of greatest value, of equal ones the lowest frame_id."""
    return lambda allowed: best_open(values(), allowed) if allowed.any() else None


def _by_chance(spread: Spread, scores: np.ndarray, generator: np.random.Generator) -> Pick:
    """Pick an allowed frame with probability proportional to score * distance (k-means++, arXiv 2004.04699)."""

    def pick(allowed: np.ndarray) -> int | None:
        distances = spread.distances if spread.is_started else np.ones(len(scores))
        cumulative = np.cumsum(np.where(allowed, scores * distances, 0.0))
        if cumulative[-1] <= 0:
            return None
        return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))

    return pick


def _labelled_points(labelled: pd.DataFrame | None, settings: SelectionSettings, dimension: int) -> np.ndarray | None:
    if labelled is None or labelled.empty or "embedding" not in labelled:
        return None
    points = embedding_matrix(labelled, settings)
    if points.shape[1] != dimension:
        raise InputError(
            f"labelled frames have embeddings of length {points.shape[1]}, candidates of {dimension}: "
            "score both with the same ensemble"
        )
    return points


def embedding_matrix(frames: pd.DataFrame, settings: SelectionSettings) -> np.ndarray:
    """Return (frame, dimension) float64 of the column embedding; rows of length 1 where the metric is cosine.

    Raises InputError when the column is missing, a row has another length or is not finite, or is zero for cosine.
    """
    if "embedding" not in frames.columns:
        raise InputError(
            f"frames have no column 'embedding', which strategy {settings.strategy} needs: score them with embeddings"
        )
    lengths = frames["embedding"].map(len)
    if lengths.nunique() != 1:
        row = frames[lengths != lengths.mode()[0]].iloc[0]
        raise InputError(
            f"frame {row['frame_id']} has an embedding of length {len(row['embedding'])}, others "
            f"{lengths.mode()[0]}: score all shards with the same ensemble"
        )
    points = np.stack(frames["embedding"].tolist()).astype(np.float64)
    norms = np.linalg.norm(points, axis=1)
    bad = ~np.isfinite(norms) | ((norms == 0) & (settings.metric == "cosine"))
    if bad.any():
        raise InputError(
            f"frame {frames['frame_id'].iloc[int(np.argmax(bad))]} has an embedding that is zero or not finite; "
            f"metric {settings.metric} is undefined there: score it again"
        )
    return points / norms[:, None] if settings.metric == "cosine" else points
