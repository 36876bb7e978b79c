import pytest
import torch

from perception.adaptation.statistics import adapt_statistics
from perception.errors import InputError


def test_adapted_statistics_are_those_of_the_frames() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))
    network[1].running_mean.fill_(7)
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    adapt_statistics(network, images.split(16))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        features = network[0](images)
    torch.testing.assert_close(network[1].running_mean, features.mean((0, 2, 3)))
    variances = torch.stack([part.var((0, 2, 3)) for part in features.split(16)]).mean(0)
    torch.testing.assert_close(network[1].running_var, variances)
    assert network[1].momentum == 0.1 and not any(layer.training for layer in network.modules())


def test_without_a_frame_the_statistics_stay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    network[1].running_mean.fill_(7)
    with pytest.raises(InputError, match="no frame to take the normalisation's statistics from"):
        adapt_statistics(network, [])
    assert torch.equal(network[1].running_mean, torch.full((4,), 7.0))
