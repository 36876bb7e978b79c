"""The stand-in keeps the rules that were seen on a real Kubeflow Pipelines 2.17; each test names the rule."""

from pathlib import Path
from typing import Any

import pytest

from components.stage.kfp_step import write_settings
from perception.errors import InputError
from pipelines.kubeflow import runs, submit
from pipelines.kubeflow.kfp_api import connect
from tests.pipelines.kubeflow.night_runs import version_spec
from tests.pipelines.kubeflow.plays import BLIND_BYTES, TOO_LARGE_BYTES, Play
from tests.pipelines.kubeflow.stub_server import Stub


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play.of("run-1", version_spec(tmp_path))


def names(told: dict[str, Any]) -> dict[str, str]:
    return {task["display_name"]: task["state"] for task in told["run_details"]["task_details"]}


def test_tasks_are_called_by_their_keys_and_each_try_and_driver_is_listed_beside_them(play: Play) -> None:
    play.look()
    assert names(play.look()) == {
        "gather": "SUCCEEDED",
        "gather-driver": "SUCCEEDED",
        "gather(0)": "SUCCEEDED",
        "gate-ingest": "RUNNING",
        "gate-ingest-driver": "SUCCEEDED",
        "gate-ingest(0)": "RUNNING",
    }
    assert play.look()["state"] == "SUCCEEDED"


def test_a_cancelled_run_is_canceling_and_then_failed_and_what_never_began_stays_pending(play: Play) -> None:
    play.look()
    play.cancel()
    assert play.told()["state"] == "CANCELING"
    told = play.look()
    assert [each["state"] for each in told["state_history"]] == ["PENDING", "RUNNING", "CANCELING", "FAILED"]
    assert names(told)["gate-ingest"] == names(play.look())["gate-ingest"] == "PENDING"


def test_exit_codes_are_lost_and_a_lost_pod_is_not_tried_again(play: Play) -> None:
    play.look()
    play.lose_pod()
    told = play.look()
    assert told["state"] == "FAILED"
    assert told["run_details"]["task_details"][0]["error"]["message"].endswith("Error (exit code 1)")
    assert "gather(1)" not in names(told)


def test_the_runs_own_retry_runs_failed_steps_only_and_no_farewell(play: Play, tmp_path: Path) -> None:
    play.look()
    play.look()
    play.lose_pod()
    assert play.farewell
    assert play.retry() == (200, "")
    play.look()
    assert (names(play.look())["gate-ingest(1)"], play.state, play.farewell) == ("SUCCEEDED", "SUCCEEDED", False)
    assert play.steps[0].tries == 1
    assert not (tmp_path / "nights").exists(), "steps that are told of no night keep no record"


def test_above_a_mebibyte_no_task_is_told_and_above_one_and_a_half_nothing_is_tried_again(play: Play) -> None:
    play.raw_bytes = BLIND_BYTES + 1
    assert "run_details" not in play.look()
    play.lose_pod()
    play.raw_bytes = TOO_LARGE_BYTES + 1
    assert play.retry() == (500, "Failed to retry run run-1: etcdserver: request is too large")


def test_for_many_users_nothing_is_made_without_a_namespace(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    unnamed = connect()
    stub.multi_user = True
    with pytest.raises(InputError, match="cannot have an empty namespace in multi-user mode"):
        submit.experiment(unnamed)
    monkeypatch.setenv("KFP_NAMESPACE", "team")
    assert submit.experiment(connect()) == "experiment-1"


def test_a_pipeline_with_versions_goes_only_with_them(stub: Stub) -> None:
    stub.add("pipelines", "pipeline_id", {"display_name": "nightdrive"})
    stub.add("versions", "pipeline_version_id", {"display_name": "v", "pipeline_id": "pipeline-1"})
    server, remove = connect(), ("PipelineServiceApi", "pipeline_service_delete_pipeline", "pipeline-1")
    with pytest.raises(InputError, match="it has versions"):
        server.ask(*remove)
    server.ask(*remove, cascade=True)
    assert (stub.objects["pipelines"], stub.objects["versions"]) == ({}, {})


def test_a_night_is_followed_by_its_records_where_the_server_says_nothing_any_more(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 1 MiB a refusal cannot be told from what the server says; the record says it."""
    spec = version_spec(tmp_path)
    gate = spec["components"]["comp-night"]["dag"]["tasks"]["gate-ingest"]
    told = {"step": {"task": "gate_ingest"}, "bounds": {"min_frames": 10**9}, "_night": {"store": str(tmp_path)}}
    gate["inputs"] = {"parameters": {"settings": {"runtimeValue": {"constant": write_settings(told)}}}}
    stub.playing = True
    stub.add("versions", "pipeline_version_id", {"pipeline_spec": {"pipeline_spec": spec}})
    reference = {"pipeline_id": "pipeline-1", "pipeline_version_id": "version-1"}
    run = stub.add_run({"display_name": "large", "pipeline_version_reference": reference})
    stub.plays[run["run_id"]].raw_bytes = BLIND_BYTES + 1
    assert runs.follow(connect(), run["run_id"]) == 3
    assert "gate_ingest: refused: 1 of 9 rules failed" in capsys.readouterr().out
