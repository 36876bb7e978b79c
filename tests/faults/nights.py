"""The smallest whole night: every stage does real work, in seconds; its figures mean nothing."""

import contextlib
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from components.stage.command import main
from components.stage.program import EXIT_DONE
from components.stage.records import RECORDS_VARIABLE
from components.stage.registry import all_stages
from pipelines.local.dvc_file import ITEM
from pipelines.nightly import nightly
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
TINY = (
    "resolve.night_date=2026-11-30",
    "common.height_px=32",
    "common.width_px=64",
    "common.batch_frames=4",
    "sources.fleet.drives=8",
    "sources.fleet.frames_per_drive=3",
    "sources.fleet.initial_labelled_frames=6",
    "sources.simulator.drives=8",
    "sources.frozen_test.drives=10",
    "sources.frozen_test.frames_per_drive=1",
    "ensemble.epochs=1",
    "ensemble.epoch_frames=8",
    "select.budget_frames=4",
    "compare.epochs=1",
    "compare.epoch_frames=8",
    "adapt.epochs=1",
    "adapt.epoch_frames=8",
    "adapt.pseudo_frames=4",
    "adapt.student_epochs=1",
    "adapt.detector_epochs=1",
    "train_prune.epochs=2",
    "train_prune.epoch_frames=8",
    "train_prune.press_epochs=1",
    "train_prune.latency_share=1.0",
    "compress.latency_repeats=3",
    "evaluate.shift_frames=2",
)


@dataclass(frozen=True)
class Task:
    """One call of a stage, as dvc.yaml writes it down."""

    name: str
    words: tuple[str, ...]  # of its command line behind `python -m components.stage`
    gives: tuple[str, ...]  # its output folders, relative to the run


@dataclass(frozen=True)
class Ended:
    """How a forked task ended."""

    code: int  # its exit code, or minus the signal that killed it
    seconds: float
    said: str  # what it printed


def write_night(runs: Path, run: str = "night", overrides: Sequence[str] = ()) -> Path:
    """Write the parameters of a tiny night; return its folder."""
    folder = runs / run
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(nightly(), "smoke", [*TINY, *overrides], run=run)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=True))
    return folder


def tasks_of(run: Path) -> list[Task]:
    """Read every task of dvc.yaml in its order, loops unrolled with the parameters of the run."""
    settings = yaml.safe_load((run / "params.yaml").read_text())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = []
    for name, stage in stages.items():
        if "foreach" in stage:
            count = settings[stage["foreach"].strip("${}")]
            found += [_task(f"{name}@{number}", stage["do"], str(number)) for number in range(count)]
        else:
            found.append(_task(name, stage, ""))
    return found


def _task(name: str, stage: Mapping[str, Any], item: str) -> Task:
    command = stage["cmd"].replace(ITEM, item)
    gives = tuple(next(iter(out)).replace(ITEM, item) for out in stage["outs"])
    return Task(name, tuple(shlex.split(command.removeprefix("python -m components.stage "))), gives)


def first_ingest(run: Path) -> Task:
    """List what has arrived, with a store of its own, and return the task that takes in the first batch of it."""
    resolve, ingest = tasks_of(run)[:2]
    listed = run_task(resolve, run, more=["--set", f"store={run / 'unused'}"])
    assert listed.code == EXIT_DONE, listed.said
    return ingest


# torch._dynamo is what torch loads by itself when the first optimiser is made.
LIBRARIES = (
    "torch", "torch._dynamo", "pandas", "pyarrow.dataset", "cv2", "scipy.ndimage", "onnx", "onnxruntime",
    "great_expectations", "perception.training.loop", "perception.quality.gate", "perception.quality.expectations",
    "perception.compression.export", "perception.uncertainty.ensemble", "perception.reporting.page",
)  # fmt: skip


