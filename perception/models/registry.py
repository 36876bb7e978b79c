"""The networks that a file can name, and those that parameters can choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from perception.errors import InputError
from perception.models.decomposed import Dec3, Dec8
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.erfnet import ERFNet
from perception.models.modes import evaluation_mode
from perception.models.partial_weights import Taken, read_state, take_weights
from perception.models.resnet import ResNet18
from perception.models.settings import OWN_NAMES, PRETRAINED, NetworkChoice
from perception.models.small import MLP, SmallNet

Networks = Mapping[str, Callable[..., nn.Module]]

# Each is a class whose instances keep their constructor's arguments, as JSON values, in `arguments`.
NETWORKS: Networks = MappingProxyType(
    {kind.__name__: kind for kind in (ERFNet, EfficientNetLite, ResNet18, SmallNet, MLP, Dec3, Dec8)}
)
_CHOOSABLE: Networks = MappingProxyType(dict(zip(OWN_NAMES, (ERFNet, EfficientNetLite), strict=True)))


def build_network(name: str, *, seed: int, **arguments: Any) -> nn.Module:
    """Build a registered network whose initial weights depend on nothing but the seed.

    The global random state is left as it was. Raises InputError for an unknown name or unknown arguments.
    """
    if name not in NETWORKS:
        raise InputError(f"network {name!r}: unknown; use one of {', '.join(sorted(NETWORKS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _called(NETWORKS[name], name, arguments)


def known_networks(choice: NetworkChoice) -> Networks:
    """Return the networks that a file may name: ours, and the one that the parameters chose.

    A file brings weights and never code: only what the parameters name is imported. Raises InputError as choose_network.
    """
    return NETWORKS if choice.name in _CHOOSABLE else {**NETWORKS, choice.name: _factory(choice.name)}


def choose_network(choice: NetworkChoice, classes: int) -> nn.Module:
    """Build the chosen network for so many classes, with initial weights from torch's global generator.

    A network of a user tells files what built it by `origin` and `arguments`, which are set here. Raises InputError for
    a factory that cannot be imported, arguments that it does not take, and one that gives no nn.Module.
    """
    arguments = {"classes": classes, **choice.arguments}
    if choice.name in _CHOOSABLE:
        return _called(_CHOOSABLE[choice.name], choice.name, arguments)
    network = _called(_factory(choice.name), choice.name, arguments)
    if not isinstance(network, nn.Module):
        raise InputError(f"network {choice.name}: gives {type(network).__name__}, must give a torch.nn.Module; mend it")
    vars(network).update(origin=choice.name, arguments=arguments)
    return network


def start_from(network: nn.Module, weights: str) -> Taken:
    """Give a network, in place, the weights that a choice names, by name and shape; return what became of each tensor.

    weights: as weights_file takes it; its names are the network's or the encoder's, after `own_names(state)` of either has
    translated them. Raises InputError as weights_file, and for a file of which nothing fits.
    """
    encoder = getattr(network, "encoder", None)
    file = weights_file(network, weights)
    state, own_names = read_state(file), _offered(network, "own_names")
    if own_names is not None:
        state = own_names(state)
    if isinstance(encoder, nn.Module) and not network.state_dict().keys() & state.keys():
        taken = take_weights(encoder, state, "", str(file))
        own = {f"encoder.{name}" for name in taken.taken}
        return Taken(
            taken=tuple(own), left_out=taken.left_out, untouched=tuple(sorted(network.state_dict().keys() - own))
        )
    return take_weights(network, state, "", str(file))


def weights_file(network: nn.Module, weights: str) -> Path:
    """Return the file of weights: the one that `weights_file()` of a network or of its `encoder` names for "pretrained", else that path.

    Raises InputError for a network that brings no weights, and for no file.
    """
    bring = _offered(network, "weights_file")
    if weights == PRETRAINED and bring is None:
        raise InputError(
            f"weights {PRETRAINED}: network {type(network).__name__} brings none, it has no weights_file(); give a file"
        )
    file: Path = bring() if weights == PRETRAINED else Path(weights)
    if not file.is_file():
        raise InputError(f"weights {file}: no such file; give a state dict (.safetensors, .pt, .pth)")
    return file


def _offered(network: nn.Module, name: str) -> Any:
    """Return a method of a network or else of its encoder; None where neither has it."""
    return getattr(network, name, getattr(getattr(network, "encoder", None), name, None))


def check_logits(network: nn.Module, classes: int, height_px: int, width_px: int) -> None:
    """Raise InputError unless a network gives one logit a class and pixel for images of a size."""
    with evaluation_mode(network):
        given: Any = network(torch.zeros(1, 3, height_px, width_px))
    expected, found = (1, classes, height_px, width_px), tuple(getattr(given, "shape", ()))
    if found != expected:
        what = f"a tensor of shape {found}" if found else type(given).__name__
        raise InputError(
            f"network {type(network).__name__}: gives {what} for one image of {height_px} x {width_px} px, must give logits "
            f"{expected}: one a class and pixel; resize them at the end of its forward"
        )


def _called(make: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(**arguments)
    except TypeError as error:
        raise InputError(f"network {name!r}: {error}; give the arguments that it takes") from error


def _factory(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"network {name!r}: cannot be imported ({error}); install its package, or put its folder on PYTHONPATH"
        ) from error
