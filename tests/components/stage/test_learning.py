"""How stages train: what changes on a GPU, and what does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components.stage.declaration import Paths
from components.stage.execution import TRAINING_STATE_VARIABLE
from components.stage.learning import LearningParameters, by_all_processes, train, train_settings, training_state
from components.stage.registry import all_stages
from perception.adaptation import foreground_training
from perception.adaptation.detector_training import DetectionAugment
from perception.data.loading import Augment
from perception.errors import InputError
from perception.training.setup import best_device

PARAMETERS = LearningParameters(
    store="store", taxonomy="cityscapes19", height_px=64, width_px=128, seed=1, epochs=2,
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
    settings = SimpleNamespace(workers=0)
    load = None

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


def test_a_process_loads_its_share_of_what_it_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.training.losses.pixel_counts", lambda _: np.ones(19, dtype=np.int64))
    monkeypatch.setattr("perception.training.distributed.own_share", lambda: slice(1, None, 2))
    seen: list[Any] = []
    monkeypatch.setattr("perception.data.loading.shuffled_batches", lambda *_, share, **__: seen.append(share) or [])
    monkeypatch.setattr("perception.training.loop.fit", lambda _network, drawn, *_, **__: list(drawn(0)))
    train(torch.nn.Linear(1, 1), Frames(), train_settings(PARAMETERS, device="cpu"), PARAMETERS, what="x")  # type: ignore[arg-type]
    monkeypatch.setattr(foreground_training, "own_share", lambda: slice(1, None, 2))
    monkeypatch.setattr(foreground_training, "detection_batches", lambda *_, share, **__: seen.append(share) or [])
    monkeypatch.setattr(foreground_training, "fit", lambda _network, drawn, *_, **__: list(drawn(0)))
    settings, augment = train_settings(PARAMETERS, device="cpu"), DetectionAugment()
    foreground_training.train_foreground(torch.nn.Linear(1, 1), (1,), Frames(), settings, augment)  # type: ignore[arg-type]
    assert seen == [slice(1, None, 2)] * 2


def test_the_processes_of_a_stage_that_trains_join_around_all_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[str] = []

    @contextmanager
    def process_group(device: str) -> Iterator[None]:
        joined.append(device)
        yield
        joined.append("left")

    monkeypatch.setattr("perception.training.distributed.process_group", process_group)
    run = by_all_processes(lambda *_: joined.append("run") or {"frames": 3})  # type: ignore[func-returns-value]
    assert run(Paths({}), Paths({}), PARAMETERS) == {"frames": 3}
    assert joined == [best_device(), "run", "left"]
    wrapped = {name for name, stage in all_stages().items() if hasattr(stage.run, "__wrapped__")}
    assert wrapped == {name for name, stage in all_stages().items() if stage.needs.distributed}


@pytest.mark.parametrize(
    ("name", "value"), [("least_zoom", 0.05), ("least_zoom", 1.1), ("greatest_zoom", 0.9), ("color_jitter", 1.0)]
)
def test_variation_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{name} .*{value}.*must be"):
        replace(PARAMETERS, **{name: value})
