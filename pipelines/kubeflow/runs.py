"""`make pipeline-status`, `cancel` and `pipeline-retry`: what a run on the cluster does, how to end it, how to try it again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.stage.program import EXIT_DONE
from perception.errors import InputError, Unreachable
from pipelines.kubeflow.kfp_api import Missing, Server, equals
from pipelines.kubeflow.nights import FAILED, SUCCEEDED, Version, ending, version_of

ENDED = (SUCCEEDED, FAILED, "CANCELED", "SKIPPED")
POLL_SECONDS = 10.0
PATIENCE_SECONDS = 600.0  # a follower sits out a server that fails for so long
_TOO_LARGE = "request is too large"  # etcd's word for a run above 1.5 MiB


@dataclass(frozen=True, kw_only=True)
class Task:
    """Say how one task of a run goes."""

    name: str
    state: str
    seconds: float | None
    message: str


def follow(server: Server, run_id: str, *, say: Callable[[str], None] = print) -> int:
    """Tell every change of a run until it ends, print its table, and return the exit code: 0 done, 1 failed, 2 bad input,
    3 refused.
    """
    shown: dict[str, str] = {}
    version: Version | None = None
    failing_since: float | None = None
    while True:
        try:
            run = _get(server, run_id)
            version = version or version_of(server, run)
            failing_since = None
        except Unreachable as error:
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > PATIENCE_SECONDS:
                raise
            say(f"  {error}; the run goes on meanwhile")
            server.sleep(POLL_SECONDS)
            continue
        tasks = tasks_of(run, version.names)
        _tell_changes(tasks, shown, say)
        if run.state in ENDED:
            code, said = ending(version, run)
            say("\n".join([run_table(run, tasks), *said]))
            return code
        server.sleep(POLL_SECONDS)


def tasks_of(run: Any, names: Mapping[str, str]) -> list[Task]:
    """Return the steps of a run by the names that people know, in the order in which they started.

    names: by their keys in the version. The server's list has more: drivers, executors, loops, and each try of a step once more.
    """
    details = run.run_details.task_details if run.run_details else None
    started = sorted(
        (item for item in details or () if item.display_name in names),
        key=lambda item: item.start_time or item.create_time or datetime.max.replace(tzinfo=UTC),
    )
    return [
        Task(
            name=names[item.display_name],
            state=_state(item.state, run),
            seconds=_seconds(item.start_time, item.end_time),
            message=(item.error.message or "") if item.error else "",
        )
        for item in started
    ]


def _state(state: str | None, run: Any) -> str:
    """Return a step's state in the server's words; what a run that has ended left out stays PENDING for ever there."""
    return "NOT RUN" if run.state in ENDED and state in (None, "PENDING") else state or "PENDING"


def was_cancelled(run: Any) -> bool:
    """Tell whether somebody ended the run: Kubeflow says FAILED of it like of any other."""
    return any(item.state == "CANCELING" for item in run.state_history or ())


def run_table(run: Any, tasks: Sequence[Task]) -> str:
    """Return a run as a short table: state, tasks, seconds, what went wrong."""
    width = max([len(task.name) for task in tasks], default=4)
    lines = [f"{run.display_name}: {run.state or 'PENDING'}{' (cancelled)' if was_cancelled(run) else ''}"]
    for task in tasks:
        spent = "" if task.seconds is None else f"{task.seconds:8.0f} s"
        lines.append(f"  {task.name:<{width}}  {task.state:<10}{spent:>10}  {_one_line(task.message)}".rstrip())
    if run.error and run.error.message:
        lines.append(f"  error: {_one_line(run.error.message)}")
    return "\n".join(lines)


def find_run(server: Server, wanted: str) -> str:
    """Return the id of a run by its id or name; without one, of the latest run; raises InputError where there is none."""
    if not wanted:
        latest = next(server.runs(**server.scope), None)
        if latest is None:
            raise InputError("there is no run yet; start one with `make pipeline-submit`")
        return str(latest.run_id)
    named = list(server.runs(filter=equals(wanted), **server.scope))
    if named:
        return str(named[0].run_id)
    try:
        return str(_get(server, wanted).run_id)
    except Missing:
        raise InputError(
            f"RUN={wanted}: {server.host} has no run of this id or name; `make pipeline-status` shows the latest"
        ) from None


def status(server: Server, run_id: str) -> int:
    """Print the table of a run and return its exit code; 0 while it has not ended."""
    run = _get(server, run_id)
    version = version_of(server, run)
    print(run_table(run, tasks_of(run, version.names)))
    if run.state not in ENDED:
        return EXIT_DONE
    code, said = ending(version, run)
    print("\n".join(said))
    return code


def cancel(server: Server, run_id: str) -> str:
    """End a run that has not ended; return what to say about it."""
    run = _get(server, run_id)
    if run.state in ENDED:
        return f"{run.display_name}: ended already ({run.state}); nothing to cancel"
    server.ask("RunServiceApi", "run_service_terminate_run", run_id)
    return f"{run.display_name}: cancelled; Kubeflow ends its farewell too: the watch (`make watch`) writes its report"


def retry(server: Server, run_id: str) -> str:
    """Have a run that failed try its failed steps again, the others stay; return what to say about it."""
    run = _get(server, run_id)
    if run.state != FAILED:
        return f"{run.display_name}: is {run.state}; only a run that failed can be tried again"
    try:
        server.ask_once("RunServiceApi", "run_service_retry_run", run_id)
    except InputError as error:
        if _TOO_LARGE in str(error):
            raise InputError(
                f"{run.display_name}: has outgrown what Kubernetes keeps ({error}); submit it again"
            ) from None
        raise
    return f"{run.display_name}: its failed steps are tried again; `make pipeline-status RUN={run_id}` shows it"


def _get(server: Server, run_id: str) -> Any:
    return server.ask("RunServiceApi", "run_service_get_run", run_id)


def _tell_changes(tasks: Sequence[Task], shown: dict[str, str], say: Callable[[str], None]) -> None:
    done = sum(task.state in ENDED for task in tasks)
    for position, task in enumerate(tasks):
        key = f"{position} {task.name}"
        if shown.get(key) != task.state:
            shown[key] = task.state
            spent = f" after {task.seconds:.0f} s" if task.seconds is not None and task.state in ENDED else ""
            progress = f"({done} of {len(tasks)} begun are done)"
            say(f"  {datetime.now():%H:%M:%S}  {task.name}: {task.state.lower()}{spent}  {progress}")


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or start.year < 2000:
        return None
    finished = end if end is not None and end.year >= 2000 else datetime.now(UTC)
    return max(0.0, (finished - start).total_seconds())


def _one_line(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
