"""The container step of a Kubeflow pipeline: the stage's own program, with KFP's executor input in place of options.

Kubeflow retries no step that exits by itself, whatever the code. So a server that does not answer is waited for here, with
growing pauses; bad input and a refusal end the step, and with it the run, at once.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from components.stage.declaration import Port, Stage
from components.stage.execution import TRAINING_STATE_VARIABLE, Call, Outcome, execute, recorded
from components.stage.night import FAREWELL_SECONDS, NIGHT, DeadlineReached, enter_night, until
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from components.stage.records import is_first_process, log
from components.stage.registry import find_stage
from perception.data.files import replace_file
from perception.errors import InputError, Unreachable

PAUSES_VARIABLE = "NIGHTDRIVE_RETRY_PAUSES"  # seconds between tries while a server does not answer, such as 5,20,60
DEFAULT_PAUSES = "5,20,60"
CHECKPOINTS_VARIABLE = "NIGHTDRIVE_CHECKPOINTS"  # folder that outlives the pod: a step goes on where it was killed
TRAIN_JOB_VARIABLE = "NIGHTDRIVE_TRAIN_JOB"  # JSON of train_job.TrainJobSettings: train over several nodes
OUTCOME_VARIABLE = "NIGHTDRIVE_OUTCOME"  # file in which the processes of one step say how they ended
SETTINGS, TASK = "settings", "task"  # the parameter that all of a task's settings travel in, and its name among them
FINAL_STATUS = "final_status"  # the parameter that an exit handler's run status arrives in
Result = TypeVar("Result")
_SCHEMES = (("gs://", "/gcs/"), ("s3://", "/s3/"), ("minio://", "/minio/"))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Hold one call as KFP described it."""

    call: Call
    night: Mapping[str, Any]  # NightSettings
    artifacts: Mapping[str, Any]  # the output artifacts, as KFP described them
    output_file: Path  # where the executor output belongs


def run_step(arguments: Sequence[str]) -> int:
    """Run the stage that KFP asks for and return the exit code; the executor output is always written."""
    try:
        step = read_step(arguments)
    except InputError as error:
        return _told(error).code
    outcome = Outcome(code=EXIT_FAILED)
    try:
        # Of several processes the one that started them all keeps the record.
        outcome = _run(step, arguments) if "RANK" in os.environ else _in_night(step, arguments)
    except InputError as error:
        outcome = _told(error)
    finally:
        if is_first_process():
            _write_executor_output(step, outcome.values)
    return outcome.code


def _told(error: InputError) -> Outcome:
    print(f"nightdrive: {error}", file=sys.stderr)
    return Outcome(code=EXIT_FAILED if isinstance(error, Unreachable) else EXIT_BAD_INPUT, message=str(error))


def _in_night(step: Step, arguments: Sequence[str]) -> Outcome:
    """Run the step with its record among the night's, and end it in time for the farewell, which alone may take longer."""
    tried = partial(_tried, step.call.task)
    night = tried(lambda: enter_night(step.night))
    if night is None or FINAL_STATUS in step.call.parameters:
        return recorded(step.call.task, lambda: _ended(step, arguments), tried)
    last = night.deadline - FAREWELL_SECONDS

    def run() -> Outcome:
        try:
            with until(last):
                return _ended(step, arguments)
        except DeadlineReached:
            message = f"deadline: the night has {(night.deadline - night.started) / 3600:g} hours (cluster.night_hours)"
            print(f"nightdrive {step.call.task}: {message}", file=sys.stderr)
            return Outcome(code=EXIT_FAILED, message=message)

    return recorded(step.call.task, run, tried)


def _ended(step: Step, arguments: Sequence[str]) -> Outcome:
    try:
        return _run(step, arguments)
    except InputError as error:
        return _told(error)


def read_step(arguments: Sequence[str]) -> Step:
    """Return the step that the stage's name and KFP's executor input describe; raises InputError where they are no such thing."""
    position = list(arguments).index("--executor-input")
    if position + 1 >= len(arguments):
        raise InputError("usage: python -m components.stage STAGE --executor-input JSON; the JSON is missing")
    try:
        executor = json.loads(arguments[position + 1])
        output_file = Path(str(executor["outputs"]["outputFile"]))
        call, artifacts = call_from_executor_input(find_stage(arguments[0]), executor)
        night = json.loads(executor["inputs"]["parameterValues"][SETTINGS]).get(NIGHT, {})
    except json.JSONDecodeError as error:
        raise InputError(f"--executor-input is not JSON ({error}); pass KFP's executor input placeholder") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(f"--executor-input lacks {error}; pass what KFP's executor input placeholder gives") from None
    return Step(call=call, night=night, artifacts=artifacts, output_file=output_file)


