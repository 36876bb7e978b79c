"""Run one call of a stage: its inputs checked, its outputs placed whole or not at all, and how it ended kept in a record."""

import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.stage.declaration import Paths, Refused, Stage
from components.stage.failures import machine_failure
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, STATUS_OF_EXIT
from components.stage.records import RUNNING, is_first_process, write_record
from components.stage.seal import check_seal, write_seal
from components.stage.usage import Usage
from perception.errors import InputError, Unreachable

TRAINING_STATE_VARIABLE = "NIGHTDRIVE_TRAINING_STATE"  # folder where trainings keep what they need to go on once killed


@dataclass(frozen=True, kw_only=True)
class Call:
    """Hold one call of a stage, whichever face it came through."""

    stage: Stage
    task: str  # the name of this call in the night: a stage may be called several times
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, Path]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Say how a call ended."""

    code: int  # one of the exit codes
    values: Mapping[str, Any] = field(default_factory=dict)  # what the stage told beside its artifacts
    message: str = ""  # one line; empty when it is done
    transient: bool = False  # a server did not answer: the same call may succeed later
    failed: Sequence[Mapping[str, Any]] = ()  # the rules that a gate refused by


def told(error: InputError) -> Outcome:
    """Return how a call ended that met this error."""
    return Outcome(code=EXIT_BAD_INPUT, message=str(error), transient=isinstance(error, Unreachable))


def failed(error: Exception) -> Outcome:
    """Return how a call ended that the machine failed, in one line; of any other error, a fault of the program, print the traceback."""
    said = machine_failure(error)
    if not said:
        traceback.print_exception(error)
    return Outcome(code=EXIT_FAILED, message=said or f"{type(error).__name__}: {error}")


def recorded(
    task: str,
    run: Callable[[], Outcome],
    tried: Callable[[Callable[[], None]], None] = lambda write: write(),
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run a call with its record kept: that it runs, and as its last act how it ended; return how it ended.

    tried: writes the record, perhaps several times while its place does not answer. parameters: what the record says of them.
    Raises InputError, before anything runs, where it cannot be written.
    """
    about: dict[str, Any] = {"before": Usage.now(), "parameters": parameters}
    tried(lambda: write_record(task, status=RUNNING, **about))
    ended = run()
    about |= {"message": ended.message, "values": ended.values, "failed": ended.failed}
    try:
        tried(lambda: write_record(task, status=STATUS_OF_EXIT[ended.code], **about))
    except InputError as error:  # how the task ended does not depend on its record
        print(f"nightdrive {task}: {error}", file=sys.stderr)
    return ended


def execute(call: Call) -> Outcome:
    """Run a call, place its outputs whole, and say how it ended.

    The stage writes into temporary folders beside the outputs; they are renamed when it is done, so that a killed stage leaves
    nothing that looks finished. Of the processes that torchrun started, each runs the stage and the first one's outputs count.
    """
    outcome = Outcome(code=EXIT_DONE)
    working: dict[str, Path] = {}
    try:
        working = {name: _working_folder(path) for name, path in call.outputs.items()}
        _check_inputs(call)
        parameters: Any = build_parameters(call.stage.parameters, call.parameters, where=call.task)
        outputs = Paths({name: (folder,) for name, folder in working.items()})
        try:
            outcome = Outcome(
                code=EXIT_DONE, values=dict(call.stage.run(Paths(call.inputs), outputs, parameters) or {})
            )
        except Refused as refusal:
            outcome = Outcome(code=EXIT_REFUSED, message=str(refusal), failed=refusal.failed)
        if is_first_process():
            _seal_and_place(call.stage, working, call.outputs)
    except InputError as error:
        outcome = told(error)
    except Exception as error:
        outcome = failed(error)
    for folder in working.values():
        shutil.rmtree(folder, ignore_errors=True)
    if outcome.message:
        print(f"nightdrive {call.task}: {outcome.message}", file=sys.stderr)
    return outcome


def option_name(port: str) -> str:
    """Return the option of the command line that a port's folder is given with."""
    return "--" + port.replace("_", "-")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; does nothing where the kernel is not Linux."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)


def _check_inputs(call: Call) -> None:
    optional = {port.name for port in call.stage.inputs if port.optional}
    for name in (port.name for port in call.stage.inputs if port.name not in optional):
        if not call.inputs.get(name):
            raise InputError(f"{option_name(name)}: no folder given; name at least one")
    for name, folders in call.inputs.items():
        for folder in folders:
            if name not in optional and not folder.is_dir():
                raise InputError(f"{option_name(name)} {folder}: no such folder; run the stage that writes it first")
            check_seal(folder)


# ---------------------------------------------------------------- outputs appear whole or not at all


def _working_folder(target: Path) -> Path:
    if not target.name or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(
            f"{target}: is no new or empty folder, and a stage overwrites nothing; remove it or name another"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{target}: cannot be written ({said}); choose a folder that this user may write") from None


def _seal_and_place(stage: Stage, working: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    """Seal what was written, a folder that is shared out share by share, and give it its name."""
    for port in stage.outputs:
        folder = working[port.name]
        for part in sorted(folder.iterdir()) if port.shares else [folder]:
            write_seal(part)
    for name, folder in working.items():
        place_folder(folder, targets[name])


def place_folder(folder: Path, target: Path) -> None:
    """Give a finished folder its name; an earlier result of that name is removed only then."""
    folder.chmod(0o755)
    if target.exists():  # renamed away first, since a folder cannot replace a filled one in one step
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.replace(old / "old")
        folder.replace(target)
        shutil.rmtree(old)
    else:
        folder.replace(target)
