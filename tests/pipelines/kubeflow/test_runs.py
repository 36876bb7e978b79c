"""What is said of a run, and its exit code: the backend knows states and node names, the night's own records know why."""

import re
from pathlib import Path
from typing import Any

import pytest

from perception.errors import InputError
from pipelines.commands.program import main
from pipelines.kubeflow import runs
from pipelines.kubeflow.kfp_api import connect
from tests.pipelines.kubeflow.night_runs import leave_record, run_of, version_spec
from tests.pipelines.kubeflow.stub_server import Stub

GET_RUN = ("GET", "/apis/v2beta1/runs/{run_id}")
BROKE = [{"id": "enough_frames", "rule": "frames at least 100", "bound": {"min_value": 100}, "observed": "12"}]


@pytest.fixture
def night(stub: Stub, tmp_path: Path) -> dict[str, Any]:
    """One run, its steps' records below tmp_path."""
    return stub.add("runs", "run_id", {"display_name": "night", "pipeline_spec": version_spec(tmp_path)})


@pytest.mark.usefixtures("night")
def test_following_tells_changes_by_our_names_and_no_bookkeeping_of_the_server(
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub.next_states = [
        run_of("RUNNING", ("night", "RUNNING"), ("night-driver", "SUCCEEDED"), ("gather", "RUNNING"), ("executor", "RUNNING")),
        run_of("RUNNING", ("gather", "SUCCEEDED"), ("gate-ingest", "RUNNING"), ("gate-ingest(0)", "RUNNING"),
               ("gate-ingest-driver(0)", "SUCCEEDED")),
        run_of("SUCCEEDED", ("gather", "SUCCEEDED"), ("gate-ingest", "SUCCEEDED"), ("gate-ingest(0)", "SUCCEEDED")),
    ]  # fmt: skip
    assert runs.follow(connect(), "run-1") == 0
    said = capsys.readouterr().out
    assert "gather: running" in said
    assert "gate_ingest: running  (1 of 2 begun are done)" in said, (
        "a step is called as people know it, not gate-ingest"
    )
    assert not re.search(r"driver|executor|\(0\)", said), "drivers, executors and tries are the server's own"
    assert "night: SUCCEEDED" in said
    assert re.search(r"gather +SUCCEEDED +90 s", said)


@pytest.mark.usefixtures("night")
@pytest.mark.parametrize(
    ("status", "code"), [("refused", 3), ("bad_input", 2), ("failed", 1), ("running", 1), ("none", 1)]
)
def test_the_exit_code_is_what_the_records_say(
    stub: Stub,
    tmp_path: Path,
    status: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Launcher and Argo say 1 of every step that failed, and a gate killed by memory failed like one that refused."""
    leave_record(tmp_path, "run-1", "gather", "done")
    if status != "none":
        failed = BROKE if status == "refused" else []
        leave_record(tmp_path, "run-1", "gate_ingest", status, message="its own words", failed=failed)
    stub.next_states = [
        run_of("FAILED", ("gather", "SUCCEEDED"), ("gate-ingest", "FAILED"), error={"message": "one failed"})
    ]
    assert runs.follow(connect(), "run-1") == code, "nobody but the step itself knows how it ended"
    said = capsys.readouterr().out
    assert "gate-ingest broke badly" in said and "error: one failed" in said
    assert ("enough_frames: frames at least 100; observed 12" in said) == (status == "refused")
    if status == "running":
        assert "gate_ingest: running: was killed before it was done" in said
    stub.objects["runs"]["run-1"] |= {"state": "FAILED"}
    assert main(["pipeline-status", "--run", "run-1"]) == code


@pytest.mark.usefixtures("night")
def test_a_report_that_failed_is_to_blame_where_no_other_task_is(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.objects["runs"]["run-1"] |= {"state": "FAILED"}
    leave_record(tmp_path, "run-1", "report", "bad_input", message="no figures")
    assert main(["pipeline-status", "--run", "run-1"]) == 2
    assert "report: bad_input: no figures" in capsys.readouterr().out
    leave_record(tmp_path, "run-1", "gather", "failed", message="its own words")
    assert main(["pipeline-status", "--run", "run-1"]) == 1
    assert "gather: failed: its own words" in capsys.readouterr().out


@pytest.mark.parametrize(("state", "code"), [("FAILED", 1), ("SUCCEEDED", 0)])
def test_without_the_store_the_backends_state_is_said_and_nothing_is_guessed(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("NIGHTDRIVE_S3_ENDPOINT", raising=False)
    stub.add("runs", "run_id", {"display_name": "night", "pipeline_spec": version_spec("s3://nightdrive/store")})
    stub.next_states = [run_of(state, ("gate-ingest", state))]
    assert runs.follow(connect(), "run-1") == code
    said = capsys.readouterr().out
    assert ("why is not known here: " in said and "NIGHTDRIVE_S3_ENDPOINT" in said) == (state == "FAILED")
    assert f"night: {state}" in said


def test_a_run_that_is_no_night_of_ours_is_told_by_its_state(
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    leaf = {"componentRef": {"name": "comp-hello"}, "taskInfo": {"name": "hello"}}
    spec = {"root": {"dag": {"tasks": {"hello": leaf}}}, "components": {"comp-hello": {"executorLabel": "exec-hello"}}}
    stub.add("runs", "run_id", {"display_name": "hello", "pipeline_spec": spec})
    stub.next_states = [run_of("FAILED", ("hello", "FAILED"))]
    assert runs.follow(connect(), "run-1") == 1
    assert "is no night of this program's" in capsys.readouterr().out


@pytest.mark.usefixtures("night")
def test_a_cancelled_run_is_told_apart_and_what_it_left_out_did_not_run(
    stub: Stub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such a run ends FAILED, never CANCELED, and what was omitted stays PENDING in the server's list for ever."""
    leave_record(tmp_path, "run-1", "gather", "running")
    history = [{"state": state} for state in ("PENDING", "RUNNING", "CANCELING", "FAILED")]
    stub.next_states = [run_of("FAILED", ("gather", "FAILED"), ("gate-ingest", "PENDING"), state_history=history)]
    assert runs.follow(connect(), "run-1") == 1
    said = capsys.readouterr().out
    assert "night: FAILED (cancelled)" in said
    assert re.search(r"gate_ingest +NOT RUN", said)


@pytest.mark.usefixtures("night")
def test_following_sits_out_a_server_that_fails_for_a_while(
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = connect()
    stub.failures = {GET_RUN: [500] * 8}
    stub.next_states = [run_of("SUCCEEDED")]
    assert runs.follow(server, "run-1") == 0
    assert "the run goes on meanwhile" in capsys.readouterr().out


def test_status_shows_the_latest_run_or_one_by_name(
    stub: Stub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pipeline-status"]) == 2
    assert "there is no run yet" in capsys.readouterr().err
    for name, state in (("first", "SUCCEEDED"), ("second", "RUNNING")):
        stub.add("runs", "run_id", {"display_name": name, "state": state, "pipeline_spec": version_spec(tmp_path)})
    assert main(["pipeline-status"]) == 0
    said = capsys.readouterr().out
    assert "second: RUNNING" in said
    assert f"{stub.url}/#/runs/details/run-2" in said
    assert main(["pipeline-status", "--run", "first"]) == 0
    assert "first: SUCCEEDED" in capsys.readouterr().out
    assert main(["pipeline-status", "--run", "run-77"]) == 2
    assert "has no run of this id or name" in capsys.readouterr().err


def test_cancelling_ends_a_run_that_runs_and_no_other(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.add("runs", "run_id", {"display_name": "night", "state": "RUNNING"})
    stub.add("runs", "run_id", {"display_name": "over", "state": "FAILED"})
    assert main(["cancel"]) == 2
    assert main(["cancel", "--run", "night"]) == 0
    assert main(["cancel", "--run", "over"]) == 0
    assert stub.objects["runs"]["run-1"]["state"] == "CANCELING"
    assert stub.objects["runs"]["run-2"]["state"] == "FAILED"
    said = capsys.readouterr().out
    assert "nothing to cancel" in said
    assert "the watch" in said and "farewell report still runs" not in said, (
        "the backend ends the farewell with the run"
    )


def test_a_failed_run_is_tried_again_by_the_backend_and_no_other(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.add("runs", "run_id", {"display_name": "good", "state": "SUCCEEDED"})
    stub.add("runs", "run_id", {"display_name": "broken", "state": "FAILED"})
    assert main(["pipeline-retry", "--run", "good"]) == 0
    assert main(["pipeline-retry", "--run", "broken"]) == 0
    assert [run["state"] for run in stub.objects["runs"].values()] == ["SUCCEEDED", "RUNNING"]
    said = capsys.readouterr().out
    assert "only a run that failed" in said and "its failed steps are tried again" in said


def test_a_run_that_has_outgrown_the_backend_is_said_so(stub: Stub) -> None:
    stub.add("runs", "run_id", {"display_name": "large", "state": "FAILED"})
    stub.failures = {("POST", "/apis/v2beta1/runs/{run_id}:retry"): [500]}
    stub.failure_message = "Failed to retry: etcdserver: request is too large"
    with pytest.raises(InputError, match=r"large: has outgrown what Kubernetes keeps .* submit it again"):
        runs.retry(connect(), "run-1")
