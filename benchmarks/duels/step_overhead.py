"""Duel: what a step costs that does nothing, ours against a step of KFP's local runner; and what a gate costs.

Both run the same chain: every step takes the number of the step before and gives one more; all must end with the same
number. Ours: what one step more costs in the local engine of `make run`, DVC over `python -m components.stage STAGE`, from chains
of --steps and of four times as many; the engine's start, once a night, and the bare stage command are printed beside it.
The peer: a step in kfp.local's SubprocessRunner with lightweight components, its import left out and nothing installed. The
bar is a step of ours of at most 0.15 s; the limit is starting a Python interpreter.
The gate: the ingest gate's whole suite over a table of --gate-rows frames, in a process that has the libraries loaded, as
the local engine keeps one (bar: 1 s), and cold. The last line is JSON.
"""

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.duels.duel import dvc_environment, finish, result
from benchmarks.duels.gate_table import write_table
from benchmarks.results import ROOT
from benchmarks.timing import least_seconds

BAR_SECONDS, GATE_BAR_SECONDS = 0.15, 1.0
# One stage that does nothing, through the same contract, records and placing of outputs as the night's own.
STAGE = '''
from dataclasses import dataclass
import sys
from components.stage.command import stage_command
from components.stage.declaration import Needs, Port, Stage
from components.stage.execution import die_with_parent
from components.stage.program import run_program

@dataclass(frozen=True, kw_only=True)
class Parameters:
    """None."""

def run(inputs, outputs, parameters):
    before = inputs.maybe("before")
    number = int((before / "number").read_text()) if before else 0
    (outputs.one("after") / "number").write_text(str(number + 1))

PORT = dict(about="a number")
STAGE = Stage(name="nothing", summary="Add one.", inputs=(Port(name="before", optional=True, **PORT),),
              outputs=(Port(name="after", **PORT),), parameters=Parameters, needs=Needs(image="gates"), run=run)
die_with_parent()
sys.exit(run_program(stage_command(STAGE), sys.argv[1:], "nothing"))
'''
PEER = """
import sys
from kfp import dsl, local

@dsl.component(packages_to_install=[], install_kfp_package=False)
def nothing(number: int) -> int:
    return number + 1

local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
import logging
import time
logging.disable(logging.CRITICAL)
start, number = time.perf_counter(), 0
for _ in range(int(sys.argv[1])):
    number = nothing(number=number).output
print(number, time.perf_counter() - start)
"""


@click.command()
@click.option("--steps", default=5)
@click.option("--rounds", default=3)
@click.option("--gate-rows", default=100000)
def duel(steps: int, rounds: int, gate_rows: int) -> int:
    """Run a step that does nothing in the local engine, against KFP's local runner; and what a gate costs."""
    with tempfile.TemporaryDirectory(prefix="steps-") as made:
        root = Path(made)
        (root / "nothing.py").write_text(STAGE)
        (root / "peer.py").write_text(PEER)
        own, longer, peer = _engine(root, steps), _engine(root, 4 * steps), _peer(root, steps)
        assert own() == peer()[0] == steps, "the chains end with different numbers"
        assert longer() == 4 * steps
        peer_seconds: list[float] = []
        runs: dict[str, Callable[[], object]] = {
            "engine": own,
            "engine, longer": longer,
            "stage": lambda: _stage(root),
            "peer": lambda: peer_seconds.append(peer()[1]),
            "interpreter": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        }
        seconds = least_seconds(runs, rounds) | {"peer": min(peer_seconds)}
        gate = _gate(root, gate_rows)
    return finish(_report(seconds, gate, steps, gate_rows))


def _environment(root: Path) -> dict[str, str]:
    return dvc_environment(PYTHONPATH=str(ROOT), NIGHTDRIVE_RECORDS=str(root / "records"))


def _engine(root: Path, steps: int) -> Callable[[], int]:
    """Return a call that runs the chain of steps anew in DVC, as the local engine does, and gives its last number."""
    folder = root / f"engine{steps}"
    folder.mkdir()
    stages = ["stages:"]
    for number in range(1, steps + 1):
        before = f" --before n{number - 1}" if number > 1 else ""
        stages += [f"  s{number}:", f"    cmd: {sys.executable} ../nothing.py{before} --after n{number}"]
        stages += [f"    deps: [n{number - 1}]"] if number > 1 else []
        stages += [f"    outs: [n{number}: {{cache: false}}]"]
    (folder / "dvc.yaml").write_text("\n".join(stages) + "\n")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, env=_environment(root), check=True)

    def run() -> int:
        subprocess.run([*dvc, "repro", "--force", "--quiet"], cwd=folder, env=_environment(root), check=True)
        return int((folder / f"n{steps}" / "number").read_text())

    return run


def _stage(root: Path) -> None:
    """Run the bare stage command once, as a step of the engine does."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        command = [sys.executable, str(root / "nothing.py"), "--after", f"{folder}/after"]
        subprocess.run(command, env=_environment(root), check=True)


def _peer(root: Path, steps: int) -> Callable[[], tuple[int, float]]:
    """Return a call that runs the chain with kfp.local and gives its last number and seconds, imports left out."""

    def run() -> tuple[int, float]:
        command = [sys.executable, str(root / "peer.py"), str(steps), str(root / "kfp")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        number, seconds = done.stdout.splitlines()[-1].split()
        return int(number), float(seconds)

    return run


def _gate(root: Path, rows: int) -> dict[str, float]:
    """Return the seconds of judging a table, with the libraries loaded (the second time in a process) and cold."""
    folder = root / "gate"
    folder.mkdir()
    write_table(folder, rows)
    program = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            from perception.quality.gate import judge_folders
            verdict = judge_folders([Path(sys.argv[1])], "ingest", {}, today="2026-11-23")
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"cold": seconds[0], "warm": min(seconds[1:]), "checked": verdict.checked}))
        """
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, env=_environment(root), capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _report(seconds: dict[str, float], gate: dict[str, float], steps: int, gate_rows: int) -> dict[str, object]:
    ours = (seconds["engine, longer"] - seconds["engine"]) / (3 * steps)
    peer = seconds["peer"] / steps
    return result(
        "step_overhead",
        ours=ours,
        peer=peer,
        bar=BAR_SECONDS,
        limit_share=seconds["interpreter"] / ours,
        passed=ours <= BAR_SECONDS and gate["warm"] <= GATE_BAR_SECONDS,
        bar_of="seconds a step",
        engine_start_s=seconds["engine"] - steps * ours,
        bare_stage_s=seconds["stage"],
        interpreter_s=seconds["interpreter"],
        gate_warm_s=gate["warm"],
        gate_bar_s=GATE_BAR_SECONDS,
        gate_cold_s=gate["cold"],
        gate_expectations=gate["checked"],
        gate_rows=gate_rows,
    )
