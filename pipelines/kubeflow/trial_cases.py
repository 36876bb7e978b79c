"""The cases of `make test-cluster`: each does one thing on a real installation and says in a few words what came of it."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from components.stage.program import EXIT_REFUSED
from components.stage.records import read_records
from perception.errors import InputError, Unreachable
from perception.reporting.night_row import culprit
from pipelines.kubeflow import runs, schedule, submit
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.images import references
from pipelines.kubeflow.kfp_api import Server
from pipelines.kubeflow.kubernetes_api import install_config, namespace
from pipelines.kubeflow.nights import place_of, version_of
from pipelines.kubeflow.resources import USER_ID
from pipelines.nightly import nightly
from pipelines.settings import load_settings

PROFILE = "smoke"
WAIT_SECONDS, POLL_SECONDS = 3600.0, 5.0
MORE_DRIVES, FRAMES_PER_DRIVE = 2, 4
# Until a scheduled run is due: Kubeflow's scheduler looks every few seconds, and a start is on a whole minute.
LEAD = timedelta(minutes=3)
LATE_SECONDS = 90.0
NO_NIGHT = "gate_ingest.bounds={min_frames: 1000000000}"
NO_VERSION = "resolve.revision=no-such-version"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Hold what the cases share."""

    server: Server
    pods: Any  # Kubernetes' API of pods; None: out of reach from here
    name: str  # of everything that the trial makes
    overrides: tuple[str, ...]
    images: Path | None
    service_account: str
    folder: Path  # for what is compiled
    seen: dict[str, Any] = field(default_factory=dict)  # what a case learned that a later one compares with


def _hello(trial: Trial) -> str:
    """Run one pod that says hello: accounts, rights, the namespace's policy and the launcher's secret."""
    return _exit_of(_follow(trial, _start(trial, _hello_package(trial, "hello"))))


def _first_night(trial: Trial) -> str:
    run_id = _night(trial)
    said = _exit_of(_follow(trial, run_id))
    trial.seen["new"] = _told(trial, run_id, "gather", "new")
    return said


def _second_night(trial: Trial) -> str:
    drives = load_settings(nightly(), PROFILE, trial.overrides)["sources"]["fleet"]["drives"]
    run_id = _night(trial, f"sources.fleet.drives={drives + MORE_DRIVES}")
    said = _exit_of(_follow(trial, run_id))
    new, before = _told(trial, run_id, "gather", "new"), trial.seen.get("new", 0)
    return f"{said}, {new - before if new > before else new} new frames"


def _refused(trial: Trial) -> str:
    return _ended_at(trial, _night(trial, NO_NIGHT))


def _bad_input(trial: Trial) -> str:
    return _ended_at(trial, _night(trial, NO_VERSION))


def _killed(trial: Trial) -> str:
    """Delete the pod of a step with notice, as a drained node does, and try the run again."""
    if trial.pods is None:
        return "no pod can be killed from here"
    run_id = _night(trial)
    pod = _until(trial, lambda: _running_pod(trial, run_id))
    finished = {each["name"] for each in _records(trial, run_id) if each["status"] == "done"}
    trial.pods.delete_namespaced_pod(pod, namespace())
    lost = _exit_of(_follow(trial, run_id))
    print(f"  {runs.retry(trial.server, run_id)}", flush=True)
    again = _exit_of(_follow(trial, run_id))
    stayed = all(each["attempt"] == 1 for each in _records(trial, run_id) if each["name"] in finished)
    return f"{lost}; tried again: {again}, finished steps {'stayed' if finished and stayed else 'ran again'}"


def _cancelled(trial: Trial) -> str:
    run_id = _night(trial)
    _until(trial, lambda: bool(_records(trial, run_id)))
    print(f"  {runs.cancel(trial.server, run_id)}", flush=True)
    said = _exit_of(_follow(trial, run_id))
    return f"{said}{', cancelled' if runs.was_cancelled(_run(trial, run_id)) else ''}"


def _scheduled(trial: Trial) -> str:
    """Schedule a run at an hour of another zone than the server's, and upload another version before it starts."""
    server_zone = (install_config()[0] or {}).get(schedule.ZONE_KEY, "UTC")
    home = ZoneInfo("Asia/Kolkata" if server_zone != "Asia/Kolkata" else "Europe/Berlin")
    due = (datetime.now(UTC) + LEAD).replace(second=0, microsecond=0)
    local = due.astimezone(home)
    pipeline_id, version_id = submit.upload(trial.server, _hello_package(trial, "scheduled"), trial.name)
    wanted = schedule.Schedule(
        name=trial.name,
        cron=f"0 {local.minute} {local.hour} * * *",
        time_zone=home.key,
        server_time_zone=server_zone,
        service_account=trial.service_account,
    )
    version = schedule.Version(name="scheduled", pipeline_id=pipeline_id, version_id=version_id, experiment=trial.name)
    said, _ = schedule.reconcile(trial.server, wanted, version, datetime.now(UTC))
    print(f"  {said}", flush=True)
    submit.upload(trial.server, _hello_package(trial, "later"), trial.name)
    run = _until(trial, lambda: next((each for each in own_runs(trial) if each.recurring_run_id), None))
    named = run.pipeline_version_reference.pipeline_version_id == version_id
    late = (run.created_at - due).total_seconds()
    when = "when it was due" if abs(late) <= LATE_SECONDS else f"{late:.0f} s after it was due"
    return f"started {when}, with {'the named version' if named else 'another version'}"


