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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from components.stage.declaration import Stage
from components.stage.exchange import Exchange, Given, open_exchange, run_of, taken
from components.stage.execution import TRAINING_STATE_VARIABLE, Call, Outcome, execute, failed, recorded
from components.stage.kfp_pages import show
from components.stage.kubernetes_api import HOST_VARIABLE, S3_KEYS
from components.stage.night import FAREWELL_SECONDS, NIGHT, DeadlineReached, enter_night, until
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_REFUSED
from components.stage.records import (
    NIGHT_VARIABLE,
    PAUSES_VARIABLE,
    RECORDS_VARIABLE,
    is_first_process,
    log,
    read_document,
)
from components.stage.registry import find_stage
from perception.data.files import replace_file
from perception.errors import InputError, Unreachable

DEFAULT_PAUSES = "5,20,60"
CHECKPOINTS_VARIABLE = "NIGHTDRIVE_CHECKPOINTS"  # folder that outlives the pod: a step goes on where it was killed
TRAIN_JOB_VARIABLE = "NIGHTDRIVE_TRAIN_JOB"  # JSON of train_job.TrainJobSettings: train over several nodes
OUTCOME_VARIABLE = "NIGHTDRIVE_OUTCOME"  # file in which the processes of one step say how they ended
INDEXED_JOB_VARIABLE = "NIGHTDRIVE_INDEXED_JOB"  # JSON of indexed_job.IndexedJobSettings: run the shares as its indices
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # Kubernetes sets it in the pods of an Indexed Job
# Where the S3 secret is mounted: as environment its three keys would take 2 kB more of every step in what Kubeflow keeps of a run.
S3_FOLDER = Path("/secrets/s3")
OUTSIDE_FOLDER = Path("/secrets/outside")  # of the farewell: a file a variable, for perception/reporting/outside.py
# The parameter that all of a step's settings travel in, and what they say of the step itself.
SETTINGS, ABOUT = "settings", "step"
FINAL_STATUS = "final_status"  # the parameter that an exit handler's run status arrives in
Result = TypeVar("Result")
_SCHEMES = (("gs://", "/gcs/"), ("s3://", "/s3/"), ("minio://", "/minio/"))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Hold one call as KFP described it."""

    stage: Stage
    task: str
    over: str  # the parameter that counts its shares, all of which this step runs; empty: a single task, or a single share
    parameters: Mapping[str, Any]
    takes: Mapping[str, tuple[Given, ...]]  # by input port
    gives: Mapping[str, Given]  # by output port
    exchange: Exchange
    night: Mapping[str, Any]  # NightSettings
    artifacts: Mapping[str, Any]  # the output artifacts, as KFP described them
    output_file: Path  # where the executor output belongs

    @property
    def call(self) -> Call:
        """Return the call, on the folders of the run on this machine."""
        return Call(
            stage=self.stage,
            task=self.task,
            inputs={
                port: tuple(self.exchange.root / each.path for each in given) for port, given in self.takes.items()
            },
            outputs={port: self.exchange.root / given.path for port, given in self.gives.items()},
            parameters=self.parameters,
        )


def run_step(arguments: Sequence[str]) -> int:
    """Run the stage that KFP asks for and return the exit code; the executor output is always written."""
    for key, name in S3_KEYS.items():
        if (S3_FOLDER / key).is_file():
            os.environ[name] = (S3_FOLDER / key).read_text().strip()
    for file in (*OUTSIDE_FOLDER.glob("NIGHTDRIVE_*"), *OUTSIDE_FOLDER.glob("MLFLOW_*")):
        os.environ[file.name] = file.read_text().strip()
    try:
        step = read_step(arguments)
    except InputError as error:
        return _told(error).code
    if HOST_VARIABLE in os.environ:
        os.environ[NIGHT_VARIABLE] = run_of(step.output_file)
    outcome = Outcome(code=EXIT_FAILED)
    try:
        # Of several processes the one that started them all keeps the record.
        outcome = _run(step, arguments) if "RANK" in os.environ else _in_night(step, arguments)
    except InputError as error:
        outcome = _told(error)
    finally:
        if is_first_process() and INDEX_VARIABLE not in os.environ:
            _write_executor_output(step, outcome)
    return outcome.code


def _told(error: InputError) -> Outcome:
    print(f"nightdrive: {error}", file=sys.stderr)
    return Outcome(code=EXIT_FAILED if isinstance(error, Unreachable) else EXIT_BAD_INPUT, message=str(error))


def _in_night(step: Step, arguments: Sequence[str]) -> Outcome:
    """Run the step with its record among the night's, and end it in time for the farewell, which alone may take longer."""
    tried, parameters = partial(_tried, step.task), step.parameters
    night = tried(lambda: enter_night(step.night))
    if INDEX_VARIABLE in os.environ and tried(lambda: _is_done(step)):
        return Outcome(code=EXIT_DONE)
    if night is None or FINAL_STATUS in parameters:
        return recorded(step.task, lambda: _ended(step, arguments), tried, parameters)
    last = night.deadline - FAREWELL_SECONDS

    def run() -> Outcome:
        try:
            with until(last):
                return _ended(step, arguments)
        except DeadlineReached:
            message = f"deadline: the night has {(night.deadline - night.started) / 3600:g} hours (cluster.night_hours)"
            print(f"nightdrive {step.task}: {message}", file=sys.stderr)
            return Outcome(code=EXIT_FAILED, message=message)

    return recorded(step.task, run, tried, parameters)


