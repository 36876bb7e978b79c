"""What a network's weights come from before a night trains it: the released network, weights that were brought, or chance."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.stage.learning import LearningParameters, class_names
from components.stage.records import log
from perception.errors import InputError
from perception.parameters import checked

if TYPE_CHECKING:
    from torch import Tensor, nn

StartFrom = Literal["champion", "pretrained", "scratch"]
CHAMPION, CHAMPION_DENSE = "champion.json", "champion_dense.safetensors"  # in the base's folder


@checked
class StartParameters(LearningParameters):
    """Say how a network is trained that may start from weights."""

    # champion: the released network where its structure fits (in adapt never: its networks see no real label), else as
    # pretrained; pretrained: encoder_weights where they are given, else as scratch; scratch: weights drawn by the seed
    start_from: StartFrom = "champion"
    encoder_weights: str = ""  # file with a state dict that the network's encoder may start from; empty: there is none


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
        return {}, "the released network was kept without its dense one, as older nights did"
    if json.loads(network_metadata(path)["classes"]) != list(class_names(taxonomy)):
        return {}, f"the released network has other classes than {taxonomy}"
    state = network_state(path)
    unlike = misfit(network, state)
    return ({}, f"the released network has another structure: {unlike}") if unlike else (state, "it is released")


def brought_weights(parameters: StartParameters) -> Path | None:
    """Return the file that a network's encoder may start from, None where there is none; raises InputError for one that is gone."""
    if not parameters.encoder_weights or parameters.start_from == "scratch":
        return None
    file = Path(parameters.encoder_weights)
    if not file.is_file():
        raise InputError(f"encoder_weights = {file}: no such file; give a state dict (.safetensors, .pt, .pth)")
    return file


def take_brought(network: Any, parameters: StartParameters) -> Start:
    """Start a network, in place, from the weights that are brought for its encoder, where there are and may be any; return them.

    What does not fit is named in the log. Raises InputError for a file that cannot be read or of which nothing fits.
    """
    from perception.models.partial_weights import read_state, take_weights

    weights = brought_weights(parameters)
    if weights is None:
        return Start(started_from="scratch")
    done = take_weights(network.encoder, read_state(weights), "encoder.", str(weights))
    log(f"encoder: {len(done.taken)} tensors from {weights}")
    for what, names in (("does not fit", done.left_out), ("from scratch", done.untouched)):
        if names:
            log(f"encoder, {what}: {', '.join(names)}")
    own = network.encoder.state_dict()
    return Start(started_from="pretrained", state={f"encoder.{name}": own[name] for name in done.taken})
