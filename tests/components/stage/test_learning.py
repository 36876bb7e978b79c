"""How stages train: what changes on a GPU, and what does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.stage.execution import TRAINING_STATE_VARIABLE
from components.stage.learning import LearningParameters, train, train_settings, training_state
from perception.data.loading import Augment
from perception.errors import InputError

PARAMETERS = LearningParameters(
    store="store", taxonomy="cityscapes19", height_px=64, width_px=128, seed=1, network_width=0.25, epochs=2,
    epoch_frames=8, batch_frames=4, learning_rate=1e-3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("device", "wanted", "mixed", "captured"),
    [
        ("cpu", True, False, False),
        ("cpu", False, False, False),
        ("cuda:0", True, True, True),
        ("cuda:0", False, False, True),
    ],
)
def test_a_gpu_trains_in_mixed_precision_and_replays_steps(
    device: str, wanted: bool, mixed: bool, captured: bool
) -> None:
    settings = train_settings(replace(PARAMETERS, mixed_precision=wanted), device=device)
    assert (settings.device, settings.mixed_precision, settings.captured) == (device, mixed, captured)


def test_a_training_state_is_found_again_on_another_kind_of_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRAINING_STATE_VARIABLE, str(tmp_path))
    states = [
        training_state("student", train_settings(PARAMETERS, device=device), ["a", "b"]) for device in ("cpu", "cuda:0")
    ]
    assert states[0] is not None and states[0] == states[1]
    another = train_settings(PARAMETERS, device="cpu", seed_offset=1)
    assert states[0] != training_state("student", another, ["a", "b"])


class Frames:
    """One frame that nothing is read of."""

    frame_ids = ("a",)

    def __len__(self) -> int:
        return 1


def test_how_frames_are_varied_is_a_parameter_and_part_of_what_a_state_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRAINING_STATE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("perception.training.losses.pixel_counts", lambda _: np.ones(19, dtype=np.int64))
    seen, states = [], []

    def batches(*_: Any, augment: Augment, **__: Any) -> list[Any]:
        seen.append(augment)
        return []

    def fit(_network: Any, drawn: Any, _settings: Any, *, resume: Any, **_: Any) -> list[Any]:
        list(drawn(0))
        states.append(resume.identity)
        return []

    monkeypatch.setattr("perception.data.loading.shuffled_batches", batches)
    monkeypatch.setattr("perception.training.loop.fit", fit)
    for changes in ({}, {"least_zoom": 0.9, "greatest_zoom": 1.25, "color_jitter": 0.1}):
        parameters = replace(PARAMETERS, **changes)
        settings = train_settings(parameters, device="cpu")
        train(torch.nn.Linear(1, 1), Frames(), settings, parameters, what="student")  # type: ignore[arg-type]
    assert seen == [Augment(), Augment(scale_range=(0.9, 1.25), color_jitter=0.1)]
    assert states[0] != states[1]


@pytest.mark.parametrize(
    ("name", "value"), [("least_zoom", 0.05), ("least_zoom", 1.1), ("greatest_zoom", 0.9), ("color_jitter", 1.0)]
)
def test_variation_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{name} .*{value}.*must be"):
        replace(PARAMETERS, **{name: value})
