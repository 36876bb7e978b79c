"""Indexed Jobs: what Kubernetes is asked to run for a fan-out, what restarts and what does not, how it ends."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.stage.execution import Call
from components.stage.indexed_job import IndexedJobSettings, manifest, run_indices
from components.stage.kubernetes_api import Cluster
from tests.components.stage.conftest import Api
from tests.components.stage.test_execution import COPY
from tests.manifests.policy import allowed, not_restricted
from tests.manifests.test_manifests import VERSIONS

ROOT = Path(__file__).parents[3]
SETTINGS = IndexedJobSettings(
    image="host/torch@sha256:1", at_once=4, cpu_cores=2.0, memory_gib=8.0, retries=2, timeout_seconds=3600, deadline_seconds=14400,
    user_id=10001, s3_secret="nightdrive-s3", accelerator={"nvidia.com/gpu": 1}, queue="night", node_selector={"pool": "gpu"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},), claims={"footage": "/data/fleet"},
)  # fmt: skip
COMMAND = ["python", "-m", "components.stage", "score", "--executor-input", "{}"]


def job(settings: IndexedJobSettings = SETTINGS, count: int = 16) -> dict[str, Any]:
    return manifest("nightdrive-score-0", count, COMMAND, settings, "nightdrive-runner")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_a_job_as_kubernetes_knows_it(version: str) -> None:
    kubernetes_validate.validate(job(), version, strict=True)
    bare = replace(SETTINGS, accelerator={}, queue="", node_selector={}, tolerations=(), claims={})
    kubernetes_validate.validate(job(bare), version, strict=True)


def test_every_share_is_an_index_with_tries_of_its_own_so_many_at_once() -> None:
    spec = job()["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 16, 4)
    assert spec["backoffLimitPerIndex"] == 2
    assert spec["maxFailedIndexes"] == 0, "one share that fails ends the night: the others need not go on"
    assert job(count=3)["spec"]["parallelism"] == 3
    assert job(replace(SETTINGS, at_once=0))["spec"]["parallelism"] == 16


def test_a_pod_that_is_lost_comes_again_and_bad_input_does_not() -> None:
    """The first rule that fits decides; a pod that a node's drain ends has DisruptionTarget and exit code 143."""
    first, second = job()["spec"]["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget", "status": "True"}])
    assert second["action"] == "FailIndex"
    pod = job()["spec"]["template"]["spec"]
    assert second["onExitCodes"] == {
        "containerName": pod["containers"][0]["name"], "operator": "In", "values": [2, 3],
    }  # fmt: skip
    assert pod["restartPolicy"] == "Never", "Kubernetes knows a failure policy and tries by index of no other"


def test_its_pods_are_admitted_where_restricted_is_enforced_and_hold_no_secret() -> None:
    pod = job()["spec"]["template"]["spec"]
    assert not_restricted(pod) == []
    assert (pod["securityContext"]["runAsUser"], pod["automountServiceAccountToken"]) == (10001, False)
    (container,) = pod["containers"]
    by_reference = [item for item in container["env"] if item["name"].startswith(("AWS_", "NIGHTDRIVE_S3"))]
    assert len(by_reference) == 3 and all("valueFrom" in item for item in by_reference)


def test_its_pods_have_what_the_stage_needs_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "1,2")
    pod = job()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == COMMAND, "the step's own program; Kubernetes tells each pod its index"
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }  # fmt: skip
    assert pod["serviceAccountName"] == "nightdrive-runner", "the account may hold what the image is pulled with"
    assert (pod["nodeSelector"], pod["activeDeadlineSeconds"]) == ({"pool": "gpu"}, 3600)
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/data/fleet"}
    assert {"name": "NIGHTDRIVE_RETRY_PAUSES", "value": "1,2"} in container["env"]
    metadata = job()["metadata"]
    assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "night"}
    assert metadata["annotations"] == {"kueue.x-k8s.io/job-min-parallelism": "1"}, "16 GPUs at once exceed a quota of 8"


def test_the_steps_role_may_create_await_and_delete_it() -> None:
    roles = yaml.safe_load_all((ROOT / "manifests" / "base" / "rbac.yaml").read_text())
    (rules,) = (
        item["rules"] for item in roles if item["kind"] == "Role" and item["metadata"]["name"] == "nightdrive-runner"
    )
    for verb in ("create", "get", "delete"):
        assert allowed(rules, verb, "batch", "jobs"), f"the step may not {verb} a job"


def test_a_network_policy_lets_its_pods_reach_the_object_store() -> None:
    """Where everything is denied by default, they reach nothing without one."""
    policies = list(yaml.safe_load_all((ROOT / "manifests" / "base" / "network_policies.yaml").read_text()))
    (labels,) = (job()["spec"]["template"]["metadata"]["labels"],)
    chosen = [
        policy["spec"]
        for policy in policies
        if all(each["key"] in labels for each in policy["spec"]["podSelector"].get("matchExpressions", []))
    ]
    reached = [
        to["podSelector"] for spec in chosen for rule in spec["egress"] for to in rule["to"] if "podSelector" in to
    ]
    assert {"matchLabels": {"nightdrive.io/serves": "runs"}} in reached


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return Call(
        stage=COPY, task="score", inputs={}, outputs={"copied": tmp_path / "run-7" / "score" / "copied"}, parameters={}
    )  # fmt: skip


def no_pause(_: float) -> None:
    pass


def test_a_fan_out_is_done_when_its_job_is_and_the_job_goes(
    api: tuple[Api, Cluster], call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    state, cluster = api
    state.states = [[], [{"type": "Complete", "status": "True"}]]
    assert run_indices(call, 3, COMMAND, SETTINGS, cluster, sleep=no_pause).code == 0
    assert state.calls[2] == "POST" and state.calls[-1].startswith("DELETE nightdrive-score-")
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statuses", "code", "said"),
    [
        ({"score@0": "done", "score@2": "bad_input"}, 2, "score@2: why"),
        ({"score@1": "refused"}, 3, "score@1: why"),
        ({"score@1": "failed"}, 1, "score@1: why"),
        ({"score@1": "running", "other@1": "bad_input"}, 1, "Job nightdrive-score-"),
    ],
)
def test_a_fan_out_ends_as_the_record_of_its_broken_share_says(
    api: tuple[Api, Cluster], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    statuses: dict[str, str], code: int, said: str,
) -> None:  # fmt: skip
    """Of an index Kubernetes says no more than that it failed."""
    monkeypatch.setenv("NIGHTDRIVE_RECORDS", str(tmp_path))
    for number, (name, status) in enumerate(statuses.items()):
        record = {"format": 1, "name": name, "status": status, "message": "why", "started": float(number)}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    state, cluster = api
    state.states = [
        [
            {
                "type": "Failed",
                "status": "True",
                "message": "Job has exceeded the specified maximal number of failed indexes",
            }
        ]
    ]
    outcome = run_indices(call, 3, COMMAND, SETTINGS, cluster, sleep=no_pause)
    assert outcome.code == code
    assert outcome.message.startswith(said)
    assert not state.jobs
