import pytest
import torch
from torch import fx, nn

from perception.errors import InputError
from perception.models.erfnet import ERFNet, NonBottleneck1D, erfnet_widths

# Layer, parameters: the published table at width 1.
LAYERS = [
    ("encoder.downsample_1", 396),
    ("encoder.downsample_2", 7_088),
    *[(f"encoder.block_{number}", 49_664) for number in range(3, 8)],
    ("encoder.downsample_8", 37_184),
    *[(f"encoder.block_{number}", 197_632) for number in range(9, 17)],
    ("decoder.upsample_17", 73_920),
    *[(f"decoder.block_{number}", 49_664) for number in (18, 19)],
    ("decoder.upsample_20", 9_264),
    *[(f"decoder.block_{number}", 3_200) for number in (21, 22)],
    ("classifier", 64 * 19 + 19),
]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("classes", "parameters"), [(19, 2_064_191), (20, 2_064_256)])
def test_parameters_are_the_published_ones(classes, parameters):
    network = ERFNet(classes)
    assert count(network) == parameters
    assert count(network.encoder) == 1_874_044


@pytest.mark.parametrize(("path", "parameters"), LAYERS)
def test_each_layer_has_the_published_parameters(path, parameters):
    assert count(ERFNet(19).get_submodule(path)) == parameters


def test_layers_make_up_the_whole_network():
    assert sum(parameters for _, parameters in LAYERS) == count(ERFNet(19))


def test_dilations_and_dropouts_follow_the_table():
    network = ERFNet(19)
    blocks = [module for module in network.modules() if isinstance(module, NonBottleneck1D)]
    assert [block.conv_3x1_dilated.dilation[0] for block in blocks] == [1] * 5 + [2, 4, 8, 16] * 2 + [1] * 4
    rates = [block.dropout.p if isinstance(block.dropout, nn.Dropout2d) else 0.0 for block in blocks]
    assert rates == [0.03] * 5 + [0.3] * 8 + [0.0] * 4
    assert all(module.eps == 1e-3 for module in network.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 40), (64, 128)])
def test_output_has_the_size_of_the_input_and_features_an_eighth(height, width):
    network = ERFNet(11, width=0.25).eval()
    images = torch.rand(2, 3, height, width)
    assert network(images).shape == (2, 11, height, width)
    assert network.encode(images).shape == (2, 32, height // 8, width // 8)


@pytest.mark.parametrize(
    ("width", "channels"), [(1.0, (16, 64, 128)), (0.5, (8, 32, 64)), (0.25, (4, 16, 32)), (0.1, (4, 6, 13))]
)
def test_width_multiplies_the_stages(width, channels):
    assert erfnet_widths(width) == channels
    assert ERFNet(19, width=width).encode(torch.rand(2, 3, 16, 16)).shape[1] == channels[2]


def test_block_with_zero_convolutions_and_no_shift_is_a_rectifier():
    block = NonBottleneck1D(8, dropout=0.0, dilation=2).eval()
    for name, parameter in block.named_parameters():
        if "conv" in name:
            nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(block(x), x.relu())


def test_dropout_changes_the_output_in_training_only():
    network = ERFNet(5, width=0.25, dropout_eighth=0.5)
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_fx_traces_the_network():
    network = ERFNet(5, width=0.25).eval()
    images = torch.rand(1, 3, 16, 24)
    assert torch.equal(fx.symbolic_trace(network)(images), network(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes 0"),
        ({"classes": 19, "width": 0.01}, "width 0.01"),
        ({"classes": 19, "width": float("nan")}, "width nan"),
        ({"classes": 19, "dropout_eighth": 1.0}, "dropout 1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ERFNet(**arguments)
