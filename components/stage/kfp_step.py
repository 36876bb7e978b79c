"""The container step of a Kubeflow pipeline: the stage's own program, with KFP's executor input in place of options.

KFP retries a task whatever its exit code. A step therefore keeps apart what deserves another try and what does not:
- a server that does not answer is tried again here, with growing pauses, and after that by KFP (exit code 1, as every crash);
- bad input and refusals are never tried again: the step ends well, and its outputs hold `problem.json` instead of results. Every
  later step passes the problem on unread, without work, to the next gate, which refuses. What a refusal leads to, a task
  that is declared with `--never-retried`, ends with the problem's own exit code and makes the run red.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.stage.declaration import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, STATUS_OF_EXIT, Stage
from components.stage.execution import TRAINING_STATE_VARIABLE, Call, Outcome, execute
from components.stage.records import is_first_process, log
from perception.data.files import replace_file
from perception.errors import InputError

PROBLEM_FILE = "problem.json"
NEVER_RETRIED = "--never-retried"
PAUSES_VARIABLE = "NIGHTDRIVE_RETRY_PAUSES"  # seconds between tries while a server does not answer, such as 5,20,60
DEFAULT_PAUSES = "5,20,60"
# folder that outlives the pod; a step on it goes on where it was killed
CHECKPOINTS_VARIABLE = "NIGHTDRIVE_CHECKPOINTS"
# JSON of components.stage.train_job.TrainJobSettings: train over several nodes
TRAIN_JOB_VARIABLE = "NIGHTDRIVE_TRAIN_JOB"
# What KFP hands a step beside its parameters: values that only its resources name.
RESOURCE_INPUTS = {
    "cpu_request",
    "cpu_limit",
    "memory_request",
    "memory_limit",
    "accelerator_type",
    "accelerator_count",
}
CHANNEL_PREFIX = "pipelinechannel--"
_SCHEMES = (("gs://", "/gcs/"), ("s3://", "/s3/"), ("minio://", "/minio/"))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Say which task of the night could not do its work, why, and with which exit code."""

    task: str
    code: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """Hold one call as KFP described it."""

    call: Call
    artifacts: Mapping[str, Any]  # the output artifacts, as KFP described them
    output_file: Path  # where the executor output belongs
    never_retried: bool


def run_step(stages: Mapping[str, Stage], arguments: Sequence[str]) -> int:
    """Run the stage that KFP asks for and return the exit code; the executor output is always written."""
    step = read_step(stages, arguments)
    if _wants_more_processes(step.call.stage):
        _start_processes(arguments)
    outcome = Outcome(code=EXIT_FAILED, values={})
    try:
        outcome = _run(step)
    finally:
        if is_first_process():
            _write_executor_output(step.output_file, outcome.values, step.artifacts)
    return outcome.code


def read_step(stages: Mapping[str, Stage], arguments: Sequence[str]) -> Step:
    """Read the stage's name and KFP's executor input; raises InputError where they are no such thing."""
    name, position = arguments[0], list(arguments).index("--executor-input")
    if name not in stages or position + 1 >= len(arguments):
        raise InputError(
            f"usage: python -m components STAGE --executor-input JSON; got {list(arguments)[:2]}; stages: {', '.join(stages)}"
        )
    try:
        executor = json.loads(arguments[position + 1])
        output_file = Path(str(executor["outputs"]["outputFile"]))
        call, artifacts = call_from_executor_input(stages[name], executor)
    except json.JSONDecodeError as error:
        raise InputError(f"--executor-input is not JSON ({error}); pass KFP's executor input placeholder") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(f"--executor-input lacks {error}; pass what KFP's executor input placeholder gives") from None
    never_retried = NEVER_RETRIED in arguments[:position]
    return Step(call=call, artifacts=artifacts, output_file=output_file, never_retried=never_retried)


