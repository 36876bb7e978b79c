"""What a stage is: one declaration, and the two faces of it that run a program.

A stage is declared once, in its own file: the artifacts it takes and gives, its parameters, what it needs to run, and a `run` function.
From that declaration come
- the command line, `python -m components STAGE --INPUT PATH --OUTPUT PATH --params FILE` (this file), which is also what dvc.yaml calls;
- the container step of a Kubeflow pipeline, the same program with `--executor-input JSON` (kfp_step.py; declared in kfp_face.py).

Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 3 refused by a gate.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.failures import machine_failure
from components.parameters import build_parameters, read_section
from components.seal import check_seal, is_sealed, write_seal
from components.usage import FORKED_VARIABLE, LAUNCHED_VARIABLE, Usage, peak_rss_mib
from perception.errors import InputError, Unreachable

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_REFUSED = 0, 1, 2, 3
STATUS_OF_EXIT = {EXIT_DONE: "done", EXIT_FAILED: "failed", EXIT_BAD_INPUT: "bad input", EXIT_REFUSED: "refused"}
TASK_RULE = "[A-Za-z0-9_-]+(@[A-Za-z0-9_-]+)?"  # a task's name; behind the @ the source or shard
RECORDS_VARIABLE = "NIGHTDRIVE_RECORDS"  # folder for one JSON record a task: status, seconds, bytes, peak memory

TRAINING_STATE_VARIABLE = "NIGHTDRIVE_TRAINING_STATE"  # folder where trainings keep what they need to go on once killed


class Refused(Exception):
    """Say that a gate refused; the outputs written so far are kept, because they explain why."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """Name one artifact that a stage takes or gives; every artifact is a folder."""

    name: str
    kind: (
        str  # what lies in the folder: frames, ensemble, scores, selection, version, network, metrics, verdict, report
    )
    about: str  # one line for --help and for the reference in docs/
    many: bool = False  # one artifact a source or a shard, gathered into a list
    optional: bool = False  # the stage has something sensible to do without it


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Declare what a stage needs to run on a cluster."""

    image: str  # dependency set: gates, versioning or torch
    cpu_cores: float = 1.0
    memory_gib: float = 2.0
    gpu_count: int = 0  # wanted where the cluster has GPUs; every stage also runs without
    retries: int = 2  # for infrastructure errors; bad input and a refused gate are none
    timeout_minutes: int = 60
    shared_memory_gib: float = 0.0  # of /dev/shm, for data-loading processes; 0: the container engine's default
    distributed: bool = False  # trains over all GPUs of its pod, one process a GPU
    loads: str = (
        ""  # the library that takes longest to load; on one machine it is loaded once a night (components/warm.py)
    )


@dataclass(frozen=True)
class Paths:
    """Hold the folders of a stage's inputs or outputs by port name."""

    folders: Mapping[str, tuple[Path, ...]]

    def one(self, port: str) -> Path:
        """Return the single folder of `port`."""
        (folder,) = self.folders[port]
        return folder

    def many(self, port: str) -> tuple[Path, ...]:
        """Return every folder of `port`, in a fixed order."""
        return tuple(sorted(self.folders.get(port, ())))

    def maybe(self, port: str) -> Path | None:
        """Return the folder of an optional port, or None where it was not given or does not exist."""
        folders = [folder for folder in self.folders.get(port, ()) if folder.exists()]
        return folders[0] if folders else None


# What code raises on tables and records that lack something, or hold another type; pyarrow's and pandas' errors are among them.
_OF_WRONG_DATA = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    FileNotFoundError,
)

