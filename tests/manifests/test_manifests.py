"""The manifests as kubectl renders them: valid for three Kubernetes versions, confined, closed by default, without a secret."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.stage.kubernetes_api import S3_KEYS
from pipelines.kubeflow.preflight import wanted_by
from tests.manifests.policy import allowed, not_restricted, refused_updates

ROOT = Path(__file__).parents[2]
OVERLAYS = ("kind", "cpu", "gpu", "production", "trial")
LEAST_KUBECTL_MINOR = 27
LAUNCHER_SECRET = "mlpipeline-minio-artifact"  # that KFP makes and its launcher reads
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
            assert "secrets" not in rule["resources"] or rule["resourceNames"] == [LAUNCHER_SECRET], (
                "one secret, by name"
            )
            assert "secrets" not in rule["resources"] or rule["verbs"] == ["get"]


def pods_of(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the spec of every pod that an object makes, by the object's name."""
    jobs = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "Job")}
    jobs |= {item["metadata"]["name"]: item["spec"]["jobTemplate"]["spec"] for item in of_kind(objects, "CronJob")}
    return {name: job["template"]["spec"] for name, job in jobs.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_meet_the_restricted_standard_and_write_nothing(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    pods = pods_of(rendered[overlay])
    assert "nightdrive-bucket" in pods
    assert {name: not_restricted(pod) for name, pod in pods.items()} == {name: [] for name in pods}
    assert all(item["securityContext"]["readOnlyRootFilesystem"] for pod in pods.values() for item in pod["containers"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "host namespaces (hostNetwork=true)"),
        ({"volumes": [{"name": "d", "hostPath": {"path": "/"}}]}, "restricted volume types (volume 'd' uses hostPath)"),
        ({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}, "runAsNonRoot != true"),
        ({"securityContext": {"runAsNonRoot": True}}, "seccompProfile"),
        ({"containers": [{"name": "c", "securityContext": {"privileged": True}}]}, "privileged (container 'c')"),
        ({"containers": [{"name": "c"}]}, "allowPrivilegeEscalation != false (container 'c')"),
        ({"containers": [{"name": "c"}]}, "unrestricted capabilities (container 'c')"),
    ],
)
def test_the_restricted_standard_forbids(
    rendered: dict[str, list[dict[str, Any]]], change: dict[str, Any], said: str
) -> None:
    pod = pods_of(rendered["cpu"])["nightdrive-bucket"] | change
    assert any(said in problem for problem in not_restricted(pod))


def test_every_step_is_admitted_where_the_namespace_enforces_restricted(tmp_path: Path) -> None:
    """KFP itself confines a step's container but never says runAsNonRoot of it: 32 of 32 pods were forbidden."""
    from pipelines.kubeflow.compile import compile_pipeline

    compile_pipeline("nightly", tmp_path / "night.yaml")
    _, platform = yaml.safe_load_all((tmp_path / "night.yaml").read_text())
    by_kfp = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert steps
    for name, settings in steps.items():
        asked = settings.get("securityContext", {})
        ours = {key: asked[key] for key in ("runAsNonRoot",) if key in asked} | (
            {"runAsUser": int(asked["runAsUser"])} if "runAsUser" in asked else {}
        )
        assert not_restricted({"containers": [{"name": "main", "securityContext": by_kfp | ours}]}) == [], name


# What KFP 2.17's launcher and Argo's executor do in the name of a step's service account: verb, group, resource, name.
BY_LAUNCHER = (
    ("get", "", "pods", ""),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "secrets", "mlpipeline-minio-artifact"),
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("create", "batch", "jobs", ""),
)
# What `make preflight` asks as whoever submits, beside KFP's own operations.
BY_PREFLIGHT = (
    ("get", "", "serviceaccounts", ""),
    ("get", "", "persistentvolumeclaims", ""),
    ("create", "authorization.k8s.io", "localsubjectaccessreviews", ""),
    *((verb, "", "pods", "") for verb in ("create", "get", "delete")),
)


