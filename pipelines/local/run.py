"""One whole night on this machine, with DVC as the engine.

The night lives in runs/RUN: its parameters, dvc.yaml, every stage's output and a record a stage. Running it again asks what
lies outside (the registry, the footage, the day) and does only what is not done; a night that was killed goes on where it
stopped.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from components.stage.execution import die_with_parent, option_name
from components.stage.learning import COMMIT_VARIABLE
from components.stage.program import EXIT_DONE, EXIT_FAILED, EXIT_OF_STATUS, STATUS_OF_EXIT
from components.stage.records import RECORDS_VARIABLE, read_records
from components.stage.registry import all_stages
from components.stage.source_hash import source_hashes
from components.stage.surroundings import own_environment
from components.stage.usage import Usage
from components.stage.warm import warm_processes
from perception.data.files import replace_file
from perception.errors import InputError
from perception.reporting.outside import METRICS, MLFLOW, WEBHOOK
from perception.versioning.processes import git_at, scratch_folder
from pipelines.graph import NEWS, NOTHING_NEW, Graph, Task
from pipelines.local.dvc_file import dvc_file, folder_of, outputs_of
from pipelines.settings import COUNTS

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs"
RESERVED = ("latest", "registry", "store")  # what else lies in the folder of runs
ENGINE_FILE = "engine.json"  # what the engine itself used: pipelines/local/night_profile.py
PUBLISHED = ("report/report.html", "report/summary.json", *(f"review/review.{kind}" for kind in ("html", "md", "json")))


def run_folder(name: str, runs: Path = RUNS) -> Path:
    """Return the folder of the run of that name; raises InputError for a name that no run can have."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in RESERVED:
        rule = f"its name must be letters, digits, _ and -, and none of {', '.join(RESERVED)}"
        raise InputError(f"night {name!r}: {rule}; give another name (make nights lists those there are)")
    return (runs / name).resolve()


def run_night(night: Graph, run: Path, settings: Mapping[str, Any]) -> int:
    """Run the night in the folder `run`, write its report whatever happens, and return the exit code."""
    with _only_one(run):
        before = Usage.now()
        prepare(night, run, settings)
        code = _engine(night, run)
        publish_report(run)
        after = Usage.now()
        used = {"started": round(before.at, 3), "ended": round(after.at, 3), **after.since(before)}
        _write(run / ENGINE_FILE, json.dumps(used))  # its own and all stages', but for those in warm processes
    return code


def repeat_night(night: Graph, run: Path, settings: Mapping[str, Any]) -> int:
    """Run a night as run_night does, but none of the tasks that write the registry, and tell nobody; `latest` stays where it is."""
    writers = {task.name for task in night.tasks.values() if task.writes_registry}
    rest = [task for task in night.tasks.values() if task.name not in writers | night.downstream(writers)]
    leaves = [task.name for task in rest if not any(task.name in other.sources() for other in rest)]
    with _only_one(run):
        prepare(night, run, settings)
        with _warm(run) as environment:
            code = _reproduce(run, environment, *leaves)
            behind = set() if code == EXIT_DONE else _left_behind(night, run)
            unheard = {name: value for name, value in environment.items() if name not in (WEBHOOK, MLFLOW, METRICS)}
            _tell_without_engine(night, run, writers | behind, unheard)
        _show_report(run)
    return code


