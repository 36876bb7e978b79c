"""Chains equal the layers that they contract to, for every kind, stride, padding, dilation, group count and bias."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.compression.cost import count_parameters
from perception.compression.expansion import (
    LinearExpansion,
    contract_layer,
    contract_network,
    expand_layer,
    expand_network,
    kinds_for,
    linearise,
)
from perception.compression.low_rank import factorise_layer
from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet


def randomised(chain: nn.Sequential) -> nn.Sequential:
    """Give factors whose product has outputs of order one, so that an absolute error means something."""
    with torch.no_grad():
        for link in chain:
            nn.init.normal_(link.weight, std=float(link.weight[0].numel()) ** -0.5)
            if link.bias is not None:
                nn.init.normal_(link.bias, std=0.1)
    return chain


SETTINGS = [  # stride, padding, dilation, groups, bias
    *[(s, p, 1, 1, b) for s in (1, 2, 3) for p in (0, 1, 3) for b in (True, False)],
    (1, 2, 2, 1, True),
    (1, 2, 1, 4, True),
    *[(s, p, 1, 8, b) for s in (1, 2) for p in (0, 1) for b in (True, False)],  # depthwise
]
CONVOLUTIONS = [
    (nn.Conv2d(8, 8 if g > 1 else 6, k, stride=s, padding=p, dilation=d, groups=g, bias=b), kind)
    for kind, k in [("CL", 3), ("CL", 5), ("CL", (1, 3)), ("CK", 5), ("CK", 7), ("CK", (9, 1))]
    for s, p, d, g, b in SETTINGS
    if kind == "CL" or g == 1
]


@pytest.mark.parametrize(("layer", "kind"), CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_contraction_is_exact(layer: nn.Conv2d, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    chain = randomised(expand_layer(copy.deepcopy(layer).to(dtype), kind, 3))
    contracted = contract_layer(chain)
    assert {n: p.shape for n, p in contracted.state_dict().items()} == {
        n: p.shape for n, p in layer.state_dict().items()
    }
    assert (contracted.stride, contracted.padding, contracted.dilation) == (layer.stride, layer.padding, layer.dilation)
    x = torch.randn(2, layer.in_channels, 19, 22, dtype=dtype)
    with torch.no_grad():
        worst = float((chain(x) - contracted(x)).abs().max())
    assert worst < (1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_one_and_three_dimensions(bias: bool) -> None:
    torch.manual_seed(1)
    for layer, shape, kind in [
        (nn.Linear(7, 5, bias=bias), (3, 7), "FC"),
        (nn.Conv1d(4, 6, 7, padding=3, stride=2, bias=bias), (2, 4, 20), "CK"),
        (nn.Conv3d(2, 3, 3, padding=1, bias=bias), (1, 2, 6, 6, 6), "CL"),
        (nn.Conv2d(4, 5, 5, padding="same", bias=bias), (2, 4, 9, 9), "CL"),
    ]:
        chain = randomised(expand_layer(layer.double(), kind, 2))
        contracted = contract_layer(chain)
        x = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            assert chain(x).shape == layer(x).shape
            assert float((chain(x) - contracted(x)).abs().max()) < 1e-12


def test_composition_against_a_slow_loop() -> None:
    torch.manual_seed(2)
    chain = randomised(LinearExpansion(nn.Conv2d(2, 3, 2), nn.Conv2d(3, 2, 3)).double())
    a, b = (link.weight.detach().numpy() for link in chain)
    expected = np.zeros((2, 2, 4, 4))
    for n, m, p in itertools.product(range(2), range(2), range(3)):
        for i, j, x, y in itertools.product(range(3), range(3), range(2), range(2)):
            expected[n, m, i + x, j + y] += b[n, p, i, j] * a[p, m, x, y]
    np.testing.assert_allclose(contract_layer(chain).weight.detach().numpy(), expected, rtol=0, atol=1e-14)


def test_a_bias_of_the_first_layer_alone_is_kept() -> None:
    chain = LinearExpansion(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3, bias=False)).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(contract_layer(chain)(x), chain(x), rtol=0, atol=1e-12)


def test_low_rank_pairs_contract_to_the_truncated_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 9, 3, stride=2, padding=1).double()
    contracted = contract_layer(factorise_layer(layer, 9))
    torch.testing.assert_close(contracted.weight, layer.weight, rtol=0, atol=1e-12)
    assert contracted.stride == (2, 2) and contracted.padding == (1, 1)


@pytest.mark.parametrize(
    ("chain", "match"),
    [
        (LinearExpansion(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1)), "padding after the first"),
        (LinearExpansion(nn.Conv2d(2, 3, 3, stride=2), nn.Conv2d(3, 3, 3)), "stride before"),
        (LinearExpansion(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 3, 3)), "different groups"),
        (LinearExpansion(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 3)), "not one linear layer"),
        (LinearExpansion(nn.Conv2d(2, 3, 1, padding_mode="reflect"), nn.Conv2d(3, 3, 3)), "padding that is not zeros"),
        (LinearExpansion(nn.ConvTranspose2d(2, 3, 1), nn.ConvTranspose2d(3, 3, 3)), "cannot be contracted"),
    ],
)
def test_what_is_not_one_layer_is_refused(chain: nn.Sequential, match: str) -> None:
    with pytest.raises(InputError, match=match):
        contract_layer(chain)


class SmallNet(nn.Module):
    """The network of the paper's CIFAR experiments."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        widths, padding = (3, 8, 16, 32), 3 if kernel == 7 else 0
        self.convs = nn.ModuleList(nn.Conv2d(m, n, kernel, padding=padding) for m, n in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths[1:])
        self.fc1, self.fc2 = nn.Linear(512 if kernel == 7 else 128, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def test_published_parameter_counts() -> None:
    assert count_parameters(SmallNet(3)) == 15_050
    assert count_parameters(SmallNet(7)) == 66_186
    counts = {
        kinds: count_parameters(expand_network(SmallNet(7), 4, kinds=kinds, skip=skip))
        for kinds, skip in [(("CL",), ()), (("CK",), ()), (("CL", "FC"), ("fc2",)), (("CK", "FC"), ("fc2",))]
    }
    assert counts == {("CL",): 547_102, ("CK",): 186_982, ("CL", "FC"): 2_105_886, ("CK", "FC"): 1_745_766}


@pytest.mark.parametrize(
    "network", [SmallNet(7), ERFNet(4, 0.25), EfficientNetLite(4)], ids=["smallnet", "erfnet", "efficientnet_lite"]
)
def test_whole_networks_contract_with_normalisation(network: nn.Module) -> None:
    torch.manual_seed(4)
    expanded = expand_network(network, 2)
    x = torch.randn(4, 3, 32, 32)
    expanded.train()(x).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in expanded.parameters())
    expanded.eval()
    result = contract_network(expanded)
    with torch.no_grad():
        expected = expanded(x)
        torch.testing.assert_close(
            result.network(x), expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max()))
        )
    assert {n: p.shape for n, p in result.network.state_dict().items()} == {
        n: p.shape for n, p in network.state_dict().items()
    }
    assert result.max_abs_error == max(row.max_abs_error for row in result.layers) < 1e-5
    assert count_parameters(result.network) == count_parameters(network)


