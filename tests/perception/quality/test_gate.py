"""The gate: nothing passes unseen, and a verdict says what failed, where and what to do."""

import json
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from perception.data.tables import read_record
from perception.errors import InputError
from perception.quality.gate import Verdict, judge, judge_folders, verdict_page, write_verdict
from perception.quality.suites import load_suite
from perception.quality.waivers import Waiver

TODAY = date(2026, 11, 23)
BETWEEN = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "score", "min_value": 0, "max_value": 10},
}


def rule(identifier: str, **fields: object) -> dict:
    return {"id": identifier, "severity": "critical", "why": "It matters.", "remedy": "Mend it."} | fields


def suite_of(tmp_path: Path, *rules: dict, parameters: dict | None = None):
    path = tmp_path / "mine.yaml"
    content = {"name": "mine", "meta": {"owner": "o", "table": "t", "file": "gate.parquet"}, "expectations": [*rules]}
    path.write_text(yaml.safe_dump(content | ({"parameters": parameters} if parameters else {}), sort_keys=False))
    return load_suite(path)


def table(rows: int = 20) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame_id": [f"f{k:02d}" for k in range(rows)],
            "score": np.linspace(0, 9, rows),
            "split": ["train", "test"] * (rows // 2),
            "source": ["camvid", "fleet"] * (rows // 2),
        }
    )


def judged(suite, frames, waivers=(), **more):
    return judge(suite, frames, {}, waivers, TODAY, **more)


# ---------------------------------------------------------------- what must not pass unseen

NEEDS_VALUES = {
    "unique": {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "score"}},
    "regex": {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "frame_id", "regex": "^f"}},
    "in_set": {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "split", "value_set": ["test"]}},
    "between": BETWEEN,
    "not_null": {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "score"}},
    "equal": {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": "score", "column_B": "score"}},
    "greater": {
        "type": "expect_column_pair_values_a_to_be_greater_than_b",
        "kwargs": {"column_A": "score", "column_B": "score", "or_equal": True},
    },
    "mean": {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "score", "max_value": 10}},
    "max": {"type": "expect_column_max_to_be_between", "kwargs": {"column": "score", "max_value": 10}},
    "present": {"type": "expect_values_to_be_present", "kwargs": {"column_list": ["score"]}},
    "finite": {"type": "expect_values_to_be_finite", "kwargs": {"column_list": ["score"]}},
    "one_side": {
        "type": "expect_group_to_stay_on_one_side",
        "kwargs": {"group_column": "split", "side_column": "split", "sides": {"a": ["train"], "b": ["test"]}},
    },
}


@pytest.mark.parametrize("where", ["empty table", "no such rows"])
def test_rules_that_saw_no_row_fail(tmp_path, where):
    none = {"rows": {"column": "split", "in": ["val"]}} if where == "no such rows" else {}
    suite = suite_of(tmp_path, *(rule(name, **fields, **none) for name, fields in NEEDS_VALUES.items()))
    verdict = judged(suite, table(0) if where == "empty table" else table())
    assert {failure.id for failure in verdict.failed} == set(NEEDS_VALUES)
    assert verdict.decision == "refuse"
    assert all("nothing to look at" in failure.observed for failure in verdict.failed)


@pytest.mark.parametrize(("severity", "outcome"), [("critical", "refused"), ("warning", "warned"), ("info", "passed")])
def test_a_broken_rule_of_each_severity_is_told_as_what_it_is(tmp_path, severity, outcome):
    suite = suite_of(tmp_path, rule("a", **BETWEEN) | {"severity": severity})
    assert judged(suite, table()).outcome == "passed"
    assert judged(suite, table().assign(score=11.0)).outcome == outcome


def test_rules_about_a_column_without_values_fail(tmp_path):
    names = ("unique", "in_set", "between", "equal", "greater", "mean", "max", "present", "finite", "not_null")
    suite = suite_of(tmp_path, *(rule(name, **NEEDS_VALUES[name]) for name in names))
    verdict = judged(suite, table().assign(score=np.nan, split=None))
    assert {failure.id for failure in verdict.failed} == set(names)


def test_an_empty_part_passes_only_by_a_written_reason(tmp_path):
    fields = {**BETWEEN, "rows": {"column": "split", "in": ["val"]}}
    verdict = judged(suite_of(tmp_path, rule("a", **fields, allow_empty="there may be no val set")), table())
    assert verdict.decision == "pass" and verdict.checked == 0
    assert verdict.not_checked[0].reason == "nothing to look at: there may be no val set"