def call_from_executor_input(stage: Stage, executor: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Translate KFP's executor input into a call; return it with the output artifacts as KFP described them.

    The step's parameter `task` names the call; every other parameter is one of the stage's own, but for those that only the
    step's resources name, which KFP hands over too.
    """
    given = executor.get("inputs", {})
    values = dict(given.get("parameterValues", {}))
    parameters = {name: value for name, value in values.items() if not is_of_resources(name)}
    task = str(parameters.pop("task", stage.name))
    inputs = {
        port.name: tuple(
            local_path(item) for item in given.get("artifacts", {}).get(port.name, {}).get("artifacts", [])
        )
        for port in stage.inputs
    }
    described = {name: listed["artifacts"][0] for name, listed in executor["outputs"].get("artifacts", {}).items()}
    outputs = {port.name: local_path(described[port.name]) for port in stage.outputs}
    return Call(stage=stage, task=task, inputs=inputs, outputs=outputs, parameters=parameters), described


def is_of_resources(name: str) -> bool:
    """Tell whether an input of a step is none of its stage's parameters but one that KFP adds for its resources."""
    return name in RESOURCE_INPUTS or name.startswith(CHANNEL_PREFIX)


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


def read_problem(folder: Path) -> Problem | None:
    """Return the problem that a folder holds in place of results, or None."""
    file = folder / PROBLEM_FILE
    return Problem(**json.loads(file.read_text())) if file.is_file() else None


def _run(step: Step) -> Outcome:
    """Pass on the first problem among the inputs, or else run the call; a problem in an optional input makes it absent."""
    optional = {port.name for port in step.call.stage.inputs if port.optional}
    found = {
        name: problem
        for name, folders in step.call.inputs.items()
        for problem in map(read_problem, folders)
        if problem is not None
    }
    for problem in (problem for name, problem in found.items() if name not in optional):
        return _end_with(step, problem)
    call = replace(
        step.call, inputs={name: () if name in found else folders for name, folders in step.call.inputs.items()}
    )
    outcome = _on_nodes(call) if _has_nodes(call.stage) else _with_training_state(call, lambda: _tried(call))
    if outcome.code in (EXIT_BAD_INPUT, EXIT_REFUSED):
        return _end_with(step, Problem(task=call.task, code=outcome.code, message=outcome.message))
    if found and outcome.code == EXIT_DONE:
        _write_problem(step, next(iter(found.values())))
        return replace(outcome, values={**outcome.values, **call.stage.values_on_problem})
    return outcome


def _end_with(step: Step, problem: Problem) -> Outcome:
    if step.never_retried:
        print(f"nightdrive {step.call.task}: {problem.task}: {problem.message}", file=sys.stderr)
        return Outcome(code=problem.code, values={}, message=problem.message)
    _write_problem(step, problem)
    said = "passes on to the next gate" if problem.task != step.call.task else "leaves to the next gate"
    log(f"{step.call.task} {said}: {problem.task}, {STATUS_OF_EXIT[problem.code]}: {problem.message}")
    stage = step.call.stage
    return Outcome(code=EXIT_DONE, values={**dict.fromkeys(stage.values, ""), **stage.values_on_problem})


def _write_problem(step: Step, problem: Problem) -> None:
    if not is_first_process():
        return
    for folder in step.call.outputs.values():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / PROBLEM_FILE, json.dumps(problem.__dict__).encode())


def _tried(call: Call, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Run the call, again after a pause while a server does not answer; in the end that is a failure, which KFP retries."""
    for pause in [*_pauses(), None]:
        outcome = execute(call)
        if not outcome.transient:
            return outcome
        if pause is not None:
            log(f"{call.task}: trying again in {pause:g} s")
            sleep(pause)
    return replace(outcome, code=EXIT_FAILED)


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
    import hashlib

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


def _has_nodes(stage: Stage) -> bool:
    """Tell whether this step is to train over several nodes."""
    return stage.needs.distributed and bool(os.environ.get(TRAIN_JOB_VARIABLE))


def _on_nodes(call: Call) -> Outcome:
    from components.stage.parameters import build_parameters
    from components.stage.train_job import Cluster, TrainJobSettings, run_on_nodes

    settings = build_parameters(TrainJobSettings, json.loads(os.environ[TRAIN_JOB_VARIABLE]), where=TRAIN_JOB_VARIABLE)
    return run_on_nodes(call, settings, Cluster.of_this_pod())


def _wants_more_processes(stage: Stage) -> bool:
    """Tell whether this is the first process of a step that trains over several GPUs of its pod."""
    if _has_nodes(stage):
        return False
    if not stage.needs.distributed or "RANK" in os.environ:
        return False
    return _gpu_count() > 1


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _start_processes(arguments: Sequence[str]) -> None:
    """Become torchrun, one process a GPU, each of which runs this step."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={_gpu_count()}"]
    os.execv(sys.executable, [*launch, "-m", "components", *arguments])


def _write_executor_output(target: Path, values: Mapping[str, str], artifacts: Mapping[str, Any]) -> None:
    # Always written, also by a failed step: under kfp.local it is the only way that artifacts of a container step are seen.
    listed = {
        name: {"artifacts": [{"name": item.get("name", ""), "uri": item["uri"], "metadata": {}}]}
        for name, item in artifacts.items()
    }
    replace_file(target, json.dumps({"parameterValues": dict(values), "artifacts": listed}).encode())