Run = Callable[[Paths, Paths, Any], Mapping[str, str] | None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Declare a stage: what it takes and gives, its parameters, what it needs, and the function that does its work."""

    name: str
    summary: str  # one sentence in the imperative
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    values: tuple[str, ...] = ()  # short strings given beside the artifacts, which a pipeline can branch on
    values_on_problem: Mapping[str, str] = field(default_factory=dict)  # those values where an input holds a problem
    parameters: type  # a frozen dataclass
    needs: Needs
    run: Run = field(repr=False)


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
    values: Mapping[str, str]  # what the stage gave beside its artifacts
    message: str = ""  # one line; empty when it is done
    passing: bool = False  # a server did not answer: the same call may succeed later


def main(stages: Mapping[str, Stage], arguments: Sequence[str]) -> int:
    """Run the stage that `arguments` name and return the exit code."""
    try:
        if "--executor-input" in arguments:
            from components.kfp_step import run_step

            return run_step(stages, arguments)
        return execute(_parse(stages, arguments)).code
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def execute(call: Call) -> Outcome:
    """Run a call, place its outputs whole, and say how it ended.

    The stage writes into temporary folders beside the outputs; they are renamed when it is done, so that a killed stage leaves
    nothing that looks finished. Of the processes that torchrun started, each runs the stage and the first one's outputs count.
    """
    before, values, message, code, passing = Usage.now(), {}, "", EXIT_DONE, False
    working: dict[str, Path] = {}
    _check_task(call.task)
    try:
        write_record(call.task, status="running", before=before, message="")
        working = {name: _working_folder(path) for name, path in call.outputs.items()}
        _check_inputs(call)
        parameters: Any = build_parameters(call.stage.parameters, call.parameters, where=call.task)
        outputs = Paths({name: (folder,) for name, folder in working.items()})
        try:
            values = dict(call.stage.run(Paths(call.inputs), outputs, parameters) or {})
        except Refused as refusal:
            code, message = EXIT_REFUSED, str(refusal)
        if is_first_process():
            _seal_and_place(working, call.outputs)
    except InputError as error:
        code, message, passing = EXIT_BAD_INPUT, str(error), isinstance(error, Unreachable)
    except Exception as error:
        code, message = _failure(call, error)
    _discard(working)
    if message:
        print(f"nightdrive {call.task}: {message}", file=sys.stderr)
    with _told_and_forgotten(call.task):
        write_record(call.task, status=STATUS_OF_EXIT[code], before=before, message=message)
    return Outcome(code=code, values=values, message=message, passing=passing)


def _failure(call: Call, error: Exception) -> tuple[int, str]:
    """Give exit code and message of what a stage raised: the machine, a hand-made input, or else a fault of the program.

    Only the last is told with its traceback. A sealed input is what a stage wrote, so it is never blamed.
    """
    if said := machine_failure(error):
        return EXIT_FAILED, said
    by_hand = [
        f"{_option(name)} {folder}"
        for name, folders in call.inputs.items()
        for folder in folders
        if not is_sealed(folder)
    ]
    if by_hand and isinstance(error, _OF_WRONG_DATA):
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return (
            EXIT_BAD_INPUT,
            f"{', '.join(by_hand)}: no stage wrote this (it has no seal), and it cannot be used ({said}); correct it",
        )
    traceback.print_exception(error)
    return EXIT_FAILED, f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _told_and_forgotten(task: str) -> Iterator[None]:
    """Say that a record could not be written, and go on: how the task ended does not depend on it."""
    try:
        yield
    except InputError as error:
        print(f"nightdrive {task}: {error}", file=sys.stderr)


def is_first_process() -> bool:
    """Tell whether this is the only process of its call, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def log(message: str) -> None:
    """Print one plain line of progress, at once; of several processes only the first one speaks."""
    if is_first_process():
        print(message, flush=True)


def progress_line(what: str, every_seconds: float = 5.0) -> Callable[[int, int], None]:
    """Return a progress callback (done, total) that prints at most one line in `every_seconds`, with the remaining time."""
    started = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done and (now - last >= every_seconds):
            remaining = (now - started) / done * (total - done)
            log(f"  {what}: {done}/{total}, about {remaining:.0f} s left")
            last = now

    return report


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; does nothing where the kernel is not Linux."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)


def write_record(task: str, *, status: str, before: Usage, message: str) -> None:
    """Write the task's record where NIGHTDRIVE_RECORDS asks for it: status, and what it used since it began.

    started: when its work began, in seconds since 1970; launched: when its command was started. seconds, cpu_seconds,
    read_bytes, written_bytes: of its work alone; start_cpu_seconds: of the process before that. forked: from a warm
    process. peak_rss_mib: so far.
    Raises InputError for a name that no task has and for a folder that cannot be written.
    """
    folder = os.environ.get(RECORDS_VARIABLE)
    if not folder or not is_first_process():
        return
    _check_task(task)
    record = {
        "name": task,
        "status": status,
        "launched": round(float(os.environ.get(LAUNCHED_VARIABLE, before.at)), 3),
        "started": round(before.at, 3),
        "seconds": round(time.time() - before.at, 3),
        "start_cpu_seconds": round(before.cpu_seconds, 3),
        "forked": FORKED_VARIABLE in os.environ,
        **Usage.now().since(before),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "message": message,
    }
    target = Path(folder) / f"{task}.json"
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(record))
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); make room, or correct its folder") from None


