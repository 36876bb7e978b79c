import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from perception.errors import InputError
from perception.models.erfnet import ERFNet
from perception.models.partial_weights import misfit, read_state, take_weights


def erfnet(seed: int, width: float = 0.25) -> ERFNet:
    torch.manual_seed(seed)
    return ERFNet(classes=5, width=width)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder."])
def test_what_fits_is_taken_whatever_it_is_wrapped_in(tmp_path, wrap, prefix):
    other, network = erfnet(1), erfnet(2)
    state = other.encoder.state_dict() if prefix != "module." else other.state_dict()
    torch.save(wrap({f"{prefix}{name}": value for name, value in state.items()}), tmp_path / "weights.pt")
    before = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    done = take_weights(network.encoder, read_state(tmp_path / "weights.pt"), "encoder.", "weights.pt")
    assert all(
        torch.equal(value, other.encoder.state_dict()[name]) for name, value in network.encoder.state_dict().items()
    )
    assert all(torch.equal(value, before[name]) for name, value in network.decoder.state_dict().items())
    assert done.untouched == () and len(done.taken) == len(network.encoder.state_dict())
    assert len(done.left_out) == (len(state) - len(done.taken) if prefix == "module." else 0)


def test_what_does_not_fit_is_named_and_left_alone(tmp_path):
    other, network = erfnet(1), erfnet(2)
    state = {name: value.clone() for name, value in other.encoder.state_dict().items()}
    state["downsample_1.conv.weight"] = torch.zeros(7, 3, 3, 3)
    del state["downsample_1.conv.bias"]
    state["head.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "weights.safetensors")
    kept = network.encoder.downsample_1.conv.weight.clone()
    done = take_weights(network.encoder, read_state(tmp_path / "weights.safetensors"), "encoder.", "w")
    assert set(done.left_out) == {
        "downsample_1.conv.weight (shape 7x3x3x3, here 1x3x3x3)", "head.weight (no such name)",
    }  # fmt: skip
    assert done.untouched == ("downsample_1.conv.bias", "downsample_1.conv.weight")
    assert torch.equal(network.encoder.downsample_1.conv.weight, kept)


def test_files_of_which_nothing_fits_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="none of 2 tensors fits by name and shape"):
        take_weights(erfnet(0).encoder, read_state(tmp_path / "other.pt"), "encoder.", "other.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", None, "no such file"),
        ("a.pt", b"no pickle", "cannot be read"),
        ("a.safetensors", b"1234", "cannot be read"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_state(tmp_path / name)


def test_a_file_cannot_run_code_and_must_hold_tensors(tmp_path):
    torch.save({"network": ERFNet(2, width=0.25)}, tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="cannot be read"):
        read_state(tmp_path / "pickled.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(tmp_path / "empty.pt")


def test_a_state_fits_when_every_name_and_shape_is_the_networks():
    network, state = erfnet(1), erfnet(2).state_dict()
    assert misfit(network, state) == ""
    without = {name: value for name, value in state.items() if name != "encoder.downsample_1.conv.bias"}
    assert misfit(network, without) == "encoder.downsample_1.conv.bias is missing, here 1"
    assert misfit(network, state | {"head": torch.zeros(2, 3)}) == "head is 2x3, here missing"
    assert misfit(network, erfnet(1, width=0.5).state_dict()) == "classifier.weight is 8x5x2x2, here 4x5x2x2"
