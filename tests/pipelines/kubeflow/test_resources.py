"""Resources: declarations reach Kubernetes, a run can override them, secrets are named only."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.kubernetes import kubernetes_executor_config_pb2

from components.stage.kfp_step import is_of_resources
from components.stage.parameters import build_parameters
from components.stage.registry import all_stages
from components.stage.train_job import TrainJobSettings
from perception.errors import InputError
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.resources import (
    MAX_ITERATIONS,
    NEVER_CACHED,
    Cluster,
    image_of,
    iterations,
    resource_parameters,
)
from pipelines.nightly import build_pipeline
from pipelines.settings import load_settings

SPOT = [
    "cluster.spot=[train_prune]",
    "cluster.spot_node_selector={pool: spot}",
    "cluster.spot_tolerations=[{key: spot, operator: Exists}]",
    "cluster.queue=night",
    "cluster.stages.train_prune.gpu_count=4",
    "cluster.stages.train_prune.memory_gib=64",
    "cluster.stages.train_prune.shared_memory_gib=16",
    "cluster.stages.train_prune.timeout_minutes=600",
]


def compiled(folder: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    target = folder / "night.yaml"
    compile_pipeline("nightly", target, overrides)
    spec, platform = yaml.safe_load_all(target.read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return compiled(tmp_path_factory.mktemp("compiled"))


def every_task(dag: Mapping[str, Any], spec: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return (name, task, component) of every container task."""
    found = []
    for task in dag["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            found += every_task(component["dag"], spec)
        else:
            found.append((task["inputs"]["parameters"]["task"]["runtimeValue"]["constant"], task, component))
    return found


def test_every_steps_kubernetes_settings_parse_strictly(night: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, platform = night
    assert set(platform) == set(spec["deploymentSpec"]["executors"])
    for settings in platform.values():
        json_format.ParseDict(settings, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_every_resource_of_every_stage_is_a_pipeline_parameter(night: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, platform = night
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for name, stage in all_stages().items():
        assert parameters[f"{name}_cpu"]["defaultValue"] == f"{stage.needs.cpu_cores:g}"
        assert parameters[f"{name}_memory"]["defaultValue"] == f"{stage.needs.memory_gib:g}Gi"
        assert (f"{name}_gpus" in parameters) == bool(stage.needs.gpu_count)
    assert parameters["accelerator"]["defaultValue"] == "nvidia.com/gpu"
    for _, _, component in every_task(spec["root"]["dag"], spec):
        label = component["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        stage_name = container["command"][-1]
        asked = container["resources"]
        assert f"{stage_name}_cpu" in asked["resourceCpuRequest"]
        assert f"{stage_name}_memory" in asked["resourceMemoryLimit"]
        assert ("accelerator" in asked) == bool(all_stages()[stage_name].needs.gpu_count)
        kind = "gpu" if "accelerator" in asked else "cpu"
        selector = platform[label]["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"]
        assert selector.endswith(f"{kind}_node_selector")


def test_every_parameter_reaches_the_step_through_the_loops_and_conditions_around_it(
    night: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, platform = night

    def check(dag: Mapping[str, Any], given: set[str]) -> None:
        for task in dag["tasks"].values():
            inputs = task.get("inputs", {}).get("parameters", {})
            named = {item["componentInputParameter"] for item in inputs.values() if "componentInputParameter" in item}
            assert named <= given, task["taskInfo"]["name"]
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                check(component["dag"], set(component.get("inputDefinitions", {}).get("parameters", {})))
                continue
            declared = set(component["inputDefinitions"]["parameters"])
            assert all(is_of_resources(name) for name in set(inputs) - declared), "the step would take it for its own"
            assert not any(is_of_resources(name) for name in declared)
            label = component["executorLabel"]
            container = json.dumps(spec["deploymentSpec"]["executors"][label])
            assert set(re.findall(r"pipelinechannel--\w+", container)) <= set(inputs), task["taskInfo"]["name"]
            # What Kubernetes gets beside the container is resolved where the task stands, not inside it.
            assert set(re.findall(r"pipelinechannel--\w+", json.dumps(platform[label]))) <= given

    check(spec["root"]["dag"], set(spec["root"]["inputDefinitions"]["parameters"]))


def test_retries_caching_and_time_outs(night: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, platform = night
    seen = set()
    for name, task, component in every_task(spec["root"]["dag"], spec):
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        stage = all_stages()[container["command"][-1]]
        last_word = "--never-retried" in container["args"]
        policy = task.get("retryPolicy", {})
        assert policy.get("maxRetryCount", 0) == (0 if last_word else stage.needs.retries), name
        if not last_word:
            assert (policy["backoffDuration"], policy["backoffFactor"]) == ("30s", 2.0)
        assert bool(task["cachingOptions"].get("enableCache")) == (name not in NEVER_CACHED), name
        assert platform[component["executorLabel"]]["activeDeadlineSeconds"] == str(stage.needs.timeout_minutes * 60)
        seen.add((name, last_word))
    assert {
        ("farewell", True),
        ("problem", True),
        ("problem_propose", True),
        ("gate_ingest", True),
        ("gate_ingest", False),
    } <= seen
    assert {name for name, last_word in seen if not last_word} >= set(all_stages()) - {"gate"}


def test_only_a_gate_and_the_farewell_have_the_last_word(
    night: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for label, executor in night[0]["deploymentSpec"]["executors"].items():
        if "--never-retried" in executor["container"]["args"]:
            assert executor["container"]["command"][-1] in ("gate", "report"), label


def test_secrets_come_by_reference_and_git_credentials_only_where_git_is(
    night: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, platform = night
    for label, settings in platform.items():
        (secret,) = settings["secretAsEnv"]
        assert secret["secretName"] == "nightdrive-s3"
        wanted = {item["envVar"] for item in secret["keyToEnv"]}
        assert wanted == {"NIGHTDRIVE_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        stage = all_stages()[spec["deploymentSpec"]["executors"][label]["container"]["command"][-1]]
        assert ("secretAsVolume" in settings) == (stage.needs.image == "versioning")


def test_spot_nodes_queue_and_a_stages_own_override(tmp_path: Path) -> None:
    spec, platform = compiled(tmp_path, *SPOT)
    train = platform["exec-train-prune"]
    assert train["nodeSelector"]["labels"] == {"pool": "spot"}
    assert train["tolerations"][0]["key"] == "spot"
    assert train["pvcMount"][0]["constant"] == "nightdrive-checkpoints"
    assert {mount["mountPath"]: mount.get("sizeLimit") for mount in train["emptyDirMounts"]}["/dev/shm"] == "16Gi"
    assert train["activeDeadlineSeconds"] == "36000"
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["train_prune_gpus"]["defaultValue"] == "4"
    assert parameters["train_prune_memory"]["defaultValue"] == "64Gi"
    assert all(item["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "night"} for item in platform.values())
    retries = {
        name: task["retryPolicy"].get("maxRetryCount", 0)
        for name, task, _ in every_task(spec["root"]["dag"], spec)
        if task.get("retryPolicy")
    }
    assert (retries["train_prune"], retries["adapt"]) == (10, 2)


def test_steps_with_a_gpu_run_from_the_cuda_image(night: tuple[dict[str, Any], dict[str, Any]]) -> None:
    images = load_settings("nightly")["images"]
    assert image_of(all_stages()["score"].needs, images) == "nightdrive-torch-cuda"
    assert image_of(all_stages()["select"].needs, images) == "nightdrive-torch-cpu"
    assert image_of(all_stages()["score"].needs, {"torch": "cpu-only"}) == "cpu-only"
    executors = night[0]["deploymentSpec"]["executors"]
    for executor in executors.values():
        container = executor["container"]
        assert container["image"] == image_of(all_stages()[container["command"][-1]].needs, images)
        assert {"name": "NIGHTDRIVE_IMAGE", "value": container["image"]} in container["env"]


def test_many_shards_share_a_bounded_number_of_iterations(tmp_path: Path) -> None:
    assert iterations(range(16)) == list(range(16))
    assert iterations(range(5000)) == list(range(MAX_ITERATIONS))
    settings = load_settings("nightly") | {"shards": list(range(5000))}
    target = tmp_path / "night.yaml"
    compiler.Compiler().compile(build_pipeline(settings, settings["images"]), str(target))
    spec = next(yaml.safe_load_all(target.read_text()))
    (scored,) = [task for name, task, _ in every_task(spec["root"]["dag"], spec) if name == "score"]
    assert scored["inputs"]["parameters"]["shard_count"]["runtimeValue"]["constant"] == MAX_ITERATIONS
    loops = [task for item in spec["components"].values() for task in item.get("dag", {}).get("tasks", {}).values()]
    raw = [task["parameterIterator"]["items"]["raw"] for task in loops if "parameterIterator" in task]
    assert json.dumps(list(range(MAX_ITERATIONS))) in raw


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"queue": "Not A Name"}, "queue = 'Not A Name'"),
        ({"s3_secret": ""}, "s3_secret = ''"),
        ({"accelerator": "gpu"}, "such as nvidia.com/gpu"),
        ({"spot": ["train"]}, "did you mean 'train_prune'?"),
        ({"stages": {"score": {"memory_gib": 0}}}, "cluster.stages.score.memory_gib = 0.0: must be above 0"),
        ({"stages": {"score": {"memory": 4}}}, "unknown parameter 'memory'"),
        ({"stages": {"score": {"gpu_count": -1}}}, "must not be negative"),
        ({"night_hours": 0}, "night_hours"),
        ({"secret": "x"}, "unknown parameter 'secret'"),
    ],
)
def test_a_mistake_in_the_cluster_section_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        build_parameters(Cluster, given, where="cluster")
    assert said in str(caught.value)


def test_a_cluster_without_gpus_asks_for_none() -> None:
    stages = {name: {"gpu_count": 0} for name, stage in all_stages().items() if stage.needs.gpu_count}
    wanted = resource_parameters(build_parameters(Cluster, {"stages": stages}, where="cluster"))
    assert not [name for name in wanted if name.endswith("_gpus")]


def test_a_training_over_several_nodes_waits_without_a_gpu_and_hands_the_job_what_it_needs(tmp_path: Path) -> None:
    spec, platform = compiled(
        tmp_path, "cluster.nodes.train_prune=4", "cluster.shared_claim=shared", "cluster.stages.train_prune.gpu_count=8"
    )
    container = spec["deploymentSpec"]["executors"]["exec-train-prune"]["container"]
    assert "accelerator" not in container["resources"]
    assert "train_prune_gpus" not in spec["root"]["inputDefinitions"]["parameters"]
    (given,) = [item["value"] for item in container["env"] if item["name"] == "NIGHTDRIVE_TRAIN_JOB"]
    settings = build_parameters(TrainJobSettings, json.loads(given), where="test")
    assert (settings.nodes, settings.gpus_per_node, settings.image) == (4, 8, container["image"])
    mounted = {claim["constant"]: claim["mountPath"] for claim in platform["exec-train-prune"]["pvcMount"]}
    assert mounted["shared"] == settings.folder
    with pytest.raises(InputError, match="train_prune trains over 4 nodes"):
        build_parameters(Cluster, {"nodes": {"train_prune": 4}}, where="cluster")
