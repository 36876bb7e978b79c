"""dvc.yaml: the committed one is the derived one, DVC reads it, and it has the graph's edges."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.local.dvc_file import dvc_file, outputs_of
from pipelines.nightly import nightly
from tests.pipelines.edges import dvc_edges, graph_edges, options

ROOT = Path(__file__).parents[3]
NIGHT = nightly()
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_the_committed_file_is_the_derived_one() -> None:
    assert (ROOT / "dvc.yaml").read_text() == dvc_file(NIGHT), "run `make dag`"


def test_dvc_reads_it(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(dvc_file(NIGHT))
    (tmp_path / "params.yaml").write_text("{batches: [0, 1, 2], shards: [0, 1]}")
    for words in (["init", "--no-scm", "--quiet"], ["stage", "list", "--name-only"]):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    counts = {"batch": 3, "shard": 2, "": 0}
    names = [
        [f"{task.name}@{number}" for number in range(counts[task.over])] or [task.name] for task in NIGHT.tasks.values()
    ]
    assert sorted(done.stdout.split()) == sorted(name for each in names for name in each)


def test_its_edges_are_the_graphs() -> None:
    assert dvc_edges(STAGES) == graph_edges(NIGHT)


@pytest.mark.parametrize("name", list(NIGHT.tasks))
def test_each_stage_matches_its_declaration(name: str) -> None:
    task, stage = NIGHT.tasks[name], STAGES[name].get("do", STAGES[name])
    given = options(stage["cmd"])
    assert stage["cmd"].startswith(f"python -m components.stage {task.stage.name} ")
    taken = {port.name for port in task.stage.inputs if port.name in task.takes}
    assert set(given) - {"task", "params", "set"} == taken | {port.name for port in task.stage.outputs}
    assert {folder.removesuffix("/*") for port in taken for folder in given[port]} <= set(stage.get("deps", []))
    for gate in task.after:
        assert set(outputs_of(NIGHT, NIGHT.tasks[gate])) <= set(stage["deps"]), "it runs only behind its gates"
    assert {next(iter(out)) for out in stage["outs"]} == {given[port.name][0] for port in task.stage.outputs}
    assert stage["params"] == [name, {"code.yaml": [task.stage.name]}]
    assert ("foreach" in STAGES[name]) == bool(task.over)


@pytest.mark.parametrize("name", list(NIGHT.tasks))
def test_what_must_not_be_reused_is_asked_again_on_every_run(name: str) -> None:
    stage = STAGES[name].get("do", STAGES[name])
    assert stage.get("always_changed", False) == (not NIGHT.tasks[name].reusable)
