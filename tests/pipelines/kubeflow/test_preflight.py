"""What the cluster lacks is said before anything starts: namespace, labels, rights, secrets, claims of footage, GPUs, images."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.stage.registry import all_stages
from perception.data import s3
from perception.errors import InputError, Unreachable
from pipelines.commands.program import main
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.preflight import Wanted, check, run, wanted_by
from pipelines.kubeflow.sources import Place
from tests.pipelines.kubeflow.conftest import claim, ended_pod
from tests.pipelines.kubeflow.stub_server import Stub

PINNED = "127.0.0.1:{port}/team/nightdrive-{name}@sha256:" + "0" * 64
NAMES = ("gates", "versioning", "torch-cpu", "torch-cuda")
SPACE = "/api/v1/namespaces/nightdrive"


@pytest.fixture
def pinned(cluster: Stub, package: Path, tmp_path: Path) -> Path:
    """The compiled night with its images by digest, all of them in their registry."""
    images_file(cluster, tmp_path)
    target = tmp_path / "night.yaml"
    target.write_text(with_digests(package.read_text(), cluster))
    return target


def with_digests(text: str, stub: Stub) -> str:
    """Return a compiled night with its images by digest in the stand-in's registry."""
    port = stub.url.rsplit(":", 1)[1]
    return re.sub(
        r'(image"?: ?"?)nightdrive-([a-z-]+)(?="|$)',  # of a step's container, and among the settings of its indices
        lambda found: f"{found[1]}{PINNED.format(port=port, name=found[2])}",
        text,
        flags=re.M,
    )


def look(night: Path) -> int:
    """Return how many things the night lacks."""
    return run(night, "nightdrive-runner", "nightly", (), "")


def images_file(stub: Stub, folder: Path) -> Path:
    port = stub.url.rsplit(":", 1)[1]
    built = {}
    for name in NAMES:
        digest = PINNED.format(port=port, name=name)
        built[name] = {"name": "n", "image_id": "sha256:1", "digest": digest, "size_mb": 1.0}
        stub.manifests[f"/v2/team/nightdrive-{name}/manifests/sha256:{'0' * 64}"] = 200
    file = folder / "images.json"
    file.write_text(json.dumps(built))
    return file


def test_a_cluster_that_has_everything_passes(
    cluster: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preflight", "--images", str(images_file(cluster, tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "MISSING" not in said
    assert "unknown" not in said
    assert "ok       1 x nvidia.com/gpu" in said
    assert "ok       volume claim nightdrive-footage (sources fleet, frozen_test)" in said
    assert "ok       source fleet at nightdrive-footage:.: 1200 objects" in said
    (made,) = cluster.pods
    assert "nightdrive-versioning@sha256:" in made["spec"]["containers"][0]["image"]
    assert cluster.deleted, "nothing stays behind"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (f"{SPACE}/secrets/nightdrive-s3", "kubectl --namespace nightdrive create secret generic"),
        (SPACE, "MISSING  namespace nightdrive: apply an overlay of manifests/"),
        ("/v2/", "is not in its registry; run `make images"),
        (
            f"{SPACE}/secrets/mlpipeline-minio-artifact",
            "MISSING  secret mlpipeline-minio-artifact: Kubeflow makes it where the namespace has the label "
            "pipelines.kubeflow.org/enabled=true; every pod waits for it",
        ),
        (
            f"{SPACE}/persistentvolumeclaims/nightdrive-footage",
            "MISSING  volume claim nightdrive-footage (sources fleet, frozen_test): apply an overlay",
        ),
    ],
)
def test_what_is_missing_is_said(
    cluster: Stub, pinned: Path, gone: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if gone == "/v2/":
        cluster.manifests.popitem()
    cluster.kubernetes.pop(gone, None)
    assert look(pinned) >= 1
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("cluster")
def test_an_image_without_a_digest_is_refused(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(package) == len(NAMES)
    assert "MISSING  image nightdrive-gates: is named without a digest; run `make images" in capsys.readouterr().out


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("nvidia.com/mig-1g.10gb", 1, ()), "MISSING  1 x nvidia.com/mig-1g.10gb"),
        (("nvidia.com/gpu", 8, ()), "MISSING  8 x nvidia.com/gpu"),
        (("nvidia.com/gpu", 1, (("pool", "big"),)), "on nodes with pool=big: no node offers it"),
    ],
)
def test_nodes_that_no_cluster_has_are_named(
    package: Path, wanted: tuple[str, int, tuple[tuple[str, str], ...]], said: str
) -> None:
    night = dataclasses.replace(wanted_by(package), accelerators=(wanted,), images=())
    assert any(said in finding.line() for finding in check(night, "nightdrive-runner"))


