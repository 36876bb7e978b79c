"""A stand-in of Kubeflow Pipelines and Kubernetes, and the compiled night, for every test of the cluster's commands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.kubeflow import images, kfp_api, runs
from pipelines.kubeflow.compile import compile_pipeline
from tests.pipelines.kubeflow.stub_server import Stub, serve


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("KFP_HOST", "KFP_TOKEN", "KFP_NAMESPACE", "KFP_UI", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kfp_api, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with serve(Stub()) as running:
        monkeypatch.setenv("KFP_HOST", running.url)
        yield running
    assert running.unknown == [], "a call that the installed kfp_server_api does not have"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("package") / "night.yaml"
    compile_pipeline("nightly", target)
    return target


@pytest.fixture
def cluster(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A cluster that has everything."""
    monkeypatch.setattr(images, "DIGESTS_FILE", tmp_path / "none.json")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": stub.url}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    space = "/api/v1/namespaces/nightdrive"
    s3 = {"endpoint": "YQ==", "access_key": "YQ==", "secret_key": "YQ=="}
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "4", "cpu": "8"}}}
    labels = {
        "pipelines.kubeflow.org/enabled": "true",
        "app.kubernetes.io/part-of": "kubeflow-profile",
        "pod-security.kubernetes.io/enforce": "restricted",
    }
    stub.kubernetes = {
        space: {"metadata": {"name": "nightdrive", "labels": labels}},
        f"{space}/serviceaccounts/nightdrive-runner": {"metadata": {"name": "nightdrive-runner"}},
        f"{space}/persistentvolumeclaims/nightdrive-checkpoints": claim("nightdrive-checkpoints", "ReadWriteMany"),
        f"{space}/persistentvolumeclaims/nightdrive-footage": claim("nightdrive-footage", "ReadOnlyMany"),
        f"{space}/secrets/nightdrive-s3": {"data": s3},
        f"{space}/secrets/nightdrive-git": {"data": {"credentials": "YQ=="}},
        f"{space}/secrets/mlpipeline-minio-artifact": {"data": {"accesskey": "YQ==", "secretkey": "YQ=="}},
        "/api/v1/namespaces/kubeflow/configmaps/pipeline-install-config": {
            "data": {"cronScheduleTimezone": "UTC", "appVersion": "stand-in"}
        },
        "/api/v1/nodes": {"items": [node]},
    }
    stub.pod_status = ended_pod({".": (1200, "")})
    return stub


def ended_pod(said: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """Return the status of a pod that looked into folders of a claim."""
    last = {"exitCode": 0, "message": json.dumps(said)}
    container = {"name": "look", "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    return {"phase": "Succeeded", "containerStatuses": [container | {"state": {"terminated": last}}]}


def claim(name: str, mode: str, phase: str = "Bound") -> dict[str, Any]:
    """Return a volume claim as Kubernetes tells it."""
    return {"metadata": {"name": name}, "spec": {"accessModes": [mode]}, "status": {"phase": phase}}
