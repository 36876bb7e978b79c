"""What the report says of the A/B comparison, and of how a night ended."""

from pathlib import Path
from typing import Any

import pytest

from components.report import recorded, run
from components.report.night import _comparison_in_words, _outcome, _promotion_figures, gather_night
from components.report.parameters import ReportParameters
from components.stage.declaration import Paths
from components.stage.parameters import build_parameters
from tests.perception.reporting.made_up_nights import made_up
from tests.pipelines.kubeflow.night_runs import leave_record, report_parameters


def test_the_spread_over_seeds_and_the_paired_difference_are_told() -> None:
    words = _comparison_in_words([0.30, 0.32, 0.34, 0.33, 0.31], [0.29, 0.30, 0.34, 0.32, 0.30])
    assert words == "mIoU 32.0 ± 1.6 % against 31.0 ± 2.0 %; difference +1.0 (+0.1 to +1.9) points over 5 seeds"
    few = _comparison_in_words([0.30, 0.32, 0.34], [0.29, 0.30, 0.34])
    assert few == "mIoU 32.0 ± 2.0 % against 31.0 ± 2.6 %; 3 seeds: too few to say anything of the difference"


def test_one_seed_has_no_spread_and_a_missing_arm_no_comparison() -> None:
    assert _comparison_in_words([0.3], [0.2]) == "1 seed: too few to say anything of the difference"
    assert _comparison_in_words([0.3, 0.4], None) == ""


def record(name: str, status: str = "done", **more: Any) -> dict[str, Any]:
    facts = {"name": name, "status": status, "started": 1.0, "seconds": 60.0, "peak_rss_mib": 100.0}
    return facts | {"message": "", "values": {}, "failed": [], "parameters": {}, **more}


@pytest.mark.parametrize("state", ["COMPLETE", "RUNNING", "SUCCEEDED", ""])
def test_of_a_good_night_the_backend_says_anything_but_failed(state: str) -> None:
    """Kubeflow closes a DAG only when a container inside it ends: an exit handler is told RUNNING of a good night."""
    assert _outcome([record("gather")], {"state": state}) == ("done", None, ()), f"{state} calls no night broken"


def test_a_night_that_failed_without_a_record_is_failed_and_says_so() -> None:
    status, culprit, said = _outcome([record("gather")], {"state": "FAILED", "error": {}})
    assert (status, culprit) == ("failed", "a step")
    assert "left no record" in said[0]


def test_a_killed_step_and_a_refusal_are_told_by_their_records_whatever_the_backend_says() -> None:
    assert _outcome([record("adapt", "running")], {"state": "RUNNING"}) == (
        "failed", "adapt", ("was killed before it was done",),
    )  # fmt: skip
    rule = {"id": "enough", "rule": "rows at least 100", "bound": {"min_value": 100}, "observed": "12"}
    refused = record("gate_ingest", "refused", message="gate ingest refused", failed=[rule])
    assert _outcome([refused], {"state": "FAILED", "error": {}}) == (
        "refused", "gate_ingest", ("gate ingest refused", "enough: rows at least 100; observed 12"),
    )  # fmt: skip


@pytest.mark.parametrize(("final_status", "status"), [({}, "done"), ({"state": "FAILED"}, "failed")])
def test_what_runs_beside_the_report_was_not_killed_and_what_still_says_so_at_the_farewell_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, final_status: dict[str, str], status: str
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_NIGHT", "run-1")
    monkeypatch.setenv("NIGHTDRIVE_RECORDS", str(tmp_path / "nights" / "run-1"))
    leave_record(tmp_path, "run-1", "evaluate", "done")
    leave_record(tmp_path, "run-1", "propose", "running")
    parameters = build_parameters(
        ReportParameters, report_parameters() | {"final_status": final_status}, where="report"
    )
    (tmp_path / "report").mkdir()
    assert run(Paths({}), Paths({"report": (tmp_path / "report",)}), parameters)["status"] == status


def test_a_night_costs_what_its_own_work_costs_by_the_hour() -> None:
    waited = [
        record("ingest", seconds=7200.0),
        record("ingest@0", seconds=1800.0),
        record("gate_ingest", seconds=3600.0),
    ]
    told = report_parameters() | {"price_per_hour": {"ingest": 0.5, "gate_ingest": 0.2}, "currency": "EUR"}
    summary = gather_night(Paths({}), build_parameters(ReportParameters, told, where="report"), waited).summary
    assert (summary.cost, summary.currency) == (0.45, "EUR")
    unpriced = build_parameters(ReportParameters, report_parameters(), where="report")
    assert gather_night(Paths({}), unpriced, waited).summary.cost is None, "nobody has said what an hour costs"


def test_pool_and_night_of_a_summary_are_what_the_tasks_told() -> None:
    parameters = build_parameters(ReportParameters, report_parameters(), where="report")
    tasks = [
        record("resolve", values={"night": "2026-11-30", "base": None, "denied_by_name": 2}),
        record("gather", values={"pool": 40, "new": 7, "repeated": 1, "rejected": 2, "denied": 1, "labels": 0}),
        record("curate", values={"labelled": 3, "human_labels": 11}),
        record("publish", values={"at_annotators": 5}),
    ]
    summary = gather_night(Paths({}), parameters, tasks).summary
    assert summary.night == "2026-11-30"
    assert vars(summary.pool) == {
        "frames": 40, "new": 7, "repeated": 1, "rejected": 2, "denied": 3, "labelled": 11, "open_at_annotators": 5,
    }  # fmt: skip


def test_what_was_compared_with_the_champion_is_judged_and_what_too_little_was_seen_of_is_not() -> None:
    promotion = {"decision": "hold", "reason": "why", "judged": ["overall", "class=car"], "not_judged": ["weather=fog"]}
    figures = _promotion_figures({"promotion": promotion})
    assert (figures.decision, *map(list, (figures.judged, figures.not_judged))) == (
        "hold",
        ["overall", "class=car"],
        ["weather=fog"],
    )
    first = _promotion_figures({"promotion": {"decision": "promote", "reason": "none yet"}})
    assert (first.judged, first.not_judged, first.reference) == (None, None, None)


def test_a_version_that_was_released_at_once_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The automatic rules of propose may have released it before the report is written."""
    parameters = build_parameters(ReportParameters, report_parameters(), where="report")
    report, listed = gather_night(Paths({}), parameters, [record("gather")]), made_up()
    monkeypatch.setattr(recorded, "read_trend", lambda _: listed)
    said = {each.decision: recorded.notice(parameters, report, each.night) for each in listed}
    assert {decision for decision, words in said.items() if words} == {"proposed"}
    assert "data/2026-11-30-0000001d waits for a decision" in said["proposed"]


def test_seconds_and_stages_of_a_summary_are_those_of_the_records() -> None:
    parameters = build_parameters(ReportParameters, report_parameters(), where="report")
    waited = [record("ingest", seconds=500.0), record("ingest@0", seconds=400.0), record("ingest@1", seconds=450.0)]
    assert gather_night(Paths({}), parameters, waited).summary.seconds == 850.0, "waiting is no work"
    summary = gather_night(Paths({}), parameters, [record("gather"), record("adapt", started=61.0)]).summary
    assert (summary.status, summary.seconds) == ("done", 120.0)
    assert [(stage.name, stage.status, stage.peak_rss_mib) for stage in summary.stages] == [
        ("gather", "done", 100.0), ("adapt", "done", 100.0),
    ]  # fmt: skip
