"""The GPU that is none refuses what a real one refuses, and replays what it recorded with the numbers of that time."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.data.loading import Batch
from perception.models.registry import build_network
from perception.training import loop
from perception.training.loop import TrainSettings, fit
from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
from perception.uncertainty.ensemble import make_ensemble
from tests.gpu.device import DEVICE, Graph, pretended_gpu


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    with pretended_gpu(monkeypatch) as made:
        yield made


@pytest.mark.usefixtures("graphs")
def test_tensors_go_there_and_come_back() -> None:
    there = torch.arange(6.0, device=DEVICE).view(2, 3)
    assert there.is_cuda and there.device == torch.device(DEVICE) and (there * 2 + 1).is_cuda
    assert torch.zeros_like(there).is_cuda and torch.tensor([1.0], device=DEVICE).is_cuda
    back = there.cpu()
    assert back.device.type == "cpu" and type(back) is Tensor and back.numpy().sum() == 15
    assert (there.sum().item(), there.tolist(), float(there.max())) == (15.0, [[0, 1, 2], [3, 4, 5]], 5.0)
    assert (there + torch.tensor(1.0)).is_cuda  # a single number may come from the processor
    there[0] = 7.0
    assert there.cpu()[0].tolist() == [7.0] * 3 and back[0].tolist() == [0.0, 1.0, 2.0]
    assert there[torch.tensor([1])].is_cuda  # what lies there may be indexed from anywhere
    layer = nn.Linear(3, 2).to(DEVICE)
    assert all(isinstance(each, nn.Parameter) and each.is_cuda for each in layer.parameters())
    layer(there).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.is_cuda
    twin = copy.deepcopy(layer)
    assert isinstance(twin.weight, nn.Parameter) and twin.weight.is_cuda and torch.equal(twin.weight, layer.weight)
    assert layer.to("cpu").weight.device.type == "cpu"


HERE = torch.ones(3)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there: there + HERE,
        lambda there: HERE * there,
        lambda there: torch.cat([HERE, there]),
        lambda there: HERE[there.long()],
        lambda there: HERE.index_select(0, there.long()),
        lambda there: F.cross_entropy(there[None], torch.tensor([1])),
        lambda there: F.cross_entropy(there[None], torch.tensor([1], device=DEVICE), weight=HERE),
        lambda there: nn.Linear(3, 2)(there),
    ],
)
@pytest.mark.usefixtures("graphs")
def test_devices_do_not_mix(mixed: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="to be on the same device"):
        mixed(torch.ones(3, device=DEVICE))


@pytest.mark.parametrize("read", [Tensor.numpy, np.asarray, np.sum])
@pytest.mark.usefixtures("graphs")
def test_numpy_cannot_read_the_device(read: Callable[[Any], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        read(torch.ones(3, device=DEVICE))


@pytest.mark.parametrize(
    "asked",
    [
        lambda there: there.sum().item(),
        lambda there: bool((there > 0).all()),
        lambda there: there[there > 0],
        lambda there: torch.nonzero(there),
        lambda there: there.cpu(),
        lambda _: torch.ones(3).to(DEVICE),
        lambda there: there[torch.tensor([1])],
        lambda _: torch.tensor([1.0], device=DEVICE),
    ],
)
@pytest.mark.usefixtures("graphs")
def test_what_a_recording_cannot_hold_is_refused(asked: Callable[[Tensor], Any]) -> None:
    there = torch.ones(3, device=DEVICE)
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=None), pytest.raises(RuntimeError, match="not permitted"):
        asked(there)


@pytest.mark.usefixtures("graphs")
def test_a_recording_has_no_effect_and_its_numbers_are_frozen() -> None:
    total, rate, step = torch.zeros(2, device=DEVICE), torch.tensor(1.0, device=DEVICE), 10.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=None):
        total += step
        total *= rate
    assert total.tolist() == [0.0, 0.0]
    step, _ = 1000.0, rate.fill_(2.0)
    graph.replay()
    assert total.tolist() == [20.0, 20.0]  # the number of the time, and what lies on the device now


SETTINGS = TrainSettings(
    epochs=2, batch_frames=4, learning_rate=5e-3, weight_decay=1e-4, schedule="poly", seed=5, max_grad_norm=10.0
)


def batches(epoch: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    images = [torch.rand(4, 3, 16, 24, generator=generator) for _ in range(5)]
    return [Batch(image, (image.mean(1) > 0.5).long()) for image in images]


@pytest.fixture(scope="module")
def on_the_processor() -> tuple[nn.Module, nn.Module, list[float]]:
    torch.set_num_threads(1)
    trained = build_network("ERFNet", seed=0, classes=2, width=0.25)
    start = copy.deepcopy(trained)
    return start, trained, [record.loss for record in fit(trained, batches, SETTINGS, class_weights=[1.0, 2.0])]


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def recorded(start: nn.Module) -> tuple[nn.Module, list[float]]:
    trained = copy.deepcopy(start)
    settings = dataclasses.replace(SETTINGS, device=DEVICE, captured=True)
    records = fit(trained, batches, settings, class_weights=[1.0, 2.0])
    return trained.to("cpu"), [record.loss for record in records]


def test_a_recorded_training_is_that_of_the_processor(
    graphs: list[Graph], on_the_processor: tuple[nn.Module, nn.Module, list[float]]
) -> None:
    start, expected, losses = on_the_processor
    trained, found = recorded(start)
    assert [graph.replays for graph in graphs] == [7] and found == pytest.approx(losses, rel=1e-6)
    assert largest_difference(trained, expected) < 5e-4


@pytest.mark.usefixtures("graphs")
def test_a_rate_that_is_no_tensor_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
    on_the_processor: tuple[nn.Module, nn.Module, list[float]],
) -> None:
    start, expected, _ = on_the_processor
    made = loop._optimiser

    def with_a_plain_rate(network: nn.Module, settings: TrainSettings) -> Any:
        optimiser = made(network, settings)
        optimiser.param_groups[0]["lr"] = settings.learning_rate
        return optimiser

    monkeypatch.setattr(loop, "_optimiser", with_a_plain_rate)
    assert largest_difference(recorded(start)[0], expected) > 1e-3


@pytest.mark.usefixtures("graphs")
def test_the_ensembles_loss_is_recorded_and_wants_its_weights_on_the_device() -> None:
    torch.set_num_threads(1)
    ensemble = make_ensemble(lambda _: nn.Conv2d(3, 3, 1), 4, seed=2)
    labels = torch.tensor([[[0, 1, 2, 255]]])
    batch = SimpleNamespace(images=torch.rand(1, 3, 1, 4), labels=labels)
    weights = torch.tensor([1.0, 5.0, 0.5])
    expected = ensemble_loss(EnsembleLoss(beta=1e-3), weights)(ensemble, batch).item()  # type: ignore[arg-type]
    ensemble.to(DEVICE)
    there = SimpleNamespace(images=batch.images.to(DEVICE), labels=labels.to(DEVICE))
    loss, graph = ensemble_loss(EnsembleLoss(beta=1e-3), weights.to(DEVICE)), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=None):
        value = loss(ensemble, there)  # type: ignore[arg-type]
    graph.replay()
    assert value.item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(RuntimeError, match="to be on the same device"):
        ensemble_loss(EnsembleLoss(beta=1e-3), weights)(ensemble, there)  # type: ignore[arg-type]
