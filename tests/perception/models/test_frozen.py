"""A frozen encoder neither learns nor follows its batches, and the rest does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.models.frozen import freeze_encoder


@pytest.mark.parametrize("network", [ERFNet(4, 0.25), EfficientNetLite(4)], ids=["erfnet", "efficientnet_lite"])
def test_only_what_is_no_encoder_learns(network: nn.Module) -> None:
    torch.manual_seed(0)
    frozen, images = copy.deepcopy(network), torch.rand(2, 3, 32, 64)
    freeze_encoder(frozen)
    with torch.no_grad():
        torch.testing.assert_close(frozen.eval()(images), network.eval()(images), rtol=0, atol=0)
    frozen.train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    optimiser = torch.optim.AdamW(frozen.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(frozen(images), torch.zeros(2, 32, 64, dtype=torch.int64)).backward()
    optimiser.step()
    changed = {name for name, value in frozen.state_dict().items() if not torch.equal(value, before[name])}
    learnable = {name for name, _ in frozen.named_parameters() if not name.startswith("encoder.")}
    assert learnable <= changed and not any(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize("encoder", [None, nn.ModuleList([nn.Conv2d(3, 4, 1)])], ids=["none", "a list"])
def test_a_network_without_one_encoder_is_refused(encoder: nn.Module | None) -> None:
    network = nn.Conv2d(3, 4, 1)
    network.encoder = encoder
    with pytest.raises(InputError, match=r"Conv2d: has no module `encoder`.*compare\.trained: network"):
        freeze_encoder(network)
