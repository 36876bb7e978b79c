"""The compiled pipeline: the graph's edges, flat, small, the same bytes every time, and no secret in it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.dsl import FAREWELL
from pipelines.kubeflow.nights import read_version
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, load_settings
from tests.pipelines.edges import dvc_edges, graph_edges, kfp_edges, settings_of, steps

ROOT = Path(__file__).parents[3]
NIGHT = nightly()
LARGEST_SPEC_BYTES = 100_000  # a run holds it several times over, and KFP shows nothing more of a run above 1 MiB
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compiled") / "night.yaml"
    compile_pipeline("nightly", target)
    return target


@pytest.fixture(scope="module")
def spec(compiled: Path) -> Spec:
    return dict(next(yaml.safe_load_all(compiled.read_text())))


def test_its_edges_are_the_graphs_and_dvc_yamls(spec: Spec) -> None:
    assert kfp_edges(spec) == graph_edges(NIGHT)
    assert kfp_edges(spec) == dvc_edges(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_it_is_flat_with_one_condition_and_one_loop_a_fan_out(spec: Spec) -> None:
    inside = {name: dags for name, _, _, dags in steps(spec)}
    dags = {key: each["dag"] for key, each in spec["components"].items() if "dag" in each}
    loops = [task for dag in dags.values() for task in dag["tasks"].values() if "parameterIterator" in task]
    conditions = [
        task
        for dag in dags.values()
        for task in dag["tasks"].values()
        if "triggerPolicy" in task and "condition" in task["triggerPolicy"]
    ]
    assert (len(loops), len(conditions)) == (sum(bool(task.over) for task in NIGHT.tasks.values()), 1)
    assert len(dags) == len(loops) + len(conditions) + 1, "beside them only what the exit handler guards"
    assert set(inside) == {*NIGHT.tasks, FAREWELL}
    for name, task in NIGHT.tasks.items():
        assert len(inside[name]) == 1 + task.only_if_news + bool(task.over), name
    assert inside[FAREWELL] == ()


def test_a_step_is_given_its_settings_and_the_number_of_its_loop_and_nothing_else(spec: Spec) -> None:
    for name, task, component, _ in steps(spec):
        over = NIGHT.tasks[name].over if name != FAREWELL else "final_status"
        assert set(task["inputs"]["parameters"]) == {"settings", over} - {""}, name
        assert set(component["inputDefinitions"]["parameters"]) == {"settings", over} - {""}, name
    assert "parameters" not in spec["root"].get("inputDefinitions", {}), "a run has no parameters of its own"


def test_settings_hold_every_parameter_of_a_task_exactly(spec: Spec, tmp_path: Path) -> None:
    settings = load_settings(NIGHT, "nightly", run="nightly")
    for name, task, _, _ in steps(spec):
        declared = NIGHT.tasks["report" if name == FAREWELL else name]
        given = settings_of(task)
        assert given.pop("task") == name
        assert given.pop("_night")["store"] == settings["resolve"]["store"], "where the night's records lie"
        assert set(given) >= set(settings[declared.name]), name
        assert all(given[key] == value for key, value in json.loads(json.dumps(settings[declared.name])).items()), name
        if declared.over:
            assert given[f"{declared.over}_count"] == settings[COUNTS[declared.over]]
    compile_pipeline("nightly", tmp_path / "night.yaml", [f"common.seed={2**53 + 1}"])
    other = next(yaml.safe_load_all((tmp_path / "night.yaml").read_text()))
    assert {settings_of(task).get("seed", 2**53 + 1) for _, task, _, _ in steps(other)} == {2**53 + 1}


def test_what_reads_outside_or_must_not_be_reused_is_never_cached(spec: Spec) -> None:
    for name, task, _, _ in steps(spec):
        cached = bool(task["cachingOptions"].get("enableCache"))
        assert cached == (name != FAREWELL and NIGHT.tasks[name].reusable and not NIGHT.tasks[name].reads_outside), name


def test_a_gate_is_a_plain_step_and_what_it_guards_depends_on_it(spec: Spec) -> None:
    found = {name: (task, dags) for name, task, _, dags in steps(spec)}
    for name, task in NIGHT.tasks.items():
        for gate in task.after:
            # A dependency is between tasks of one DAG: of what lies deeper, the loop or condition around it waits.
            shared = len(found[gate][1])
            around = found[name][1][shared:]
            parent = spec["root"]["dag"] if not shared else spec["components"][f"comp-{found[gate][1][-1]}"]["dag"]
            waiting = parent["tasks"][around[0] if around else name.replace("_", "-")]
            assert gate.replace("_", "-") in waiting["dependentTasks"], f"{name} behind {gate}"


def test_two_compiles_give_the_same_bytes_in_this_process_and_in_another(compiled: Path, tmp_path: Path) -> None:
    compile_pipeline("nightly", tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == compiled.read_bytes()
    program = (
        "import sys; from pathlib import Path; from pipelines.kubeflow.compile import compile_pipeline\n"
        "compile_pipeline('nightly', Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "other.yaml")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "other.yaml").read_bytes() == compiled.read_bytes()


def test_it_parses_strictly_and_is_small(compiled: Path) -> None:
    pipeline, platform = yaml.safe_load_all(compiled.read_text())
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    assert compiled.stat().st_size < LARGEST_SPEC_BYTES


def test_it_holds_no_secret(compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planted = {name: f"planted-{name.lower()}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GIT_TOKEN")}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    compile_pipeline("nightly", tmp_path / "night.yaml")
    text = (tmp_path / "night.yaml").read_text()
    assert not [value for value in planted.values() if value in text]
    assert text == compiled.read_text()


def test_a_version_tells_the_names_of_its_steps_and_what_its_farewell_is_told(spec: Spec, tmp_path: Path) -> None:
    """Kubeflow's API names steps by their keys and knows no parameter of a run but those of its version."""
    version = read_version(spec)
    assert set(version.names.values()) == {*NIGHT.tasks, FAREWELL}
    assert version.names["gate-ingest"] == "gate_ingest"
    night = load_settings(NIGHT, "nightly")
    assert (version.night.store, version.night.hours) == (night["resolve"]["store"], 20.0)
    compile_pipeline("nightly", tmp_path / "night.yaml", ["select.budget_frames=7", "cluster.watch_retries=0"])
    other = read_version(next(yaml.safe_load_all((tmp_path / "night.yaml").read_text())))
    assert other.parameters["settings"]["select.budget_frames"] == "7", "the parameters of this run, no defaults"
    assert other.night.watch_retries == 0


def test_the_farewell_tells_the_night_without_artifacts(spec: Spec) -> None:
    ((task, component),) = [(task, component) for name, task, component, _ in steps(spec) if name == FAREWELL]
    assert "artifacts" not in task["inputs"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
    assert executor["container"]["command"] == ["python", "-m", "components.stage", "report"]
