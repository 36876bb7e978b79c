import copy

import pytest
import torch
from torch import nn

from perception.errors import InputError
from perception.training.averaging import update_average


def test_average_follows_its_recurrence_with_an_early_decay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()
    average = copy.deepcopy(network)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for iteration in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(iteration))
        network[1].num_batches_tracked += 1
        update_average(average, network, 0.6, iteration)
        decay = min(0.6, (1 + iteration) / (10 + iteration))
        for name, value in network.state_dict().items():
            expected[name] = (
                decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value.clone()
            )
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_average_of_another_shape_is_refused():
    with pytest.raises(InputError, match="weight"):
        update_average(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), 0.9, 0)
