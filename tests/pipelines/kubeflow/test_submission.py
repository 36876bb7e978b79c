"""Submitting, following, scheduling, cancelling and looking first, against a server that speaks the real API's operations."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.errors import InputError, Unreachable
from pipelines.commands.program import main
from pipelines.kubeflow import images, kfp_api, runs, schedule, submit
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.kfp_api import connect
from tests.pipelines.kubeflow.night_runs import run_of
from tests.pipelines.kubeflow.stub_server import Stub, operations, serve

UPLOAD = ("POST", "/apis/v2beta1/pipelines/upload_version")
CREATE_PIPELINE = ("POST", "/apis/v2beta1/pipelines")
CREATE_RUN = ("POST", "/apis/v2beta1/runs")
GET_RUN = ("GET", "/apis/v2beta1/runs/{run_id}")
LIST_PIPELINES = ("GET", "/apis/v2beta1/pipelines")
CREATE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns")
DELETE_SCHEDULE = ("DELETE", "/apis/v2beta1/recurringruns/{recurring_run_id}")
DISABLE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns/{recurring_run_id}:disable")


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


def test_the_client_has_the_operations_that_we_know_of() -> None:
    assert len(operations()) == 40
    assert {UPLOAD, CREATE_PIPELINE, CREATE_RUN, GET_RUN, CREATE_SCHEDULE, DELETE_SCHEDULE} <= operations()


# ---------------------------------------------------------------- versions and runs


def test_a_first_upload_creates_pipeline_and_version_and_the_same_again_changes_nothing(
    stub: Stub, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = connect()
    first = submit.upload(server, package)
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 1)
    assert submit.upload(server, package) == first
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 1)
    said = capsys.readouterr().out
    assert "pipeline nightdrive: created" in said
    assert re.search(r"version nightdrive-[0-9a-f]{12}: uploaded", said)
    assert "is there already" in said


def test_other_content_is_a_second_version_of_the_same_pipeline(stub: Stub, package: Path, tmp_path: Path) -> None:
    server = connect()
    pipeline, version = submit.upload(server, package)
    other = tmp_path / "other.yaml"
    other.write_text(package.read_text() + "\n")
    assert submit.upload(server, other)[0] == pipeline
    assert submit.upload(server, other)[1] != version
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 2)


def test_a_run_is_started_once_from_the_version(stub: Stub, package: Path) -> None:
    server = connect()
    pipeline, version = submit.upload(server, package)
    run_id = submit.start(server, pipeline, version)
    run = stub.objects["runs"][run_id]
    assert run["pipeline_version_reference"] == {"pipeline_id": pipeline, "pipeline_version_id": version}
    assert not run.get("runtime_config"), "what a night is told is compiled into its version"
    assert run["service_account"] == "nightdrive-runner"
    assert stub.objects["experiments"][run["experiment_id"]]["display_name"] == "nightdrive"
    submit.start(server, pipeline, version)
    assert len(stub.objects["experiments"]) == 1


def test_an_error_500_and_then_fine_is_no_error(stub: Stub, package: Path) -> None:
    server = connect()
    stub.failures = {LIST_PIPELINES: [500], CREATE_PIPELINE: [503], UPLOAD: [500], CREATE_RUN: [502, 500]}
    pipeline, version = submit.upload(server, package)
    submit.start(server, pipeline, version)
    assert [len(stub.objects[kind]) for kind in ("pipelines", "versions", "runs")] == [1, 1, 1]


def test_a_server_that_fails_after_it_did_what_it_was_asked_does_not_do_it_twice(stub: Stub, package: Path) -> None:
    server = connect()
    stub.fail_after_doing = True
    stub.failures = {CREATE_PIPELINE: [500], UPLOAD: [500], CREATE_RUN: [500]}
    pipeline, version = submit.upload(server, package)
    submit.start(server, pipeline, version)
    assert [len(stub.objects[kind]) for kind in ("pipelines", "versions", "runs")] == [1, 1, 1]


def test_a_server_that_keeps_failing_is_said_to_fail(stub: Stub, package: Path) -> None:
    server = connect()
    stub.failures = {LIST_PIPELINES: [500] * 10}
    with pytest.raises(Unreachable, match=r"the server failed \(500: the database is away\); see its log, try again"):
        submit.upload(server, package)


# ---------------------------------------------------------------- the connection


@pytest.mark.parametrize(
    ("host", "code", "said"),
    [
        ("", 2, "kubectl port-forward"),
        ("localhost:8080", 2, "must be http://HOST or https://HOST"),
        ("http://127.0.0.1:99999", 2, "must be http://HOST or https://HOST"),
        ("https://ada:s3cret@kfp.example", 2, "holds user information"),
        ("http://127.0.0.1:9", 1, "cannot be reached"),
        ("http://no-such-host.invalid", 1, "cannot be reached"),
    ],
)
def test_a_wrong_address_says_what_to_do(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, host: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 is the caller's mistake; 1 is a server that may be there later."""
    monkeypatch.setenv("KFP_HOST", host)
    for arguments in (["pipeline-submit", "--no-preflight"], ["pipeline-status"], ["schedule"]):
        assert main(arguments) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]
        assert "s3cret" not in lines[0]
    assert not stub.calls


