"""What the parameters of train_prune ask of compression-aware training."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components import train_prune
from components.stage.declaration import Paths
from components.train_prune import TrainPruneParameters, _shrink_settings, training_frames
from perception.errors import InputError


def parameters(**changes: Any) -> TrainPruneParameters:
    given = {
        "store": "store", "taxonomy": "camvid11", "height_px": 64, "width_px": 64, "seed": 1,
        "epochs": 12, "epoch_frames": 16, "batch_frames": 4, "learning_rate": 0.004, "press_epochs": 9,
    }  # fmt: skip
    return TrainPruneParameters(**{**given, **changes})


@pytest.mark.parametrize(("reloads", "epochs"), [(1, (8,)), (2, (3, 8)), (3, (2, 5, 8)), (9, tuple(range(9)))])
def test_reloads_are_spread_over_the_pressed_epochs(reloads: int, epochs: tuple[int, ...]) -> None:
    assert _shrink_settings(parameters(reloads=reloads)).reload_epochs == epochs


def test_the_pruned_network_may_learn_longer() -> None:
    assert parameters(press_epochs=14, pruned_epochs=18).press_epochs == 14
    with pytest.raises(InputError, match="press_epochs"):
        parameters(press_epochs=14)


def test_a_latency_share_of_one_sets_no_target() -> None:
    assert _shrink_settings(parameters()).target_cost_share is None
    found = _shrink_settings(parameters(latency_share=0.4, press_share=0.2, latency_by="measured"))
    assert (found.target_cost_share, found.strength_share, found.costs) == (0.4, 0.2, "measured")


def test_branches_close_where_asked() -> None:
    assert not _shrink_settings(parameters()).close_branches
    found = _shrink_settings(parameters(close_branches=True, lost="share", importance="loss"))
    assert found.close_branches and (found.lost, found.importance) == ("share", "loss")


@pytest.mark.parametrize(
    "wrong",
    [{"reloads": 10}, {"reloads": 0}, {"latency_share": 0.0}, {"latency_by": "guess"}, {"press_epochs": 12},
     {"press_share": 1.0}, {"lost": "all"}, {"importance": "size"},
     {"sparse_share": 1.0}, {"multiple_of": 0}, {"pruned_epochs": -1}, {"press_by_cost": 2.0}, {"taught_share": 1.1},
     {"pruned_rate_factor": 0.0}],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        parameters(**wrong)


@pytest.mark.parametrize("humans", [3, 12, 40])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_human_labels_have_the_share_that_was_asked_for_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, humans: int, share: float
) -> None:
    simulator = pd.DataFrame({"frame_id": range(8), "domain": "synthetic", "split": "train"})
    pseudo, human = (pd.DataFrame({"frame_id": range(first, last)}) for first, last in ((8, 12), (12, 12 + humans)))
    monkeypatch.setattr(train_prune, "read_frames", lambda _: simulator)
    monkeypatch.setattr(train_prune, "curated_training_frames", lambda _: human)
    monkeypatch.setattr("perception.data.manifest.read_manifest", lambda _: pseudo)
    rows = training_frames(Paths({"adaptation": (Path("a"),)}), parameters(human_share=share))
    assert set(rows.frame_id) == set(range(12 + humans))
    assert (rows.frame_id >= 12).mean() == pytest.approx(share, abs=0.5 / len(rows))
