"""kill -9 of every stage at random points: the run that follows must end in the same night as an undisturbed one."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.stage.program import EXIT_DONE
from components.stage.seal import check_seal
from perception.errors import InputError
from tests.faults.counting import Count, counted
from tests.faults.nights import Task, clear, content, run_task, tasks_of, write_night

ATTEMPTS = 6  # a task that ends before it is killed is run again and killed earlier


@dataclass(frozen=True)
class Undisturbed:
    """A night that nothing happened to: how long each task took, and what it gave."""

    run: Path
    seconds: dict[str, float]
    content: dict[str, str]


def undisturbed_night(folder: Path, only: Sequence[str] = ()) -> Undisturbed:
    """Run a tiny night, or the named tasks of it, and keep what it gave."""
    run = write_night(folder)
    seconds = {}
    for task in chosen_tasks(run, only):
        ended = run_task(task, run)
        assert ended.code == EXIT_DONE, f"{task.name}: {ended.said[-2000:]}"
        seconds[task.name] = ended.seconds
    return Undisturbed(run, seconds, content(run))


def chosen_tasks(run: Path, only: Sequence[str]) -> list[Task]:
    """Return the tasks of a run in their order; only those of the named stages where some are named."""
    return [task for task in tasks_of(run) if not only or task.name.partition("@")[0] in only]


def kill_campaign(folder: Path, undisturbed: Undisturbed, seeds: Sequence[int], only: Sequence[str] = ()) -> Count:
    """Kill every task of a night once a seed, run it again each time, and compare the night with the undisturbed one.

    Odd seeds kill the task's process alone and leave its children behind; even ones kill them too.
    """
    endings: list[str] = []
    kills = 0
    for seed in seeds:
        generator = random.Random(seed)
        run = write_night(folder / f"seed{seed}")
        faults: dict[str, str] = {}
        for task in chosen_tasks(run, only):
            killed, fault = _kill_and_resume(task, run, undisturbed.seconds[task.name], generator, seed % 2 == 0)
            kills += killed
            faults[task.name] = f"seed {seed}, {fault}" if fault else "correct"
        if content(run) != undisturbed.content:
            changed = different(content(run), undisturbed.content)
            faults["night"] = f"seed {seed}: the night differs from an undisturbed one in {', '.join(changed[:6])}"
        endings += faults.values()
    return counted("kill -9 of every stage", endings, kills)


def different(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name the files that only one of two nights has, or that differ."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def _kill_and_resume(
    task: Task, run: Path, usual_seconds: float, generator: random.Random, whole_group: bool
) -> tuple[int, str]:
    """Kill the task at a random point of its work and run it again; return the number of kills and what went wrong."""
    delay_seconds = generator.uniform(0.0, 0.95) * usual_seconds
    for _ in range(ATTEMPTS):
        ended = run_task(task, run, kill_after_seconds=delay_seconds, whole_group=whole_group)
        if ended.code < 0:
            break
        clear(task, run)
        delay_seconds /= 2
    else:
        return 0, f"{task.name} was never killed: it always ended before"
    half = [folder for folder in task.gives if not _absent_or_whole(run / folder)]
    clear(task, run)  # the engine does not know that it ended, and makes room
    again = run_task(task, run)
    if half:
        return 1, f"{task.name}: after the kill {half[0]} looks finished and is not whole"
    if again.code != EXIT_DONE:
        return 1, f"{task.name}: the run after the kill ended with {again.code}: {again.said[-300:]}"
    return 1, ""


def _absent_or_whole(folder: Path) -> bool:
    if not folder.exists():
        return True
    try:
        check_seal(folder)
    except InputError:
        return False
    return (folder / "seal.json").is_file()
