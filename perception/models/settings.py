"""Which network a stage builds."""

from typing import Annotated, Any

from pydantic import Field

from perception.parameters import checked, matching

OWN_NAMES = ("erfnet", "efficientnet_lite")
PRETRAINED = "pretrained"  # for the weights that a network brings


@checked
class NetworkChoice:
    """Name a network, what it is built with and the weights that it starts from."""

    # erfnet, efficientnet_lite, or package.module:factory of yours (docs/own_network.md)
    name: Annotated[
        str,
        matching(
            rf"{'|'.join(OWN_NAMES)}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*",
            f"must be {', '.join(OWN_NAMES)}, or package.module:factory of yours",
        ),
    ] = "erfnet"
    arguments: dict[str, Any] = Field(default_factory=dict)  # that it is built with, beside the number of classes
    # that training starts from: `pretrained` (of the network's package), or a file with a state dict; empty: from scratch
    weights: str = ""
