"""Networks of users that the library cannot follow, copy or export: the layer is named, and the way out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from perception.compression.export import export_onnx, fold_batchnorm
from perception.errors import InputError
from perception.models.copies import copied
from perception.sparsity.groups import find_groups

EXAMPLE = torch.zeros(1, 3, 16, 24)


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()  # fmt: skip


def changed(change: Callable[[nn.Module], object], *layers: int) -> nn.Sequential:
    network = convolutions()
    for layer in layers or (3,):
        change(network[layer])
    return network.eval()


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "pruning mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "mask of the bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "spectral norm": spectral_norm,
    "weight norm": weight_norm,
    "parametrized norm": parametrizations.weight_norm,
    "hook": lambda layer: layer.register_forward_hook(lambda _, __, given: given + 1),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda _, given: (given[0] + 1,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_channels_are_not_followed_through_computed_weights(kind: str) -> None:
    with pytest.raises(
        InputError,
        match=r"0: is read by 3, whose hooks or computed weights are not followed.*torch\.nn\.utils\.prune\.remove",
    ):
        find_groups(changed(COMPUTED[kind]), EXAMPLE)
    with pytest.raises(InputError, match="comes out of 0, whose hooks or computed weights"):
        find_groups(changed(COMPUTED[kind], 0, 3, 5), EXAMPLE)
    groups = find_groups(changed(COMPUTED[kind], 5), EXAMPLE)
    assert groups.neurons == 8 and {layer for each in groups.sets for layer in each.layers} == {"0"}


def test_the_way_out_is_one() -> None:
    network = changed(COMPUTED["pruning mask"])
    prune.remove(network[3], "weight")
    assert find_groups(network, EXAMPLE).neurons == 16


@pytest.mark.parametrize("kind", ["pruning mask", "mask of the bias", "weight norm"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_copied_is_named(kind: str, tmp_path: Path) -> None:
    tensor = "bias" if "bias" in kind else "weight"
    for call in (copied, fold_batchnorm, lambda network: export_onnx(network, tmp_path / "x.onnx", 16, 24)):
        with pytest.raises(
            InputError,
            match=rf"Sequential cannot be copied: 3\.{tensor} is computed .*prune\.remove, remove_weight_norm",
        ):
            call(changed(COMPUTED[kind]))


class Head(nn.Module):
    """Two convolutions whose result a function turns into the network's output."""

    def __init__(self, output: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body, self.head, self.output = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), output

    def forward(self, images: Tensor) -> object:
        return self.output(self.head(self.body(images)))


class Unpool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.unpool = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.unpool(*self.pool(self.body(images)))


class TwoInputs(nn.Module):
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return images + others


def unpooled(logits: Tensor) -> Tensor:
    return nn.functional.max_unpool2d(*nn.functional.max_pool2d_with_indices(logits, 2), 2)


NOT_WRITTEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max_unpool2d": (Unpool, r"at layer unpool \(MaxUnpool2d\)"),
    "max_unpool2d in forward": (lambda: Head(unpooled), "by what its forward does outside its layers"),
    "None": (lambda: Head(lambda logits: {"out": logits, "aux": None}), r"its output\['aux'\] is NoneType, must be tensors"),
    "text": (lambda: Head(lambda logits: (logits, "x")), r"its output\[1\] is str, must be tensors"),
    "nothing": (lambda: Head(lambda _: []), "gives no tensor; return logits"),
    "two inputs": (TwoInputs, r"fails on images of shape \(1, 3, 16, 24\)"),
    "no operation of ONNX": (lambda: Head(lambda logits: torch.fft.fft2(logits).abs()), "cannot be written as ONNX"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_what_cannot_be_written_as_onnx_is_named(kind: str, tmp_path: Path) -> None:
    make, message = NOT_WRITTEN[kind]
    with pytest.raises(InputError, match=message) as caught:
        export_onnx(make().eval(), tmp_path / "x.onnx", 16, 24)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_masks_beside_logits_are_written(tmp_path: Path) -> None:
    export_onnx(Head(lambda logits: (logits, logits > 0)).eval(), tmp_path / "x.onnx", 16, 24)


def test_a_network_that_does_not_fit_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="cannot be followed channel by channel"):
        find_groups(TwoInputs(), EXAMPLE)
    assert "Traceback" not in capfd.readouterr().err
