"""The watch: what lost a pod is tried again so many times and nothing else is; what never said good-bye gets its report, once."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perception.versioning.nights import read_nights
from perception.versioning.registry import create_registry
from pipelines.commands.program import main
from pipelines.kubeflow.kfp_api import connect
from pipelines.kubeflow.watch import look
from tests.channel import Channel, channel  # noqa: F401 - a fixture
from tests.pipelines.kubeflow.night_runs import leave_record, version_spec
from tests.pipelines.kubeflow.stub_server import Stub

ROOT = Path(__file__).parents[3]
RETRY = ("POST", "/apis/v2beta1/runs/{run_id}:retry")
NOW = datetime(2026, 1, 1, 6, tzinfo=UTC)
BROKE = [{"id": "enough_frames", "rule": "frames at least 100", "bound": {"min_value": 100}, "observed": "12"}]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NIGHTDRIVE_NIGHT", "NIGHTDRIVE_RECORDS", "NIGHTDRIVE_WEBHOOK"):
        monkeypatch.setenv(name, "")  # and put back, whatever the watch makes of it


def ended(stub: Stub, store: Path, *, state: str = "FAILED", **more: Any) -> None:
    stub.add("runs", "run_id", {"display_name": "night", "state": state, "pipeline_spec": version_spec(store), **more})
    facts = {"format": 1, "night": "run-1", "profile": "smoke", "started": 900.0, "deadline": NOW.timestamp() + 9e4}
    (store / "nights" / "run-1").mkdir(parents=True, exist_ok=True)
    (store / "nights" / "run-1" / "night.json").write_text(json.dumps(facts))
    leave_record(store, "run-1", "gather", "done", values={"new": 5}, peak_rss_mib=321.0)


def report_of(store: Path) -> dict[str, Any] | None:
    file = store / "nights" / "run-1" / "report" / "summary.json"
    return dict(json.loads(file.read_text())) if file.exists() else None


def did(store: Path) -> list[str]:
    file = store / "nights" / "run-1" / "watch.json"
    return [each["did"] for each in json.loads(file.read_text())] if file.exists() else []


@pytest.mark.parametrize("lost", ["running", ""])
def test_a_night_that_lost_a_pod_is_tried_again_so_many_times_and_then_told(
    stub: Stub,
    tmp_path: Path,
    lost: str,
) -> None:
    """A pod that is drained ends with 143, which counts as the program's failure: the backend does not try it again."""
    ended(stub, tmp_path)
    if lost:  # of a pod that never began there is no record at all
        leave_record(tmp_path, "run-1", "gate_ingest", lost, started=1100.0)
    leave_record(tmp_path, "run-1", "farewell", "done", started=1200.0)
    for tries in (1, 2):
        assert look(connect(), NOW) == 0
        assert stub.count(*RETRY) == tries, "a lost pod is nobody's failure: the night is tried again"
        assert look(connect(), NOW) == 0
        assert stub.count(*RETRY) == tries, "it runs: nothing is to be done"
        stub.objects["runs"]["run-1"]["state"] = "FAILED"
        leave_record(tmp_path, "run-1", "gate_ingest", "running", started=1300.0)
    assert look(connect(), NOW) == 0
    assert stub.count(*RETRY) == 2, "cluster.watch_retries is the limit"
    summary = report_of(tmp_path)
    assert summary is not None, "the farewell does not run again after a retry: the watch tells the night"
    assert (summary["status"], did(tmp_path)) == ("failed", ["retry", "retry", "report"])


def test_a_night_whose_report_failed_has_lost_no_pod(stub: Stub, tmp_path: Path) -> None:
    ended(stub, tmp_path)
    leave_record(tmp_path, "run-1", "report", "failed", message="why")
    assert look(connect(), NOW) == 0
    assert (stub.count(*RETRY), did(tmp_path)) == (0, ["report"])


@pytest.mark.parametrize("status", ["refused", "bad_input", "failed"])
def test_what_a_person_must_mend_is_never_tried_again(stub: Stub, tmp_path: Path, status: str) -> None:
    ended(stub, tmp_path)
    leave_record(tmp_path, "run-1", "compare", "running")  # beside it a pod was lost
    leave_record(tmp_path, "run-1", "gate_ingest", status, message="why", failed=BROKE if status == "refused" else [])
    leave_record(tmp_path, "run-1", "farewell", "done", started=1200.0)
    assert look(connect(), NOW) == 0
    assert stub.count(*RETRY) == 0, f"a night that ended {status} ends so again"
    assert did(tmp_path) == [], "its farewell has told it"