def prepare(night: Graph, run: Path, settings: Mapping[str, Any]) -> None:
    """Write what the engine reads (params.yaml, code.yaml, dvc.yaml); drop what no task of this night has written."""
    import yaml

    counted = {name: list(range(settings[name])) for name in COUNTS.values()}
    _write(run / "params.yaml", yaml.safe_dump({**settings, **counted}, sort_keys=True))
    _write(run / "code.yaml", yaml.safe_dump(source_hashes({name: f"components.{name}" for name in all_stages()})))
    _write(run / "dvc.yaml", dvc_file(night))
    if not (run / ".dvc").is_dir():
        _dvc(run, "init", "--no-scm", "--quiet", environment=_environment(run)).check_returncode()
    # A night killed with -9 leaves DVC's record of who reads and writes what; nobody else is here, so it says nothing.
    (run / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    for half_written in (path for place in (run, *run.glob("*/")) for path in place.glob(".*.*") if path.is_dir()):
        shutil.rmtree(half_written)  # folders of stages that were killed
    for task in (task for task in night.tasks.values() if task.over):
        known = set(map(str, counted[COUNTS[task.over]]))
        for stale in (path for path in (run / outputs_of(night, task)[0]).glob("*") if path.name not in known):
            shutil.rmtree(stale)
    for path in (run / "records").glob("*.json"):  # what did not end well runs again, and says so anew
        if json.loads(path.read_text())["status"] != STATUS_OF_EXIT[EXIT_DONE]:
            path.unlink()


def publish_report(run: Path) -> None:
    """Put the report, the summary and the review at the top of the run and point runs/latest at it."""
    _show_report(run)
    link = run.parent / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(run.name)
    link.replace(run.parent / "latest")


def _show_report(run: Path) -> None:
    for name in PUBLISHED:
        written, shown = run / name, run / Path(name).name
        shown.unlink(missing_ok=True)
        if written.exists():
            replace_file(shown, written.read_bytes())


def _warm(run: Path) -> AbstractContextManager[dict[str, str]]:
    libraries = sorted({stage.needs.loads for stage in all_stages().values()} - {""})
    return warm_processes(libraries, _environment(run))


def _engine(night: Graph, run: Path) -> int:
    """Run what is not done; stop with 0 where a task says that nothing is new. A night that does not end well is told too."""
    with _warm(run) as environment:
        code = _reproduce(run, environment, night.news_from)
        if code == EXIT_DONE and _says_nothing_new(night, run):
            return _tell_without_engine(night, run, night.downstream({night.news_from}), environment)
        if code == EXIT_DONE:
            code = _reproduce(run, environment, "--downstream", night.news_from)
        if code != EXIT_DONE:
            _tell_without_engine(night, run, _left_behind(night, run), environment)
    return code


def _reproduce(run: Path, environment: Mapping[str, str], *what: str) -> int:
    engine = _dvc(run, "repro", "--quiet", *what, environment=environment)
    if engine.returncode == 0:
        return EXIT_DONE
    ended = [EXIT_OF_STATUS.get(record["status"], EXIT_FAILED) for record in read_records(run / "records")]
    return next((code for code in ended if code != EXIT_DONE), EXIT_FAILED)


def _says_nothing_new(night: Graph, run: Path) -> bool:
    record = run / "records" / f"{night.news_from}.json"
    return bool(json.loads(record.read_text())["values"].get(NEWS) == NOTHING_NEW)


def _left_behind(night: Graph, run: Path) -> set[str]:
    """Name the tasks that did not run tonight because of one that failed: what they wrote is an earlier night's."""
    records = read_records(run / "records")
    failed = {record["name"].partition("@")[0] for record in records if record["status"] != STATUS_OF_EXIT[EXIT_DONE]}
    return night.downstream(failed) | {name for name in failed if name in night.tasks and not night.tasks[name].suite}


def _tell_without_engine(night: Graph, run: Path, left_out: set[str], environment: Mapping[str, str]) -> int:
    """Run the tasks that a failed or empty night has too, with those of their inputs that this night wrote.

    Returns the last exit code that is not 0.
    """
    code = EXIT_DONE
    for task in (task for task in night.tasks.values() if task.at_failure):
        given = {
            name: [
                folder
                for artifact in artifacts
                if artifact.task not in left_out and (run / (folder := folder_of(night, artifact))).is_dir()
            ]
            for name, artifacts in task.takes.items()
        }
        for folder in outputs_of(night, task):
            shutil.rmtree(run / folder, ignore_errors=True)
        if all(given[port.name] for port in task.stage.inputs if not port.optional):
            code = _run_task(night, run, task, given, environment) or code
    return code


def _run_task(
    night: Graph, run: Path, task: Task, given: Mapping[str, list[str]], environment: Mapping[str, str]
) -> int:
    command = [sys.executable, "-m", "components.stage", task.stage.name]
    command += ["--task", task.name, "--params", "params.yaml"]
    for name, folders in given.items():
        command += [word for folder in folders for word in (option_name(name), folder)]
    for port, folder in zip(task.stage.outputs, outputs_of(night, task), strict=True):
        command += [option_name(port.name), folder]
    return subprocess.run(command, cwd=run, env=environment, check=False).returncode


def _dvc(run: Path, *arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=run, env=environment, check=False, preexec_fn=die_with_parent)


def _environment(run: Path) -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    return {
        **own_environment(os.environ),
        "PATH": here + os.pathsep + os.environ.get("PATH", ""),  # dvc.yaml says `python`: the one that runs us
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        RECORDS_VARIABLE: str(run / "records"),
        COMMIT_VARIABLE: code_commit(),
        "DVC_NO_ANALYTICS": "1",
        # No settings lie there: the user's and the machine's do not count.
        "DVC_GLOBAL_CONFIG_DIR": str(run / ".dvc" / "tmp"),
        "DVC_SYSTEM_CONFIG_DIR": str(run / ".dvc" / "tmp"),
        "DVC_SITE_CACHE_DIR": str(run / ".dvc" / "tmp" / "site"),
        "CI": "1",  # DVC then looks for no update
        # Large tensors come and go in training; keeping their memory saves a tenth to a third of the time of a step.
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**36),
    }


def code_commit() -> str:
    """Return the commit of the code, marked where files differ from it; empty outside a git checkout."""
    trusted = f"safe.directory={ROOT}"  # whoever owns the code: it runs already
    command = ["git", "-c", trusted, "describe", "--always", "--abbrev=40", "--dirty=-changed", "--exclude=*"]
    with scratch_folder() as scratch:
        environment = dict(git_at(scratch, scratch).environment)
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def _only_one(run: Path) -> Iterator[None]:
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{run}: cannot be written ({error.strerror}); choose another folder with --runs") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{run}: another night is running there; wait for it, or name this one with RUN=NAME"
            ) from None
        yield


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode())