def test_a_secret_without_a_key_and_what_may_not_be_asked_are_told_apart(
    cluster: Stub, pinned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.kubernetes[f"{SPACE}/secrets/nightdrive-s3"]["data"].pop("endpoint")
    cluster.kubernetes["/api/v1/nodes"] = 403
    for path in cluster.manifests:
        cluster.manifests[path] = 401
    assert look(pinned) == 1
    said = capsys.readouterr().out
    assert "MISSING  secret nightdrive-s3: lacks endpoint; add them" in said
    assert "unknown  1 x nvidia.com/gpu: the Kubernetes API answered 403" in said
    assert "its registry answered 401" in said


def test_submit_starts_nothing_where_something_is_missing(
    cluster: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.kubernetes.pop(f"{SPACE}/secrets/nightdrive-git")
    assert main(["pipeline-submit", "--images", str(images_file(cluster, tmp_path))]) == 2
    assert "the cluster lacks what is listed above" in capsys.readouterr().err
    assert not cluster.objects["runs"]
    assert not cluster.objects["pipelines"]


@pytest.mark.parametrize("label", ["pipelines.kubeflow.org/enabled", "app.kubernetes.io/part-of"])
def test_a_namespace_without_a_profiles_labels_is_named(
    cluster: Stub, pinned: Path, label: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = cluster.kubernetes[SPACE]["metadata"]["labels"].pop(label)
    assert look(pinned) == 1
    said = capsys.readouterr().out
    assert f"MISSING  label {label}={value}: kubectl label namespace nightdrive {label}={value}" in said


def test_where_kubeflow_itself_runs_no_label_is_asked_for(
    cluster: Stub, pinned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_NAMESPACE", "kubeflow")
    cluster.kubernetes |= {
        path.replace(SPACE, SPACE[:-10] + "kubeflow"): each for path, each in cluster.kubernetes.items()
    }
    cluster.kubernetes["/api/v1/namespaces/kubeflow"] = {"metadata": {"name": "kubeflow"}}
    assert look(pinned) == 0
    assert " label " not in capsys.readouterr().out


def test_a_launcher_that_may_not_read_its_secret_is_named(
    cluster: Stub, pinned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.denied = {("get", "secrets", "mlpipeline-minio-artifact")}
    assert look(pinned) == 1
    said = capsys.readouterr().out
    assert "MISSING  nightdrive-runner may get secrets mlpipeline-minio-artifact: its role does not allow it" in said
    assert "ok       nightdrive-runner may create workflowtaskresults" in said


def test_steps_that_a_restricted_namespace_forbids_are_named(package: Path, cluster: Stub, tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(package.read_text().replace("runAsNonRoot: true", "runAsNonRoot: false", 1))
    said = {finding.what: finding for finding in check(wanted_by(file), "nightdrive-runner")}
    forbidden = said["steps admitted by PodSecurity restricted"]
    assert forbidden.there is False
    assert re.match(r"exec-[a-z-]+: say no runAsNonRoot, so that their pods are forbidden", forbidden.remedy)
    cluster.kubernetes[SPACE]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    assert "steps admitted by PodSecurity restricted" not in {
        finding.what for finding in check(wanted_by(file), "nightdrive-runner")
    }


@pytest.mark.parametrize(
    ("name", "mode", "phase", "code", "said"),
    [
        ("nightdrive-footage", "ReadOnlyMany", "Pending", 1, "is Pending, not Bound"),
        (
            "nightdrive-footage",
            "ReadWriteOnce",
            "Bound",
            0,
            "unknown  volume claim nightdrive-footage on several nodes: its access",
        ),
        ("nightdrive-checkpoints", "ReadWriteMany", "Pending", 0, "ok       volume claim nightdrive-checkpoints"),
    ],
)
def test_a_claim_must_be_bound_where_footage_lies_on_it(
    cluster: Stub,
    pinned: Path,
    name: str,
    mode: str,
    phase: str,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.kubernetes[f"{SPACE}/persistentvolumeclaims/{name}"] = claim(name, mode, phase)
    assert look(pinned) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (
            ended_pod({".": (0, "")}),
            2,
            "MISSING  source fleet at nightdrive-footage:.: 0 objects: holds no file; correct",
        ),
        (
            ended_pod({".": (3, "cannot be read by user 10001 (Permission denied)")}),
            2,
            "MISSING  source frozen_test at nightdrive-footage:.: 3 objects: cannot be read by user 10001 (Permission",
        ),
        (ended_pod({".": (100_000, "")}), 0, "ok       source fleet at nightdrive-footage:.: at least 100000 objects"),
        (403, 0, "unknown  source fleet at nightdrive-footage:.: this user may not create, get and delete pods"),
    ],
)
def test_what_a_source_on_a_claim_holds_is_looked_at_from_within_the_cluster(
    cluster: Stub, pinned: Path, status: Any, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.pod_status = status
    assert look(pinned) == code
    assert said in capsys.readouterr().out


class Objects:
    """A bucket that holds so many objects."""

    def __init__(self, objects: dict[str, bytes], error: InputError | None = None) -> None:
        self.objects, self.error = objects, error

    def list(self, _: str) -> dict[str, tuple[int, float]]:
        return {key: (len(data), 0.0) for key, data in self.objects.items()}

    def read(self, key: str) -> bytes:
        if self.error:
            raise self.error
        return self.objects[key]


DENIED = InputError("store s3://fleet/drops: the keys may not do this in bucket fleet; grant read")
GONE = Unreachable("store s3://fleet/drops: the endpoint cannot be reached (Timeout)")


@pytest.mark.parametrize(
    ("held", "error", "there", "said"),
    [
        ({"a.jpg": b"xx", "b.csv": b"x"}, None, True, "ok       source drops at s3://fleet/drops: 2 objects"),
        ({}, None, False, "MISSING  source drops at s3://fleet/drops: 0 objects: holds no object; correct its path"),
        (
            {"a.jpg": b"xx"},
            DENIED,
            False,
            "MISSING  source drops at s3://fleet/drops: store s3://fleet/drops: the keys may not",
        ),
        (
            {"a.jpg": b"xx"},
            GONE,
            None,
            "unknown  source drops at s3://fleet/drops: store s3://fleet/drops: the endpoint cannot",
        ),
    ],
)
def test_a_source_in_a_bucket_is_counted_and_read_from(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, bytes], error: InputError | None, there: bool | None, said: str
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_S3_ENDPOINT", "http://s3")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setattr(s3, "open_bucket", lambda *_: Objects(held, error))
    wanted = Wanted(
        secrets={}, claims={}, accelerators=(), images=(), sources={"drops": Place(path="s3://fleet/drops")}
    )
    (found,) = (finding for finding in check(wanted, "nightdrive-runner") if finding.what.startswith("source"))
    assert found.there is there
    assert found.line().strip().startswith(said)
    monkeypatch.delenv("NIGHTDRIVE_S3_ENDPOINT")
    (found,) = (finding for finding in check(wanted, "nightdrive-runner") if finding.what.startswith("source"))
    assert found.line().strip().startswith("unknown  source drops at s3://fleet/drops: set NIGHTDRIVE_S3_ENDPOINT")


def test_what_the_pods_of_a_fan_out_need_is_looked_for(tmp_path: Path) -> None:
    """Their step only waits: what it mounts and asks for itself says nothing of them."""
    others = [name for name, stage in all_stages().items() if stage.needs.gpu_count and name != "score"]
    wanted = ["cluster.gpu_node_selector={pool: gpu}", *(f"cluster.stages.{name}.gpu_count=0" for name in others)]
    compile_pipeline("nightly", tmp_path / "night.yaml", wanted)
    found = wanted_by(tmp_path / "night.yaml")
    assert found.accelerators == (("nvidia.com/gpu", 1, (("pool", "gpu"),)),)
    assert "nightdrive-torch-cuda" in found.images
