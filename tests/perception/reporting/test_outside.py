"""What others are told of a night: each in its own form, none by a log, and none that fails the night."""

import os
from pathlib import Path

import pytest

from perception.errors import InputError
from perception.reporting import outside
from perception.reporting.outside import message, post_notice, tell_outside
from tests.channel import Channel, channel  # noqa: F401 - a fixture
from tests.perception.reporting.made_up_nights import made_up

NIGHT = made_up()[-1].night


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NIGHTDRIVE_WEBHOOK", "NIGHTDRIVE_METRICS", "MLFLOW_TRACKING_URI", *outside._MLFLOW_SETTINGS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_where_nobody_is_named_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "log_to_mlflow", lambda _: pytest.fail("told"))
    assert tell_outside(NIGHT, "x") == []


def test_teams_gets_a_card_and_all_others_a_text() -> None:
    others = ("hooks.slack.com/services/T/B/x", "chat.example/logic.azure.com", "notlogic.azure.com/x")
    for address in (f"https://{each}" for each in others):
        assert message("words", address) == {"text": "words"}
    for host in (
        "prod-1.westeurope.logic.azure.com:443",
        "x.environment.api.powerplatform.com",
        "a.webhook.office.com",
    ):
        (card,) = message("words", f"https://{host}/workflows/1")["attachments"]  # type: ignore[misc]
        assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert card["content"]["body"] == [{"type": "TextBlock", "text": "words", "wrap": True}]


def test_a_line_is_posted_and_its_address_never_shown(
    channel: Channel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_WEBHOOK", channel.address)
    post_notice("a night was lost")
    assert tell_outside(None, "") == [], "there is nothing to say"
    assert channel.posted == [{"text": "nightdrive: a night was lost"}]
    for wrong, said in (
        (f"{channel.address}/broken", "answered 500"),
        ("http://127.0.0.1:9/s3cret", "cannot be posted"),
    ):
        monkeypatch.setenv("NIGHTDRIVE_WEBHOOK", wrong)
        with pytest.raises(InputError, match=said) as raised:
            post_notice("x")
        (told,) = tell_outside(None, "x")
        assert told == str(raised.value) and "s3cret" not in told
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err + caplog.text


def test_metrics_are_a_file_that_prometheus_own_parser_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    file = tmp_path / "collected" / "nightdrive.prom"
    monkeypatch.setenv("NIGHTDRIVE_METRICS", str(file))
    assert tell_outside(NIGHT, "") == []
    found = {
        (sample.name, *(value for name, value in sample.labels.items() if name != "profile")): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if sample.labels["profile"] == "nightly"
    }
    assert found["nightdrive_night_status", "done"] == 1 and found["nightdrive_night_status", "failed"] == 0
    assert found["nightdrive_night_miou",] == NIGHT.figures.miou
    by_condition = NIGHT.figures.miou_by_condition or {}
    assert found["nightdrive_night_miou_by_condition", "weather=rain"] == by_condition["weather=rain"]
    assert ("nightdrive_night_miou_by_condition", "weather=fog") not in found, "it was not measured"
    assert found["nightdrive_night_cost",] == NIGHT.figures.cost
    assert [path.name for path in file.parent.iterdir()] == ["nightdrive.prom"]


def test_metrics_are_pushed_to_a_gateway_and_another_name_is_refused(
    channel: Channel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_METRICS", channel.address.partition("/hooks")[0])
    assert tell_outside(NIGHT, "") == []
    ((path, text),) = channel.pushed
    assert path == "/metrics/job/nightdrive/profile/nightly" and "nightdrive_night_pool_frames" in text
    monkeypatch.setenv("NIGHTDRIVE_METRICS", "figures.txt")
    assert tell_outside(NIGHT, "") == [
        "NIGHTDRIVE_METRICS: must be a file that ends in .prom, or http(s)://HOST of a push gateway; correct it"
    ]
    monkeypatch.setenv("NIGHTDRIVE_METRICS", "http://127.0.0.1:9/s3cret")
    (told,) = tell_outside(NIGHT, "")
    assert told.startswith("NIGHTDRIVE_METRICS: could not be told (") and "s3cret" not in told


def test_a_night_is_one_run_of_mlflow_however_often_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own client reads it back, from a folder."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracking").as_uri())
    failed = made_up()[19].night
    for night in (NIGHT, failed, NIGHT):
        assert tell_outside(night, "") == []
    client = MlflowClient()
    experiment = client.get_experiment_by_name("nightdrive/nightly")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {NIGHT.night, failed.night}
    run = runs[NIGHT.night]
    assert run.data.metrics["miou"] == NIGHT.figures.miou
    assert run.data.metrics["miou.weather.rain"] == (NIGHT.figures.miou_by_condition or {})["weather=rain"]
    assert (run.data.tags["verdict"], run.data.tags["version"]) == (NIGHT.figures.verdict, NIGHT.version)
    assert (run.info.status, runs[failed.night].info.status) == ("FINISHED", "FAILED")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_server_that_does_not_answer_ends_no_night(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/s3cret")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (told,) = tell_outside(NIGHT, "")
    assert told == "MLFLOW_TRACKING_URI: could not be told (MlflowException); correct it"
    assert "s3cret" not in caplog.text
