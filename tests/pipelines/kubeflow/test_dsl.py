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

from components.stage.parameters import build_parameters
from perception.errors import InputError
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.dsl import FAREWELL
from pipelines.kubeflow.nights import read_version
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, load_settings
from tests.pipelines.edges import dvc_edges, graph_edges, kfp_edges, settings_of, steps, waits_for

ROOT = Path(__file__).parents[3]
NIGHT = nightly()
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


def test_it_is_flat_with_one_condition_and_no_loop(spec: Spec) -> None:
    inside = {name: dags for name, _, _, dags in steps(spec)}
    dags = {key: each["dag"] for key, each in spec["components"].items() if "dag" in each}
    tasks = [task for dag in dags.values() for task in dag["tasks"].values()]
    conditions = [task for task in tasks if "condition" in task.get("triggerPolicy", {})]
    assert not [task for task in tasks if "parameterIterator" in task], (
        "each turn of a loop would cost 60 kB of the run"
    )
    assert (len(conditions), len(dags)) == (1, 2), "beside the condition only what the exit handler guards"
    assert set(inside) == {*NIGHT.tasks, FAREWELL}
    for name, task in NIGHT.tasks.items():
        assert len(inside[name]) == 1 + task.only_if_news, name
    assert inside[FAREWELL] == ()


def test_a_step_is_given_its_settings_and_nothing_else(spec: Spec) -> None:
    for name, task, component, _ in steps(spec):
        given = {"settings"} | ({"final_status"} if name == FAREWELL else set())
        assert set(task["inputs"]["parameters"]) == given, name
        assert set(component["inputDefinitions"]["parameters"]) == given, name
        assert "artifacts" not in task["inputs"], f"{name}: an artifact that it takes costs 6 kB of the run"
    assert "parameters" not in spec["root"].get("inputDefinitions", {}), "a run has no parameters of its own"


def test_settings_hold_every_parameter_of_a_task_exactly(spec: Spec, tmp_path: Path) -> None:
    settings = load_settings(NIGHT, "nightly", run="nightly")
    for name, task, _, _ in steps(spec):
        declared = NIGHT.tasks["report" if name == FAREWELL else name]
        given = settings_of(task)
        assert given.pop("step")["task"] == name
        assert given.pop("_night")["store"] == settings["resolve"]["store"], "where the night's records lie"
        wanted = json.loads(json.dumps(settings[declared.name]))
        wanted.pop("settings", None)  # of the report: its records tell it those of all tasks
        over = {declared.over: 0} if declared.over else {}
        kept, asked = (
            build_parameters(declared.stage.parameters, {key: each[key] for key in wanted} | over, where=name)
            for each in (given, wanted)
        )
        assert kept == asked, name
        if declared.over:
            assert given[f"{declared.over}_count"] == settings[COUNTS[declared.over]]
    compile_pipeline("nightly", tmp_path / "night.yaml", [f"common.seed={2**53 + 1}"])
    other = next(yaml.safe_load_all((tmp_path / "night.yaml").read_text()))
    assert {settings_of(task).get("seed", 2**53 + 1) for _, task, _, _ in steps(other)} == {2**53 + 1}


def test_no_step_is_taken_from_the_cache(spec: Spec) -> None:
    """Its key is image, command and parameters: what a step reads outside or takes from others is no part of it."""
    assert not [name for name, task, _, _ in steps(spec) if task["cachingOptions"].get("enableCache")]


def test_a_gate_is_a_plain_step_and_what_it_guards_depends_on_it(spec: Spec) -> None:
    waiting = waits_for(spec)
    for name, task in NIGHT.tasks.items():
        assert task.sources() <= waiting[name], f"{name} does not wait for {task.sources() - waiting[name]}"
    assert len(NIGHT.gates) == 7
    for gate in NIGHT.gates.values():
        guarded = {name for name, task in NIGHT.tasks.items() if gate.name in task.sources()}
        assert guarded, gate.name
        (component,) = (component for name, _, component, _ in steps(spec) if name == gate.name)
        assert "parameters" not in component["outputDefinitions"], "nothing can branch on a verdict: it exits with 3"


def test_a_fan_out_is_told_what_counts_its_shares_and_whoever_gathers_takes_each(spec: Spec) -> None:
    about = {name: settings_of(task)["step"] for name, task, _, _ in steps(spec)}
    assert {name: said["over"] for name, said in about.items() if "over" in said} == {
        "ingest": "batch",
        "score": "shard",
    }
    assert about["gather"]["takes"]["arrived"] == ["ingest.arrived/16"]
    assert about["select"]["takes"]["scores"] == ["score.scores/16"]


def test_kubeflows_pages_show_the_report_its_figures_the_confusion_and_the_gates_reasons(spec: Spec) -> None:
    shown = {
        (name, output): definition["artifactType"]["schemaTitle"]
        for name, _, component, _ in steps(spec)
        for output, definition in component["outputDefinitions"].get("artifacts", {}).items()
        if definition["artifactType"]["schemaTitle"] != "system.Artifact"
    }
    assert shown == {
        **{(gate.name, "reasons"): "system.Markdown" for gate in NIGHT.gates.values()},
        **{(name, "page"): "system.HTML" for name in ("report", FAREWELL, "propose")},
        **{(name, "figures"): "system.Metrics" for name in ("report", FAREWELL)},
        ("evaluate", "confusion"): "system.ClassificationMetrics",
    }


def test_steps_are_called_by_the_names_that_people_know(spec: Spec) -> None:
    assert {task["taskInfo"]["name"] for _, task, _, _ in steps(spec)} == {*NIGHT.tasks, FAREWELL}


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


def test_it_parses_strictly(compiled: Path) -> None:
    pipeline, platform = yaml.safe_load_all(compiled.read_text())
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())


@pytest.mark.parametrize(
    "value",
    ["{{workflow.name}}", "{{channel:task=;name=x;type=String;}}", "{{$.inputs}}", "$(AWS_SECRET_ACCESS_KEY)", "5$$"],
)
def test_a_parameter_that_the_backend_would_rewrite_is_refused(tmp_path: Path, value: str) -> None:
    """Argo and Kubeflow put values in for {{...}}, Kubernetes the environment for $(NAME) in a command, and $ for $$."""
    with pytest.raises(InputError, match="a parameter holds"):
        compile_pipeline("nightly", tmp_path / "night.yaml", [f"common.store='s3://bucket/{value}'"])


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
    compile_pipeline("nightly", tmp_path / "night.yaml", ["cluster.watch_retries=0", "report.height_px=64"])
    other = read_version(next(yaml.safe_load_all((tmp_path / "night.yaml").read_text())))
    assert other.parameters["height_px"] == 64, "the parameters of this run, no defaults"
    assert other.night.watch_retries == 0


def test_the_farewell_tells_the_night_without_artifacts(spec: Spec) -> None:
    ((task, component),) = [(task, component) for name, task, component, _ in steps(spec) if name == FAREWELL]
    assert "artifacts" not in task["inputs"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
    assert executor["container"]["command"] == ["python", "-m", "components.stage", "report"]
