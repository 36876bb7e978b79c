"""Resources: declarations and params.yaml reach Kubernetes, secrets are named only."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from components.stage.indexed_job import IndexedJobSettings
from components.stage.parameters import build_parameters
from components.stage.registry import all_stages
from components.stage.train_job import TrainJobSettings
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.preflight import wanted_by
from pipelines.kubeflow.resources import CREDENTIALS, GIT_FOLDER, image_of
from pipelines.nightly import nightly
from pipelines.settings import load_settings
from tests.pipelines.edges import steps

FAN_OUTS = {"ingest", "score"}
CONFINED = {"runAsUser": "10001", "runAsNonRoot": True}
Night = tuple[dict[str, Any], dict[str, Any]]

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


def compiled(folder: Path, *overrides: str) -> Night:
    target = folder / "night.yaml"
    compile_pipeline("nightly", target, overrides)
    spec, platform = yaml.safe_load_all(target.read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return compiled(tmp_path_factory.mktemp("compiled"))


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the container of every step, by its task."""
    executors = spec["deploymentSpec"]["executors"]
    return {name: executors[component["executorLabel"]]["container"] for name, _, component, _ in steps(spec)}


def test_every_steps_kubernetes_settings_parse_strictly(night: Night) -> None:
    spec, platform = night
    assert set(platform) == set(spec["deploymentSpec"]["executors"])
    for settings in platform.values():
        json_format.ParseDict(settings, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_a_step_asks_for_what_its_stage_declares(night: Night) -> None:
    for name, container in containers(night[0]).items():
        needs = all_stages()[container["command"][-1]].needs
        if name in FAN_OUTS:
            needs = dataclasses.replace(needs, cpu_cores=0.25, memory_gib=1.0, gpu_count=0)  # it waits for its job
        asked = container["resources"]
        assert asked["resourceCpuRequest"] == f"{needs.cpu_cores:g}", name
        assert asked["resourceMemoryRequest"] == asked["resourceMemoryLimit"] == f"{needs.memory_gib:g}Gi", name
        gpus = asked.get("accelerator", {"resourceType": "nvidia.com/gpu", "resourceCount": "0"})
        assert (gpus["resourceType"], gpus["resourceCount"]) == ("nvidia.com/gpu", str(needs.gpu_count)), name


def test_resources_come_from_the_settings_and_a_run_has_no_parameter_for_them(tmp_path: Path) -> None:
    overrides = [
        "cluster.stages.compare.gpu_count=0",
        "cluster.stages.compare.cpu_cores=7",
        "cluster.accelerator=amd.com/gpu",
    ]
    spec, _ = compiled(tmp_path, *overrides)
    found = containers(spec)
    assert "accelerator" not in found["compare"]["resources"]
    assert found["compare"]["resources"]["resourceCpuRequest"] == "7"
    assert found["compare"]["image"] == "nightdrive-torch-cpu"
    assert found["adapt"]["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    assert "pipelinechannel" not in json.dumps(spec["deploymentSpec"])


def test_retries_and_time_outs(night: Night) -> None:
    spec, platform = night
    for name, task, component, _ in steps(spec):
        stage = all_stages()[containers(spec)[name]["command"][-1]]
        policy = task.get("retryPolicy")
        if stage.needs.timeout_minutes > 60:
            assert policy is None, f"{name}: the backend would end its second try an hour after the first began"
        else:
            assert policy == {
                "maxRetryCount": stage.needs.retries,
                "backoffDuration": "30s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "3600s",  # compiled in by KFP, whatever is asked for
            }, name
        assert platform[component["executorLabel"]]["activeDeadlineSeconds"] == str(stage.needs.timeout_minutes * 60)
        said = f"{name}: a namespace that enforces `restricted` turns its pod away"
        assert platform[component["executorLabel"]]["securityContext"] == CONFINED, said


def test_secrets_come_by_reference_and_git_credentials_only_where_git_is(night: Night) -> None:
    for label, settings in night[1].items():
        mounted = {secret["secretName"]: secret["mountPath"] for secret in settings["secretAsVolume"]}
        assert mounted.pop("nightdrive-s3") == "/secrets/s3", label
        holds_key = label in {f"exec-{name}" for name in ("resolve", "gather", "publish", "propose", "farewell")}
        assert mounted == ({"nightdrive-git": "/secrets/git"} if holds_key else {}), label


def test_the_nights_own_key_is_held_by_the_steps_that_write_the_registry_alone(tmp_path: Path) -> None:
    spec, platform = compiled(tmp_path, "cluster.signing_secret=nightdrive-signing")
    writers = {task.name for task in nightly().tasks.values() if task.writes_registry} | {"farewell"}
    assert writers == {"publish", "propose", "farewell"}
    for label, settings in platform.items():
        mounted = {secret["secretName"]: secret["mountPath"] for secret in settings["secretAsVolume"]}
        assert mounted.get("nightdrive-signing") == (
            "/secrets/signing" if label.removeprefix("exec-") in writers else None
        ), label
    for name, container in containers(spec).items():
        given = {each["name"]: each["value"] for each in container.get("env", [])}
        wanted = (
            ("2", "user.signingKey", "/secrets/signing/key")
            if name in writers
            else (given.get("GIT_CONFIG_COUNT"), None, None)
        )
        assert tuple(given.get(f"GIT_CONFIG_{each}") for each in ("COUNT", "KEY_1", "VALUE_1")) == wanted, name
    assert wanted_by(tmp_path / "night.yaml").secrets["nightdrive-signing"] == ("key",)


def test_whoever_else_is_told_is_known_to_the_farewell_alone(tmp_path: Path) -> None:
    compile_pipeline("nightly", tmp_path / "night.yaml", ["cluster.outside_secret=nightdrive-outside"])
    _, platform = yaml.safe_load_all((tmp_path / "night.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {
        label: secret["mountPath"]
        for label, settings in executors.items()
        for secret in settings["secretAsVolume"]
        if secret["secretName"] == "nightdrive-outside"
    }
    assert mounted == {"exec-farewell": "/secrets/outside"}
    assert wanted_by(tmp_path / "night.yaml").secrets["nightdrive-outside"] == ()


def test_git_reads_the_mounted_credentials_and_never_writes_them(tmp_path: Path) -> None:
    """The secret is read-only: a helper that stores what worked waits a second for its lock, at every call of git."""
    file = tmp_path / "credentials"
    file.write_text("https://ada:s3cret@git.example\n")
    helper, value = CREDENTIALS
    given = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": helper,
        "GIT_CONFIG_VALUE_0": value.replace(GIT_FOLDER, str(tmp_path)),
    }
    environment = {**os.environ, **given, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(operation: str, said: str) -> str:
        command = ["git", "credential", operation]
        done = subprocess.run(command, input=said, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    assert "password=s3cret" in git("fill", "protocol=https\nhost=git.example\n\n")
    for operation in ("approve", "reject"):
        git(operation, "protocol=https\nhost=git.example\nusername=ada\npassword=other\n\n")
    assert [path.name for path in tmp_path.iterdir()] == ["credentials"]
    assert file.read_text() == "https://ada:s3cret@git.example\n", "the helper writes"


def test_spot_nodes_queue_and_a_stages_own_override(tmp_path: Path) -> None:
    spec, platform = compiled(tmp_path, *SPOT)
    train = platform["exec-train-prune"]
    assert train["nodeSelector"]["labels"] == {"pool": "spot"}
    assert train["tolerations"][0]["key"] == "spot"
    assert train["pvcMount"][0]["constant"] == "nightdrive-checkpoints"
    assert {mount["mountPath"]: mount.get("sizeLimit") for mount in train["emptyDirMounts"]}["/dev/shm"] == "16Gi"
    assert train["activeDeadlineSeconds"] == "36000"
    asked = containers(spec)["train_prune"]["resources"]
    assert (asked["accelerator"]["resourceCount"], asked["resourceMemoryLimit"]) == ("4", "64Gi")
    assert all(item["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "night"} for item in platform.values())


def test_steps_with_a_gpu_run_from_the_cuda_image(night: Night) -> None:
    images = load_settings(nightly(), "nightly")["images"]
    assert image_of(all_stages()["score"].needs, images) == "nightdrive-torch-cuda"
    assert image_of(all_stages()["curate"].needs, images) == "nightdrive-torch-cpu"
    assert image_of(all_stages()["score"].needs, {"torch": "cpu-only"}) == "cpu-only"
    for name, container in containers(night[0]).items():
        stage = all_stages()[container["command"][-1]]
        needs = dataclasses.replace(stage.needs, gpu_count=0) if name in FAN_OUTS else stage.needs
        if name == "farewell":  # it records the night, and loads no network
            needs = all_stages()["publish"].needs
        assert container["image"] == image_of(needs, images), f"{name}: only what computes pulls the larger image"
        if all_stages()[container["command"][-1]].needs.distributed:
            said = {"name": "NIGHTDRIVE_IMAGE", "value": container["image"]}
            assert said in container["env"], "what trains says which image its network came from"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"queue": "Not A Name"}, "queue = 'Not A Name'"),
        ({"s3_secret": ""}, "s3_secret = ''"),
        ({"accelerator": "gpu"}, "such as nvidia.com/gpu"),
        ({"spot": ["train"]}, "did you mean 'train_prune'?"),
        ({"stages": {"score": {"memory_gib": 0}}}, "cluster.stages.score.memory_gib = 0: must be above 0"),
        ({"stages": {"score": {"memory": 4}}}, "unknown parameter 'memory'"),
        ({"stages": {"score": {"gpu_count": -1}}}, "cluster.stages.score.gpu_count = -1: must be at least 0"),
        ({"night_hours": 0}, "night_hours"),
        ({"night_hours": 4}, "stages.adapt.timeout_minutes = 480: must be at most 230: night_hours = 4"),
        ({"stages": {"gate": {"timeout_minutes": 1200}}}, "must be at most 1190: night_hours = 20"),
        ({"secret": "x"}, "unknown parameter 'secret'"),
    ],
)
def test_a_mistake_in_the_cluster_section_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        build_parameters(Cluster, given, where="cluster")
    assert said in str(caught.value)


def test_a_cluster_without_gpus_asks_for_none(tmp_path: Path) -> None:
    lacking = [f"cluster.stages.{name}.gpu_count=0" for name, stage in all_stages().items() if stage.needs.gpu_count]
    found = containers(compiled(tmp_path, *lacking)[0])
    assert not [name for name, container in found.items() if "accelerator" in container["resources"]]
    assert not [name for name, container in found.items() if "cuda" in container["image"]]


def test_a_training_over_several_nodes_waits_without_a_gpu_and_hands_the_job_what_it_needs(tmp_path: Path) -> None:
    spec, platform = compiled(
        tmp_path, "cluster.nodes.train_prune=4", "cluster.shared_claim=shared", "cluster.stages.train_prune.gpu_count=8"
    )
    container = spec["deploymentSpec"]["executors"]["exec-train-prune"]["container"]
    assert "accelerator" not in container["resources"]
    (given,) = [item["value"] for item in container["env"] if item["name"] == "NIGHTDRIVE_TRAIN_JOB"]
    settings = build_parameters(TrainJobSettings, json.loads(given), where="test")
    assert (settings.nodes, settings.gpus_per_node, settings.image) == (4, 8, "nightdrive-torch-cuda")
    mounted = {claim["constant"]: claim["mountPath"] for claim in platform["exec-train-prune"]["pvcMount"]}
    assert mounted["shared"] == settings.folder
    with pytest.raises(InputError, match="train_prune trains over 4 nodes"):
        build_parameters(Cluster, {"nodes": {"train_prune": 4}}, where="cluster")


def indices(spec: dict[str, Any], name: str) -> IndexedJobSettings:
    (given,) = [item["value"] for item in containers(spec)[name]["env"] if item["name"] == "NIGHTDRIVE_INDEXED_JOB"]
    settings: IndexedJobSettings = build_parameters(IndexedJobSettings, json.loads(given), where="test")
    return settings


def test_the_indices_of_a_fan_out_have_what_the_stage_needs_and_lie_where_it_belongs(tmp_path: Path) -> None:
    wanted = [
        "cluster.parallel_steps=4", "cluster.gpu_node_selector={pool: gpu}", "cluster.queue=night", "cluster.night_hours=100",
        "cluster.spot=[ingest]", "cluster.spot_node_selector={pool: spot}",
    ]  # fmt: skip
    spec, platform = compiled(tmp_path, *wanted)
    score, needs = indices(spec, "score"), all_stages()["score"].needs
    assert (score.cpu_cores, score.memory_gib, score.retries) == (needs.cpu_cores, needs.memory_gib, needs.retries)
    assert (score.accelerator, score.node_selector, score.at_once) == ({"nvidia.com/gpu": 1}, {"pool": "gpu"}, 4)
    assert score.tolerations[0]["key"] == "nvidia.com/gpu"
    assert (score.user_id, score.s3_secret, score.queue) == (10001, "nightdrive-s3", "night")
    assert (score.image, containers(spec)["score"]["image"]) == ("nightdrive-torch-cuda", "nightdrive-torch-cpu")
    assert score.timeout_seconds == needs.timeout_minutes * 60
    four_waves = 4 * score.timeout_seconds
    assert score.deadline_seconds == four_waves, "16 shards, 4 at once"
    assert platform["exec-score"]["activeDeadlineSeconds"] == str(four_waves), (
        "the step waits as long as its job may take"
    )
    ingest = indices(spec, "ingest")
    assert (ingest.node_selector, ingest.accelerator, ingest.retries) == ({"pool": "spot"}, {}, 10)
    assert ingest.claims == {"nightdrive-footage": "/data/fleet"}
    assert score.claims == {}


def test_the_shares_of_a_fan_out_may_take_no_longer_than_the_night(tmp_path: Path) -> None:
    spec, _ = compiled(tmp_path, "cluster.parallel_steps=1", "cluster.night_hours=20")
    assert indices(spec, "score").deadline_seconds == 20 * 3600
