"""What a network starts from: the released one where it fits, what was brought where it does not, and in words why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.stage.learning import class_names
from components.stage.starting import CHAMPION, CHAMPION_DENSE, Start, find_start
from perception.models.checkpoint import save_network
from perception.models.erfnet import ERFNet

TAXONOMY = "camvid11"


def network(seed: int, width: float = 0.25, classes: int = 11, dropout: float = 0.0) -> ERFNet:
    torch.manual_seed(seed)
    return ERFNet(classes, width=width, dropout_quarter=dropout, dropout_eighth=dropout)


def released(folder: Path, dense: ERFNet | None, taxonomy: str = TAXONOMY) -> Path:
    (folder / CHAMPION).write_text('{"model_sha256": "ab"}')
    if dense is not None:
        save_network(dense, folder / CHAMPION_DENSE, {"classes": json.dumps(class_names(taxonomy))})
    return folder


def test_the_released_network_is_the_start_whatever_dropout_it_learned_with(tmp_path: Path) -> None:
    champion, tonight = network(1, dropout=0.3), network(2)
    found = find_start("champion", released(tmp_path, champion), tonight, TAXONOMY, Start(started_from="scratch"))
    assert (found.started_from, found.reason, found.model_sha256) == ("champion", "it is released", "ab")
    tonight.load_state_dict(found.state)
    assert all(torch.equal(value, champion.state_dict()[name]) for name, value in tonight.state_dict().items())


def test_what_does_not_fit_is_told_and_the_other_start_taken(tmp_path: Path) -> None:
    other = Start(started_from="pretrained", state={"weight": torch.ones(1)})
    cases: dict[str, tuple[ERFNet | None, str]] = {
        "an older night kept none": (None, TAXONOMY),
        "another structure: ": (network(1, width=0.5), TAXONOMY),
        "other classes than camvid11": (network(1, classes=19), "cityscapes19"),
    }
    for number, (words, (dense, taxonomy)) in enumerate(cases.items()):
        (base := tmp_path / str(number)).mkdir()
        found = find_start("champion", released(base, dense, taxonomy), network(2), TAXONOMY, other)
        assert (found.started_from, found.state) == ("pretrained", other.state) and words in found.reason
    found = find_start("champion", tmp_path, network(2), TAXONOMY, other)
    assert (found.started_from, found.reason) == ("pretrained", "no network is released yet")


@pytest.mark.parametrize("wanted", ["pretrained", "scratch"])
def test_a_start_that_is_asked_for_leaves_the_released_network_alone(tmp_path: Path, wanted: Any) -> None:
    base = released(tmp_path, network(1))
    found = find_start(wanted, base, network(2), TAXONOMY, Start(started_from="scratch"))
    assert (found.started_from, found.reason) == ("scratch", f"start_from is {wanted}")