def test_an_address_without_the_api_is_said_so(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_HOST", stub.url + "/elsewhere")
    with pytest.raises(InputError, match="404"):
        connect()


def test_a_wrong_token_says_which_variable_to_set_and_never_shows_it(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub.token = "right"
    monkeypatch.setenv("KFP_TOKEN", "wrong-secret")
    with pytest.raises(InputError, match="set KFP_TOKEN to a valid token") as caught:
        connect()
    assert "wrong-secret" not in str(caught.value)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    connect()


# ---------------------------------------------------------------- following, status, cancelling


def test_submit_from_end_to_end(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "DIGESTS_FILE", tmp_path / "none.json")
    stub.next_states = [run_of("RUNNING", ("ingest", "RUNNING")), run_of("SUCCEEDED", ("ingest", "SUCCEEDED"))]
    assert main(["pipeline-submit", "--no-preflight", "--set", "select.budget_frames=5"]) == 0
    said = capsys.readouterr().out
    assert f"run run-1: {stub.url}/#/runs/details/run-1" in said
    assert re.search(r"  ingest +SUCCEEDED", said)


# ---------------------------------------------------------------- the schedule


@pytest.fixture
def scheduled(stub: Stub) -> Stub:
    stub.add("pipelines", "pipeline_id", {"display_name": "nightdrive"})
    return stub


def declared(tmp_path: Path, **changes: Any) -> schedule.Schedule:
    file = tmp_path / "schedule.yaml"
    content = {"name": "nightly", "cron": "0 30 21 * * MON-FRI", "time_zone": "Europe/Berlin"} | changes
    file.write_text(yaml.safe_dump(content))
    return schedule.read_schedule(file)


def test_the_schedule_of_the_repository_is_sound() -> None:
    wanted = schedule.read_schedule(schedule.SCHEDULE_FILE)
    assert wanted.trigger == "TZ=Europe/Berlin 0 0 21 * * *"


def test_a_schedule_is_created_with_its_time_zone_one_run_at_a_time_and_no_catching_up(
    scheduled: Stub, tmp_path: Path
) -> None:
    said, in_line = schedule.reconcile(connect(), declared(tmp_path))
    assert in_line
    assert "created" in said
    (made,) = scheduled.objects["recurringruns"].values()
    assert made["trigger"]["cron_schedule"]["cron"] == "TZ=Europe/Berlin 0 30 21 * * MON-FRI"
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["pipeline_version_reference"] == {"pipeline_id": "pipeline-1"}  # no version: the latest one


def test_an_unchanged_schedule_is_left_alone(scheduled: Stub, tmp_path: Path) -> None:
    wanted = declared(tmp_path)
    schedule.reconcile(connect(), wanted)
    said, in_line = schedule.reconcile(connect(), wanted)
    assert in_line
    assert "unchanged" in said
    assert (scheduled.count(*CREATE_SCHEDULE), scheduled.count(*DELETE_SCHEDULE)) == (1, 0)


def test_a_changed_schedule_is_replaced_and_a_dry_run_only_shows_the_difference(
    scheduled: Stub, tmp_path: Path
) -> None:
    schedule.reconcile(connect(), declared(tmp_path))
    changed = declared(tmp_path, time_zone="America/New_York")
    said, in_line = schedule.reconcile(connect(), changed, dry_run=True)
    assert not in_line
    assert "TZ=Europe/Berlin 0 30 21 * * MON-FRI' -> 'TZ=America/New_York 0 30 21 * * MON-FRI'" in said
    assert scheduled.count(*CREATE_SCHEDULE) == 1
    assert schedule.reconcile(connect(), changed)[1]
    (made,) = scheduled.objects["recurringruns"].values()
    assert made["trigger"]["cron_schedule"]["cron"].startswith("TZ=America/New_York ")
    order = [call for call in scheduled.calls if call in (CREATE_SCHEDULE, DELETE_SCHEDULE, DISABLE_SCHEDULE)]
    assert order == [CREATE_SCHEDULE, DISABLE_SCHEDULE, CREATE_SCHEDULE, DELETE_SCHEDULE]


def test_a_schedule_is_not_replaced_while_one_of_its_runs_is_active(scheduled: Stub, tmp_path: Path) -> None:
    schedule.reconcile(connect(), declared(tmp_path))
    (made,) = scheduled.objects["recurringruns"].values()
    facts = {"recurring_run_id": made["recurring_run_id"], "experiment_id": made["experiment_id"]}
    run = scheduled.add("runs", "run_id", {"display_name": "tonight", "state": "RUNNING", **facts})
    said, in_line = schedule.reconcile(connect(), declared(tmp_path, cron="0 0 1 * * *"))
    assert not in_line
    assert "tonight is running and would be ended" in said
    assert scheduled.count(*DELETE_SCHEDULE) == 0
    run["state"] = "SUCCEEDED"
    assert schedule.reconcile(connect(), declared(tmp_path, cron="0 0 1 * * *"))[1]


def test_enabling_and_disabling_replaces_nothing(scheduled: Stub, tmp_path: Path) -> None:
    schedule.reconcile(connect(), declared(tmp_path))
    assert schedule.reconcile(connect(), declared(tmp_path, enabled=False)) == ("schedule nightly: disabled", True)
    assert schedule.reconcile(connect(), declared(tmp_path)) == ("schedule nightly: enabled", True)
    assert scheduled.count(*CREATE_SCHEDULE) == 1


def test_a_schedule_that_cannot_be_replaced_stays_as_it_was(scheduled: Stub, tmp_path: Path) -> None:
    schedule.reconcile(connect(), declared(tmp_path))
    scheduled.failures = {CREATE_SCHEDULE: [400]}
    with pytest.raises(InputError, match="refused the request"):
        schedule.reconcile(connect(), declared(tmp_path, cron="0 0 1 * * *"))
    (left,) = scheduled.objects["recurringruns"].values()
    assert left["mode"] == "ENABLE"
    assert "0 30 21" in left["trigger"]["cron_schedule"]["cron"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cron": "0 21 * * *"}, "must have six fields"),
        ({"cron": "0 0 25 * * *"}, "'25' must lie in 0..23"),
        ({"cron": "0 0 x * * *"}, "'x' must lie in 0..23"),
        ({"cron": "0 */0 1 * * *"}, "a step of 0"),
        ({"cron": "0 0 5-1 * * *"}, "'5-1' ends before it begins"),
        ({"cron": "* * * * * *"}, "must begin with one second"),
        ({"cron": 5}, "must be text; change it in schedule.yaml"),
        ({"time_zone": "Berlin"}, "is no IANA time zone; change it in schedule.yaml"),
        ({"parameters": {}}, "unknown parameter 'parameters'"),
        ({"crno": "0 0 1 * * *"}, "did you mean 'cron'?"),
    ],
)
def test_a_mistake_in_the_schedule_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        declared(tmp_path, **changes)
    assert said in str(caught.value)


def test_a_schedule_without_a_pipeline_says_what_comes_first(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule"]) == 2
    assert "run `make pipeline-submit` once" in capsys.readouterr().err
    assert stub.count(*CREATE_SCHEDULE) == 0


# ---------------------------------------------------------------- the preflight

PINNED = "127.0.0.1:{port}/team/nightdrive-{name}@sha256:" + "0" * 64


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
    stub.kubernetes = {
        space: {"metadata": {"name": "nightdrive"}},
        f"{space}/serviceaccounts/nightdrive-runner": {"metadata": {"name": "nightdrive-runner"}},
        f"{space}/persistentvolumeclaims/nightdrive-checkpoints": {"metadata": {"name": "nightdrive-checkpoints"}},
        f"{space}/secrets/nightdrive-s3": {"data": s3},
        f"{space}/secrets/nightdrive-git": {"data": {"credentials": "YQ=="}},
        "/api/v1/nodes": {"items": [node]},
    }
    return stub


def images_file(stub: Stub, folder: Path) -> Path:
    port = stub.url.rsplit(":", 1)[1]
    built = {}
    for name in ("gates", "versioning", "torch-cpu", "torch-cuda"):
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


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (
            "/api/v1/namespaces/nightdrive/secrets/nightdrive-s3",
            [],
            "kubectl --namespace nightdrive create secret generic",
        ),
        ("/api/v1/namespaces/nightdrive", [], "MISSING  namespace nightdrive: apply an overlay of manifests/"),
        ("", ["--set", "cluster.accelerator=nvidia.com/mig-1g.10gb"], "MISSING  1 x nvidia.com/mig-1g.10gb"),
        ("", ["--set", "cluster.stages.train_prune.gpu_count=8"], "MISSING  8 x nvidia.com/gpu"),
        ("", ["--set", "cluster.gpu_node_selector={pool: big}"], "on nodes with pool=big: no node offers it"),
        ("/v2/", [], "is not in its registry; run `make images"),
        ("no images", [], "is named without a digest; run `make images"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(
    cluster: Stub, tmp_path: Path, change: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = images_file(cluster, tmp_path)
    if change == "/v2/":
        cluster.manifests.popitem()
    cluster.kubernetes.pop(change, None)
    given = ["--images", str(file)] if change != "no images" else []
    assert main(["preflight", *given, *arguments]) == 1
    assert said in capsys.readouterr().out


def test_a_secret_without_a_key_and_what_may_not_be_asked_are_told_apart(
    cluster: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.kubernetes["/api/v1/namespaces/nightdrive/secrets/nightdrive-s3"]["data"].pop("endpoint")
    cluster.kubernetes["/api/v1/nodes"] = 403
    file = images_file(cluster, tmp_path)
    for path in cluster.manifests:
        cluster.manifests[path] = 401
    assert main(["preflight", "--images", str(file)]) == 1
    said = capsys.readouterr().out
    assert "MISSING  secret nightdrive-s3: lacks endpoint; add them" in said
    assert "unknown  1 x nvidia.com/gpu: the Kubernetes API answered 403" in said
    assert "its registry answered 401" in said


def test_submit_starts_nothing_where_something_is_missing(
    cluster: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.kubernetes.pop("/api/v1/namespaces/nightdrive/secrets/nightdrive-git")
    assert main(["pipeline-submit", "--images", str(images_file(cluster, tmp_path))]) == 2
    assert "the cluster lacks what is listed above" in capsys.readouterr().err
    assert not cluster.objects["runs"]
    assert not cluster.objects["pipelines"]
