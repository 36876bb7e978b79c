"""Every kind of committee trains, is scored by the same stage, and class weights and maps reach the scores."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components import ensemble, score
from components.stage.parameters import build_parameters
from perception.errors import InputError
from tests.components.intake import empty_base, run, take_in
from tests.footage import write_footage

HEIGHT, WIDTH = 32, 64


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Six frames of a fleet, three of them labelled, and no version to start from."""
    root = tmp_path_factory.mktemp("fleet")
    write_footage(root / "footage", 3, 3, 2, HEIGHT, WIDTH)
    fleet = {"format": "scenes_folder", "path": str(root / "footage"), "domain": "real", "split": "pool",
             "labels": "oracle", "initial_labelled_frames": 3}  # fmt: skip
    size = {"height_px": HEIGHT, "width_px": WIDTH, "taxonomy": "cityscapes19"}
    frames = take_in(root, "frames", {"fleet": fleet}, root / "store", **size)
    return {"frames": [frames], "base": [empty_base(root / "base")]}


def learning(arrived: dict[str, list[Path]]) -> dict[str, Any]:
    store = arrived["frames"][0].parent / "store"
    return {"store": str(store), "taxonomy": "cityscapes19", "height_px": HEIGHT, "width_px": WIDTH, "seed": 1}


@pytest.mark.parametrize("kind", ("dpe", "plain", "snapshots", "mc_dropout"))
def test_every_kind_is_scored_by_the_same_stage(arrived: dict[str, list[Path]], tmp_path: Path, kind: str) -> None:
    common = learning(arrived)
    settings = {"epochs": 4, "epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3, "network_width": 0.25}
    settings |= {"dropout": 0.3, "kind": kind, "members": 4}
    trained = run(ensemble, arrived, "ensemble", tmp_path / "ensemble", **common, **settings)
    networks = 1 if kind == "mc_dropout" else 4
    assert len(list(trained.glob("member_*.safetensors"))) == networks
    scores = run(
        score, arrived | {"ensemble": [trained]}, "scores", tmp_path / "scores", shard=0, shard_count=1, maps=True,
        measure="mutual_information", reduction="class_weighted", class_weights={"person": 5.0}, **common,
    )  # fmt: skip
    table = pd.read_parquet(scores / "scores.parquet")
    assert len(table) == 6
    assert (table.mutual_information > 0).all()  # the committee's voices differ
    assert (table.score >= table.mutual_information - 1e-7).all()  # no weight is below 1
    assert sorted(path.stem for path in (scores / "maps").iterdir()) == sorted(table.frame_id)
    picture = cv2.imread(str(scores / "maps" / f"{table.frame_id[0]}.png"))
    assert picture.shape == (HEIGHT, WIDTH, 3) and np.ptp(picture) > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "bagging"}, "must be dpe, plain, snapshots or mc_dropout"),
        ({"kind": "snapshots", "members": 9}, "as many as the snapshots"),
        ({"kind": "mc_dropout", "dropout": 0.0}, "above 0 for mc_dropout"),
        ({"kind": "dpe", "members": 3}, "at least 4"),
    ],
)
def test_committees_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    common = {"store": "s", "taxonomy": "cityscapes19", "height_px": 32, "width_px": 64, "seed": 1, "epochs": 8}
    common |= {"epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3, "network_width": 0.25, "dropout": 0.3}
    with pytest.raises(InputError, match=message):
        build_parameters(ensemble.EnsembleParameters, common | given, "ensemble")


def test_weights_of_unknown_classes_are_refused() -> None:
    common = {"store": "s", "taxonomy": "cityscapes19", "height_px": 32, "width_px": 64, "seed": 1}
    common |= {"shard": 0, "shard_count": 1}
    with pytest.raises(InputError, match="did you mean 'person'"):
        build_parameters(score.ScoreParameters, common | {"class_weights": {"persn": 2}}, "score")
