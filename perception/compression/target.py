"""Let a command of the user measure networks on the machine that they are for."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from perception.compression.cost import Latency, summarised
from perception.errors import InputError
from perception.parameters import Positive

_FORM = '{"device": "name of the machine", "milliseconds": [3.1, 3.0, 3.2]}, one number a call'


@dataclass(frozen=True)
class _Told:
    """What the command prints."""

    device: Annotated[str, Field(min_length=1, max_length=200)]
    milliseconds: Annotated[list[Positive], Field(min_length=1)]


def measure_on_target(
    command: Sequence[str], models: Mapping[str, Path], *, batch_sizes: Sequence[int] = (1,)
) -> tuple[str, list[Latency]]:
    """Run `command` with an ONNX file and a batch size after its own words, for every file and size; no shell is between.

    It prints a line of JSON last: the device's name, and the milliseconds of each call. Returns the device and a row for
    each model and batch size. Raises InputError for a command that does not exist, fails, or prints something else, and
    for one that names two devices.
    """
    told = {
        (name, batch): _told([*command, str(path), str(batch)])
        for batch in batch_sizes
        for name, path in models.items()
    }
    devices = sorted({each.device for each in told.values()})
    if len(devices) > 1:
        raise InputError(f"latency_command: names the devices {' and '.join(devices)}, must measure all on one")
    rows = [summarised(name, batch, [ms / 1e3 for ms in each.milliseconds]) for (name, batch), each in told.items()]
    return devices[0], rows


def _told(words: list[str]) -> _Told:
    shown = " ".join(words)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(
            f"latency_command: {words[0]} cannot be run ({error.strerror}); give a program that can"
        ) from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise InputError(f"latency_command: `{shown}` ended with exit code {done.returncode}: {' '.join(last)[:200]}")
    try:
        return TypeAdapter(_Told).validate_json((done.stdout.strip().splitlines() or [""])[-1])
    except ValidationError:
        raise InputError(f"latency_command: `{shown}` printed {done.stdout[-200:]!r}, must end with {_FORM}") from None
