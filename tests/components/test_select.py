"""What the selection is told of the frames that were scored."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components import gate, select
from components.select import _candidates
from components.stage.declaration import Refused
from perception.data.manifest import read_manifest
from tests.components.intake import empty_base, run, take_in, untrained_ensemble
from tests.footage import write_footage


def test_candidates_are_the_scored_frames_of_the_pool_with_their_facts_and_raised_scores() -> None:
    facts = pd.DataFrame(
        {"frame_id": ["a", "b", "c", "d"], "weather": ["rain", "fog", "clear", "snow"], "boost": [1.0, 2.0, 1.0, 3.0]}
    ).set_index("frame_id")
    scored = pd.DataFrame({"frame_id": ["d", "labelled", "a"], "score": [0.5, 0.9, 0.1]}, index=[4, 5, 6])
    found = _candidates(facts, scored)
    assert found.to_dict("index") == {
        4: {"frame_id": "d", "score": 1.5, "weather": "snow", "boost": 3.0},
        6: {"frame_id": "a", "score": 0.1, "weather": "rain", "boost": 1.0},
    }
    slow = scored[scored.frame_id.isin(facts.index)]
    assert found.frame_id.tolist() == slow.frame_id.tolist()


def test_where_all_is_a_near_duplicate_of_a_labelled_frame_nothing_is_selected_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_footage(tmp_path / "footage", 3, 1, 6, 32, 64)
    fleet = {"format": "scenes_folder", "path": str(tmp_path / "footage"), "domain": "real", "split": "pool",
             "labels": "oracle", "initial_labelled_frames": 2}  # fmt: skip
    store, size = tmp_path / "store", {"height_px": 32, "width_px": 64, "taxonomy": "cityscapes19"}
    frames = take_in(tmp_path, "frames", {"fleet": fleet}, store, **size)
    ids = read_manifest(frames / "manifest.parquet").frame_id
    facts = {"model_sha256": "m", "measure": "ensemble_entropy", "reduction": "mean", "score": 0.5}
    vectors = {name: [np.ones(3, np.float32)] * len(ids) for name in ("embedding", "class_share")}
    (tmp_path / "scores").mkdir()
    pd.DataFrame({"frame_id": ids, **vectors}).assign(**facts).to_parquet(tmp_path / "scores" / "scores.parquet")
    inputs = {"frames": [frames], "base": [empty_base(tmp_path / "base")], "scores": [tmp_path / "scores"]}
    inputs |= {"ensemble": [untrained_ensemble(tmp_path / "ensemble")]}
    given = size | {"store": str(store), "seed": 1, "budget_frames": 2, "duplicate_distance": 0.1, "fresh_share": 0.0}
    selection = run(select, inputs, "selection", tmp_path / "selection", **given)
    assert len(pd.read_parquet(selection / "selected.parquet")) == 0
    assert len(pd.read_parquet(selection / "control.parquet")) == 2
    assert json.loads((selection / "selection.json").read_text())["model_sha256"] == "m"
    assert "fewer than budget_frames = 2: every other candidate is a near-duplicate" in capsys.readouterr().out
    with pytest.raises(Refused, match=r"budget_exact"):
        run(gate, {"subject": [selection]}, "verdict", tmp_path / "verdict", suite="select", profile="test")
