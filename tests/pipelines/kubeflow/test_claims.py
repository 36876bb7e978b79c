"""What lies on a claim is counted by a pod that may do nothing else, and that is gone afterwards."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from pipelines.kubeflow import claims
from pipelines.kubeflow.claims import MOUNTED, Looker, count, look_into, main, pod
from pipelines.kubeflow.kubernetes_api import connect_kubernetes
from tests.manifests.policy import not_restricted
from tests.pipelines.kubeflow.conftest import ended_pod
from tests.pipelines.kubeflow.stub_server import Stub

LOOKER = Looker(
    image="host/nightdrive-versioning@sha256:0",
    service_account="nightdrive-runner",
    user_id=10001,
    node_selector={"pool": "cpu"},
    tolerations=({"key": "cpu", "operator": "Exists"},),
)


@pytest.fixture
def core(cluster: Stub) -> Any:
    api, reason = connect_kubernetes()
    assert cluster.url and not reason
    return client.CoreV1Api(api)


def test_the_pod_reads_the_claim_with_no_right_and_no_secret() -> None:
    made = pod("footage", ["a", "b/c"], LOOKER)
    assert not_restricted(made["spec"]) == []
    assert made["spec"]["volumes"] == [
        {"name": "claim", "persistentVolumeClaim": {"claimName": "footage", "readOnly": True}}
    ]
    (container,) = made["spec"]["containers"]
    assert container["command"] == ["python", "-m", claims.__name__, f"{MOUNTED}/a", f"{MOUNTED}/b/c"]
    assert container["volumeMounts"] == [{"name": "claim", "mountPath": MOUNTED, "readOnly": True}]
    assert not made["spec"]["automountServiceAccountToken"] and "env" not in container
    assert made["spec"]["activeDeadlineSeconds"] == 300
    assert made["spec"]["nodeSelector"] == {"pool": "cpu"}


def test_it_is_made_looked_at_until_it_ends_and_deleted(cluster: Stub, core: Any) -> None:
    cluster.pod_status = ended_pod({"a": (7, ""), "b": (0, "no such folder")})
    assert look_into(core, "footage", ["a", "b"], LOOKER) == ({"a": [7, ""], "b": [0, "no such folder"]}, "")
    (made,) = cluster.pods
    assert made["spec"]["containers"][0]["command"][-1] == f"{MOUNTED}/b"
    assert cluster.deleted == [made["metadata"]["name"]]


WAITING = {"name": "look", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
PENDING = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}],
}
NO_IMAGE = {
    "phase": "Pending",
    "containerStatuses": [WAITING | {"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
}


@pytest.mark.parametrize(
    ("status", "said", "gone"),
    [
        (403, "this user may not create, get and delete pods in nightdrive: nobody looked into it", 0),
        (500, "the Kubernetes API answered 500", 0),
        (PENDING, "within 0 s: Pending 0/3 nodes are available", 1),
        (NO_IMAGE, "within 0 s: Pending ImagePullBackOff", 1),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "within 0 s: Failed DeadlineExceeded", 1),
        ({"phase": "Succeeded"}, "within 0 s: Succeeded", 1),
    ],
)
def test_why_nobody_could_look_is_said(
    cluster: Stub, core: Any, monkeypatch: pytest.MonkeyPatch, status: Any, said: str, gone: int
) -> None:
    monkeypatch.setattr(claims, "DEADLINE_SECONDS", 0)
    cluster.pod_status = status
    told, reason = look_into(core, "footage", ["a"], LOOKER)
    assert not told and said in reason
    assert len(cluster.deleted) == gone


def test_files_are_counted_below_folders_and_links_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    for folder in (tmp_path / "claim" / "deep" / "er", other):
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"{number}.png").write_bytes(b"x")
    (tmp_path / "claim" / "linked").symlink_to(other)
    assert count(tmp_path / "claim") == (6, "")
    monkeypatch.setattr(claims, "MOST_OBJECTS", 2)
    assert count(tmp_path / "claim") == (2, "")
    assert count(tmp_path / "claim" / "deep" / "none") == (
        0, f"cannot be read by user {os.getuid()} (No such file or directory)",
    )  # fmt: skip


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    assert count(tmp_path)[1] == f"cannot be read by user {os.getuid()} (No such file or directory)"


def test_its_last_words_are_json_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MOUNTED", str(tmp_path))
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "a.png").write_bytes(b"x")
    main([str(tmp_path / "fleet"), str(tmp_path / ".")], tmp_path / "said")
    assert json.loads((tmp_path / "said").read_text()) == {"fleet": [1, ""], ".": [1, ""]}