def test_a_count_of_rows_that_are_not_there_fails(tmp_path):
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
    suite = suite_of(tmp_path, rule("a", **count, rows={"column": "split", "in": ["val"]}))
    assert judged(suite, table()).failed[0].observed == "0"


def test_numbers_that_are_none_fail_the_shipped_suites(good):
    frames, parameters = good("select")
    for bad in (np.nan, np.inf, -np.inf):
        faulty = frames.assign(score=frames.score.where(frames.index != 3, bad))
        verdict = judge(load_suite("select"), faulty, parameters, (), TODAY)
        also = {"values_present"} if np.isnan(bad) else set()  # which is how pandas says that a value is missing
        assert {failure.id for failure in verdict.failed} == {"numbers_finite"} | also
        assert verdict.failed[0].frames == ({"frame_id": "car_0003", "score": str(bad)},)


def test_a_bound_of_one_side_lets_infinity_pass_and_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs the argument max_value"):
        suite_of(tmp_path, rule("a", type=BETWEEN["type"], kwargs={"column": "score", "min_value": 0}))


def test_a_missing_column_says_so(tmp_path):
    verdict = judged(
        suite_of(
            tmp_path,
            rule("own", type="expect_values_to_be_finite", kwargs={"column_list": ["score"]}),
            rule("core", **BETWEEN),
            rule("rows", **BETWEEN, rows={"column": "missing", "present": True}),
        ),
        table().drop(columns="score"),
    )
    observed = {failure.id: failure.observed for failure in verdict.failed}
    assert "score" in observed["own"] and "score" in observed["core"]
    assert observed["rows"] == "the table has no column missing"


@pytest.mark.parametrize(
    "name",
    [
        "expect_column_values_to_be_in_type_list",  # fails on text columns of pandas 3 although they are text
        "expect_compound_columns_to_be_unique",  # counts repeated pairs and is taken for a test of leakage
        "expect_column_chisquare_test_p_value_to_be_greater_than",  # has a module and no class
        "expect_column_kl_divergence_to_be_less_than",  # observed None for a new class
        "unexpected_rows_expectation",  # SQL alone
    ],
)
def test_expectations_that_mislead_are_not_in_the_vocabulary(tmp_path, name):
    with pytest.raises(InputError, match="is none that a suite may use"):
        suite_of(tmp_path, rule("a", type=name, kwargs={}))


def test_a_missing_parameter_is_an_error_and_not_a_pass(good):
    frames, _ = good("select")
    with pytest.raises(InputError, match="budget_frames"):
        judge(load_suite("select"), frames, {}, (), TODAY)


def test_what_an_absent_optional_parameter_leaves_out_is_written_down(good):
    frames, parameters = good("ingest")
    del parameters["newest_after_utc"]
    verdict = judge(load_suite("ingest"), frames, parameters, (), TODAY)
    assert [(entry.id, entry.reason) for entry in verdict.not_checked] == [
        ("footage_is_fresh", "newest_after_utc not given")
    ]


# ---------------------------------------------------------------- the verdict


def failing(severity: str, identifier: str = "low") -> dict:
    kwargs = {"column": "score", "min_value": 0, "max_value": 3}
    return rule(identifier, type=BETWEEN["type"], kwargs=kwargs, severity=severity)


@pytest.mark.parametrize(("severity", "decision"), [("critical", "refuse"), ("warning", "warn"), ("info", "pass")])
def test_severity_decides(tmp_path, severity, decision):
    verdict = judged(suite_of(tmp_path, failing(severity)), table())
    assert verdict.decision == decision and len(verdict.failed) == 1


def test_a_failure_names_rule_bound_rows_and_remedy(tmp_path):
    failure = judged(suite_of(tmp_path, failing("critical")), table()).failed[0]
    assert failure.rule == "score is at least 0 and at most 3"
    assert failure.bound == {"min_value": 0, "max_value": 3}
    assert failure.observed == "13 of 20 rows" and failure.count == 13
    assert [row["frame_id"] for row in failure.frames] == [f"f{k:02d}" for k in range(7, 17)]
    assert failure.frames[0]["score"] == pytest.approx(table().score[7])
    assert (failure.why, failure.remedy, failure.waived_by) == ("It matters.", "Mend it.", None)