Case = tuple[str, str, Callable[[Trial], str]]  # name, what is expected, what does it and returns what was seen
CASES: tuple[Case, ...] = (
    ("hello", "exit 0", _hello),
    ("smoke night", "exit 0", _first_night),
    ("second night, new footage", f"exit 0, {MORE_DRIVES * FRAMES_PER_DRIVE} new frames", _second_night),
    ("refused gate", f"exit {EXIT_REFUSED}: gate_ingest refused", _refused),
    ("bad input", "exit 2: resolve bad_input", _bad_input),
    ("a pod killed in the middle", "exit 1; tried again: exit 0, finished steps stayed", _killed),
    ("cancel", "exit 1, cancelled", _cancelled),
    ("schedule in another zone", "started when it was due, with the named version", _scheduled),
)


def compiled(trial: Trial, *overrides: str) -> Path:
    """Compile a night of the trial's, once for the same overrides, and return its file."""
    target = trial.folder / f"{hashlib.sha256(repr(overrides).encode()).hexdigest()[:12]}.yaml"
    if not target.exists():
        compile_pipeline(PROFILE, target, (*trial.overrides, *overrides), images=trial.images)
    return target


def _hello_package(trial: Trial, text: str) -> Path:
    """Compile a pipeline of one pod that prints a text."""
    from kfp import compiler, dsl, kubernetes

    named = load_settings(nightly(), PROFILE, trial.overrides)["images"]
    image = (named | (references(trial.images) if trial.images else {}))["gates"]

    @dsl.container_component
    def say() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=image, command=["python", "-c", f"print({text!r})"])

    @dsl.pipeline(name=trial.name)
    def hello() -> None:
        step = say().set_caching_options(False)
        kubernetes.set_security_context(step, run_as_user=USER_ID, run_as_non_root=True)

    target = trial.folder / f"{text}.yaml"
    compiler.Compiler().compile(hello, str(target))
    return target


def _start(trial: Trial, package: Path) -> str:
    pipeline_id, version_id = submit.upload(trial.server, package, trial.name, say=_indented)
    run_id = submit.start(trial.server, pipeline_id, version_id, trial.service_account, trial.name)
    _indented(trial.server.run_url(run_id))
    return run_id


def _night(trial: Trial, *overrides: str) -> str:
    return _start(trial, compiled(trial, *overrides))


def _follow(trial: Trial, run_id: str) -> int:
    return runs.follow(trial.server, run_id, say=_indented)


def _indented(text: str) -> None:
    print("\n".join(f"  {line}" for line in text.splitlines()), flush=True)


def _exit_of(code: int) -> str:
    return f"exit {code}"


def _ended_at(trial: Trial, run_id: str) -> str:
    """Return how a night ended that was to end badly, and at which of its tasks."""
    code = _follow(trial, run_id)
    guilty = culprit(_records(trial, run_id))
    return f"exit {code}: {guilty['name']} {guilty['status']}" if guilty else f"exit {code}"


def _run(trial: Trial, run_id: str) -> Any:
    return trial.server.ask("RunServiceApi", "run_service_get_run", run_id)


def _records(trial: Trial, run_id: str) -> list[dict[str, Any]]:
    return read_records(place_of(version_of(trial.server, _run(trial, run_id)), run_id))


def _told(trial: Trial, run_id: str, task: str, value: str) -> int:
    return next((int(each["values"].get(value, 0)) for each in _records(trial, run_id) if each["name"] == task), 0)


def _running_pod(trial: Trial, run_id: str) -> str:
    """Return the pod of a step that runs after another has finished; empty where there is none yet."""
    if _run(trial, run_id).state in runs.ENDED:
        raise InputError("the run ended before a pod of it could be killed")
    if not any(each["status"] == "done" for each in _records(trial, run_id)):
        return ""
    listed = trial.pods.list_namespaced_pod(namespace(), label_selector=f"pipeline/runid={run_id}").items
    steps = [pod for pod in listed if "container-impl" in pod.metadata.name and pod.status.phase == "Running"]
    return str(steps[0].metadata.name) if steps else ""


def _until(trial: Trial, look: Callable[[], Any]) -> Any:
    """Return what `look` finds, asked again and again; raises Unreachable where it finds nothing for too long."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        if time.monotonic() > end:
            raise Unreachable(f"waited {WAIT_SECONDS:.0f} s for nothing; look at the run in Kubeflow's pages")
        trial.server.sleep(POLL_SECONDS)
    return found


def own_runs(trial: Trial) -> Iterator[Any]:
    """Yield the runs of the trial, the latest first."""
    return trial.server.runs(experiment_id=submit.experiment(trial.server, trial.name))