def _check_task(task: str) -> None:
    if not re.fullmatch(TASK_RULE, task):
        raise InputError(f"--task {task!r}: must match {TASK_RULE}; rename it")


def read_records() -> list[dict[str, Any]]:
    """Return the record of every task that ran, in the order in which they started; none where no engine keeps them."""
    folder = os.environ.get(RECORDS_VARIABLE)
    records = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")] if folder else []
    return sorted((record for record in records if record["name"] != "report"), key=lambda record: record["started"])


# ---------------------------------------------------------------- the command line


def _parse(stages: Mapping[str, Stage], arguments: Sequence[str]) -> Call:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m components", description="Run one stage of the night.")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage in stages.values():
        command = commands.add_parser(stage.name, help=stage.summary, description=stage.summary)
        for port in stage.inputs:
            required, count = not port.optional, "+" if port.many else None
            command.add_argument(
                _option(port.name), dest=port.name, nargs=count, required=required, metavar="FOLDER", help=port.about
            )
        for port in stage.outputs:
            command.add_argument(
                _option(port.name), dest=port.name, required=True, metavar="FOLDER", help=f"written: {port.about}"
            )
        command.add_argument(
            "--params", type=Path, metavar="FILE", help="YAML file with a section for this task; defaults otherwise"
        )
        command.add_argument(
            "--task", default=stage.name, help="name of this call in the night; names its section of --params"
        )
        command.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="override one parameter (YAML value)"
        )
    given = parser.parse_args(list(arguments))
    stage = stages[given.stage]
    return Call(
        stage=stage,
        task=given.task,
        inputs={port.name: _as_paths(getattr(given, port.name)) for port in stage.inputs},
        outputs={port.name: Path(getattr(given, port.name)) for port in stage.outputs},
        parameters=read_section(given.params, given.task.partition("@")[0], given.set),
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _as_paths(given: str | list[str] | None) -> tuple[Path, ...]:
    names = [given] if isinstance(given, str) else given or []
    return tuple(Path(name) for name in names)


def _check_inputs(call: Call) -> None:
    optional = {port.name for port in call.stage.inputs if port.optional}
    for name in (port.name for port in call.stage.inputs if port.name not in optional):
        if not call.inputs.get(name):
            raise InputError(f"{_option(name)}: no folder given; name at least one")
    for name, folders in call.inputs.items():
        for folder in folders:
            if name not in optional and not folder.is_dir():
                raise InputError(f"{_option(name)} {folder}: no such folder; run the stage that writes it first")
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


def _seal_and_place(working: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    for folder in working.values():
        write_seal(folder)
    _place(working, targets)


def _place(working: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    for name, folder in working.items():
        target = targets[name]
        folder.chmod(0o755)
        if (
            target.exists()
        ):  # an earlier result: renamed away first, since a folder cannot replace a filled one in one step
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            target.replace(old / "old")
            folder.replace(target)
            shutil.rmtree(old)
        else:
            folder.replace(target)


def _discard(working: Mapping[str, Path]) -> None:
    for folder in working.values():
        shutil.rmtree(folder, ignore_errors=True)
