"""One graph, written three times: dvc.yaml, the Kubeflow pipeline and the stage declarations say the same."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.stage.registry import all_stages
from pipelines.kubeflow.compile import compile_pipeline, in_one_order
from pipelines.settings import load_settings, stage_of

ROOT = Path(__file__).parents[2]
Edge = tuple[str, str, str, str]  # task, input port, producing task, its output port


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compiled") / "night.yaml"
    compile_pipeline("nightly", target)
    return target


@pytest.fixture(scope="module")
def spec(compiled: Path) -> dict[str, Any]:
    return dict(next(yaml.safe_load_all(compiled.read_text())))


def dvc_stages() -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def options(command: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = shlex.split(command)
    for position, word in enumerate(words):
        if word.startswith("--"):
            rest = words[position + 1 :]
            end = next((index for index, other in enumerate(rest) if other.startswith("--")), len(rest))
            found[word[2:].replace("-", "_")] = rest[:end]
    return found


def dvc_edges() -> set[Edge]:
    stages = dvc_stages()
    producers = {}
    for task, stage in stages.items():
        for port in stage_of(task).outputs:
            producers[options(stage["cmd"])[port.name][0].replace("${key}", "*").replace("${item}", "*")] = (
                task,
                port.name,
            )
    edges = set()
    for task, stage in stages.items():
        for port in stage_of(task).inputs:
            edges |= {(task, port.name, *producers[folder]) for folder in options(stage["cmd"]).get(port.name, [])}
    return edges


def kfp_edges(spec: dict[str, Any]) -> tuple[set[Edge], dict[str, list[str]]]:
    """Return the artifact edges of the compiled pipeline, and for each task the gates inside whose acceptance it lies."""
    edges: set[Edge] = set()
    inside: dict[str, list[str]] = {}

    def task_name(task: dict[str, Any]) -> str | None:
        constant = task.get("inputs", {}).get("parameters", {}).get("task", {}).get("runtimeValue", {}).get("constant")
        return None if constant is None else str(constant)

    def produced(dag: dict[str, Any], subtask: str, key: str) -> tuple[str, str]:
        task = dag["tasks"][subtask]
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" not in component:
            return str(task_name(task)), key
        selector = component["dag"]["outputs"]["artifacts"][key]["artifactSelectors"][0]
        return produced(component["dag"], selector["producerSubtask"], selector["outputArtifactKey"])

    def walk(dag: dict[str, Any], known: dict[str, tuple[str, str]], gates: list[str]) -> None:
        for task in dag["tasks"].values():
            given = {}
            for port, source in task.get("inputs", {}).get("artifacts", {}).items():
                if "componentInputArtifact" in source:
                    given[port] = known[source["componentInputArtifact"]]
                else:
                    output = source["taskOutputArtifact"]
                    given[port] = produced(dag, output["producerTask"], output["outputArtifactKey"])
            component = spec["components"][task["componentRef"]["name"]]
            name = task_name(task)
            if name is not None:
                edges.update((name, port, *source) for port, source in given.items())
                inside.setdefault(name, gates)
            if "dag" in component:
                label = task["taskInfo"]["name"]
                accepted = [label.removesuffix("-accepted")] if label.endswith("-accepted") else []
                walk(component["dag"], given, gates + accepted)

    walk(spec["root"]["dag"], {}, [])
    return edges, inside


def test_the_kubeflow_pipeline_and_dvc_yaml_have_the_same_edges(spec: dict[str, Any]) -> None:
    edges, _ = kfp_edges(spec)
    assert {edge for edge in edges if edge[0] not in ("farewell", "problem", "problem_propose")} == dvc_edges()


def test_a_gates_acceptance_comes_before_the_same_tasks_in_both(spec: dict[str, Any]) -> None:
    _, inside = kfp_edges(spec)
    for task, stage in dvc_stages().items():
        waits_for = {
            "gate_" + path.removeprefix("gates/") for path in stage.get("deps", []) if path.startswith("gates/")
        }
        if not task.startswith("gate_") and task not in ("propose", "report"):  # these two read every verdict
            innermost = set(inside[task][-1:])
            assert waits_for == innermost, task


@pytest.mark.parametrize("task", list(dvc_stages()))
def test_each_dvc_stage_matches_its_declaration(task: str) -> None:
    stage, declared = dvc_stages()[task], stage_of(task)
    given = options(stage["cmd"])
    assert stage["cmd"].startswith(f"python -m components {declared.name} ")
    ports = {port.name for port in (*declared.inputs, *declared.outputs)}
    assert set(given) - {"task", "params", "set"} == ports
    deps = {path.removesuffix("/*") for port in declared.inputs for path in given[port.name]}
    assert deps <= set(stage.get("deps", []))
    outs = {next(iter(out)) for out in stage["outs"]}
    assert outs == {given[port.name][0] for port in declared.outputs}
    section = task if task.startswith("gate_") else declared.name
    assert stage["params"] == [section, {"code.yaml": [declared.name]}]


def test_every_declared_stage_is_in_the_night() -> None:
    assert {stage_of(task).name for task in dvc_stages()} == set(all_stages())


def test_steps_take_every_parameter_of_their_stage(spec: dict[str, Any]) -> None:
    settings = load_settings("nightly")
    components = spec["components"]
    for name, stage in all_stages().items():
        found = [key for key in components if key == f"comp-{name.replace('_', '-')}"]
        fields = set(stage.parameters.__dataclass_fields__)
        for key in found:
            assert set(components[key].get("inputDefinitions", {}).get("parameters", {})) >= fields, name
    assert settings["profile"] == "nightly"


def test_two_compiles_give_the_same_bytes(compiled: Path, tmp_path: Path) -> None:
    compile_pipeline("nightly", tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == compiled.read_bytes()


def test_another_process_compiles_the_same_bytes(compiled: Path, tmp_path: Path) -> None:
    """Protobuf gives mappings another order in each process, and KFP prints them into the leading comment."""
    command = [
        sys.executable,
        "-m",
        "pipelines.kubeflow.compile",
        "--profile",
        "nightly",
        "--out",
        str(tmp_path / "other.yaml"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "other.yaml").read_bytes() == compiled.read_bytes()
    line = "#    gpu_tolerations: list [Default: [{'key': 'a [1]', 'effect': 'b'}]]"
    assert in_one_order(line) == '#    gpu_tolerations: list [Default: [{"effect": "b", "key": "a [1]"}]]'
    assert json.dumps([{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]) in compiled.read_text()


def test_the_compiled_pipeline_parses_strictly(compiled: Path) -> None:
    documents = list(yaml.safe_load_all(compiled.read_text()))
    json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(documents[1], pipeline_spec_pb2.PlatformSpec())


def test_the_compiled_pipeline_holds_no_secret(compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planted = {name: f"planted-{name.lower()}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GIT_TOKEN")}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    compile_pipeline("nightly", tmp_path / "night.yaml")
    text = (tmp_path / "night.yaml").read_text()
    assert not [value for value in planted.values() if value in text]
    assert text == compiled.read_text()


def test_a_refused_gate_is_not_retried(spec: dict[str, Any]) -> None:
    found = []

    def walk(dag: dict[str, Any], refused: bool) -> None:
        for task in dag["tasks"].values():
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                walk(component["dag"], task["taskInfo"]["name"].endswith("-refused"))
            elif refused:
                found.append(task.get("retryPolicy", {}).get("maxRetryCount", 0))

    walk(spec["root"]["dag"], False)
    assert found == [0] * 7