def test_failures_come_worst_first_whatever_the_order_of_the_rules(tmp_path):
    rules = [failing("info", "a"), failing("critical", "c"), failing("warning", "d"), failing("critical", "b")]
    first = judged(suite_of(tmp_path, *rules), table())
    second = judged(suite_of(tmp_path, *rules[::-1]), table())
    assert [failure.id for failure in first.failed] == ["b", "c", "d", "a"]
    assert first.failed == second.failed
    assert first.in_words().startswith("gate mine: refuse: b (critical): 13 of 20 rows; c")


def test_equal_rules_of_two_names_are_both_judged(tmp_path):
    verdict = judged(suite_of(tmp_path, failing("critical", "one"), failing("critical", "two")), table())
    assert [failure.id for failure in verdict.failed] == ["one", "two"]


def test_the_index_of_the_table_does_not_matter_and_the_table_stays(tmp_path):
    frames = table().set_index(np.arange(20) % 3)
    before = frames.copy()
    suite = suite_of(
        tmp_path, failing("critical"), failing("warning", "part") | {"rows": {"column": "split", "in": ["test"]}}
    )
    assert judged(suite, frames).failed == judged(suite, table()).failed
    pd.testing.assert_frame_equal(frames, before)


def test_verdict_files_are_the_same_bytes_each_time(tmp_path, good):
    frames, parameters = good("select")
    frames.loc[:3, "score"] = [np.nan, np.inf, 1.0, 2.0]
    verdicts = [judge(load_suite("select"), frames, parameters, (), TODAY) for _ in range(2)]
    for verdict, folder in zip(verdicts, ("one", "two"), strict=True):
        write_verdict(verdict, tmp_path / folder)
    for name in ("verdict.json", "verdict.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["verdict.json", "verdict.md"]
    content = json.loads((tmp_path / "one" / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert content["decision"] == "refuse"
    assert [row["score"] for row in content["failed"][0]["frames"]] == ["nan", "inf"]
    assert read_record(tmp_path / "one" / "verdict.json", Verdict) == verdicts[0]


def test_what_is_no_verdict_is_refused(tmp_path):
    (tmp_path / "verdict.json").write_text("{}")
    with pytest.raises(InputError, match="suite: field required"):
        read_record(tmp_path / "verdict.json", Verdict)


def test_the_page_says_what_to_do(tmp_path):
    page = verdict_page(judged(suite_of(tmp_path, failing("critical")), table()))
    for part in ("# Gate mine: refuse", "CRITICAL: low", "13 of 20 rows", "Mend it.", "frame_id=f07", "score is at"):
        assert part in page


# ---------------------------------------------------------------- waivers

WAIVER = Waiver(
    suite="mine",
    id="low",
    applies_to="camvid",
    reason="as published",
    who="perception team",
    granted=date(2026, 11, 1),
    expires=date(2026, 11, 23),
)


def verdict_with(tmp_path, waiver, frames=None, **more):
    return judged(suite_of(tmp_path, failing("critical")), table() if frames is None else frames, (waiver,), **more)


def test_a_waived_failure_stays_in_sight_and_does_not_refuse(tmp_path):
    verdict = verdict_with(tmp_path, WAIVER, applies_to=("camvid",))
    assert verdict.decision == "warn"
    assert verdict.failed[0].waived_by == "perception team, 2026-11-01 to 2026-11-23, for camvid: as published"
    assert "waived by perception team" in verdict_page(verdict) and "low (critical, waived)" in verdict.in_words()


def test_a_waiver_that_does_not_hold_refuses_and_says_why(tmp_path):
    expired = replace(WAIVER, expires=date(2026, 11, 22))
    verdict = verdict_with(tmp_path, expired, applies_to=("camvid",))
    assert verdict.decision == "refuse" and verdict.failed[0].waived_by is None
    assert verdict.failed[0].waiver_note.startswith("waiver expired on 2026-11-22")
    assert "waiver expired on 2026-11-22" in verdict_page(verdict)
    early = replace(WAIVER, granted=date(2026, 11, 24), expires=date(2027, 1, 1))
    verdict = verdict_with(tmp_path, early, applies_to=("camvid",))
    assert verdict.decision == "refuse" and "only from 2026-11-24" in verdict.failed[0].waiver_note


@pytest.mark.parametrize("change", [{"id": "high"}, {"suite": "ingest"}, {"applies_to": "cityscapes"}])
def test_a_waiver_for_something_else_does_not_apply(tmp_path, change):
    verdict = verdict_with(tmp_path, replace(WAIVER, **change), applies_to=("camvid",))
    assert verdict.decision == "refuse" and verdict.failed[0].waiver_note is None


def test_a_waiver_for_a_source_covers_its_frames_alone(tmp_path):
    frames = table()
    mixed = verdict_with(tmp_path, WAIVER, frames)
    assert mixed.decision == "refuse"
    own = frames.assign(score=np.where(frames.source == "camvid", 9.0, 1.0))
    assert verdict_with(tmp_path, WAIVER, own).decision == "warn"
    other = frames.assign(score=np.where(frames.source == "fleet", 9.0, 1.0))
    assert verdict_with(tmp_path, WAIVER, other).decision == "refuse"


def test_the_published_split_of_camvid_passes_by_its_waiver_until_it_expires(good, tmp_path):
    frames, _ = good("ingest")
    frames.loc[frames.drive_id.isin(["carC", "carD"]), ["drive_id", "source"]] = ["0016E5", "camvid"]
    frames.to_parquet(tmp_path / "gate.parquet")
    folders, bounds = [tmp_path], {"usual_min_frames": 100, "usual_max_frames": 200}
    verdict = judge_folders(folders, "ingest", bounds, today="2026-12-01")
    (failure,) = verdict.failed
    assert (verdict.decision, failure.id, failure.count) == ("warn", "drive_in_one_split", 40)
    assert "0016E5 (train 20, val 20)" in failure.observed and "published split" in failure.waived_by
    late = judge_folders(folders, "ingest", bounds, today="2027-11-24")
    assert late.decision == "refuse" and late.failed[0].waiver_note.startswith("waiver expired on 2027-11-23")


# ---------------------------------------------------------------- folders


def test_a_stage_gives_the_bounds_that_it_knows(good, tmp_path):
    frames, _ = good("select")
    for part, folder in ((frames.head(10), "a"), (frames.tail(14), "b")):
        (tmp_path / folder).mkdir()
        part.to_parquet(tmp_path / folder / "gate.parquet")
    folders = [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "a" / "gate_parameters.json").write_text('{"budget_frames": 24}')
    assert judge_folders(folders, "select", {"max_drive_share": 0.3}).decision == "pass"
    assert judge_folders(folders, "select", {"budget_frames": 24}).rows == 24
    with pytest.raises(InputError, match="give it once"):
        judge_folders(folders, "select", {"budget_frames": 25})
    (tmp_path / "a" / "gate_parameters.json").write_text("[1]")
    with pytest.raises(InputError, match="should be an object"):
        judge_folders(folders, "select", {})


def test_a_missing_table_and_a_bad_date_are_errors(good, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        judge_folders([tmp_path], "select", {"budget_frames": 24})
    good("select")[0].to_parquet(tmp_path / "gate.parquet")
    with pytest.raises(InputError, match="today is 'soon'"):
        judge_folders([tmp_path], "select", {"budget_frames": 24}, today="soon")


# ---------------------------------------------------------------- the surroundings


def test_a_gate_writes_nothing_and_calls_nobody(tmp_path, monkeypatch):
    suite = suite_of(tmp_path, failing("critical"))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("HOME", str(empty))

    def refuse(*_: object) -> None:
        raise AssertionError("a gate must open no connection and no folder")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)  # a read-only root has no folder for temporary files
    assert judged(suite, table()).decision == "refuse"
    assert list(empty.iterdir()) == []


def test_the_library_is_imported_by_the_judgement_alone():
    modules = ("gate", "suites", "waivers", "checks", "profile", "metrics_table", "vocabulary")
    names = ", ".join(f"perception.quality.{name}" for name in modules)
    code = f"import sys, {names}; sys.exit(bool({{'great_expectations', 'torch', 'kfp'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_without_its_columns_is_bad_input_and_no_verdict(good, tmp_path):
    table, parameters = good("ingest")
    table.drop(columns=["dhash", "returned", "split"]).to_parquet(tmp_path / "gate.parquet")
    with pytest.raises(
        InputError, match=r"gate\.parquet has no column dhash, returned, split, which suite ingest judges"
    ):
        judge_folders([tmp_path], "ingest", parameters, today="2026-11-23")
