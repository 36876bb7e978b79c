"""Greedy k-centre: choose the frame that is farthest from everything chosen or labelled, again and again."""

import numpy as np

from perception.errors import InputError

COVER_BLOCK_ROWS = 256
GUESSED_CENTRES = 16


class Spread:
    """Keep each frame's distance to the nearest chosen or labelled frame, while frames are chosen one by one.

    The next centres are nearly always among the frames that are farthest now. So a centre's distances are computed
    together with those of the GUESSED_CENTRES farthest frames, by one matrix product, which reads the embeddings once
    where one product a centre would read them each time. The result is that of the plain loop.
    """

    def __init__(self, points: np.ndarray, weights: np.ndarray | None = None, guesses: int = GUESSED_CENTRES) -> None:
        """Start with nothing covered.

        points: (frame, dimension) float; distances are computed in float64, so near ties are decided rightly.
        weights: (frame,) float64, at least 0, multiply the distance; None stands for ones.
        """
        self.points = np.ascontiguousarray(points, dtype=np.float64)
        self.squares = np.einsum("fd,fd->f", self.points, self.points)
        self.squared = np.full(len(points), np.inf)
        self.squared_weights = None if weights is None else np.square(weights)
        self.guesses = min(guesses, len(points))
        self.known: dict[int, np.ndarray] = {}

    @property
    def is_started(self) -> bool:
        """Return whether anything is chosen or labelled."""
        return bool(np.isfinite(self.squared[0]))

    @property
    def distances(self) -> np.ndarray:
        """Return (frame,) float64: distance to the nearest chosen or labelled frame, infinite while there is none."""
        return np.sqrt(self.squared)

    def values(self) -> np.ndarray:
        """Return (frame,) float64: the square of weight * distance, a new array."""
        return self.squared.copy() if self.squared_weights is None else self.squared * self.squared_weights

    def cover(self, others: np.ndarray) -> None:
        """Count frames outside the candidates, (other, dimension) float, as chosen: the warm start."""
        for start in range(0, len(others), COVER_BLOCK_ROWS):
            block = np.asarray(others[start : start + COVER_BLOCK_ROWS], dtype=np.float64)
            nearest = self._squared_distances(block).min(0)
            np.minimum(self.squared, nearest, out=self.squared)

    def add(self, row: int) -> None:
        """Choose a candidate."""
        if row not in self.known:
            self.known = self._distances_of_likely_centres(row)
        np.minimum(self.squared, self.known.pop(row), out=self.squared)
        self.squared[row] = 0.0

    def _distances_of_likely_centres(self, row: int) -> dict[int, np.ndarray]:
        if self.guesses <= 1 or not self.is_started:
            rows = np.array([row])
        else:
            farthest = np.argpartition(self.values(), len(self.points) - self.guesses)[-self.guesses :]
            rows = np.append(farthest[farthest != row], row)
        return dict(zip(rows.tolist(), self._squared_distances(self.points[rows]), strict=True))

    def _squared_distances(self, centres: np.ndarray) -> np.ndarray:
        """Return (centre, frame) float64."""
        squared = centres @ self.points.T
        squared *= -2.0
        squared += self.squares
        squared += np.einsum("cd,cd->c", centres, centres)[:, None]
        return np.maximum(squared, 0.0, out=squared)


def k_centre(
    points: np.ndarray,
    count: int,
    *,
    weights: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    first: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` rows greedily: each time the one with the greatest weight * distance to the nearest chosen one.

    points: (frame, dimension) float. weights: (frame,) float64, at least 0. labelled: (other, dimension) float,
    frames that count as chosen from the start. Ties go to the lowest row. Without labelled frames the first row is
    `first`, else the one of greatest weight, else row 0. With equal weights the covering radius is at most twice the
    least possible (Gonzalez 1985); with them it is the weighted core-set of Haussmann et al., arXiv 2004.04699.

    Returns rows: (count,) int64, all different, and radii: (count,) float64, the greatest unweighted distance of any
    frame to the chosen and labelled ones after each choice. Raises InputError when count > frames.
    """
    if not 1 <= count <= len(points):
        raise InputError(f"budget of {count} frames does not fit a pool of {len(points)}: ask for 1 to {len(points)}")
    spread = Spread(points, weights)
    if labelled is not None and len(labelled):
        spread.cover(labelled)
    rows, radii = np.empty(count, dtype=np.int64), np.empty(count)
    is_open = np.ones(len(points), dtype=bool)
    for index in range(count):
        if not spread.is_started:
            row = first if first is not None else (0 if weights is None else int(np.argmax(weights)))
        else:
            row = best_open(spread.values(), is_open)
        spread.add(row)
        is_open[row] = False
        rows[index], radii[index] = row, np.sqrt(spread.squared.max())
    return rows, radii


def best_open(values: np.ndarray, is_open: np.ndarray) -> int:
    """Return the open row of greatest value, the lowest of equal ones; values (frame,) float64 are overwritten."""
    values[~is_open] = -1.0
    return int(np.argmax(values))
