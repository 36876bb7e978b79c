"""`make run`: one whole night on this machine, with DVC as the engine.

The night lives in runs/RUN: its parameters, a copy of dvc.yaml, every stage's output and a record a stage. Running it again
does only what is not done; a night that was killed goes on where it stopped.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.stage.declaration import EXIT_DONE, EXIT_FAILED, STATUS_OF_EXIT
from components.stage.execution import die_with_parent
from components.stage.learning import COMMIT_VARIABLE
from components.stage.records import RECORDS_VARIABLE
from components.stage.registry import all_stages
from components.stage.usage import Usage
from components.stage.warm import warm_processes
from perception.errors import InputError
from pipelines.local.source_hash import source_hashes

ROOT = Path(__file__).parents[2]
RESERVED = ("latest", "registry", "store")  # what else lies in the folder of runs
ENGINE_FILE = "engine.json"  # what the engine itself used: pipelines/local/night_profile.py
EXIT_OF_STATUS = {status: code for code, status in STATUS_OF_EXIT.items()}


def run_night(run: Path, settings: Mapping[str, Any]) -> int:
    """Run the night in the folder `run`, write its report whatever happens, and return the exit code."""
    with _only_one(run):
        before = Usage.now()
        prepare(run, settings)
        code = _engine(run)
        if code != EXIT_DONE:
            _report_failure(run)
        publish_report(run)
        _write_engine_record(run, before)
    return code


def prepare(run: Path, settings: Mapping[str, Any]) -> None:
    """Write what the engine reads: params.yaml, code.yaml, dvc.yaml; drop outputs of sources and shards that are gone."""
    import yaml

    _write(run / "params.yaml", yaml.safe_dump(dict(settings), sort_keys=True))
    _write(run / "code.yaml", yaml.safe_dump(source_hashes({name: f"components.{name}" for name in all_stages()})))
    shutil.copyfile(ROOT / "dvc.yaml", run / "dvc.yaml")
    if not (run / ".dvc").is_dir():
        _dvc(run, "init", "--no-scm", "--quiet", environment=_environment(run)).check_returncode()
    # A night killed with -9 leaves DVC's record of who reads and writes what; nobody else is here, so it says nothing.
    (run / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    for place in (run, run / "arrived", run / "scores", run / "gates"):
        for half_written in place.glob(".*.*"):  # folders of stages that were killed
            shutil.rmtree(half_written)
    for folder, names in (("arrived", settings["sources"]), ("scores", settings["shards"])):
        for stale in (path for path in (run / folder).glob("*") if path.name not in {str(name) for name in names}):
            shutil.rmtree(stale)


def publish_report(run: Path) -> None:
    """Put the report, the summary and the review at the top of the run and point runs/latest at it."""
    for folder, name in (
        *(("report", name) for name in ("report.html", "summary.json")),
        *(("review", f"review.{kind}") for kind in ("html", "md", "json")),
    ):
        (run / name).unlink(missing_ok=True)
        if (run / folder / name).exists():
            _write(run / name, (run / folder / name).read_text())
    link = run.parent / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(run.name)
    link.replace(run.parent / "latest")


def _engine(run: Path) -> int:
    before = _record_times(run)
    libraries = sorted({stage.needs.loads for stage in all_stages().values()} - {""})
    with warm_processes(libraries, _environment(run)) as environment:
        engine = _dvc(run, "repro", "--quiet", environment=environment)
    if engine.returncode == 0:
        return EXIT_DONE
    # What this night wrote is what changed: clocks may jump, and a file server's may be another than ours.
    written = [path for path, moment in _record_times(run).items() if before.get(path) != moment]
    statuses = [json.loads(path.read_text())["status"] for path in written]
    failed = [status for status in statuses if status != STATUS_OF_EXIT[EXIT_DONE]]
    return EXIT_OF_STATUS.get(failed[0], EXIT_FAILED) if failed else EXIT_FAILED


def _record_times(run: Path) -> dict[Path, tuple[int, int]]:
    """Tell which records there are, with what changes when one is written anew: its time and its place on the disk."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted((run / "records").glob("*.json"))}


def _write_engine_record(run: Path, before: Usage) -> None:
    """Write engine.json: when the engine worked, and what it and all stages used (stages in warm processes left out)."""
    after = Usage.now()
    record = {"started": round(before.at, 3), "ended": round(after.at, 3), **after.since(before)}
    _write(run / ENGINE_FILE, json.dumps(record))


def _report_failure(run: Path) -> None:
    """Write the report of a night that did not end well, and the review of its version where it published one."""
    stale = stale_folders(run)
    if (run / "version").is_dir() and "version" not in stale:
        _run_again(run, "propose", "review", stale)
    _run_again(run, "report", "report", stale)


def stale_folders(run: Path) -> set[str]:
    """Name the outputs that an earlier night left behind what failed: they say nothing about this one."""
    import yaml

    records = [json.loads(path.read_text()) for path in (run / "records").glob("*.json")]
    failed = {record["name"].partition("@")[0] for record in records if record["status"] != STATUS_OF_EXIT[EXIT_DONE]}
    stages = yaml.safe_load((run / "dvc.yaml").read_text())["stages"]
    gives = {name: folders_of(stage, "outs") for name, stage in stages.items()}
    stale: set[str] = set()
    for name, stage in stages.items():  # written in the order in which they run
        if name not in failed and folders_of(stage, "deps") & stale.union(*(gives[each] for each in failed)):
            stale |= gives[name]
    return stale


def folders_of(stage: Mapping[str, Any], key: str) -> set[str]:
    """Give the folders that a stage of dvc.yaml takes or gives; those of a loop by what they have in common."""
    listed = stage.get("do", stage).get(key, [])
    return {(next(iter(item)) if isinstance(item, dict) else item).partition("/${")[0] for item in listed}


def _run_again(run: Path, stage: str, output: str, stale: set[str]) -> None:
    """Run a stage with those of its inputs that this night wrote, outside the engine."""
    shutil.rmtree(run / output, ignore_errors=True)
    command = [sys.executable, "-m", "components", stage, "--params", "params.yaml", f"--{output}", output]
    for port in all_stages()[stage].inputs:
        folder = port.name.replace("verdict_", "gates/")
        given = (run / folder).is_dir() and folder not in stale
        command += [f"--{port.name.replace('_', '-')}", folder] if given else []
    subprocess.run(command, cwd=run, env=_environment(run), check=False)


def _dvc(run: Path, *arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=run, env=environment, check=False, preexec_fn=die_with_parent)


def _environment(run: Path) -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": here + os.pathsep + os.environ.get("PATH", ""),  # dvc.yaml says `python`: the one that runs us
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        RECORDS_VARIABLE: str(run / "records"),
        COMMIT_VARIABLE: code_commit(),
        "DVC_NO_ANALYTICS": "1",
        "CI": "1",  # DVC then looks for no update
        # Large tensors come and go in training; keeping their memory saves a tenth to a third of the time of a step.
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**36),
    }


def code_commit() -> str:
    """Return the commit of the code, marked where files differ from it; empty outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=-changed", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


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
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