# What KFP's API asks about whoever calls the operations of the watch.
BY_WATCH = (
    ("list", "pipelines.kubeflow.org", "runs", ""),
    ("get", "pipelines.kubeflow.org", "runs", ""),
    ("retry", "pipelines.kubeflow.org", "runs", ""),
    ("get", "pipelines.kubeflow.org", "pipelines/versions", ""),
    ("list", "pipelines.kubeflow.org", "jobs", ""),
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_accounts_may_do_what_is_done_in_their_name_and_read_no_other_secret(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    roles = {item["metadata"]["name"]: item["rules"] for item in of_kind(rendered[overlay], "Role")}
    lacking = [asked for asked in BY_LAUNCHER if not allowed(roles["nightdrive-runner"], *asked)]
    assert lacking == [], "a step's launcher is forbidden"
    assert [asked for asked in BY_PREFLIGHT if not allowed(roles["nightdrive-submitter"], *asked)] == []
    assert [asked for asked in BY_WATCH if not allowed(roles["nightdrive-watch"], *asked)] == []
    assert allowed(roles["nightdrive-submitter"], "retry", "pipelines.kubeflow.org", "runs"), "`make pipeline-retry`"
    verbs = {verb for rule in roles["nightdrive-watch"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "retry"}, "the watch makes, ends and deletes nothing"
    for rules in roles.values():
        assert not allowed(rules, "get", "", "secrets", "nightdrive-s3")
        assert not allowed(rules, "list", "", "secrets", "mlpipeline-minio-artifact")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_watch_proves_who_it_is_where_there_are_many_users_and_never_runs_twice_at_once(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    (watch,) = of_kind(rendered[overlay], "CronJob")
    assert (watch["spec"]["schedule"], watch["spec"]["concurrencyPolicy"]) == ("*/10 * * * *", "Forbid")
    (pod,) = pods_of([watch]).values()
    (container,) = pod["containers"]
    given = {item["name"]: item for item in container["env"]}
    assert ("KFP_NAMESPACE" in given) == (overlay != "kind"), "an installation for a single user refuses a namespace"
    (token,) = (item["projected"]["sources"][0] for item in pod["volumes"] if "projected" in item)
    (mount,) = (item for item in container["volumeMounts"] if item["name"] == "token")
    where = f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    assert given["KF_PIPELINES_SA_TOKEN_PATH"]["value"] == where
    assert token["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production", "trial"])
def test_the_namespace_is_labelled_as_kubeflow_pipelines_looks_for_it(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    (namespace,) = of_kind(rendered[overlay], "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels.get("pipelines.kubeflow.org/enabled") == "true", "no secret of the launcher's would be made"
    assert labels.get("app.kubernetes.io/part-of") == "kubeflow-profile", "KFP's object store would let no pod in"


def test_the_runbook_names_the_overlays_that_exclude_each_other(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """A server refuses to change a claim's storage class, so an overlay cannot follow another that has no such class."""
    excluding = {
        frozenset((one, other))
        for one in OVERLAYS
        for other in OVERLAYS
        if one != other and refused_updates(rendered[one], rendered[other])
    }
    said = re.findall(r"`(\w+)` and `(\w+)` exclude each other", (ROOT / "docs" / "cluster.md").read_text())
    assert (
        {frozenset(pair) for pair in said}
        == excluding
        == {
            frozenset(("production", "gpu")),
            frozenset(("production", "cpu")),
        }
    )
    assert refused_updates(rendered["gpu"], rendered["production"]) == [
        "PersistentVolumeClaim nightdrive-checkpoints: spec.storageClassName"
    ]


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production", "trial"])
def test_the_namespace_is_confined_closed_by_default_and_has_a_quota(
    rendered: dict[str, list[dict[str, Any]]], overlay: str
) -> None:
    (namespace,) = of_kind(rendered[overlay], "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(rendered[overlay], "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not policies["nightdrive-runs"].get("ingress")
    (quota,) = of_kind(rendered[overlay], "ResourceQuota")
    assert (quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "0") == (overlay in ("cpu", "trial"))
    (limits,) = (limit for item in of_kind(rendered[overlay], "LimitRange") for limit in item["spec"]["limits"])
    asked = {f"requests.{name}" for name in limits["defaultRequest"]} | {f"limits.{name}" for name in limits["default"]}
    assert {name for name in quota["spec"]["hard"] if name.endswith((".cpu", ".memory"))} <= asked, (
        "a quota turns away Argo's own containers, which carry no resources"
    )
    inside = [item for item in rendered[overlay] if item["kind"] not in ("Namespace", "ClusterQueue", "ResourceFlavor")]
    assert {item["metadata"]["namespace"] for item in inside} == {namespace["metadata"]["name"]}
    assert namespace["metadata"]["name"] == ("nightdrive-trial" if overlay == "trial" else "nightdrive")


def test_no_watch_meddles_with_a_trial(rendered: dict[str, list[dict[str, Any]]]) -> None:
    (watch,) = of_kind(rendered["trial"], "CronJob")
    assert watch["spec"]["suspend"] is True, "the watch would try the runs of a trial again beside it"
    (watch,) = of_kind(rendered["production"], "CronJob")
    assert not watch["spec"].get("suspend")


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
