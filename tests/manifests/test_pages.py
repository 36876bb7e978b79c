"""What pages and code name of Kubeflow Pipelines is what its manifests name, and of ours what is there."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.stage.kubernetes_api import S3_KEYS
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.commands.options import split_overrides
from pipelines.kubeflow import kfp_api, kubernetes_api, preflight, schedule
from pipelines.kubeflow.images import SETS
from pipelines.nightly import nightly
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
KUBEFLOW: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "kubeflow_pipelines.yaml").read_text())
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("kind", "cluster")}
IMAGES = {"gates": "gates", "versioning": "versioning", "torch": "torch-cpu"}  # by the name in params.yaml
OUR_SECRETS = {Cluster().s3_secret: set(S3_KEYS), Cluster().git_secret: {"credentials"}}  # type: ignore[call-arg]
OUR_SECRETS["nightdrive-signing"] = {"key"}


def found(pattern: str, *pages: str) -> set[Any]:
    return {match for page in pages or PAGES for match in re.findall(pattern, PAGES[page])}


def manifests() -> Iterable[dict[str, Any]]:
    for file in (ROOT / "manifests").rglob("*.yaml"):
        yield from yaml.safe_load_all(file.read_text())


def test_the_version_is_the_one_whose_names_are_kept_here() -> None:
    named = found(r"kustomize/([\w/-]+)\?ref=([\w.]+)", "kind")
    assert named == {(folder, KUBEFLOW["tag"]) for folder in KUBEFLOW["folders"]}
    assert f"kfp=={KUBEFLOW['tag']}" in (ROOT / "constraints.txt").read_text()
    assert found(r"crd/([\w.-]+)", "kind") == set(KUBEFLOW["custom_resources"])


def test_every_service_and_port_is_kubeflows() -> None:
    forwarded = found(r"service/([\w-]+) \d+:(\d+)")
    addressed = found(r"http://([\w-]+)\.kubeflow:(\d+)")
    assert ("seaweedfs", "9000") in addressed
    (watch,) = re.findall(
        r"http://([\w-]+)\.kubeflow\.svc:(\d+)", (ROOT / "manifests" / "base" / "watch.yaml").read_text()
    )
    addressed.add(watch)
    for service, port in forwarded | addressed:
        assert int(port) in KUBEFLOW["services"].get(service, []), f"no service {service} with port {port}"
    told = found(r"service `([\w-]+)` \(S3 on port (\d+), and on (\d+)\)", "kind")
    assert told == {("seaweedfs", "8333", "9000")}
    assert {8333, 9000} <= set(KUBEFLOW["services"]["seaweedfs"])


def test_the_address_that_is_proposed_is_kubeflows_own_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kfp_api.HOST_VARIABLE, raising=False)
    with pytest.raises(InputError, match=r"service/ml-pipeline-ui 8080:80"):
        kfp_api.connect()


def test_every_secret_and_its_keys_are_kubeflows_or_ours() -> None:
    theirs = {name: set(keys) for name, keys in KUBEFLOW["secrets"].items()}
    fetched, made = found(r"get secret ([\w-]+)"), found(r"create secret generic ([\w-]+)")
    assert fetched <= set(theirs)
    assert made <= set(OUR_SECRETS)
    assert found(r"--from-literal=(\w+)=") == OUR_SECRETS["nightdrive-s3"]
    assert found(r"--from-file=(\w+)=") == OUR_SECRETS["nightdrive-git"] | OUR_SECRETS["nightdrive-signing"]
    assert set(preflight.LAUNCHER_KEYS) == theirs[preflight.LAUNCHER_SECRET]
    assert found(r"keys\n? *are `(\w+)` and `(\w+)`", "kind") == {preflight.LAUNCHER_KEYS}


def test_settings_labels_and_variables_are_kubeflows() -> None:
    variable = KUBEFLOW["environment"][schedule.ZONE_VARIABLE]
    assert variable["key"] == schedule.ZONE_KEY
    assert schedule.ZONE_KEY in KUBEFLOW["config_maps"][kubernetes_api.INSTALL_CONFIG]
    assert schedule.read_schedule(schedule.SCHEDULE_FILE).server_time_zone == variable["value"]
    assert found(r"server's `(\w+)` \(`(\w+)` in the config map `([\w-]+)`, (\w+) as installed\)", "cluster") == {
        (schedule.ZONE_VARIABLE, schedule.ZONE_KEY, kubernetes_api.INSTALL_CONFIG, variable["value"])
    }
    assert dict([preflight.ENABLED, preflight.PROFILE_LABEL]) == KUBEFLOW["namespace_labels"]
    assert KUBEFLOW["namespace"] == kubernetes_api.KUBEFLOW
    granted = {name for item in manifests() for rule in item.get("rules", ()) for name in rule.get("resourceNames", ())}
    assert granted <= {*KUBEFLOW["config_maps"], *KUBEFLOW["secrets"]}, "a right to what Kubeflow does not have"


API, STORE = (KUBEFLOW["reached_pods"][pod][0] for pod in ("ml-pipeline", "seaweedfs"))


@pytest.mark.parametrize(
    ("policy", "needed"),
    [
        ("runs", {port for each in KUBEFLOW["reached_pods"].values() for port in each}),
        ("watch", {API, STORE}),
        ("bucket", {STORE}),  # as of all others: the night's store may be Kubeflow's own
        ("shares", {STORE}),
        ("training-jobs", {STORE}),
    ],
)
def test_pods_reach_the_ports_of_kubeflows_that_they_talk_to(policy: str, needed: set[int]) -> None:
    (found,) = (
        item
        for item in manifests()
        if (item.get("kind"), item.get("metadata", {}).get("name")) == ("NetworkPolicy", f"nightdrive-{policy}")
    )
    ports = {
        port["port"]
        for rule in found["spec"]["egress"]
        for to in rule["to"]
        if to.get("namespaceSelector", {}).get("matchLabels") == {"kubernetes.io/metadata.name": KUBEFLOW["namespace"]}
        for port in rule["ports"]
    }
    assert needed <= ports


def test_what_the_page_of_kind_names_of_ours_is_there() -> None:
    objects = {(item["kind"].lower(), item["metadata"]["name"]) for item in manifests() if "metadata" in item}
    assert {("job", name) for name in found(r"job/([\w-]+)", "kind")} <= objects
    for overlay in found(r"manifests/overlays/(\w+)"):
        assert (ROOT / "manifests" / "overlays" / overlay / "kustomization.yaml").is_file(), overlay
    assert found(r"--namespace ([\w-]+)", "kind") == {KUBEFLOW["namespace"]}
    assert found(r"nightdrive-([\w-]+):kind", "kind") <= set(SETS)
    assert found(r"\b(KFP_\w+|NIGHTDRIVE_\w+)=", "kind") == {kfp_api.HOST_VARIABLE, kubernetes_api.NAMESPACE_VARIABLE}
    (told,) = found(r'SET="([^"]+)"', "kind")
    settings = load_settings(nightly(), "smoke", split_overrides(told.replace("\\\n", " ")))
    assert settings["images"] == {name: f"nightdrive-{image}:kind" for name, image in IMAGES.items()}
    needed = {name for name, changed in settings["cluster"]["stages"].items() if changed == {"gpu_count": 0}}
    assert needed == {task.stage.name for task in nightly().tasks.values() if task.stage.needs.gpu_count}


def test_pages_say_what_was_not_run() -> None:
    assert "*Not run*: nobody has followed this page on a kind cluster." in PAGES["kind"]
    assert "| never run | a GPU, Kueue, Kubeflow Trainer" in PAGES["cluster"]
