import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.decomposed import Dec3, Dec8, DecomposedConv
from perception.models.registry import NETWORKS, build_network
from perception.models.resnet import PreActivationBlock, ResNet18
from perception.models.small import MLP, SmallNet

# Name, arguments, shape of an input, parameters counted by hand from the layer tables.
CASES = [
    ("SmallNet", {"classes": 10, "kernel": 3}, (3, 32, 32), 15_050),
    ("SmallNet", {"classes": 10, "kernel": 5}, (3, 32, 32), 50_250),
    ("SmallNet", {"classes": 10, "kernel": 7}, (3, 32, 32), 66_186),
    ("SmallNet", {"classes": 10, "kernel": 9}, (3, 32, 32), 87_434),
    ("SmallNet", {"classes": 10, "kernel": 3, "in_channels": 1, "image_px": 28}, (1, 28, 28), 8_762),
    ("ResNet18", {"classes": 10}, (3, 32, 32), 11_172_170),
    ("Dec3", {"classes": 36}, (1, 32, 32), 6_077_284),
    ("Dec8", {"classes": 1000}, (3, 64, 64), 7_191_464),
    ("Dec8", {"classes": 1000, "widest": 768}, (3, 32, 32), 14_527_400),
    ("MLP", {"inputs": 784, "classes": 10, "hidden": [300, 100]}, (1, 28, 28), 266_610),
    ("MLP", {"inputs": 5, "classes": 2, "hidden": []}, (5,), 12),
]
NARROW = [
    ("ERFNet", {"classes": 3, "width": 0.25}, (3, 16, 16)),
    ("EfficientNetLite", {"classes": 3}, (3, 32, 64)),
    ("ResNet18", {"classes": 3, "channels": 4}, (3, 16, 16)),
    ("SmallNet", {"classes": 3, "kernel": 7}, (3, 32, 32)),
    ("MLP", {"inputs": 12, "classes": 3, "hidden": [8]}, (3, 2, 2)),
    ("Dec3", {"classes": 3, "width": 0.05}, (1, 32, 32)),
    ("Dec8", {"classes": 3, "width": 0.05}, (3, 16, 16)),
]


@pytest.mark.parametrize(("name", "arguments", "shape", "parameters"), CASES)
def test_parameters_and_logits(name, arguments, shape, parameters):
    network = build_network(name, seed=0, **arguments).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.rand(2, *shape)).shape == (2, arguments["classes"])


def test_every_network_is_tried_below():
    assert {name for name, _, _ in NARROW} == set(NETWORKS)


@pytest.mark.parametrize(("name", "arguments", "shape"), NARROW)
def test_every_network_is_saved_traced_and_encoded(tmp_path, name, arguments, shape):
    network = build_network(name, seed=0, **arguments).eval()
    inputs = torch.rand(2, *shape)
    save_network(network, tmp_path / "n", {})
    assert torch.equal(load_network(tmp_path / "n")(inputs), network(inputs))
    assert torch.equal(fx.symbolic_trace(network)(inputs), network(inputs))
    assert network.encode(inputs).shape[0] == 2


@pytest.mark.parametrize("kernel", [3, 5, 8, 9])
def test_pair_without_inner_rectifier_is_one_separable_convolution(kernel):
    pair = DecomposedConv(3, 4, kernel, inner_channels=5, inner_relu=False).double()
    x = torch.randn(2, 3, 12, 11, dtype=torch.float64)
    vertical, horizontal = pair.vertical.weight[..., 0], pair.horizontal.weight[:, :, 0]
    square = torch.einsum("oly,liv->oivy", horizontal, vertical)
    bias = pair.horizontal.bias
    nn.init.zeros_(pair.vertical.bias)  # a bias inside would be cut off by the padding
    expected = F.conv2d(x, square, bias, padding="same").relu()
    torch.testing.assert_close(pair(x), expected)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_pair_has_two_over_d_of_the_weights(kernel):
    pair = DecomposedConv(6, 6, kernel)
    weights = pair.vertical.weight.numel() + pair.horizontal.weight.numel()
    assert weights / nn.Conv2d(6, 6, kernel).weight.numel() == pytest.approx(2 / kernel)


def test_residual_block_without_weights_is_its_input():
    block = PreActivationBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.conv_2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_residual_network_has_the_published_blocks():
    network = ResNet18(10)
    blocks = [module for module in network.modules() if isinstance(module, PreActivationBlock)]
    assert [block.conv_1.stride[0] for block in blocks] == [1, 1, 2, 1, 2, 1, 2, 1]
    assert [block.projects for block in blocks] == [False, False, True, False, True, False, True, False]
    assert network.encode(torch.rand(1, 3, 32, 32)).shape == (1, 512, 4, 4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SmallNet(10, kernel=4),
        lambda: SmallNet(10, image_px=8),
        lambda: ResNet18(0),
        lambda: Dec3(36, image_px=4),
        lambda: Dec3(36, width=0.0),
        lambda: Dec8(0),
        lambda: MLP(0, 3),
        lambda: MLP(4, 3, [0]),
    ],
)
def test_bad_sizes_are_refused(build):
    with pytest.raises(InputError):
        build()
