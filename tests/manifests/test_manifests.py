"""The manifests as kubectl renders them: valid for three Kubernetes versions, confined, closed by default, without a secret."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.kubeflow.preflight import wanted_by
from pipelines.kubeflow.resources import S3_KEYS

ROOT = Path(__file__).parents[2]
OVERLAYS = ("kind", "cpu", "gpu", "production")
LEAST_KUBECTL_MINOR = 27
VERSIONS = ("1.33", "1.35", "1.37")
SCHEMAS = {
    kind: schema
    for file in (Path(__file__).parent / "schemas").glob("*.json")
    for kind, schema in json.loads(file.read_text()).items()
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    if shutil.which("kubectl") is None:
        pytest.skip(
            "kubectl is not installed (Debian package kubectl, or the release binary), so no manifest is checked"
        )
    found = {}
    for overlay in OVERLAYS:
        command = ["kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / overlay)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[overlay] = list(yaml.safe_load_all(done.stdout))
    return found


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == kind]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_strictly_valid(rendered: dict[str, list[dict[str, Any]]], overlay: str, version: str) -> None:
    import kubernetes_validate

    for item in rendered[overlay]:
        if item["kind"] in SCHEMAS:
            jsonschema.validate(item, SCHEMAS[item["kind"]])
        else:
            kubernetes_validate.validate(item, version, strict=True)


def test_the_check_is_strict(rendered: dict[str, list[dict[str, Any]]]) -> None:
    import kubernetes_validate

    (job,) = of_kind(rendered["cpu"], "Job")
    misspelt = json.loads(json.dumps(job))
    misspelt["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, VERSIONS[0], strict=True)
    (queue,) = of_kind(rendered["gpu"], "ClusterQueue")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(json.dumps(queue)) | {"sepc": {}}, SCHEMAS["ClusterQueue"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_holds_a_secret_and_rights_name_what_they_give(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    objects = rendered[overlay]
    assert not of_kind(objects, "Secret")
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_meet_the_restricted_standard_and_write_nothing(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    for job in of_kind(rendered[overlay], "Job"):
        pod = job["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production"])
def test_the_namespace_is_confined_closed_by_default_and_has_a_quota(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    (namespace,) = of_kind(rendered[overlay], "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(rendered[overlay], "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not policies["nightdrive-runs"].get("ingress")
    (quota,) = of_kind(rendered[overlay], "ResourceQuota")
    assert (quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "0") == (overlay == "cpu")
    inside = [item for item in rendered[overlay] if item["kind"] not in ("Namespace", "ClusterQueue", "ResourceFlavor")]
    assert {item["metadata"]["namespace"] for item in inside} == {"nightdrive"}


def test_production_lets_runs_reach_only_addresses_that_are_named(rendered: dict[str, list[dict[str, Any]]]) -> None:
    (runs,) = [
        item
        for item in of_kind(rendered["production"], "NetworkPolicy")
        if item["metadata"]["name"] == "nightdrive-runs"
    ]
    blocks = [to["ipBlock"]["cidr"] for rule in runs["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert blocks == ["10.0.0.1/32"]


def test_production_brings_every_secret_account_and_claim_that_a_night_names(
    rendered: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    from pipelines.kubeflow.compile import compile_pipeline
    from pipelines.kubeflow.submit import SERVICE_ACCOUNT

    compile_pipeline("nightly", tmp_path / "night.yaml")
    wanted, objects = wanted_by(tmp_path / "night.yaml"), rendered["production"]
    keys = {
        item["metadata"]["name"]: tuple(sorted(entry["secretKey"] for entry in item["spec"]["data"]))
        for item in of_kind(objects, "ExternalSecret")
    }
    assert keys == dict(wanted.secrets)
    assert set(keys["nightdrive-s3"]) == set(S3_KEYS)
    assert {item["metadata"]["name"] for item in of_kind(objects, "PersistentVolumeClaim")} >= set(wanted.claims)
    assert SERVICE_ACCOUNT in {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