def test_a_night_past_its_deadline_or_cancelled_is_not_tried_again_but_told(stub: Stub, tmp_path: Path) -> None:
    """The backend ends the farewell with the run, and a cancelled run says FAILED."""
    history = [{"state": state} for state in ("RUNNING", "CANCELING", "FAILED")]
    ended(stub, tmp_path, state_history=history)
    leave_record(tmp_path, "run-1", "gate_ingest", "running", started=1100.0)
    assert look(connect(), NOW) == 0
    assert stub.count(*RETRY) == 0, "somebody ended it"
    assert report_of(tmp_path) is not None, "nobody else writes the report of a cancelled night"
    other = tmp_path / "other"
    stub.objects["runs"].clear()
    ended(stub, other)
    leave_record(other, "run-1", "gate_ingest", "running", started=1100.0)
    assert look(connect(), NOW + timedelta(hours=30)) == 0
    assert stub.count(*RETRY) == 0, "the backend's deadline counts from the first start: it would end at once"
    assert report_of(other) is not None


def test_a_report_from_records_says_what_the_farewell_would_and_is_written_once(
    stub: Stub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended(stub, tmp_path)
    said = {"message": "gate ingest refused", "failed": BROKE, "parameters": {"bounds": {"min_frames": 100}}}
    leave_record(tmp_path, "run-1", "gate_ingest", "refused", started=1100.0, **said)
    assert look(connect(), NOW) == 0
    summary = report_of(tmp_path)
    assert summary is not None
    assert (summary["status"], summary["seconds"]) == ("refused", 120.0)
    assert [(stage["name"], stage["peak_rss_mib"]) for stage in summary["stages"]] == [
        ("gather", 321.0),
        ("gate_ingest", 100.0),
    ]
    assert summary["gates"] == [{"name": "ingest", "verdict": "refused", "failed_expectations": ["enough_frames"]}]
    page = (tmp_path / "nights/run-1/report/report.html").read_text()
    for told in ("gate_ingest", "frames at least 100", "12", "gate_ingest.bounds", "min_frames"):
        assert told in page, f"the page of a refused night says {told}"
    told = json.loads((tmp_path / "nights/run-1/farewell.json").read_text())["values"]
    assert (told["status"], told["new"]) == ("refused", 5)
    assert "without a farewell" in capsys.readouterr().out
    page_time = (tmp_path / "nights/run-1/report/report.html").stat().st_mtime_ns
    assert look(connect(), NOW) == 0
    assert (tmp_path / "nights/run-1/report/report.html").stat().st_mtime_ns == page_time
    assert did(tmp_path) == ["report"]


def begun(store: Path) -> str:
    """Let a night have begun on a registry of its own, whose address is returned."""
    registry = str(store / "data.git")
    create_registry(registry, str(store / "remote"))
    values = {"base": None, "night": "run-1", "date": "2026-01-01", "entries": 0, "code": "c0ffee"}
    leave_record(store, "run-1", "resolve", "done", values=values)
    return registry


@pytest.mark.parametrize("killed", ["", "compare"])
def test_a_night_without_a_farewell_gets_its_row_in_the_registry(
    stub: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: Channel,  # noqa: F811
    killed: str,
) -> None:
    """Cancelled in the middle, or retried to a good end: the backend runs no farewell again."""
    monkeypatch.setenv("NIGHTDRIVE_WEBHOOK", channel.address)
    registry = begun(tmp_path)
    history = [{"state": state} for state in ("RUNNING", "CANCELING", "FAILED")]
    state = {"state": "FAILED", "state_history": history} if killed else {"state": "SUCCEEDED"}
    ended(stub, tmp_path, **state)
    prices = {"currency": "EUR", "price_per_hour": {"gather": 0.6, "evaluate": 6.0, "ingest": 9.0}}
    stub.objects["runs"]["run-1"]["pipeline_spec"] = version_spec(tmp_path, registry=registry, **prices)
    by_condition = {"weather=fog": 0.2, "weather=rain": None, "scene=urban": 0.4}
    figures = {"miou": 0.3, "miou_by_condition": by_condition, "verdict": "hold", "version": "data/x-01234567"}
    leave_record(tmp_path, "run-1", "evaluate", "done", values=figures)
    leave_record(tmp_path, "run-1", "report", "done", started=1200.0)
    if killed:
        leave_record(tmp_path, "run-1", killed, "running")
    assert look(connect(), NOW) == 0
    (night,) = read_nights(registry)
    assert (night.night, night.date.isoformat(), night.status) == (
        "run-1", "2026-01-01", "failed" if killed else "done",
    )  # fmt: skip
    assert (night.used.code, night.profile, night.figures.new_frames) == ("c0ffee", "smoke", 5)
    got = night.figures
    assert (got.cost, got.currency, night.version) == (0.11, "EUR", "data/x-01234567"), "a minute of each"
    assert (got.miou, got.worst_condition, got.verdict, got.seconds) == (
        0.3, "weather=fog", "hold", 240.0 if killed else 180.0,
    )  # fmt: skip
    assert look(connect(), NOW) == 0
    assert read_nights(registry) == [night] and did(tmp_path) == ["report"]
    failed, waits = (
        "failed at compare: was killed before it was done",
        "done; data/x-01234567 waits for a decision (its network: hold)",
    )
    assert channel.posted == [{"text": f"nightdrive: night run-1 (profile smoke): {failed if killed else waits}"}]


def test_a_farewell_that_could_not_reach_the_registry_is_done_again_and_no_lost_pod(stub: Stub, tmp_path: Path) -> None:
    registry = begun(tmp_path)
    ended(stub, tmp_path)
    stub.objects["runs"]["run-1"]["pipeline_spec"] = version_spec(tmp_path, registry=registry)
    leave_record(tmp_path, "run-1", "farewell", "failed", started=1200.0)
    away = tmp_path / "away.git"
    (tmp_path / "data.git").rename(away)
    assert look(connect(), NOW) == 1
    assert (stub.count(*RETRY), did(tmp_path)) == (0, []), "it is tried at the next look"
    away.rename(tmp_path / "data.git")
    assert look(connect(), NOW) == 0
    assert [night.status for night in read_nights(registry)] == ["failed"]


def test_a_good_night_is_left_alone_and_other_runs_too(stub: Stub, tmp_path: Path) -> None:
    ended(stub, tmp_path, state="SUCCEEDED")
    leave_record(tmp_path, "run-1", "farewell", "done", started=1200.0)
    spec = {"root": {"dag": {"tasks": {}}}, "components": {}}
    stub.add("runs", "run_id", {"display_name": "hello", "state": "FAILED", "pipeline_spec": spec})
    stub.add("runs", "run_id", {"display_name": "of a first version of KFP", "state": "FAILED"})
    latest = {"pipeline_id": "pipeline-1"}
    other = {"display_name": "unpinned", "mode": "ENABLE", "trigger": {}, "pipeline_version_reference": latest}
    stub.add("recurringruns", "recurring_run_id", other)
    assert look(connect(), NOW) == 0
    assert look(connect(), NOW + timedelta(days=9)) == 0
    assert did(tmp_path) == []


def test_a_store_that_cannot_be_read_fails_the_look_and_the_other_nights_are_looked_at(
    stub: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("NIGHTDRIVE_S3_ENDPOINT", raising=False)
    ended(stub, tmp_path)
    stub.add(
        "runs", "run_id", {"display_name": "away", "state": "FAILED", "pipeline_spec": version_spec("s3://no/store")}
    )
    assert look(connect(), NOW) == 1
    assert "away: store s3://no" in capsys.readouterr().out
    assert stub.count(*RETRY) == 1


@pytest.mark.parametrize("name", ["gather.json", "night.json", "watch.json"])
def test_a_night_whose_documents_cannot_be_read_fails_the_look_and_the_others_are_looked_at(
    stub: Stub, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(stub, tmp_path / "sound")
    broken = tmp_path / "broken" / "nights" / "run-2" / name
    broken.parent.mkdir(parents=True)
    broken.write_text('{"format": 1, "na')
    more = {"display_name": "torn", "state": "FAILED", "pipeline_spec": version_spec(tmp_path / "broken")}
    stub.add("runs", "run_id", more)
    assert look(connect(), NOW) == 1
    assert f"torn: {broken}: is no" in capsys.readouterr().out
    assert stub.count(*RETRY) == 1, "the sound one"


def test_a_retry_that_the_backend_refuses_counts_as_a_try(stub: Stub, tmp_path: Path) -> None:
    ended(stub, tmp_path)
    stub.failures = {RETRY: [500, 500, 500]}
    stub.failure_message = "etcdserver: request is too large"
    assert [look(connect(), NOW) for _ in range(3)] == [1, 1, 0]
    assert (did(tmp_path), stub.count(*RETRY)) == (["retry", "retry", "report"], 2)


def scheduled(stub: Stub, store: Path, cron: str = "0 0 2 * * *", **more: Any) -> None:
    trigger = {"cron_schedule": {"cron": cron}}
    body = {
        "display_name": "nightly",
        "mode": "ENABLE",
        "trigger": trigger,
        "pipeline_spec": version_spec(store),
        **more,
    }
    stub.add("recurringruns", "recurring_run_id", body)
    stub.objects["recurringruns"]["recurringrun-1"]["created_at"] = "2025-12-31T00:00:00Z"


def started(stub: Stub, at: str, state: str = "RUNNING") -> None:
    facts = {"display_name": "tonight", "state": state, "recurring_run_id": "recurringrun-1"}
    stub.add("runs", "run_id", facts | {"pipeline_spec": version_spec("unused")})
    stub.objects["runs"]["run-1"]["created_at"] = at


def test_a_night_that_was_due_and_did_not_start_is_told_once(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduled(stub, tmp_path)
    assert look(connect(), NOW) == 0
    said = "nightly: the night of 2026-01-01 02:00 UTC did not start"
    assert said in capsys.readouterr().out, "nobody else notices a night that is not there"
    assert look(connect(), NOW) == 0
    assert said not in capsys.readouterr().out
    assert look(connect(), NOW + timedelta(days=1)) == 0
    assert "the night of 2026-01-02 02:00 UTC did not start" in capsys.readouterr().out


def test_a_night_that_waits_for_the_one_before_says_so(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduled(stub, tmp_path)
    started(stub, "2025-12-31T02:00:10Z")
    assert look(connect(), NOW) == 0
    assert "did not start; tonight still runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cron", "zone", "begun", "mode"),
    [
        ("0 0 2 * * *", "", "2026-01-01T02:00:10Z", "ENABLE"),  # it started
        ("0 50 5 * * *", "", "2025-12-31T05:50:10Z", "ENABLE"),  # ten minutes ago: it may yet
        ("0 45 6 * * *", "Europe/Berlin", "2025-12-31T05:45:10Z", "ENABLE"),  # 5:45 UTC, likewise
        ("0 0 2 * * *", "", "", "DISABLE"),
        ("0 0 2 * * SUN", "", "", "ENABLE"),  # before it was scheduled
    ],
)
def test_a_night_that_started_or_is_not_due_is_none_of_the_watchs_business(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cron: str, zone: str, begun: str, mode: str
) -> None:
    monkeypatch.setenv("CRON_SCHEDULE_TIMEZONE", zone)
    scheduled(stub, tmp_path, cron, mode=mode)
    if begun:
        started(stub, begun)
    assert look(connect(), NOW) == 0
    assert not (tmp_path / "nights").exists()


def test_a_schedule_that_cannot_be_read_is_named(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRON_SCHEDULE_TIMEZONE", "Mars/Olympus")
    scheduled(stub, tmp_path)
    assert look(connect(), NOW) == 1
    assert "CRON_SCHEDULE_TIMEZONE=Mars/Olympus" in capsys.readouterr().out


def test_a_night_that_somebody_starts_by_the_interval_is_named(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduled(stub, tmp_path, trigger={"periodic_schedule": {"interval_second": "86400"}})
    assert look(connect(), NOW) == 1
    assert "nightly: starts every so many seconds" in capsys.readouterr().out


@pytest.mark.usefixtures("stub")
def test_the_command_looks_once() -> None:
    assert main(["watch", "--once"]) == 0


def test_what_the_watch_does_is_posted_once(
    stub: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: Channel,  # noqa: F811
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_WEBHOOK", channel.address)
    ended(stub, tmp_path)
    leave_record(tmp_path, "run-1", "gate_ingest", "refused", started=1100.0, message="why", failed=BROKE)
    assert look(connect(), NOW) == 0
    (said,) = channel.posted
    assert said["text"].startswith(
        "nightdrive: night smoke (profile smoke): refused at gate_ingest: why enough_frames:"
    )
    assert look(connect(), NOW) == 0
    assert len(channel.posted) == 1


def test_the_runbook_says_what_the_backend_tries_again_and_that_its_policy_stays() -> None:
    """Argo's OnError takes an exit code for the program's own; Always is set in every DAG template too, and multiplies by level."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    for said in ("stays `OnError`", "2 x 3 times", "Kubeflow retries no step that exits by itself", "exit code 143"):
        assert said in page
