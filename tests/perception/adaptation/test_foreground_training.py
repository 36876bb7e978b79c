import numpy as np
import pandas as pd
import pytest

from perception.adaptation.foreground_training import mixed_rows


def rows(prefix: str, count: int) -> pd.DataFrame:
    return pd.DataFrame({"frame_id": [f"{prefix}{number:03d}" for number in range(count)]})


@pytest.mark.parametrize(
    ("simulator", "pseudo", "share"), [(400, 120, 0.25), (10, 300, 0.25), (7, 5, 0.6), (9, 9, 0.5)]
)
def test_mixed_rows_keep_the_share_and_draw_evenly(simulator: int, pseudo: int, share: float) -> None:
    mixed = mixed_rows(rows("s", simulator), rows("p", pseudo), share, seed=3)
    counts = mixed.frame_id.value_counts()
    ours = np.array([counts.get(name, 0) for name in rows("s", simulator).frame_id])
    theirs = np.array([counts.get(name, 0) for name in rows("p", pseudo).frame_id])
    assert len(mixed) == ours.sum() + theirs.sum()
    assert abs(ours.sum() - share * len(mixed)) <= 0.5
    assert min(ours.min(), theirs.min()) >= 1
    assert np.ptp(ours) <= 1 and np.ptp(theirs) <= 1
    pd.testing.assert_frame_equal(mixed, mixed_rows(rows("s", simulator), rows("p", pseudo), share, seed=3))


def test_a_share_of_zero_leaves_the_simulator_out() -> None:
    assert mixed_rows(rows("s", 4), rows("p", 2), 0.0, seed=1).frame_id.tolist() == ["p000", "p001"]
