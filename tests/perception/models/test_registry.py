"""Networks by choice: ours, a user's from a factory, their weights, and what a file may name."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.registry import check_logits, choose_network, known_networks, start_from
from perception.models.settings import NetworkChoice


class Scaled(nn.Module):
    """A network of a user: a layer type that no file can build, a parameter of its own, an encoder."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Mish())
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images)) * self.gain


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> NetworkChoice:
    """A package of a user that can be imported."""
    module = ModuleType("their_networks")
    module.scaled = lambda classes, width=4: Scaled(classes, width)  # type: ignore[attr-defined]
    module.number = lambda classes: classes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_networks", module)
    return NetworkChoice(name="their_networks:scaled", arguments={"width": 6})


def test_a_users_network_comes_back_from_its_file(theirs: NetworkChoice, tmp_path: Path) -> None:
    network = choose_network(theirs, classes=5).eval()
    with torch.no_grad():
        network.gain.fill_(0.5)
    networks = known_networks(theirs)
    save_network(network, tmp_path / "first", {}, networks)
    again = load_network(tmp_path / "first", networks)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images), network(images)) and again.head.out_channels == 5
    save_network(again, tmp_path / "second", {}, networks)  # it still knows what built it
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_file_brings_no_code(theirs: NetworkChoice, tmp_path: Path) -> None:
    save_network(choose_network(theirs, classes=2), tmp_path / "n", {}, known_networks(theirs))
    with pytest.raises(InputError, match="'their_networks:scaled' is unknown"):
        load_network(tmp_path / "n", known_networks(NetworkChoice()))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("no_such_package:unet", {}, "cannot be imported"),
        ("their_networks:absent", {}, "cannot be imported"),
        ("their_networks:number", {}, "gives int, must give a torch.nn.Module"),
        ("their_networks:scaled", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("erfnet", {"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
@pytest.mark.usefixtures("theirs")
def test_a_choice_that_cannot_be_built_is_refused(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_network(NetworkChoice(name=name, arguments=arguments), classes=2)


@pytest.mark.parametrize("name", ["ERFNet", "resnet", "their_networks", "their networks:unet", "os.system:", ":unet"])
def test_a_name_is_one_of_ours_or_a_factory(name: str) -> None:
    with pytest.raises(InputError, match=r"must be erfnet, efficientnet_lite, or package\.module:factory"):
        NetworkChoice(name=name)


def test_weights_start_the_whole_network_or_its_encoder(theirs: NetworkChoice, tmp_path: Path) -> None:
    source, whole, part = (choose_network(theirs, classes) for classes in (5, 5, 4))
    torch.save(source.state_dict(), tmp_path / "whole.pt")
    torch.save(source.encoder.state_dict(), tmp_path / "encoder.pt")
    assert not start_from(whole, str(tmp_path / "whole.pt")).untouched
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), source.state_dict().values(), strict=True)
    )
    done = start_from(part, str(tmp_path / "encoder.pt"))
    assert set(done.taken) == {f"encoder.{name}" for name in source.encoder.state_dict()}
    assert done.untouched == ("gain", "head.bias", "head.weight")
    assert torch.equal(part.encoder[0].weight, source.encoder[0].weight)
    with pytest.raises(InputError, match="brings none"):
        start_from(part, "pretrained")


def test_logits_of_another_shape_are_refused() -> None:
    check_logits(nn.Conv2d(3, 4, 1), 4, 8, 16)
    with pytest.raises(InputError, match=r"a tensor of shape \(1, 4, 4, 8\).*must give logits \(1, 4, 8, 16\)"):
        check_logits(nn.Conv2d(3, 4, 1, stride=2), 4, 8, 16)
    with pytest.raises(InputError, match="gives dict"):
        check_logits(Dictionary(), 4, 8, 16)


class Dictionary(nn.Module):
    """Give logits in a dictionary, as many libraries do."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": images}
