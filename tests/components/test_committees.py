"""Every kind of committee trains, is scored by the same stage, and class weights and maps reach the scores."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from components import ensemble, score
from components.stage import learning as trainings
from components.stage.execution import TRAINING_STATE_VARIABLE
from components.stage.learning import class_names
from components.stage.parameters import build_parameters
from components.stage.starting import CHAMPION, CHAMPION_DENSE
from perception.errors import InputError
from perception.models.checkpoint import save_network
from perception.models.erfnet import ERFNet
from perception.uncertainty.ensemble import load_ensemble
from tests.components.intake import empty_base, run, take_in
from tests.footage import write_footage

HEIGHT, WIDTH = 32, 64
SMALL = {"name": "erfnet", "arguments": {"width": 0.25}}


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
    settings = {"epochs": 4, "epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3, "network": SMALL}
    settings |= {"kind": kind, "members": 4}
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


class KilledError(Exception):
    """Stands for whatever ends a step before its time."""


def killed_after(steps: int) -> Callable[[str], Callable[[int, int], None]]:
    def progress(done: int, _total: int) -> None:
        if done == steps:
            raise KilledError

    return lambda _what: progress


@pytest.mark.parametrize("kind", ("dpe", "snapshots"))
def test_a_killed_ensemble_goes_on_to_the_same_members(
    arrived: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given = learning(arrived) | {"epochs": 4, "epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3}
    given |= {"network": SMALL, "kind": kind, "members": 4}
    expected = run(ensemble, arrived, "ensemble", tmp_path / "undisturbed", **given)
    kept = trainings.training_state
    at_once = lambda *what: replace(kept(*what), every_minutes=1e-9)  # noqa: E731
    monkeypatch.setenv(TRAINING_STATE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(trainings, "training_state", at_once)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trainings, "progress_line", killed_after(6))  # of 8: two snapshots have been taken
        run(ensemble, arrived, "ensemble", tmp_path / "killed", **given)
    steps: list[int] = []
    monkeypatch.setattr(trainings, "progress_line", lambda _: lambda done, _total: steps.append(done))
    resumed = run(ensemble, arrived, "ensemble", tmp_path / "resumed", **given)
    assert steps == [6, 7, 8]  # the step after which it was killed is done again
    for file in sorted(expected.iterdir()):
        assert (resumed / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "bagging"}, "must be dpe, plain, snapshots or mc_dropout"),
        ({"kind": "snapshots", "members": 9}, "as many as the snapshots"),
        ({"kind": "dpe", "members": 3}, "at least 4"),
    ],
)
def test_committees_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    common = {"store": "s", "taxonomy": "cityscapes19", "height_px": 32, "width_px": 64, "seed": 1, "epochs": 8}
    common |= {"epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3}
    with pytest.raises(InputError, match=message):
        build_parameters(ensemble.EnsembleParameters, common | given, "ensemble")


def test_a_network_without_dropout_is_refused_before_it_trains(arrived: dict[str, list[Path]], tmp_path: Path) -> None:
    without = {"arguments": {"width": 0.25, "dropout_quarter": 0.0, "dropout_eighth": 0.0}}
    given = learning(arrived) | {"epochs": 4, "epoch_frames": 4, "batch_frames": 2, "learning_rate": 1e-3}
    with pytest.raises(InputError, match="no dropout layer"):
        run(ensemble, arrived, "ensemble", tmp_path / "ensemble", **given, network=without, kind="mc_dropout")


def test_weights_of_unknown_classes_are_refused() -> None:
    common = {"store": "s", "taxonomy": "cityscapes19", "height_px": 32, "width_px": 64, "seed": 1}
    common |= {"shard": 0, "shard_count": 1}
    with pytest.raises(InputError, match="did you mean 'person'"):
        build_parameters(score.ScoreParameters, common | {"class_weights": {"persn": 2}}, "score")


def test_members_start_from_the_released_network_each_in_its_own_way(
    arrived: dict[str, list[Path]], tmp_path: Path
) -> None:
    base = empty_base(tmp_path / "base")
    (base / CHAMPION).write_text('{"model_sha256": "ab"}')
    champion = ERFNet(19, width=0.25, dropout_quarter=0.0, dropout_eighth=0.0)
    with torch.no_grad():
        for parameter in champion.parameters():
            parameter.fill_(3.0)
    save_network(champion, base / CHAMPION_DENSE, {"classes": json.dumps(class_names("cityscapes19"))})
    settings = {"epochs": 1, "epoch_frames": 2, "batch_frames": 2, "learning_rate": 1e-9, "network": SMALL}
    inputs = {"frames": arrived["frames"], "base": [base]}
    trained = run(ensemble, inputs, "ensemble", tmp_path / "ensemble", **learning(arrived), **settings)
    told = json.loads((trained / "ensemble.json").read_text())["metadata"]
    assert (told["started_from"], told["start_reason"]) == ("champion", "it is released")
    weights = [member.encoder[0].conv.weight for member in load_ensemble(trained).members]
    assert all(abs(each.mean() - 3.0) < 0.1 and 0.05 < each.std() < 0.15 for each in weights)
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    wider = settings | {"network": {"name": "erfnet", "arguments": {"width": 0.5}}}
    drawn = run(ensemble, inputs, "ensemble", tmp_path / "drawn", **learning(arrived), **wider)
    told = json.loads((drawn / "ensemble.json").read_text())["metadata"]
    assert told["started_from"] == "scratch" and "another structure" in told["start_reason"]