def call_from_executor_input(stage: Stage, executor: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Return KFP's executor input as a call, and the output artifacts as KFP described them.

    The parameter `settings` is JSON: the stage's parameters, `task`, the name of the call, and what every step is told of its
    night. What KFP gives beside it is the number of the loop's iteration and, in an exit handler, the status of the run.
    """
    given = executor.get("inputs", {})
    beside = dict(given.get("parameterValues", {}))
    parameters = json.loads(beside.pop(SETTINGS))
    task = str(parameters.pop(TASK))
    parameters.pop(NIGHT, None)
    if beside and FINAL_STATUS not in beside:
        (number,) = beside.values()
        task = f"{task}@{int(number)}"
    parameters |= beside
    artifacts = given.get("artifacts", {})
    inputs = {port.name: _folders(port, artifacts, parameters) for port in stage.inputs}
    described = {name: listed["artifacts"][0] for name, listed in executor["outputs"].get("artifacts", {}).items()}
    outputs = {port.name: local_path(described[port.name]) for port in stage.outputs}
    return Call(stage=stage, task=task, inputs=inputs, outputs=outputs, parameters=parameters), described


def numbered(port: str, number: int) -> str:
    """Return the name of one of the inputs of a step that together fill a port that takes many."""
    return f"{port}__{number}"


def _folders(port: Port, artifacts: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[Path, ...]:
    names = [port.name, *(numbered(port.name, number) for number in range(len(artifacts)))]
    found = [local_path(item) for name in names for item in artifacts.get(name, {}).get("artifacts", [])]
    return tuple(folder / str(int(parameters[port.shares])) if port.shares else folder for folder in found)


def local_path(artifact: Mapping[str, Any]) -> Path:
    """Return where KFP's launcher mounts an artifact: its custom path, or its URI's scheme as a root folder."""
    if artifact.get("customPath"):
        return Path(artifact["customPath"])
    uri = str(artifact["uri"])
    for scheme, root in _SCHEMES:
        if uri.startswith(scheme):
            return Path(root + uri.removeprefix(scheme))
    if "://" in uri:
        raise InputError(f"artifact URI {uri}: unknown scheme; use gs://, s3://, minio:// or a path")
    return Path(uri)


def _run(step: Step, arguments: Sequence[str]) -> Outcome:
    """Run the call here, on several GPUs of this pod, or on several nodes, again after a pause while a server does not answer."""
    call = step.call
    if "RANK" in os.environ:  # one of several processes: the one that started them tries again, with all of them
        outcome = _with_training_state(call, lambda: execute(call))
        _tell_starter(outcome)
        return outcome
    if call.stage.needs.distributed and os.environ.get(TRAIN_JOB_VARIABLE):
        return _on_nodes(call)
    if call.stage.needs.distributed and _gpu_count() > 1:
        return _tried(call.task, lambda: _answered(_in_processes(arguments)))
    return _with_training_state(call, lambda: _tried(call.task, lambda: _answered(execute(call))))


def _answered(outcome: Outcome) -> Outcome:
    if outcome.transient:
        raise Unreachable(outcome.message)
    return outcome


def _tried(task: str, ask: Callable[[], Result]) -> Result:
    """Ask, again after a pause while a server does not answer."""
    for pause in _pauses():
        try:
            return ask()
        except Unreachable:
            log(f"{task}: trying again in {pause:g} s")
            time.sleep(pause)
    return ask()


def _pauses() -> list[float]:
    text = os.environ.get(PAUSES_VARIABLE, DEFAULT_PAUSES)
    try:
        return [float(word) for word in text.split(",") if word]
    except ValueError:
        raise InputError(f"{PAUSES_VARIABLE}={text}: must be seconds such as {DEFAULT_PAUSES}; correct it") from None


def _with_training_state(call: Call, run: Callable[[], Outcome]) -> Outcome:
    """Give the call a folder that outlives its pod, named after its outputs, which stay the same when KFP retries the task."""
    root = os.environ.get(CHECKPOINTS_VARIABLE)
    if not root or not call.outputs:
        return run()
    key = hashlib.sha256("\n".join(sorted(str(path) for path in call.outputs.values())).encode()).hexdigest()[:24]
    folder = Path(root) / f"{call.task}-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{CHECKPOINTS_VARIABLE}={root}: cannot be written ({error.strerror}); mount it") from None
    os.environ[TRAINING_STATE_VARIABLE] = str(folder)
    outcome = run()
    if outcome.code == EXIT_DONE and is_first_process():
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _on_nodes(call: Call) -> Outcome:
    from components.stage.train_job import Cluster, TrainJobSettings, run_on_nodes

    settings = build_parameters(TrainJobSettings, json.loads(os.environ[TRAIN_JOB_VARIABLE]), where=TRAIN_JOB_VARIABLE)
    return run_on_nodes(call, settings, Cluster.of_this_pod())


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _in_processes(arguments: Sequence[str]) -> Outcome:
    """Run this step under torchrun, one process a GPU; the first of them that ends badly says how all ended."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={_gpu_count()}"]
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch) / "outcome.json"
        command = [*launch, "-m", "components.stage", *arguments]
        done = subprocess.run(command, env={**os.environ, OUTCOME_VARIABLE: str(said)}, check=False)
        if said.exists():
            return Outcome(**json.loads(said.read_text()))
    return Outcome(code=EXIT_DONE if done.returncode == 0 else EXIT_FAILED)


def _tell_starter(outcome: Outcome) -> None:
    target = os.environ.get(OUTCOME_VARIABLE)
    if target and not Path(target).exists() and (outcome.code != EXIT_DONE or is_first_process()):
        replace_file(Path(target), json.dumps(asdict(outcome)).encode())


def _write_executor_output(step: Step, values: Mapping[str, Any]) -> None:
    # Always written, also by a failed step: under kfp.local it is the only way that artifacts of a container step are seen.
    listed = {
        name: {"artifacts": [{"name": item.get("name", ""), "uri": item["uri"], "metadata": {}}]}
        for name, item in step.artifacts.items()
    }
    declared = {name: values[name] for name in step.call.stage.values if name in values}
    content = {"parameterValues": declared, "artifacts": listed}
    replace_file(step.output_file, json.dumps(content).encode())
