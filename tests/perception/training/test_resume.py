import copy
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from perception.data.loading import Batch
from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.registry import build_network
from perception.training.loop import Resume, TrainSettings, fit
from perception.training.rates import set_learning_rate
from perception.training.resume import Position, load_state, save_state

SETTINGS = TrainSettings(epochs=4, batch_frames=4, learning_rate=1e-3, weight_decay=1e-4, schedule="cosine", seed=2)
DETERMINISTIC = dataclasses.replace(SETTINGS, deterministic=True)
SRC = Path(__file__).parents[3]


class StoppedError(Exception):
    """Stands for whatever ends a training before its time."""


def network(seed: int = 0) -> nn.Module:
    """Build a small network with everything that has a state: normalisation, dropout, weights."""
    built = build_network("SmallNet", seed=seed, classes=2, kernel=7, image_px=8)
    built.features.add_module("12", nn.Dropout2d(0.3))
    return built


def batches(epoch: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    images = [torch.rand(4, 3, 8, 8, generator=generator) for _ in range(3)]
    return [Batch(image, (image.mean((1, 2, 3)) > 0.5).long()) for image in images]


def state(trained: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().reshape(-1) for value in trained.state_dict().values()])


def stop_after(iterations: int):
    def progress(done: int, total: int) -> None:
        assert total == 12
        if done == iterations:
            raise StoppedError

    return progress


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("iterations", [1, 3, 5, 12])
def test_training_goes_on_to_the_same_weights(tmp_path, optimiser, iterations):
    settings = dataclasses.replace(SETTINGS, optimiser=optimiser)
    expected, expected_average = network(), network()
    records = fit(expected, batches, settings, average=expected_average)

    # Saved after each iteration: every_minutes is less than any of them lasts.
    resume = Resume(path=tmp_path / "state", every_minutes=1e-9)
    first, first_average = network(), network()
    with pytest.raises(StoppedError):
        fit(first, batches, settings, average=first_average, resume=resume, progress=stop_after(iterations))
    second, second_average = network(seed=9), network()
    done = []
    resumed = fit(
        second, batches, settings, average=second_average, resume=resume, progress=lambda *counts: done.append(counts)
    )
    assert len(done) in (12 - iterations, 13 - iterations)
    assert torch.equal(state(second), state(expected))
    assert torch.equal(state(second_average), state(expected_average))
    assert [(r.epoch, r.loss, r.learning_rate) for r in resumed] == [
        (r.epoch, r.loss, r.learning_rate) for r in records
    ]


def test_weights_in_another_order_in_memory_go_on_to_the_same(tmp_path):
    """The fused optimiser walks weights and moments side by side through memory: both must have one order."""
    settings = dataclasses.replace(SETTINGS, channels_last=True)
    expected, resume = network(), Resume(path=tmp_path / "state", every_minutes=1e-9)
    fit(expected, batches, settings)
    with pytest.raises(StoppedError):
        fit(network(), batches, settings, resume=resume, progress=stop_after(5))
    second = network(seed=9)
    fit(second, batches, settings, resume=resume)
    assert not second.features[0].weight.is_contiguous() and torch.equal(state(second), state(expected))


def test_a_finished_training_is_not_done_again(tmp_path):
    resume = Resume(path=tmp_path / "state", every_minutes=None)
    first, second = network(), network()
    records = fit(first, batches, SETTINGS, resume=resume)
    called = []
    again = fit(second, batches, SETTINGS, resume=resume, progress=lambda *counts: called.append(counts))
    assert again == records and not called
    assert torch.equal(state(first), state(second))