def test_depthwise_and_strided_layers_contract_to_the_last_digits_of_float64() -> None:
    torch.manual_seed(4)
    expanded = expand_network(EfficientNetLite(4), 2).double().eval()
    result = contract_network(expanded)
    assert {type(layer).__name__ for layer in expanded.modules()} >= {"LinearExpansion"}
    assert sum(row.layer.endswith("depthwise.conv") for row in result.layers) == 16 and result.max_abs_error < 1e-12
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(result.network(x), expanded(x), rtol=0, atol=1e-12)


def test_nonlinear_first_then_linear() -> None:
    network = expand_network(SmallNet(7), 2, nonlinear=True)
    with pytest.raises(InputError, match="linearise"):
        contract_network(network)
    linear = linearise(network)
    assert len(linear.convs[0]) == 3 and len(network.convs[0]) == 5
    assert [p.shape for p in linear.parameters()] == [p.shape for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(linear.parameters(), network.parameters(), strict=True))
    contract_network(linear)


def test_kinds_and_bad_arguments() -> None:
    assert kinds_for(nn.Conv2d(2, 2, 3)) == ("CL",) and kinds_for(nn.Conv2d(2, 2, 1)) == ()
    assert kinds_for(nn.Conv2d(2, 2, 7)) == ("CK", "CL") and kinds_for(nn.Conv2d(2, 2, (3, 5))) == ("CL",)
    with pytest.raises(InputError, match="does not fit"):
        expand_layer(nn.Conv2d(2, 2, 3), "CK")
    with pytest.raises(InputError, match="no layer called"):
        expand_network(SmallNet(7), skip=["absent"])
    with pytest.raises(InputError, match="can be expanded"):
        expand_network(nn.Sequential(nn.Conv2d(2, 2, 1)), kinds=["CL"])
