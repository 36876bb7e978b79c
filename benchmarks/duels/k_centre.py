"""Duel: greedy k-centre, ours against plain numpy, scikit-activeml's CoreSet and a loop over faiss.

numpy: 20,000 x 256 embeddings, 500 centres, one matrix-free pass of differences a centre. scikit-activeml: 5,000 x
256, 100 centres; so the loop that searches a flat faiss index of one centre after the other (it has no bar). Picks must
be equal, or the covering radii equal to 1e-6 where float32 ties. Rounds alternate; the least time counts. The limit is
reading the float32 matrix once a centre, timed as matrix-vector products; a share above 1 means that several centres
were served by one reading. The last line is
JSON.
"""

from collections.abc import Callable
from functools import partial

import click
import numpy as np

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.selection.k_centre import k_centre

ACTIVEML_BAR = 10.0


@click.command()
@click.option("--rounds", default=5)
def duel(rounds: int) -> int:
    """Choose by greedy k-centre, against numpy, scikit-activeml and a loop over faiss."""
    points = np.random.default_rng(0).normal(size=(20_000, 256)).astype(np.float32)
    large = _duel(points, 500, _numpy_greedy, rounds)
    loop = _duel(points[:5_000], 100, _faiss_greedy, rounds)
    small = _duel(points[:5_000].astype(np.float64), 100, _activeml_greedy, rounds)
    return finish(_report(large, small, loop))


def _numpy_greedy(points: np.ndarray, count: int) -> np.ndarray:
    """Choose greedily from row 0 with one pass of differences a centre, as one writes it in numpy."""
    rows = [0]
    squared = np.square(points - points[0]).sum(1)
    for _ in range(count - 1):
        rows.append(int(squared.argmax()))
        np.minimum(squared, np.square(points - points[rows[-1]]).sum(1), out=squared)
    return np.array(rows)


def _activeml_greedy(points: np.ndarray, count: int) -> np.ndarray:
    """Choose with scikit-activeml, row 0 being labelled already."""
    from skactiveml.pool import k_greedy_center

    labels = np.full(len(points), np.nan)
    labels[0] = 0
    rows, _ = k_greedy_center(points, labels, batch_size=count - 1, random_state=0)
    return np.append(0, rows)


def _faiss_greedy(points: np.ndarray, count: int) -> np.ndarray:
    """Choose greedily from row 0, each centre in a flat index of its own that all points are searched in."""
    import faiss

    rows, squared = [0], np.full(len(points), np.inf, np.float32)
    for _ in range(count - 1):
        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points[rows[-1] : rows[-1] + 1])
        np.minimum(squared, index.search(points, 1)[0][:, 0], out=squared)
        rows.append(int(squared.argmax()))
    return np.array(rows)


def _ours(points: np.ndarray, count: int) -> np.ndarray:
    return k_centre(points, count, first=0)[0]


def _duel(points: np.ndarray, count: int, peer: Callable, rounds: int) -> dict:
    found, expected = _ours(points, count), peer(points, count)
    differing = np.flatnonzero(found != expected)
    radii = _radius(points, found), _radius(points, expected)
    assert not len(differing) or abs(radii[0] / radii[1] - 1) < 1e-6, f"picks differ, and so do the radii: {radii}"
    vector = points[0].copy()
    runs = {"ours": _ours, "peer": peer, "read": lambda points, _count: points @ vector}
    calls = {name: partial(run, points, count) for name, run in runs.items()}
    seconds = least_seconds(calls, rounds)
    return {**seconds, "limit": seconds["read"] * count, "same": int(differing[0]) if len(differing) else count}


def _radius(points: np.ndarray, rows: np.ndarray) -> float:
    exact = points.astype(np.float64)
    squared = np.full(len(points), np.inf)
    for row in rows:
        np.minimum(squared, np.square(exact - exact[row]).sum(1), out=squared)
    return float(np.sqrt(squared.max()))


def _report(large: dict, small: dict, loop: dict) -> dict:
    activeml_ratio = small["peer"] / small["ours"]
    return result(
        "k_centre",
        ours=large["ours"],
        peer=large["peer"],
        limit_share=large["limit"] / large["ours"],
        passed=activeml_ratio >= ACTIVEML_BAR,
        equal_picks=large["same"],
        ours_5k=small["ours"],
        scikit_activeml_5k=small["peer"],
        scikit_activeml_ratio=activeml_ratio,
        scikit_activeml_bar=ACTIVEML_BAR,
        scikit_activeml_equal_picks=small["same"],
        faiss_loop_5k=loop["peer"],
        faiss_loop_ratio=loop["peer"] / loop["ours"],
    )