def test_states_are_saved_by_epochs(tmp_path):
    resume = Resume(path=tmp_path / "state", every_minutes=None, every_epochs=2)
    seen = []
    fit(network(), batches, SETTINGS, resume=resume, after_epoch=lambda *_: seen.append(resume.path.exists()))
    assert seen == [False, False, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def lose_channels(epoch: int, pruned: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """After epoch 1 remove half of the first layer's channels, and begin their optimiser state anew."""
    if epoch != 1:
        return
    old = dict(pruned.named_parameters())
    pruned.features[0] = cut(pruned.features[0], slice(None, None, 2), slice(None))
    pruned.features[1] = nn.BatchNorm2d(4)
    pruned.features[4] = cut(pruned.features[4], slice(None), slice(None, None, 2))
    for name, parameter in pruned.named_parameters():
        kept = optimiser.state.pop(old[name])
        if parameter is not old[name]:
            kept = {key: value if key == "step" else torch.zeros_like(parameter) for key, value in kept.items()}
        optimiser.state[parameter] = kept
    optimiser.param_groups[0]["params"] = list(pruned.parameters())


def cut(conv: nn.Conv2d, outputs: slice, inputs: slice) -> nn.Conv2d:
    weight = conv.weight.detach()[outputs, inputs].clone()
    smaller = nn.Conv2d(
        weight.shape[1], weight.shape[0], conv.kernel_size, padding=conv.padding, dilation=conv.dilation
    )
    smaller.weight, smaller.bias = nn.Parameter(weight), nn.Parameter(conv.bias.detach()[outputs].clone())
    return smaller


def test_a_rate_on_the_device_is_kept_and_comes_back_to_its_place(tmp_path):
    """A recorded step reads its rate from one place in memory, on the device."""
    trained = network()
    rate = torch.tensor(1e-3)
    optimiser = torch.optim.Adam(trained.parameters(), lr=rate, capturable=False)
    set_learning_rate(optimiser, 0.25)
    resume = Resume(path=tmp_path / "state")
    save_state(resume, Position(epoch=1), {"network": trained}, optimiser, {})
    set_learning_rate(optimiser, 0.5)
    load_state(resume, {"network": trained}, optimiser, {})
    assert optimiser.param_groups[0]["lr"] is rate and rate.item() == 0.25
    plain = torch.optim.Adam(trained.parameters(), lr=0.5)  # of a processor, which goes on from a GPU's state
    load_state(resume, {"network": trained}, plain, {})
    assert plain.param_groups[0]["lr"] == 0.25 and not plain.param_groups[0]["capturable"]


@pytest.mark.parametrize("iterations", [5, 8])
def test_a_network_that_lost_channels_meanwhile_goes_on(tmp_path, iterations):
    expected = network()
    fit(expected, batches, SETTINGS, after_epoch=lose_channels)
    assert expected.features[0].out_channels == 4
    resume = Resume(path=tmp_path / "state", every_minutes=1e-9)
    with pytest.raises(StoppedError):
        fit(network(), batches, SETTINGS, after_epoch=lose_channels, resume=resume, progress=stop_after(iterations))
    second = network()
    fit(second, batches, SETTINGS, after_epoch=lose_channels, resume=resume)
    assert torch.equal(state(second), state(expected))


@pytest.mark.parametrize(
    ("changes", "identity", "message"),
    [({"learning_rate": 2e-3}, "a", "settings"), ({"epochs": 5}, "a", "settings"), ({}, "b", "identity")],
)
def test_the_state_of_another_training_is_refused(tmp_path, changes, identity, message):
    resume = Resume(path=tmp_path / "state", identity="a")
    fit(network(), batches, dataclasses.replace(SETTINGS, epochs=1), resume=resume)
    settings = dataclasses.replace(SETTINGS, **{"epochs": 1, **changes})
    with pytest.raises(InputError, match=message):
        fit(network(), batches, settings, resume=dataclasses.replace(resume, identity=identity))


def test_a_damaged_state_is_refused(tmp_path):
    resume = Resume(path=tmp_path / "state")
    fit(network(), batches, dataclasses.replace(SETTINGS, epochs=1), resume=resume)
    resume.path.write_bytes(resume.path.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated"):
        fit(network(), batches, dataclasses.replace(SETTINGS, epochs=1), resume=resume)


@pytest.mark.parametrize("changes", [{"every_minutes": 0.0}, {"every_epochs": 0}])
def test_intervals_out_of_range_are_refused(tmp_path, changes):
    with pytest.raises(InputError, match="every_"):
        Resume(path=tmp_path / "state", **changes)


def test_a_killed_process_goes_on_to_the_same_weights(tmp_path):
    expected = network()
    fit(expected, batches, DETERMINISTIC)
    command = [sys.executable, __file__, str(tmp_path / "state"), str(tmp_path / "network")]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.Popen([*command, "7"], env=environment)
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert not (tmp_path / "network").exists() and (tmp_path / "state").exists()
    subprocess.run([*command, "0"], env=environment, check=True, timeout=120)
    assert torch.equal(state(load_network(tmp_path / "network")), state(expected))


def train_until_killed(path: str, result: str, kill_after: str) -> None:
    """Train in a process of its own that, after so many iterations, is killed as by kill -9; 0: never."""
    trained = copy.deepcopy(network())

    def progress(done: int, _: int) -> None:
        if done == int(kill_after):
            os.kill(os.getpid(), signal.SIGKILL)

    fit(trained, batches, DETERMINISTIC, resume=Resume(path=Path(path), every_minutes=1e-9), progress=progress)
    save_network(trained, Path(result), {})


if __name__ == "__main__":
    train_until_killed(*sys.argv[1:])
