import hashlib
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from perception.errors import InputError
from perception.models.checkpoint import apply_leaves, describe_leaves, load_network, network_metadata, save_network
from perception.models.erfnet import ERFNet
from perception.models.registry import NETWORKS, build_network


class Plain(nn.Module):
    """A user's network that the package does not know."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.arguments = {"channels": channels}
        self.conv = nn.Conv2d(3, channels, 3)
        self.chain = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x):
        return self.chain(self.conv(x))


PLAIN = {"Plain": Plain}
IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    network = build_network("ERFNet", seed=1, classes=5, width=0.25)
    network.train()
    network(IMAGES)  # moves the running statistics off their start
    return network.eval()


def test_a_network_comes_back_whole(tmp_path):
    network = small()
    save_network(network, tmp_path / "n.safetensors", {"commit": "abc", "data version": "v1 \u00e9"})
    loaded = load_network(tmp_path / "n.safetensors")
    assert type(loaded) is ERFNet and not loaded.training
    assert loaded.arguments == network.arguments
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert torch.equal(network(IMAGES), loaded(IMAGES))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert network_metadata(tmp_path / "n.safetensors") == {"commit": "abc", "data version": "v1 \u00e9"}


def test_equal_networks_give_equal_bytes_in_every_process(tmp_path):
    program = (
        "import sys, pathlib; from perception.models.registry import build_network;"
        "from perception.models.checkpoint import save_network;"
        "print(save_network(build_network('ERFNet', seed=3, classes=4, width=0.25), pathlib.Path(sys.argv[1]),"
        " {'b': '2', 'a': '1', 'c': '3'}))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "one")]
    digest = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    network = build_network("ERFNet", seed=3, classes=4, width=0.25)
    assert save_network(network, tmp_path / "two", {"c": "3", "a": "1", "b": "2"}) == digest
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_pruned_low_rank_folded_network_comes_back_from_its_file_alone(tmp_path):
    network = small()
    block = network.encoder.block_9
    block.conv_3x1 = nn.Sequential(nn.Conv2d(32, 5, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(5, 32, 1))
    block.conv_1x3 = nn.Conv2d(32, 32, (1, 3), padding=(0, 1))
    block.norm_1 = nn.Identity()
    block.conv_3x1_dilated = nn.Conv2d(32, 7, (3, 1), padding=(4, 0), dilation=(4, 1))
    block.conv_1x3_dilated = nn.Conv2d(7, 32, (1, 3), padding=(0, 4), dilation=(1, 4))
    network.encoder.block_10 = nn.Identity()
    del network.encoder.block_16
    network.encoder.add_module("last", nn.Sequential(nn.Conv2d(32, 32, 1), nn.Sequential(nn.ReLU())))
    save_network(network, tmp_path / "n", {})
    loaded = load_network(tmp_path / "n")
    assert str(loaded) == str(network)
    assert torch.equal(network(IMAGES), loaded(IMAGES))


def test_leaves_listed_before_a_type_got_a_new_argument_still_fit():
    network = ERFNet(classes=5, width=0.25)
    expected = describe_leaves(network)
    older = [[path, kind, {k: v for k, v in arguments.items() if k != "track_running_stats"}]
             for path, kind, arguments in expected]  # fmt: skip
    other = ERFNet(classes=3, width=0.5)
    apply_leaves(other, older, "a file")
    assert describe_leaves(other) == expected
    with pytest.raises(InputError, match="a file: layer"):
        apply_leaves(network, [[path, kind, arguments | {"later": 1}] for path, kind, arguments in expected], "a file")


def test_other_networks_are_saved_by_a_registry_of_their_own(tmp_path):
    network = Plain(6).eval()
    save_network(network, tmp_path / "n", {}, networks={**NETWORKS, **PLAIN})
    assert load_network(tmp_path / "n", networks=PLAIN).conv.out_channels == 6
    with pytest.raises(InputError, match="'Plain' is unknown"):
        load_network(tmp_path / "n")


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    save_network(small(), tmp_path / "n", {})
    before = torch.get_rng_state()
    load_network(tmp_path / "n")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("break_network", "message"),
    [
        (lambda n: setattr(n.chain, "1", nn.Softplus()), "is a Softplus, which no file can build"),
        (lambda n: setattr(n.chain[0], "weight", nn.Parameter(torch.zeros(7, 4, 1, 1))), "another shape"),
        (lambda n: setattr(n, "extra", nn.Conv2d(1, 1, 1)), "no place in the network"),
        (lambda n: setattr(n.chain, "3", n.chain[2]) or setattr(n.chain, "4", tied(n.chain[2])), "share a weight"),
        (lambda n: delattr(n, "conv"), "do not fit"),
    ],
)
def test_what_would_not_load_is_refused_at_once(tmp_path, break_network, message):
    network = Plain()
    break_network(network)
    with pytest.raises(InputError, match=message):
        save_network(network, tmp_path / "n", {}, networks=PLAIN)
    assert not list(tmp_path.iterdir())


def tied(layer: nn.Linear) -> nn.Linear:
    other = nn.Linear(layer.in_features, layer.out_features)
    other.weight = layer.weight
    return other


def test_an_unregistered_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="'Plain': not registered"):
        save_network(Plain(), tmp_path / "n", {})


def test_any_truncation_is_refused(tmp_path):
    save_network(small(), tmp_path / "n", {})
    data = (tmp_path / "n").read_bytes()
    for length in [0, 1, 7, 8, 100, len(data) // 2, len(data) - 1]:
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(InputError, match="cut"):
            load_network(tmp_path / "cut")


def test_any_flipped_bit_is_refused(tmp_path):
    save_network(small(), tmp_path / "n", {"commit": "abc"})
    data = bytearray((tmp_path / "n").read_bytes())
    for position in [*range(0, 60, 7), *range(60, len(data), len(data) // 15)]:
        data[position] ^= 1
        (tmp_path / "flipped").write_bytes(data)
        with pytest.raises(InputError, match="flipped"):
            load_network(tmp_path / "flipped")
        data[position] ^= 1


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_network(tmp_path / "missing")
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "foreign", metadata={"format": "pt"})
    with pytest.raises(InputError, match="truncated or no nightdrive-network"):
        network_metadata(tmp_path / "foreign")
    torch.save({"w": torch.ones(2)}, tmp_path / "pickle")
    with pytest.raises(InputError, match="pickle"):
        load_network(tmp_path / "pickle")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder does not exist"):
        save_network(small(), tmp_path / "no" / "n", {})


def test_build_network_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (build_network("ERFNet", seed=seed, classes=3, width=0.25) for seed in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    with pytest.raises(InputError, match="unknown; use one of"):
        build_network("Nothing", seed=1)
    with pytest.raises(InputError, match="colour"):
        build_network("ERFNet", seed=1, classes=3, colour="red")
