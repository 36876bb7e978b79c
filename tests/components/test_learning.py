"""How stages train: what changes on a GPU, and what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

import components.learning
from components.contract import TRAINING_STATE_VARIABLE
from components.learning import LearningParameters, training_state

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
    device: str, wanted: bool, mixed: bool, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components.learning, "best_device", lambda: device)
    settings = replace(PARAMETERS, mixed_precision=wanted).train_settings()
    assert (settings.device, settings.mixed_precision, settings.captured) == (device, mixed, captured)


def test_a_training_state_is_found_again_on_another_kind_of_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRAINING_STATE_VARIABLE, str(tmp_path))
    states = []
    for device in ("cpu", "cuda:0"):
        monkeypatch.setattr(components.learning, "best_device", lambda device=device: device)
        states.append(training_state("student", PARAMETERS.train_settings(), ["a", "b"]))
    assert states[0] is not None and states[0] == states[1]
    assert states[0] != training_state("student", PARAMETERS.train_settings(seed_offset=1), ["a", "b"])
