"""Which channels go together, and what is named as unprunable."""

import pytest
import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.sparsity.groups import find_groups
from perception.sparsity.proximal import proximal_step
from perception.sparsity.removal import remove_zero_channels


def test_plain_network_owns_filter_bias_and_normalisation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    groups = find_groups(network, torch.zeros(1, 3, 8, 8))
    (group,) = groups.sets
    assert {part.tensor for part in group.own} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert {part.tensor for part in group.carried} == {"1.running_mean", "1.running_var"}
    (read,) = group.induced
    assert (read.tensor, read.dim) == ("4.weight", 1)
    assert read.index.tolist() == [list(range(36 * k, 36 * (k + 1))) for k in range(4)]
    assert group.parameters_per_neuron == 27 + 1 + 2
    (entry,) = groups.unprunable
    assert (entry.layer, entry.channels, entry.reason) == ("4", 2, "is an output of the network")


def test_erfnet_ties_streams_and_keeps_the_image() -> None:
    groups = find_groups(ERFNet(19), torch.zeros(1, 3, 32, 32))
    streams = {group.neurons: group for group in groups.sets if len(group.layers) > 3}
    # The stream at 1/8: 64 new channels, 48 pooled from the one at 1/4, 13 from the one at 1/2, 3 of the image.
    widths = {group.neurons for group in streams.values()}
    assert widths == {13, 48, 64}
    assert sum(group.neurons for group in groups.sets if "encoder.block_9.conv_1x3_dilated" in group.layers) == 125
    image = {entry.channels for entry in groups.unprunable if entry.reason == "carries the network's input"}
    assert image == {3}
    (output,) = [entry for entry in groups.unprunable if entry.reason == "is an output of the network"]
    assert output.channels == 19
    for layer, numbers in groups.layer_neurons.items():
        named = sum(entry.channels for entry in groups.unprunable if entry.layer == layer)
        assert int((numbers == groups.neurons).sum()) == named, layer


def test_efficientnet_lite_is_followed_whole() -> None:
    """Depthwise layers go with the layer before, residual sums and the pyramid tie what they add; only the output stays."""
    groups = find_groups(EfficientNetLite(19, version=1), torch.zeros(1, 3, 64, 64))
    assert [(entry.layer, entry.channels) for entry in groups.unprunable] == [("classifier", 19)]
    layers = {name: module for name, module in groups.network.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(groups.layer_neurons) == set(layers)
    makers = {layer: group for group in groups.sets for layer in group.layers}
    for name, layer in layers.items():
        if layer.groups > 1:
            before = name.replace("depthwise.conv", "expand.0.conv")
            first = before if before in layers else "encoder.stem.0.conv"
            assert makers[name] is makers[first]
    pyramid = {f"decoder.laterals.{level}.conv" for level in range(4)}
    assert pyramid == set(makers["decoder.laterals.0.conv"].layers)


class Deciding(nn.Module):
    """Do with an image what depends on it, which no graph can say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_the_layer_that_cannot_be_followed_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), Deciding()), nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError, match=r"layer 1\.1 of network Sequential cannot be followed"):
        find_groups(network, torch.zeros(1, 3, 8, 8))


def test_own_slices_never_overlap() -> None:
    groups = find_groups(ERFNet(5, 0.25), torch.zeros(1, 3, 32, 32))
    parameters = dict(groups.network.named_parameters())
    seen = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for group in groups.sets:
        for part in group.own:
            seen[part.tensor].index_add_(
                part.dim,
                part.index.flatten(),
                torch.ones_like(seen[part.tensor]).index_select(part.dim, part.index.flatten()),
            )
    assert max(float(count.max()) for count in seen.values()) == 1
    assert sum(int(count.sum()) for count in seen.values()) == sum(
        g.neurons * g.parameters_per_neuron for g in groups.sets
    )


class Unfollowed(nn.Module):
    """A hidden channel goes through an operation that is not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.gate = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(self.first(x), dim=1)
        return self.third(self.second(torch.sigmoid(self.gate(x)) + y))


def test_what_is_not_understood_is_named() -> None:
    groups = find_groups(Unfollowed(), torch.zeros(1, 3, 4, 4))
    reasons = {entry.layer: entry.reason for entry in groups.unprunable}
    assert "cumsum()" in reasons["first"]
    assert "gate" in reasons
    assert [group.name for group in groups.sets] == ["second"]


def test_a_constant_in_the_place_of_a_channel_is_not_pruned() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.sigmoid(self.a(x)))) + 1)

    with pytest.raises(InputError, match=r"no prunable channel .*constant that is not zero"):
        find_groups(Gated(), torch.zeros(1, 3, 4, 4))


def test_size_written_in_the_code_is_not_pruned() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).view(-1, 8 * 16)))

    groups = find_groups(Fixed(), torch.zeros(1, 3, 4, 4))
    assert [group.name for group in groups.sets] == ["b"]
    assert "128 written in the code" in {e.layer: e.reason for e in groups.unprunable}["a"]


def test_shared_weight_is_not_pruned() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1))
    network[1].weight = network[0].weight
    groups = find_groups(network, torch.zeros(1, 4, 4, 4))
    assert [group.name for group in groups.sets] == ["2"]
    assert "shared" in {entry.layer: entry.reason for entry in groups.unprunable}["0"]


class ByFunction(nn.Module):
    """A weight that a function computes with as well, beside one that is only asked for its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(4, 4, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(torch.relu(self.b(torch.relu(self.a(x.to(self.c.weight.dtype))))))
        return self.e(torch.relu(self.d(torch.conv2d(x, self.b.weight))))


def test_a_weight_that_a_function_reads_too_is_not_pruned() -> None:
    groups = find_groups(ByFunction(), torch.zeros(1, 4, 4, 4))
    reasons = {entry.layer: entry.reason for entry in groups.unprunable}
    assert [group.name for group in groups.sets] == ["d"]
    assert "shared" in reasons["a"] and "shared" in reasons["b"]


def test_refuses_what_has_no_prunable_channel_or_cannot_be_traced() -> None:
    with pytest.raises(InputError, match="no prunable channel"):
        find_groups(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 4, 4))

    class Branching(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() > 0 else x

    with pytest.raises(InputError, match=r"torch\.fx"):
        find_groups(nn.Sequential(Branching(3, 3, 1), nn.ReLU()).append(_Loop()), torch.zeros(1, 3, 4, 4))


class _Loop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


def test_training_mode_and_weights_are_left_alone() -> None:
    network = ERFNet(4, 0.25).train()
    network.encoder.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_groups(network, torch.zeros(1, 3, 32, 32))
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_arguments_by_name_and_tensors_of_no_layer() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x.permute(dims=(0, 2, 1)).transpose(dim0=2, dim1=1)[:, :, 0])
            return self.c(self.b(y) * self.scale.exp())

    groups = find_groups(Odd(), torch.zeros(2, 6, 4))
    assert [group.name for group in groups.sets] == ["a"]
    assert "no layer holds" in {entry.layer: entry.reason for entry in groups.unprunable}["b"]


def test_stale_groups_are_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = find_groups(network, torch.zeros(1, 3))
    proximal_step(groups, 1.0, 0.1)
    with torch.no_grad():
        network[0].weight[0] = 0
        network[0].bias[0] = 0
    fresh = remove_zero_channels(network, groups).groups
    with pytest.raises(InputError, match="stale"):
        proximal_step(groups, 1.0, 0.1)
    proximal_step(fresh, 1.0, 0.1)
