"""A night of smoke size, stage by stage: each stage's `run` in turn, without DVC, kfp or Great Expectations.

    python -m tests.gpu.night FOLDER INTO TASK [TASK ...]     run tasks here: what they take lies in FOLDER, what they give in INTO

What needs a registry, a gate or a page is left out. The processes that torchrun starts work on one call together.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.stage.declaration import Paths
from components.stage.execution import TRAINING_STATE_VARIABLE, die_with_parent
from components.stage.parameters import build_parameters
from components.stage.records import is_first_process, log
from components.stage.results import RESULTS
from pipelines.graph import Artifact, Task
from pipelines.local.dvc_file import folder_of
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, load_settings

TASKS = (
    "resolve",
    "ingest",
    "gather",
    "ensemble",
    "score",
    "select",
    "compare",
    "curate",
    "adapt",
    "train_prune",
    "compress",
    "evaluate",
    "report",
)
LEFT_OUT = {
    "publish, propose": "write to a registry's remote, for which DVC's format and blake3 are needed",
    "the gates": "need Great Expectations; like these three they run from images without torch",
}
KILL_VARIABLE = "NIGHTDRIVE_TEST_KILL_AFTER"  # steps of training, after which the process kills itself
GRAPHS = {"ensemble": 1, "compare": 2, "adapt": 3, "train_prune": 3}  # recorded: the pruned network's is recorded anew


class Night:
    """Hold the night's graph and settings, and the folder that its artifacts lie in."""

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        self.graph, self.folder = nightly(), folder
        kept = {name: folder.resolve() / name for name in ("store", "registry", "remote")}
        common = ("batches=1", *(f"common.{name}={path}" for name, path in kept.items()))
        self.settings = load_settings(self.graph, "smoke", [*common, *overrides])

    def run(self, name: str, into: Path | None = None) -> None:
        """Run every call of a task; `into` is another folder for what it gives."""
        task, place = self.graph.tasks[name], into or self.folder
        shutil.rmtree(
            self.folder / "store" / RESULTS, ignore_errors=True
        )  # nothing is taken from a run on another device
        for number in range(self.settings[COUNTS[task.over]]) if task.over else [None]:
            given = self.settings[name] | ({} if number is None else {task.over: number})
            parameters = build_parameters(task.stage.parameters, given, where=name)
            outputs = {port.name: (place / self._given(task, port.name, number),) for port in task.stage.outputs}
            for (folder,) in outputs.values():
                folder.mkdir(parents=True, exist_ok=True)
            task.stage.run(Paths(self._taken(task, number)), Paths(outputs), parameters)

    def _given(self, task: Task, port: str, number: int | None) -> Path:
        folder = Path(folder_of(self.graph, Artifact(task.name, port)))
        return folder if number is None else folder / str(number)

    def _taken(self, task: Task, number: int | None) -> dict[str, tuple[Path, ...]]:
        shared_out = {port.name for port in task.stage.inputs if port.shares}
        optional = {port.name for port in task.stage.inputs if port.optional}
        taken = {}
        for port, artifacts in task.takes.items():
            folders = [self.folder / folder_of(self.graph, artifact) for artifact in artifacts]
            if port in shared_out:
                folders = [folder / str(number) for folder in folders]
            elif any(artifact.over for artifact in artifacts):
                folders = [each for folder in folders for each in sorted(folder.iterdir())]
            taken[port] = tuple(folder for folder in folders if port not in optional or folder.is_dir())
        return {port: folders for port, folders in taken.items() if folders}


def keep_states_at_once() -> None:
    """Let trainings keep their state at every step, and kill this process, as by kill -9, after so many where asked."""
    from components.adapt import networks
    from components.stage import learning

    kept, left = learning.training_state, [int(os.environ.get(KILL_VARIABLE, "0"))]

    def state(*given: Any) -> Any:
        found = kept(*given)
        return found and replace(found, every_minutes=1e-9)

    def progress_line(what: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                print(f"killed at step {done} of {total} of {what}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        return report

    for module in (learning, networks):
        module.training_state, module.progress_line = state, progress_line  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> int:
    """Run the tasks that are named, in this process; return 1 where a GPU did not record every training."""
    from perception.training.captured import CapturedStep
    from perception.training.distributed import process_group, world_size
    from perception.training.setup import best_device

    die_with_parent()  # torchrun's processes too, when the whole test runs out of time
    folder, into, *tasks = arguments
    night, place = Night(Path(folder)), Path(into) if is_first_process() else Path(into) / f"rank{os.environ['RANK']}"
    recorded, record = [0], CapturedStep._record

    def counted(self: CapturedStep, batch: Any) -> None:
        recorded[0] += 1
        record(self, batch)

    CapturedStep._record = counted  # type: ignore[method-assign]
    resumes = TRAINING_STATE_VARIABLE in os.environ
    if resumes:
        keep_states_at_once()
    all_recorded = True
    with process_group(best_device()):
        for name in tasks:
            recorded[0], started = 0, time.monotonic()
            night.run(name, place)
            log(f"{name}: done in {time.monotonic() - started:.1f} s, {recorded[0]} graphs recorded")
            # Several processes record none, and what was kept of a training need not be recorded again.
            whole = best_device() != "cpu" and world_size() == 1 and not resumes
            all_recorded &= not whole or recorded[0] == GRAPHS.get(name, 0)
    if not all_recorded:
        log(f"a GPU must record so many graphs: {GRAPHS}")
    return 0 if all_recorded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
