"""The recurring night: its version, the server's time zone, what daylight saving does; replaced only where it differs."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.errors import InputError
from pipelines.commands.program import main
from pipelines.kubeflow import schedule, submit
from pipelines.kubeflow.kfp_api import connect
from pipelines.kubeflow.schedule import Version
from tests.pipelines.kubeflow.stub_server import Stub

CREATE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns")
DELETE_SCHEDULE = ("DELETE", "/apis/v2beta1/recurringruns/{recurring_run_id}")
DISABLE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns/{recurring_run_id}:disable")
WINTER, SUMMER = datetime(2026, 1, 15, 12, tzinfo=UTC), datetime(2026, 7, 15, 12, tzinfo=UTC)
VERSION = Version(name="nightdrive-0123", pipeline_id="pipeline-1", version_id="version-1")


@pytest.fixture
def scheduled(stub: Stub) -> Stub:
    stub.add("pipelines", "pipeline_id", {"display_name": "nightdrive"})
    return stub


def declared(tmp_path: Path, **changes: Any) -> schedule.Schedule:
    file = tmp_path / "schedule.yaml"
    content = {"name": "nightly", "cron": "0 30 21 * * MON-FRI", "time_zone": "Europe/Berlin"} | changes
    file.write_text(yaml.safe_dump(content))
    return schedule.read_schedule(file)


def reconcile(wanted: schedule.Schedule, **more: Any) -> tuple[str, bool]:
    return schedule.reconcile(connect(), wanted, **{"version": VERSION, "now": WINTER} | more)


def test_the_schedule_of_the_repository_is_sound() -> None:
    wanted = schedule.read_schedule(schedule.SCHEDULE_FILE)
    assert (wanted.trigger(WINTER), wanted.trigger(SUMMER)) == ("0 0 20 * * *", "0 0 19 * * *")


def test_a_schedule_is_created_in_the_servers_zone_one_run_at_a_time_and_no_catching_up(
    scheduled: Stub, tmp_path: Path
) -> None:
    said, in_line = reconcile(declared(tmp_path))
    assert in_line
    assert "created (0 30 20 * * MON-FRI in UTC, version nightdrive-0123)" in said
    (made,) = scheduled.objects["recurringruns"].values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 30 20 * * MON-FRI"
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")


@pytest.mark.usefixtures("scheduled")
def test_the_server_refuses_a_time_zone_in_the_expression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = declared(tmp_path)
    monkeypatch.setattr(schedule.Schedule, "trigger", lambda self, _: f"TZ={self.time_zone} {self.cron}")
    with pytest.raises(InputError, match="Expected 5 to 6 fields, found 7"):
        reconcile(wanted)


def test_a_one_off_that_is_uploaded_later_never_becomes_tomorrows_night(
    stub: Stub, package: Path, tmp_path: Path
) -> None:
    """A recurring run that names no version starts whatever was uploaded to its pipeline last."""
    server = connect()
    night = submit.upload(server, package)
    reconcile(declared(tmp_path), version=Version(name="n", pipeline_id=night[0], version_id=night[1]))
    one_off = tmp_path / "one_off.yaml"
    one_off.write_text(package.read_text() + "# with SET=\n")
    tried = submit.upload(server, one_off, submit.ONE_OFFS)
    submit.upload(server, one_off)
    (recurring,) = stub.objects["recurringruns"]
    started = stub.start_recurring(recurring)
    assert started["pipeline_version_reference"]["pipeline_version_id"] == night[1], (
        "another version than the named one"
    )
    assert tried[0] != night[0], "a one-off is a version of the nights' pipeline"


@pytest.mark.parametrize(
    ("arguments", "pipeline"),
    [
        ([], "nightdrive"),
        (["--set", "select.budget_frames=5"], "nightdrive-one-off"),
        (["--profile", "smoke"], "nightdrive-one-off"),
    ],
)
def test_what_is_tried_once_is_a_version_of_another_pipeline(
    cluster: Stub, arguments: list[str], pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline-submit", "--no-preflight", "--no-follow", *arguments]) == 0
    (version,) = cluster.objects["versions"].values()
    assert cluster.objects["pipelines"][version["pipeline_id"]]["display_name"] == pipeline
    assert f"pipeline {pipeline}: created" in capsys.readouterr().out


def test_scheduling_uploads_this_checkouts_night_and_names_it_and_shows_the_next_starts(
    cluster: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", "--dry-run"]) == 0
    assert not cluster.objects["versions"], "a dry run uploads nothing"
    assert main(["schedule"]) == 0
    (version,) = cluster.objects["versions"].values()
    (made,) = cluster.objects["recurringruns"].values()
    assert made["pipeline_version_reference"] == {
        "pipeline_id": version["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert main(["schedule"]) == 0
    said = capsys.readouterr().out
    assert f"version {version['display_name']}" in said
    assert "server's time zone: UTC" in said
    assert "schedule nightdrive-nightly: unchanged" in said
    assert said.count(" 21:00 Europe/Berlin = ") >= 3
    assert re.search(
        r"from 20\d\d-\d\d-\d\d on clocks differ by another time: it would start at 2[02]:00 Europe/Berlin", said
    )


def test_a_server_in_another_zone_than_the_file_says_is_refused(
    cluster: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/api/v1/namespaces/kubeflow/configmaps/pipeline-install-config"
    cluster.kubernetes[path] = {"data": {"cronScheduleTimezone": "Asia/Tokyo"}}
    assert main(["schedule"]) == 2
    said = capsys.readouterr().err
    assert "server_time_zone = 'UTC': the server's CRON_SCHEDULE_TIMEZONE is 'Asia/Tokyo'" in said
    assert not cluster.objects["recurringruns"]
    cluster.kubernetes[path] = 403
    assert main(["schedule", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "server's time zone: the Kubernetes API answered 403; ask who may look; taken as UTC" in said


@pytest.mark.usefixtures("scheduled")
def test_a_change_of_clocks_is_a_difference_that_scheduling_again_mends(tmp_path: Path) -> None:
    wanted = declared(tmp_path)
    reconcile(wanted)
    said, in_line = reconcile(wanted, now=SUMMER, dry_run=True)
    assert not in_line
    assert "cron: '0 30 20 * * MON-FRI' -> '0 30 19 * * MON-FRI'" in said
    assert "from 2026-03-29 on clocks differ by another time: it would start at 22:30" in wanted.preview(WINTER)
    at_home = declared(tmp_path, server_time_zone="Europe/Berlin")
    assert at_home.trigger(SUMMER) == "0 30 21 * * MON-FRI"
    assert "clocks differ" not in at_home.preview(WINTER)


def test_an_unchanged_schedule_is_left_alone(scheduled: Stub, tmp_path: Path) -> None:
    wanted = declared(tmp_path)
    reconcile(wanted)
    said, in_line = reconcile(wanted)
    assert in_line
    assert "unchanged" in said
    assert (scheduled.count(*CREATE_SCHEDULE), scheduled.count(*DELETE_SCHEDULE)) == (1, 0)


def test_a_changed_schedule_is_replaced_and_a_dry_run_only_shows_the_difference(
    scheduled: Stub, tmp_path: Path
) -> None:
    reconcile(declared(tmp_path))
    changed = declared(tmp_path, time_zone="America/New_York")
    said, in_line = reconcile(changed, dry_run=True)
    assert not in_line
    assert "'0 30 20 * * MON-FRI' -> '0 30 2 * * 2,3,4,5,6'" in said
    assert scheduled.count(*CREATE_SCHEDULE) == 1
    assert reconcile(changed)[1]
    (made,) = scheduled.objects["recurringruns"].values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * 2,3,4,5,6"
    order = [call for call in scheduled.calls if call in (CREATE_SCHEDULE, DELETE_SCHEDULE, DISABLE_SCHEDULE)]
    assert order == [CREATE_SCHEDULE, DISABLE_SCHEDULE, CREATE_SCHEDULE, DELETE_SCHEDULE]


def test_a_schedule_that_names_no_version_is_told_and_replaced(scheduled: Stub, tmp_path: Path) -> None:
    reconcile(declared(tmp_path))
    (made,) = scheduled.objects["recurringruns"].values()
    del made["pipeline_version_reference"]["pipeline_version_id"]
    said, _ = reconcile(declared(tmp_path), dry_run=True)
    assert "version: 'the latest' -> 'version-1'" in said


def test_a_schedule_is_not_replaced_while_one_of_its_runs_is_active(scheduled: Stub, tmp_path: Path) -> None:
    reconcile(declared(tmp_path))
    (made,) = scheduled.objects["recurringruns"].values()
    facts = {"recurring_run_id": made["recurring_run_id"], "experiment_id": made["experiment_id"]}
    run = scheduled.add("runs", "run_id", {"display_name": "tonight", "state": "RUNNING", **facts})
    said, in_line = reconcile(declared(tmp_path, cron="0 0 2 * * *"))
    assert not in_line
    assert "tonight is running and would be ended" in said
    assert scheduled.count(*DELETE_SCHEDULE) == 0
    run["state"] = "SUCCEEDED"
    assert reconcile(declared(tmp_path, cron="0 0 2 * * *"))[1]


def test_enabling_and_disabling_replaces_nothing(scheduled: Stub, tmp_path: Path) -> None:
    reconcile(declared(tmp_path))
    assert reconcile(declared(tmp_path, enabled=False)) == ("schedule nightly: disabled", True)
    assert reconcile(declared(tmp_path)) == ("schedule nightly: enabled", True)
    assert scheduled.count(*CREATE_SCHEDULE) == 1


def test_a_schedule_that_cannot_be_replaced_stays_as_it_was(scheduled: Stub, tmp_path: Path) -> None:
    reconcile(declared(tmp_path))
    scheduled.failures = {CREATE_SCHEDULE: [400]}
    with pytest.raises(InputError, match="refused the request"):
        reconcile(declared(tmp_path, cron="0 0 2 * * *"))
    (left,) = scheduled.objects["recurringruns"].values()
    assert left["mode"] == "ENABLE"
    assert "0 30 20" in left["trigger"]["cron_schedule"]["cron"]


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
        ({"server_time_zone": "Local"}, "server_time_zone = 'Local': is no IANA time zone"),
        ({"cron": "0 0 5 31 2 *"}, "names a day that never comes"),
        ({"cron": "0 30 0 1 * *"}, "names days that are others in the server's zone"),
        ({"cron": "0 0 0,12 * * MON"}, "names hours of different days in the server's zone"),
        ({"parameters": {}}, "unknown parameter 'parameters'"),
        ({"crno": "0 0 1 * * *"}, "did you mean 'cron'?"),
    ],
)
def test_a_mistake_in_the_schedule_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        declared(tmp_path, **changes)
    assert said in str(caught.value)
