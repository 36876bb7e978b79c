import numpy as np
import pandas as pd
import pytest

from perception.errors import InputError
from perception.selection.budget import choose_frames
from perception.selection.composition import LEAST_SPREAD, embedded_by_classes
from perception.selection.settings import SelectionSettings


def table(shares, **columns):
    names = [f"f{row:02d}" for row in range(len(shares))]
    return pd.DataFrame({"frame_id": names, "class_share": [np.array(row) for row in shares], **columns})


def test_every_class_has_the_same_spread():
    shares = np.random.default_rng(0).dirichlet([50, 20, 0.5], 40)
    candidates, labelled = embedded_by_classes(table(shares, embedding=[np.zeros(2)] * 40), table(shares[:3]))
    points = np.stack(candidates["embedding"].tolist())
    np.testing.assert_allclose(points.std(0), 1.0)
    np.testing.assert_allclose(np.stack(labelled["embedding"].tolist()), points[:3])


def test_a_class_that_hardly_occurs_is_not_blown_up():
    shares = [[0.6, 0.4, 0.0], [0.5, 0.4999, 0.0001], [0.4, 0.6, 0.0]]
    candidates, _ = embedded_by_classes(table(shares), table([]))
    assert candidates["embedding"][1][2] == pytest.approx(0.0001 / LEAST_SPREAD)


def test_k_centre_finds_the_frame_with_the_rare_class():
    shares = [[0.60, 0.40, 0.0]] * 3 + [[0.59, 0.40, 0.01]] + [[0.35, 0.65, 0.0]] * 2
    candidates, labelled = embedded_by_classes(table(shares, score=1.0), table(shares[:1]).assign(frame_id="old"))
    chosen = choose_frames(candidates, SelectionSettings(budget_frames=2, strategy="k_centre"), labelled)
    assert set(chosen["frame_id"]) == {"f03", "f04"}


def test_tables_without_class_shares_are_refused():
    with pytest.raises(InputError, match="labelled frames have no column 'class_share'"):
        embedded_by_classes(table([[1.0]]), pd.DataFrame({"frame_id": ["a"]}))
