"""`make profile`: where the seconds and the bytes of a night on this machine went, from the records in its folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perception.errors import InputError
from pipelines.local.dvc_file import outputs_of
from pipelines.local.run import ENGINE_FILE
from pipelines.nightly import nightly

ENGINE_BAR = 0.10  # of the stages' own work, that the local engine may add
MB = 1e6
_NUMBERS = ("launched", "started", "seconds", "cpu_seconds", "start_cpu_seconds", "read_bytes", "written_bytes")


@dataclass(frozen=True, kw_only=True)
class NightProfile:
    """Say where a night's seconds and bytes went.

    tasks: one row a task of the last call of `make run`, in the order in which they ran: name; seconds of its own work by
    the clock, cpu_seconds of that (more where several cores worked), start_seconds from its command to its work
    (interpreter, imports, waiting for a library to load), read_mb by read calls (from disk or not), written_mb, and
    output_mb that lie in its output folders.
    """

    tasks: pd.DataFrame
    earlier: tuple[str, ...]  # tasks that an earlier call had done
    seconds: float  # of the whole call
    work_seconds: float  # the sum of the tasks' own work
    start_seconds: float  # the sum of what their processes took to start
    between_seconds: float  # the rest: the engine before, between and after the tasks
    engine_share: float  # what is not the tasks' own work, as a share of it
    # processor time that is not the tasks' own work: the engine, starts, loading of libraries
    engine_cpu_seconds: float


def night_profile(run: Path) -> NightProfile:
    """Read a run's folder; raises InputError where no night has run there or its records are from before they said enough."""
    engine = _read(run / ENGINE_FILE, ("started", "ended", "cpu_seconds"))
    records = [_read(path, _NUMBERS) for path in (run / "records").glob("*.json")]
    ran = [each for each in records if each["launched"] >= engine["started"]]
    if not ran:
        raise InputError(f"{run}: the last call found everything done; remove the folder and run the night again")
    tasks = pd.DataFrame(ran).sort_values("launched", ignore_index=True)
    tasks = tasks.assign(
        start_seconds=tasks.started - tasks.launched,
        read_mb=tasks.read_bytes / MB,
        written_mb=tasks.written_bytes / MB,
        output_mb=tasks.name.map(_output_mb(run)).fillna(0.0),
    )
    seconds, work, start = engine["ended"] - engine["started"], tasks.seconds.sum(), tasks.start_seconds.sum()
    return NightProfile(
        tasks=tasks,
        earlier=tuple(sorted(each["name"] for each in records if each["launched"] < engine["started"])),
        seconds=seconds,
        work_seconds=work,
        start_seconds=start,
        between_seconds=seconds - work - start,
        engine_share=seconds / work - 1,
        # The engine's own record holds what its children used, all but the forks of warm processes.
        engine_cpu_seconds=engine["cpu_seconds"] - sum(each["cpu_seconds"] for each in ran if not each.get("forked")),
    )


def _read(path: Path, numbers: Sequence[str]) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run a night with `make run` first") from None
    except ValueError:
        raise InputError(f"{path}: is no JSON; run the night again") from None
    missing = [name for name in numbers if not isinstance(record.get(name), int | float)]
    if missing:
        raise InputError(f"{path}: has no {missing[0]}; run the night again, on Linux")
    return record


def _output_mb(run: Path) -> dict[str, float]:
    """Return the size of what lies in every task's output folders, by task."""
    night = nightly()
    found: dict[str, float] = {}
    for task in night.tasks.values():
        (folder, *more) = outputs_of(night, task)
        if task.over:
            found |= {f"{task.name}@{each.name}": _size_mb(each) for each in (run / folder).glob("*")}
        else:
            found[task.name] = sum(_size_mb(run / each) for each in (folder, *more))
    return found


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB


def profile_text(profile: NightProfile) -> str:
    """Write the profile as a table, the dearest task first, and what the engine adds."""
    lines = [
        f"{'task':20} {'seconds':>8} {'share':>6} {'CPU s':>8} {'start s':>8} {'read MB':>8} {'wrote MB':>8} {'output MB':>9}"
    ]
    for task in profile.tasks.sort_values("seconds", ascending=False, kind="stable").itertuples():
        lines.append(
            f"{task.name:20} {task.seconds:8.1f} {task.seconds / profile.seconds:6.1%} {task.cpu_seconds:8.1f} "
            f"{task.start_seconds:8.2f} {task.read_mb:8.1f} {task.written_mb:8.1f} {task.output_mb:9.1f}"
        )
    whole = profile.tasks.sum(numeric_only=True)
    lines += [
        f"{'the tasks themselves':20} {whole.seconds:8.1f} {whole.seconds / profile.seconds:6.1%} {whole.cpu_seconds:8.1f} "
        f"{whole.start_seconds:8.2f} {whole.read_mb:8.1f} {whole.written_mb:8.1f} {whole.output_mb:9.1f}",
        f"{'starting processes':20} {profile.start_seconds:8.1f} {profile.start_seconds / profile.seconds:6.1%}",
        f"{'the engine between':20} {profile.between_seconds:8.1f} {profile.between_seconds / profile.seconds:6.1%}",
        f"{'the whole night':20} {profile.seconds:8.1f} 100.0%",
        f"the local engine adds {profile.engine_share:.1%} to the tasks' own work "
        f"(bar {ENGINE_BAR:.0%}: {'holds' if profile.engine_share <= ENGINE_BAR else 'falls short'})",
    ]
    beside, cpu = profile.engine_cpu_seconds, whole.cpu_seconds
    lines.append(f"in processor time: {beside:.1f} s beside {cpu:.1f} s of the tasks, {beside / cpu:.1%}")
    if profile.earlier:
        lines.append(f"done by an earlier call, not counted: {', '.join(profile.earlier)}")
    return "\n".join(lines)
