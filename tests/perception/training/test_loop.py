import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perception.data.loading import Batch, LoadSettings
from perception.errors import InputError
from perception.models.registry import build_network
from perception.training.loop import EpochRecord, TrainSettings, batch_logits, evaluate_segmentation, fit

SETTINGS = TrainSettings(
    epochs=3, batch_frames=4, learning_rate=5e-3, weight_decay=1e-4, schedule="poly", seed=5, max_grad_norm=10.0
)


def settings(**changes) -> TrainSettings:
    return dataclasses.replace(SETTINGS, **changes)


def segmentation_batches(epoch: int, count: int = 3):
    """Frames whose class is where they are bright: learnable."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(count):
        images = torch.rand(4, 3, 16, 24, generator=generator)
        labels = (images.mean(1) > 0.5).long()
        labels[:, 0] = 255
        yield Batch(images, labels)


def list_of_batches(epoch: int):
    return list(segmentation_batches(epoch))


def small(seed: int = 0) -> nn.Module:
    """Build a network with what ERFNet has: normalisation, dropout, full-size logits."""
    torch_seed = torch.random.get_rng_state()
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 2, 1)]
    torch.random.set_rng_state(torch_seed)
    return nn.Sequential(*layers)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().reshape(-1) for value in network.state_dict().values()])


def test_the_loss_falls_and_is_recorded_by_epoch():
    erfnet = build_network("ERFNet", seed=0, classes=2, width=0.25)
    records = fit(erfnet, list_of_batches, settings(epochs=4, schedule="constant"))
    assert [record.epoch for record in records] == [0, 1, 2, 3]
    assert records[-1].loss < records[0].loss
    assert all(isinstance(record, EpochRecord) and record.seconds > 0 for record in records)


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_same_seed_same_weights_and_the_global_random_state_stays(optimiser):
    trained = []
    for _ in range(2):
        torch.manual_seed(len(trained))  # must not matter
        before = torch.get_rng_state()
        network = small()
        fit(network, list_of_batches, settings(optimiser=optimiser))
        assert torch.equal(before, torch.get_rng_state())
        trained.append(weights(network))
    assert torch.equal(*trained)


def test_the_seed_draws_the_dropout():
    first, second = small(), small()
    fit(first, list_of_batches, settings(epochs=1))
    fit(second, list_of_batches, settings(epochs=1, seed=6))
    assert not torch.equal(weights(first), weights(second))


def linear_batches(epoch: int):
    generator = torch.Generator().manual_seed(epoch)
    return [Batch(torch.randn(4, 3, generator=generator), torch.tensor([0, 1, 2, 255])) for _ in range(5)]


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_training_equals_a_plain_loop(schedule):
    network = nn.Linear(3, 3).double()
    expected = copy.deepcopy(network)
    class_weights = np.array([1.0, 2.0, 3.0])
    chosen = settings(schedule=schedule, max_grad_norm=0.1, learning_rate=0.1)

    def batches(epoch):
        return [Batch(batch.images.double(), batch.labels) for batch in linear_batches(epoch)]

    def loss(network, batch):
        return F.cross_entropy(network(batch.images), batch.labels, torch.tensor(class_weights), ignore_index=255)

    rates, losses = [], []
    records = fit(network, batches, chosen, loss=loss, after_step=lambda *a: rates.append(a[2].param_groups[0]["lr"]))

    optimiser = torch.optim.Adam(expected.parameters(), weight_decay=1e-4)
    for iteration in range(15):
        done = iteration / 15
        factor = {"poly": (1 - done) ** 0.9, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1}[schedule]
        optimiser.param_groups[0]["lr"] = 0.1 * factor
        optimiser.zero_grad()
        value = loss(expected, batches(iteration // 5)[iteration % 5])
        value.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
        optimiser.step()
        losses.append(value.item())
        assert rates[iteration] == pytest.approx(0.1 * factor, rel=1e-12)
    torch.testing.assert_close(network.weight, expected.weight, rtol=1e-12, atol=1e-14)
    assert [record.loss for record in records] == pytest.approx(np.reshape(losses, (3, 5)).mean(1).tolist(), rel=1e-12)
    assert [record.learning_rate for record in records] == pytest.approx(rates[::5])


def test_warm_up_and_nesterov_equal_a_plain_loop():
    network = nn.Linear(3, 3)
    expected = copy.deepcopy(network)
    chosen = settings(
        optimiser="sgd", nesterov=True, warmup_share=0.4, schedule="cosine", learning_rate=0.1, max_grad_norm=None
    )
    rates = []
    fit(network, linear_batches, chosen, after_step=lambda *a: rates.append(a[2].param_groups[0]["lr"]))
    weights, steps = list(expected.parameters()), [torch.zeros_like(weight) for weight in expected.parameters()]
    for iteration in range(15):
        after = (iteration - 6) / 9
        rate = 0.1 * (iteration / 6 if iteration < 6 else (1 + math.cos(math.pi * after)) / 2)
        assert rates[iteration] == pytest.approx(rate, abs=1e-15)
        batch = linear_batches(iteration // 5)[iteration % 5]
        value = F.cross_entropy(expected(batch.images), batch.labels, ignore_index=255)
        gradients = torch.autograd.grad(value, weights)
        with torch.no_grad():
            for weight, gradient, step in zip(weights, gradients, steps, strict=True):
                decayed = gradient + 1e-4 * weight
                step.mul_(0.9).add_(decayed)
                weight -= rate * (decayed + 0.9 * step)
    torch.testing.assert_close(network.weight, expected.weight)


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_stays_on_and_chooses_its_kernels_unless_determinism_is_asked_for(deterministic):
    cudnn, seen = torch.backends.cudnn, []

    def loss(network, batch):
        seen.append((cudnn.enabled, cudnn.benchmark))
        return network(batch.images).mean()

    before = cudnn.enabled, cudnn.benchmark
    fit(small(), list_of_batches, settings(epochs=1, deterministic=deterministic), loss=loss)
    assert set(seen) == {(before[0], not deterministic)}
    assert (cudnn.enabled, cudnn.benchmark) == before == (True, False)


def test_default_loss_takes_class_weights():
    def loss(network, batch):
        return F.cross_entropy(network(batch.images), batch.labels, torch.tensor([1.0, 2.0, 3.0]), ignore_index=255)

    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    expected = copy.deepcopy(network)
    fit(network, linear_batches, SETTINGS, class_weights=[1.0, 2.0, 3.0])
    fit(expected, linear_batches, SETTINGS, loss=loss)
    torch.testing.assert_close(network.weight, expected.weight)
    with pytest.raises(InputError, match="class_weights"):
        fit(network, linear_batches, SETTINGS, loss=loss, class_weights=[1.0, 1.0, 1.0])


def test_hooks_are_called_in_turn_and_may_change_the_weights():
    network, calls = small(), []

    def after_epoch(epoch, network, optimiser):
        calls.append(("epoch", epoch))
        assert optimiser.param_groups[0]["lr"] > 0
        with torch.no_grad():
            network[4].bias.fill_(float(epoch))

    done = []
    fit(
        network,
        segmentation_batches,
        settings(epochs=2),
        after_step=lambda iterations, *_: calls.append(("step", iterations)),
        after_epoch=after_epoch,
        progress=lambda *counts: done.append(counts),
    )
    steps = [("step", number) for number in range(1, 7)]
    assert calls == [*steps[:3], ("epoch", 0), *steps[3:], ("epoch", 1)]
    assert done == [(number, 6) for number in range(1, 7)]
    assert (network[4].bias == 1).all()


def test_batches_without_a_length_are_counted_and_a_given_count_spares_that():
    def train(batches, **arguments):
        network, calls = small(), []

        def counted(epoch):
            calls.append(epoch)
            return batches(epoch)

        fit(network, counted, settings(epochs=2), **arguments)
        return weights(network), calls

    (a, calls_a), (b, calls_b), (c, calls_c) = (
        train(list_of_batches),
        train(segmentation_batches),
        train(segmentation_batches, iterations_per_epoch=3),
    )
    assert torch.equal(a, b) and torch.equal(a, c)
    assert (calls_a, calls_b, calls_c) == ([0, 0, 1], [0, 0, 1], [0, 1])


@pytest.mark.parametrize("counts", [(0, 0), (2, 3), (3, 2)])
def test_empty_and_uneven_epochs_are_refused(counts):
    with pytest.raises(InputError, match="batch"):
        fit(small(), lambda epoch: segmentation_batches(0, counts[epoch]), settings(epochs=2))


def test_a_loss_that_is_not_finite_names_epoch_and_learning_rate():
    with pytest.raises(InputError, match=r"epoch 1, .*nan at learning rate 0\.00\d+"):
        fit(small(), list_of_batches, SETTINGS, loss=spoilt_loss())


def spoilt_loss():
    calls = []

    def loss(network, batch):
        calls.append(1)
        return network(batch.images).mean() * (float("nan") if len(calls) > 3 else 1.0)

    return loss


def test_modes_are_given_back():
    network = small().train()
    network[1].eval()
    fit(network, list_of_batches, settings(epochs=1))
    batch_logits(network, list_of_batches(0)[0])
    assert network.training and not network[1].training


def test_average_follows_the_training():
    network = small()
    average = copy.deepcopy(network)
    fit(network, list_of_batches, settings(average_decay=0.0), average=average)
    assert torch.equal(weights(network), weights(average))
    slow = copy.deepcopy(small())
    fit(small(), list_of_batches, settings(average_decay=0.9), average=slow)
    assert not torch.equal(weights(slow), weights(average)) and not torch.equal(weights(slow), weights(small()))


def test_several_networks_train_as_one():
    ensemble = nn.ModuleList([small(0), small(1)])
    records = fit(
        ensemble,
        list_of_batches,
        settings(epochs=2),
        loss=lambda members, batch: sum(
            F.cross_entropy(m(batch.images), batch.labels, ignore_index=255) for m in members
        ),
    )
    assert records[1].loss < records[0].loss


def test_logits_are_those_of_evaluation_mode():
    network = small()
    (batch, *_) = list_of_batches(0)
    expected = network.eval()(batch.images)
    assert torch.equal(batch_logits(network.train(), batch), expected)


class MadeFrames:
    """Stands for a FrameSet in ordered_batches."""

    def __init__(self, frames: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randint(0, 256, (frames, 16, 24, 3), generator=generator, dtype=torch.uint8).numpy()
        self.labels = torch.randint(0, 2, (frames, 16, 24), generator=generator, dtype=torch.uint8).numpy()
        self.labels[:, :2] = 255
        self.settings = LoadSettings(height_px=16, width_px=24, taxonomy="camvid11")

    def __len__(self) -> int:
        return len(self.images)

    def _resized(self, index):
        return self.images[index], self.labels[index]

    def full_label(self, index):
        return np.repeat(self.labels[index], 2, axis=0)


@pytest.mark.parametrize("batch_frames", [1, 2, 7])
def test_evaluation_equals_a_slow_count(batch_frames):
    network, frames = small().eval(), MadeFrames(5)
    expected = np.zeros((2, 2), np.int64)
    for image, label in zip(frames.images, frames.labels, strict=True):
        scores = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        scores = F.interpolate(scores, size=(32, 24), mode="bilinear")[0]
        for truth, guess in zip(np.repeat(label, 2, axis=0).ravel(), scores.argmax(0).numpy().ravel(), strict=True):
            if truth != 255:
                expected[truth, guess] += 1
    assert (evaluate_segmentation(network, frames, 2, batch_frames) == expected).all()


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(InputError, match="none to evaluate"):
        evaluate_segmentation(small(), MadeFrames(0), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_frames": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"schedule": "step"},
        {"warmup_share": 1.0},
        {"nesterov": True},
        {"seed": -1},
        {"max_grad_norm": 0.0},
        {"optimiser": "lion"},
        {"momentum": 1.0},
        {"average_decay": 1.0},
        {"mixed_precision": True},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        settings(**changes)
