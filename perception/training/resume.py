"""Resume files: everything that a killed training needs to end with the weights that it would have had."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.errors import InputError
from perception.models.checkpoint import apply_leaves, describe_leaves
from perception.models.tensor_file import read_tensors, write_tensors
from perception.parameters import Count, Positive, checked
from perception.training import distributed
from perception.training.rates import regroup, set_learning_rate

_FORMAT = "nightdrive-training-2"


@checked
class Resume:
    """Say where a training keeps its state, and how often it saves it; a state that is there is continued from."""

    path: Path  # the file; its folder exists
    # save at the first iteration after so many minutes; None: never for the time
    every_minutes: Positive | None = 10.0
    every_epochs: Count | None = None  # save after every so many epochs; None: never for the epochs
    identity: str = ""  # of data and method (hashes, say); a state with another identity is refused


@dataclasses.dataclass
class Position:
    """How far a training has come: `batch` batches of epoch `epoch` are done."""

    epoch: int = 0
    batch: int = 0
    loss_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    seconds: float = 0.0  # spent on this epoch, before an interruption too
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    counted_at: float = dataclasses.field(default_factory=time.monotonic)  # when `seconds` was brought up to date
    saved_at: float = dataclasses.field(default_factory=time.monotonic)

    def count_seconds(self) -> None:
        """Add the time since the last count."""
        now = time.monotonic()
        self.seconds, self.counted_at = self.seconds + now - self.counted_at, now

    def next_epoch(self, record: dict[str, Any]) -> None:
        """Close an epoch with its record and stand at the start of the next one."""
        self.records.append(record)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.loss_sum = torch.zeros_like(self.loss_sum)


def save_state(
    resume: Resume,
    position: Position,
    networks: Mapping[str, nn.Module],
    optimiser: Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write weights, optimiser state, random states and position; process 0 writes for all.

    networks: by name; "network" is the one that the optimiser trains. facts: JSON values that must be the same when training goes on.
    Raises InputError when the optimiser does not hold the network's parameters.
    """
    random_states = distributed.gather(_random_state(optimiser))
    position.saved_at = time.monotonic()
    if distributed.rank() > 0:
        return
    tensors = {f"{which}/{name}": t for which, each in networks.items() for name, t in each.state_dict().items()}
    tensors |= {f"random/{rank}/{k}": tensor for rank, state in enumerate(random_states) for k, tensor in state.items()}
    tensors["loss_sum"] = position.loss_sum
    moments = _optimiser_state(networks["network"], optimiser)
    header = {
        "facts": {**facts, "identity": resume.identity},
        "leaves": {which: describe_leaves(each) for which, each in networks.items()},
        "position": {"epoch": position.epoch, "batch": position.batch, "seconds": position.seconds},
        "records": position.records,
        "learning_rate": float(optimiser.param_groups[0]["lr"]),
    }
    write_tensors(resume.path, tensors | moments, header, _FORMAT)


def load_state(
    resume: Resume, networks: Mapping[str, nn.Module], optimiser: Optimizer, facts: dict[str, Any]
) -> Position | None:
    """Bring networks, optimiser and random state, in place, to where the file left them; None without a file.

    A network that lost channels since is given the file's layers. Raises InputError when the file is damaged or the
    facts differ.
    """
    if not resume.path.exists():
        return None
    header, tensors = read_tensors(resume.path, _FORMAT)
    where = f"resume file {resume.path}"
    _check_facts(header["facts"], {**facts, "identity": resume.identity}, where)
    for which, each in networks.items():
        _load_network(each, header["leaves"][which], _under(tensors, f"{which}/"), where)
    _load_optimiser(networks["network"], optimiser, header["learning_rate"], tensors)
    _restore_random_state(_under(tensors, f"random/{distributed.rank()}/"), optimiser)
    return Position(**header["position"], loss_sum=tensors["loss_sum"].clone(), records=header["records"])


def is_due(resume: Resume, position: Position, epoch_ended: bool) -> bool:
    """Tell whether the state is to be saved now; all processes get the answer of process 0."""
    minutes = (time.monotonic() - position.saved_at) / 60
    due = resume.every_minutes is not None and minutes >= resume.every_minutes
    due |= epoch_ended and resume.every_epochs is not None and position.epoch % resume.every_epochs == 0
    return distributed.gather(due)[0]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_facts(saved: dict[str, Any], present: dict[str, Any], where: str) -> None:
    for name in saved | present:
        if saved.get(name) != present.get(name):
            values = f"{saved.get(name)!r}, now {present.get(name)!r}"
            raise InputError(f"{where}: was written with {name} {values}; delete the file to train anew")


def _load_network(network: nn.Module, leaves: list[list[Any]], state: dict[str, Tensor], where: str) -> None:
    device = next(network.parameters()).device
    apply_leaves(network, leaves, where)
    network.to(device)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: its weights do not fit ({reason}); delete it to train anew") from error


def _optimiser_state(network: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Name the optimiser's tensors after the parameters that they belong to."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if {id(p) for p in held} != {id(p) for p in names}:
        raise InputError("optimiser: must hold the network's parameters to be resumed; give it those")
    return {
        f"optimiser/{names[parameter]}/{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if value is not None
    }


def _load_optimiser(network: nn.Module, optimiser: Optimizer, rate: float, tensors: dict[str, Tensor]) -> None:
    regroup(network, optimiser)
    set_learning_rate(optimiser, rate)  # all else in the group comes from the settings, and from this machine
    parameters, fused = dict(network.named_parameters()), optimiser.param_groups[0]["fused"]
    optimiser.state.clear()
    for name, value in _under(tensors, "optimiser/").items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        # Not through load_state_dict, which would number the parameters instead of naming them. Moments are laid out as
        # their parameter is, since a fused optimiser walks both side by side through memory.
        if key == "step":
            optimiser.state[parameter][key] = value.to(parameter.device if fused else "cpu")
        else:
            optimiser.state[parameter][key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _random_state(optimiser: Optimizer) -> dict[str, Tensor]:
    device = optimiser.param_groups[0]["params"][0].device
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _restore_random_state(state: dict[str, Tensor], optimiser: Optimizer) -> None:
    torch.set_rng_state(state["cpu"].clone())
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), optimiser.param_groups[0]["params"][0].device)