def _ended(step: Step, arguments: Sequence[str]) -> Outcome:
    try:
        return _run(step, arguments)
    except InputError as error:
        return _told(error)
    except Exception as error:  # what goes on round the stage: without a record of it the step would look killed
        outcome = failed(error)
        print(f"nightdrive {step.task}: {outcome.message}", file=sys.stderr)
        return outcome


def read_step(arguments: Sequence[str]) -> Step:
    """Return the step that the stage's name and KFP's executor input describe; raises InputError where they are no such thing.

    In a pod of an Indexed Job it is the share of that index.
    """
    position = list(arguments).index("--executor-input")
    if position + 1 >= len(arguments):
        raise InputError("usage: python -m components.stage STAGE --executor-input JSON; the JSON is missing")
    try:
        step = step_from_executor_input(find_stage(arguments[0]), json.loads(arguments[position + 1]))
    except json.JSONDecodeError as error:
        raise InputError(f"--executor-input is not JSON ({error}); pass KFP's executor input placeholder") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(f"--executor-input lacks {error}; pass what KFP's executor input placeholder gives") from None
    index = os.environ.get(INDEX_VARIABLE)
    return share_of(step, int(index)) if step.over and index else step


def step_from_executor_input(stage: Stage, executor: Mapping[str, Any]) -> Step:
    """Return KFP's executor input as a step.

    The parameter `settings` is YAML: the stage's parameters, what every step is told of its night, and about the step itself
    its task, what it takes by port, and the parameter that counts its shares. What KFP gives beside it is, in an exit handler,
    the status of the run.
    """
    outputs, beside = executor["outputs"], dict(executor.get("inputs", {}).get("parameterValues", {}))
    parameters = read_settings(beside.pop(SETTINGS))
    about, night = parameters.pop(ABOUT), parameters.pop(NIGHT, {})
    task, takes, output_file = str(about["task"]), about.get("takes", {}), Path(str(outputs["outputFile"]))
    described = {name: listed["artifacts"][0] for name, listed in outputs.get("artifacts", {}).items()}
    return Step(
        stage=stage,
        task=task,
        over=about.get("over", ""),
        parameters=parameters | beside,
        takes={port: tuple(each for text in texts for each in taken(text)) for port, texts in takes.items()},
        gives={port.name: Given(task, port.name) for port in stage.outputs},
        exchange=open_exchange(str(night.get("store", "")), output_file),
        night=night,
        artifacts=described,
        output_file=output_file,
    )


def write_settings(values: Mapping[str, Any]) -> str:
    """Return settings as YAML on one line: Kubeflow keeps a text within texts, where every quotation mark of JSON takes 8 bytes."""
    import yaml

    return str(yaml.safe_dump(dict(values), default_flow_style=True, width=float("inf"), allow_unicode=True)).strip()


def read_settings(text: str) -> dict[str, Any]:
    """Return the settings that write_settings wrote; raises ValueError for other text."""
    import yaml

    try:
        return dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def share_of(step: Step, number: int) -> Step:
    """Return the step of a single share."""
    shared = {port.name for port in step.stage.inputs if port.shares}
    takes = {
        name: tuple(replace(each, share=str(number)) if name in shared else each for each in given)
        for name, given in step.takes.items()
    }
    return replace(
        step,
        task=f"{step.task}@{number}",
        over="",
        parameters={**step.parameters, step.over: number},
        takes=takes,
        gives={port: replace(given, share=str(number)) for port, given in step.gives.items()},
    )


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
    """Run one of the processes of a step, its one call, or all of its shares."""
    if "RANK" in os.environ:  # one of several processes: the one that started them tries again, with all of them
        outcome = _with_training_state(step.call, lambda: execute(step.call))
        _tell_starter(outcome)
        return outcome
    return _run_shares(step, arguments) if step.over else _run_call(step, arguments)


