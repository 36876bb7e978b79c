"""Submitting, following, scheduling, cancelling and looking first, against a server that speaks the real API's operations."""

import re
from pathlib import Path

import pytest

from perception.errors import InputError, Unreachable
from pipelines.commands.program import main
from pipelines.kubeflow import images, submit
from pipelines.kubeflow.kfp_api import connect
from tests.pipelines.kubeflow.night_runs import run_of
from tests.pipelines.kubeflow.stub_server import Stub, operations

UPLOAD = ("POST", "/apis/v2beta1/pipelines/upload_version")
CREATE_PIPELINE = ("POST", "/apis/v2beta1/pipelines")
CREATE_RUN = ("POST", "/apis/v2beta1/runs")
GET_RUN = ("GET", "/apis/v2beta1/runs/{run_id}")
LIST_PIPELINES = ("GET", "/apis/v2beta1/pipelines")
CREATE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns")
DELETE_SCHEDULE = ("DELETE", "/apis/v2beta1/recurringruns/{recurring_run_id}")
DISABLE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns/{recurring_run_id}:disable")


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