def load_libraries(libraries: Sequence[str] = LIBRARIES) -> None:
    """Load once what stages load, so that a fork of this process starts with its own work."""
    for name in (*libraries, *(f"components.{stage}" for stage in all_stages())):
        importlib.import_module(name)


def run_task(
    task: Task,
    run: Path,
    *,
    kill_after_seconds: float | None = None,
    whole_group: bool = False,
    before: Callable[[], None] | None = None,
    more: Sequence[str] = (),
) -> Ended:
    """Run a task in a fork of this process as `python -m components.stage` would; SIGKILL it after some seconds where asked.

    whole_group: its children die with it; otherwise they are left behind, as when a container's first process is killed.
    before: called in the fork first, to break something there.
    """
    log = run / f"{task.name}.log"
    log.write_text("")
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _become_task(task, run, log, before, more)
    with contextlib.suppress(OSError):  # the fork does so too; whoever comes first
        os.setpgid(process, process)
    limit = 300.0 if kill_after_seconds is None else kill_after_seconds
    code = _wait(process, started + limit)
    if code is None:
        (os.killpg if whole_group else os.kill)(process, signal.SIGKILL)
        code = _wait(process, started + limit + 60)
        assert code is not None, f"{task.name} outlived SIGKILL"
    return Ended(code, time.monotonic() - started, log.read_text())


def _wait(process: int, until: float) -> int | None:
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def _become_task(task: Task, run: Path, log: Path, before: Callable[[], None] | None, more: Sequence[str]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(run)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(target, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ[RECORDS_VARIABLE] = str(run / "records")
        if before:
            before()
        code = main([*task.words, *more])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def clear(task: Task, run: Path) -> None:
    """Remove what the task gave, as the engine does before it runs a task again."""
    for folder in task.gives:
        shutil.rmtree(run / folder, ignore_errors=True)


# ---------------------------------------------------------------- what a night gave, without what time changes

VOLATILE = re.compile(
    r"seconds|latency|_utc$|^commit$|cost|peak_rss|^run$|^night$|^started$|^launched$|^forked$|(read|written)_bytes$|"
    r"^model_sha256$|^commands$"
)
NOT_COMPARED = (
    "seal.json",
    "card.md",
    "latency.json",
    "report.html",
    "review.html",
    "review.md",
    "query.json",
    "verdict.md",
)


def content(run: Path) -> dict[str, str]:
    """Give a digest of every file that the tasks gave: of its bytes, or of its values without times and latencies."""
    folders = sorted({folder.partition("/")[0] for task in tasks_of(run) for folder in task.gives})
    files = [path for folder in folders for path in sorted((run / folder).rglob("*")) if path.is_file()]
    return {
        path.relative_to(run).as_posix(): _digest(path, run.name) for path in files if path.name not in NOT_COMPARED
    }


def content_of(folder: Path, run_name: str) -> dict[str, str]:
    """Give a digest of every file of one artifact, by its path in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in NOT_COMPARED]
    return {path.relative_to(folder).as_posix(): _digest(path, run_name) for path in files}


def _digest(path: Path, run_name: str) -> str:
    if path.suffix == ".json":
        text = path.read_text().replace(f"data/{run_name}-", "data/night-").replace(f"runs/{run_name}-", "runs/night-")
        data = json.dumps(_lasting(json.loads(text)), sort_keys=True).encode()
    elif path.name == "gate.parquet":
        table = pd.read_parquet(path)
        data = (
            (table[~table.get("gate_id", table.index.to_series()).astype(str).str.contains("latency")])
            .to_csv()
            .encode()
        )
    else:
        data = path.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(each) for name, each in value.items() if not VOLATILE.search(name)}
    if isinstance(value, list):
        lasting = [_lasting(each) for each in value]
        named_each = all(isinstance(each, dict) and "name" in each for each in lasting)
        return (
            sorted(lasting, key=lambda each: str(each["name"])) if named_each else lasting
        )  # stages stand in order of time
    return value
