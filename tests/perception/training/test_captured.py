"""Steps replayed as a CUDA graph; on a machine without a GPU only the refusal can be seen."""

import pytest
import torch
from torch import nn

from perception.data.loading import Batch
from perception.errors import InputError
from perception.training.loop import TrainSettings, fit

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def settings(**changes) -> TrainSettings:
    chosen = {
        "epochs": 2, "batch_frames": 4, "learning_rate": 0.01, "weight_decay": 1e-4, "schedule": "poly", "seed": 3,
        "device": "cuda",
    }  # fmt: skip
    return TrainSettings(**(chosen | changes))


def batches(epoch: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    sizes = [4] * 9 + [2]  # the last batch is smaller
    return [
        Batch(torch.rand(n, 3, 8, 8, generator=generator), torch.randint(0, 3, (n, 8, 8), generator=generator))
        for n in sizes
    ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))


def test_a_cpu_has_nothing_to_record():
    with pytest.raises(InputError, match="captured = True: must be false unless on cuda"):
        settings(device="cpu", captured=True)


@needs_gpu
@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_replayed_steps_train_like_launched_ones(optimiser):
    trained = []
    for captured in (False, True):
        one = network()
        records = fit(one, batches, settings(captured=captured, optimiser=optimiser, max_grad_norm=5.0))
        trained.append(([r.loss for r in records], {k: v.cpu() for k, v in one.state_dict().items()}))
    (losses, weights), (losses_captured, weights_captured) = trained
    assert losses_captured == pytest.approx(losses, rel=1e-3)
    for name, value in weights.items():
        torch.testing.assert_close(weights_captured[name], value, rtol=2e-3, atol=2e-4, msg=name)


@needs_gpu
def test_replaced_parameters_are_recorded_anew():
    one = network()

    def narrow(epoch: int, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        if epoch == 0:
            net[3] = nn.Conv2d(8, 3, 3, padding=1).to("cuda")
            optimiser.param_groups[0]["params"] = list(net.parameters())
            optimiser.state.clear()

    records = fit(one, batches, settings(captured=True), after_epoch=narrow)
    before = network().state_dict()["0.weight"]
    assert one[3].weight.shape == (3, 8, 3, 3) and all(r.loss < 10 for r in records)
    assert not torch.equal(one.state_dict()["0.weight"].cpu(), before)