def _run_shares(step: Step, arguments: Sequence[str]) -> Outcome:
    """Run every share: on a cluster as the indices of a job, elsewhere one after the other."""
    count = int(step.parameters[f"{step.over}_count"])
    if HOST_VARIABLE in os.environ:
        return _as_indices(step.call, count, arguments)
    for share in (share_of(step, number) for number in range(count)):
        outcome = Outcome(code=EXIT_DONE) if _is_done(share) else _run_call(share, arguments)
        if outcome.code != EXIT_DONE:
            return outcome
    return Outcome(code=EXIT_DONE)


def _is_done(share: Step) -> bool:
    """Tell whether an earlier attempt gave all of a share and, on a cluster, wrote down that it was done: its record stays."""
    place, given = os.environ.get(RECORDS_VARIABLE), share.gives.values()
    record = read_document(place, f"{share.task}.json") if place else {"status": "done"}
    return record is not None and record["status"] == "done" and all(map(share.exchange.holds, given))


def _run_call(step: Step, arguments: Sequence[str]) -> Outcome:
    """Run one call between fetching what it takes and sending what it gives."""
    fetched = _tried(step.task, lambda: _fetch(step))
    outcome = _on_pod(fetched.call, arguments)
    if outcome.code in (EXIT_DONE, EXIT_REFUSED):  # a refusal keeps what explains it
        _tried(step.task, lambda: _send(step))
    return outcome


def _fetch(step: Step) -> Step:
    """Fetch what the step takes; of an optional port what there is."""
    takes = {}
    for port in step.stage.inputs:
        found = {given: step.exchange.fetch(given) for given in step.takes.get(port.name, ())}
        takes[port.name] = tuple(given for given, there in found.items() if there or not port.optional)
    return replace(step, takes=takes)


def _send(step: Step) -> None:
    for port in step.stage.outputs:
        given = step.gives[port.name]
        parts = (
            sorted(path.name for path in (step.exchange.root / given.path).iterdir()) if port.shares else [given.share]
        )
        for share in parts:
            step.exchange.send(replace(given, share=share))


def _on_pod(call: Call, arguments: Sequence[str]) -> Outcome:
    """Run the call here, on several GPUs of this pod, or on several nodes, again after a pause while a server does not answer."""
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
    from components.stage.kubernetes_api import Cluster
    from components.stage.train_job import TrainJobSettings, run_on_nodes

    settings = build_parameters(TrainJobSettings, json.loads(os.environ[TRAIN_JOB_VARIABLE]), where=TRAIN_JOB_VARIABLE)
    return run_on_nodes(call, settings, Cluster.of_this_pod())


def _as_indices(call: Call, count: int, arguments: Sequence[str]) -> Outcome:
    from components.stage.indexed_job import IndexedJobSettings, run_indices
    from components.stage.kubernetes_api import Cluster

    settings = build_parameters(
        IndexedJobSettings, json.loads(os.environ[INDEXED_JOB_VARIABLE]), where=INDEXED_JOB_VARIABLE
    )
    return run_indices(call, count, ["python", "-m", "components.stage", *arguments], settings, Cluster.of_this_pod())


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


def _write_executor_output(step: Step, outcome: Outcome) -> None:
    # Always written, also by a failed step: under kfp.local it is the only way that artifacts of a container step are seen.
    listed = {name: {"artifacts": [_artifact(step, item, outcome)]} for name, item in step.artifacts.items()}
    declared = {name: value for name, value in outcome.values.items() if name == step.stage.value}
    content = {"parameterValues": declared, "artifacts": listed}
    replace_file(step.output_file, json.dumps(content).encode())


def _artifact(step: Step, item: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Return an output artifact as KFP is to keep it: where it lies and what it counts, or a page that KFP shows."""
    name, counts = item["name"], {key: value for key, value in outcome.values.items() if value is not None}
    if name in step.gives:
        return {"name": name, "uri": step.exchange.uri(step.gives[name]), "metadata": counts}
    (page,) = (page for page in step.stage.pages if page.name == name)
    source = step.call.outputs[page.port] / page.file
    shown = show(page, source, local_path(item)) if source.is_file() else {}
    return {"name": name, "uri": item["uri"], "metadata": shown or counts}
