"""What a network's weights come from before a night trains it: the released network, weights that were brought, or chance."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.stage.learning import StartFrom, class_names

if TYPE_CHECKING:
    from torch import Tensor, nn

CHAMPION, CHAMPION_DENSE = "champion.json", "champion_dense.safetensors"  # in the base's folder


@dataclass(frozen=True, kw_only=True)
class Start:
    """Say what a network starts from, and why."""

    started_from: StartFrom
    reason: str = ""
    state: "dict[str, Tensor]" = field(default_factory=dict)  # weights by name; what is not in it stays as it was
    model_sha256: str | None = None  # of the champion in the registry


def find_start(wanted: StartFrom, base: Path, network: "nn.Module", taxonomy: str, otherwise: Start) -> Start:
    """Return the start from the released dense network where that is wanted and fits `network`, else `otherwise` with the reason.

    base: the folder that resolve wrote. taxonomy: of the network's classes.
    """
    if wanted != "champion":
        return replace(otherwise, reason=f"start_from is {wanted}")
    state, reason = _released(base, network, taxonomy)
    if not state:
        return replace(otherwise, reason=reason)
    champion = json.loads((base / CHAMPION).read_text())["model_sha256"]
    return Start(started_from="champion", reason=reason, state=state, model_sha256=champion)


def _released(base: Path, network: "nn.Module", taxonomy: str) -> "tuple[dict[str, Tensor], str]":
    """Return the released dense network's weights, none where they do not fit, and why."""
    from perception.models.checkpoint import network_metadata, network_state
    from perception.models.partial_weights import misfit

    path = base / CHAMPION_DENSE
    if not (base / CHAMPION).exists():
        return {}, "no network is released yet"
    if not path.exists():
        return (
            {},
            "the released network has no dense one: an older night kept none, or it learnt from frames that were erased",
        )
    if json.loads(network_metadata(path)["classes"]) != list(class_names(taxonomy)):
        return {}, f"the released network has other classes than {taxonomy}"
    state = network_state(path)
    unlike = misfit(network, state)
    return ({}, f"the released network has another structure: {unlike}") if unlike else (state, "it is released")
