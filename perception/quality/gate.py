"""The gate: judge a table by a suite and write down a verdict that says what failed, where and what to do."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perception.data.files import replace_file
from perception.data.tables import read_record, read_table
from perception.errors import InputError
from perception.quality.checks import SHOWN, Outcome
from perception.quality.suites import Expectation, Rows, Suite, bind, load_suite, needed_parameters, substitute
from perception.quality.vocabulary import FORMS, in_words
from perception.quality.waivers import Waiver, find_waiver, load_waivers

PARAMETERS_FILE = "gate_parameters.json"
DECISIONS = ("pass", "warn", "refuse")
_KEYS = ("frame_id", "gate_id")  # the column that names an offending row, the first that the table has
_SOURCE = "source"


@dataclass(frozen=True, kw_only=True)
class FailedExpectation:
    """One rule that the table breaks."""

    id: str
    rule: str  # in words, with the bounds that were used
    why: str
    bound: dict[str, Any]
    observed: str
    severity: str
    frames: tuple[dict[str, Any], ...]  # the first offending rows: frame_id (or gate_id) and the offending values
    count: int  # of all offending rows; 0 where the rule is about the table as a whole
    remedy: str
    waived_by: str | None  # who allowed it, until when and why; then it does not refuse
    waiver_note: str | None  # a waiver that does not hold: expired, or not yet granted


@dataclass(frozen=True, kw_only=True)
class NotChecked:
    """One rule that could not be applied, by what the suite itself allows."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate decided, and why."""

    suite: str
    suite_sha256: str
    decision: str  # one of DECISIONS
    rows: int  # of the judged table
    failed: tuple[FailedExpectation, ...]  # worst first, then by id
    checked: int  # number of rules applied
    not_checked: tuple[NotChecked, ...]
    parameters: dict[str, Any]  # as used, defaults included

    @property
    def outcome(self) -> str:
        """Return refused, waived (passed, with a rule that somebody waived), warned (passed, with a warning broken) or passed."""
        if any(failure.waived_by for failure in self.failed) and self.decision != "refuse":
            return "waived"
        return {"refuse": "refused", "warn": "warned", "pass": "passed"}[self.decision]

    def in_words(self) -> str:
        """Say the verdict in one line."""
        said = "; ".join(
            f"{failure.id} ({failure.severity}{', waived' if failure.waived_by else ''}): {failure.observed}"
            for failure in self.failed
        )
        return f"gate {self.suite}: {self.decision}" + (f": {said}" if said else "")


def judge(
    suite: Suite,
    table: pd.DataFrame,
    parameters: Mapping[str, Any],
    waivers: Iterable[Waiver],
    today: date,
    *,
    applies_to: Collection[str] = (),
) -> Verdict:
    """Judge a table by a suite.

    parameters: the bounds that the suite asks for. applies_to: what runs, such as its profile; waivers for one of these
    names hold, and so do waivers for an ingest source, where all offending rows have that `source`.

    The decision is `refuse` with a critical failure that is not waived, `warn` with any other failure but those of
    severity info, else `pass`. A rule that had nothing to look at fails, unless the suite allows that with a reason.

    Raises InputError for a missing, unknown or unusable parameter.
    """
    bound = bind(suite, parameters)
    applied, not_checked = _split_optional(suite.expectations, bound)
    findings: dict[str, _Finding | None] = {}
    library = _open_library()
    for group in _by_rows(applied):
        findings |= _findings(library, group, table, bound, not_checked)
    skipped = {entry.id for entry in not_checked}
    waivers = tuple(waivers)
    failed = [
        _failed(entry, finding, bound, find_waiver(waivers, suite.name, entry.id, applies_to, finding.sources, today))
        for entry in applied
        if (finding := findings.get(entry.id)) is not None
    ]
    order = {"critical": 0, "warning": 1, "info": 2}
    return Verdict(
        suite=suite.name,
        suite_sha256=suite.sha256,
        decision=_decision(failed),
        rows=len(table),
        failed=tuple(sorted(failed, key=lambda failure: (order[failure.severity], failure.id))),
        checked=sum(entry.id not in skipped for entry in applied),
        not_checked=tuple(sorted(not_checked, key=lambda entry: entry.id)),
        parameters={name: _plain(value) for name, value in sorted(bound.items())},
    )


def judge_folders(
    folders: Sequence[Path],
    suite_name: str,
    bounds: Mapping[str, Any],
    *,
    applies_to: Collection[str] = (),
    today: str = "",
) -> Verdict:
    """Judge the tables that a stage wrote, together, by a shipped suite and the shipped waivers.

    Each folder holds the suite's table (its meta.file) and perhaps gate_parameters.json: bounds that the stage itself
    knows, such as the number of frames that must come out. today: YYYY-MM-DD; empty: this day in UTC.

    Raises InputError for a missing or malformed table, a bound given twice with two values, a date that is none: a
    verdict is about data, and a table without its columns says nothing about them.
    """
    suite = load_suite(suite_name)
    parameters = dict(bounds)
    for folder in folders:
        given = folder / PARAMETERS_FILE
        for name, value in read_record(given, dict[str, Any]).items() if given.exists() else ():
            if name in parameters and parameters[name] != value:
                raise InputError(f"{given}: {name} is {value!r}, elsewhere {parameters[name]!r}; give it once")
            parameters[name] = value
    table = pd.concat([read_table(folder / suite.file, {}) for folder in folders], ignore_index=True)
    _check_columns(suite, table, parameters, folders[0] / suite.file)
    return judge(suite, table, parameters, load_waivers(), _day(today), applies_to=applies_to)


def _check_columns(suite: Suite, table: pd.DataFrame, parameters: Mapping[str, Any], path: Path) -> None:
    bound = bind(suite, parameters)
    applied, _ = _split_optional(suite.expectations, bound)
    named = {name for entry in applied for name in columns_named(entry, substitute(entry.kwargs, bound))}
    missing = sorted(named - set(table.columns))
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}, which suite {suite.name} judges; run the stage again"
        )


def columns_named(entry: Expectation, kwargs: Mapping[str, Any]) -> set[str]:
    """Name the columns that a rule says it looks at; those that it finds by a prefix are not among them."""
    keys = [name for name in kwargs if name == "column" or name.startswith("column_") or name.endswith("_column")]
    named = {entry.rows.column} if entry.rows else set()
    for key in keys:
        value = kwargs[key]
        named |= {value} if isinstance(value, str) else {name for name in value if isinstance(name, str)}
    return named


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """Write verdict.json and verdict.md into a folder, the same bytes for the same verdict."""
    content = json.dumps(asdict(verdict), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / "verdict.json", content.encode())
    replace_file(folder / "verdict.md", verdict_page(verdict).encode())


def verdict_page(verdict: Verdict) -> str:
    """Say a verdict in Markdown."""
    lines = [
        f"# Gate {verdict.suite}: {verdict.decision}",
        "",
        f"{verdict.checked} rules applied to {verdict.rows} rows, {len(verdict.failed)} broken, "
        f"{len(verdict.not_checked)} not applied. Suite {verdict.suite_sha256[:12]}.",
        "",
    ]
    for failure in verdict.failed:
        lines += _failure_lines(failure)
    if verdict.not_checked:
        lines += ["## Not applied", "", *(f"- {entry.id}: {entry.reason}" for entry in verdict.not_checked), ""]
    if verdict.parameters:
        lines += [
            "## Parameters",
            "",
            *(f"- {key}: {in_words(value)}" for key, value in verdict.parameters.items()),
            "",
        ]
    return "\n".join(lines)


def _day(today: str) -> date:
    if not today:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(today)
    except ValueError:
        raise InputError(f"today is {today!r}; write a date such as 2026-11-23") from None


# ---------------------------------------------------------------- what is applied to which rows


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """How a table breaks one rule."""

    observed: str
    count: int = 0
    frames: tuple[dict[str, Any], ...] = ()
    sources: frozenset[str] = frozenset()


def _split_optional(
    expectations: Sequence[Expectation], bound: Mapping[str, Any]
) -> tuple[list[Expectation], list[NotChecked]]:
    applied, not_checked = [], []
    for entry in expectations:
        absent = sorted(name for name in needed_parameters(entry) if bound[name] is None)
        if absent:
            not_checked.append(NotChecked(id=entry.id, reason=f"{', '.join(absent)} not given"))
        else:
            applied.append(entry)
    return applied, not_checked


def _by_rows(entries: Iterable[Expectation]) -> list[list[Expectation]]:
    groups: dict[str, list[Expectation]] = {}
    for entry in entries:
        groups.setdefault(repr(entry.rows), []).append(entry)
    return list(groups.values())


def _findings(
    library: Any,
    entries: Sequence[Expectation],
    table: pd.DataFrame,
    bound: Mapping[str, Any],
    not_checked: list[NotChecked],
) -> dict[str, _Finding | None]:
    """Apply entries that share their rows; those that may be empty and are go to not_checked."""
    rows = entries[0].rows and entries[0].rows.bound(bound)
    if rows is not None and rows.column not in table.columns:
        return {entry.id: _Finding(observed=f"the table has no column {rows.column}") for entry in entries}
    kwargs = {entry.id: substitute(entry.kwargs, bound) for entry in entries}
    # a copy of some rows of a wide table should hold no more than what is looked at
    read = {*_KEYS, _SOURCE}.union(*(columns_read(entry, kwargs[entry.id], table) for entry in entries))
    part = _selected(table, rows, [name for name in table.columns if name in read])
    findings: dict[str, _Finding | None] = {}
    to_run = []
    for entry in entries:
        if _looked_at(entry, kwargs[entry.id], part) == 0:
            findings[entry.id] = _empty(entry, len(part), not_checked)
        else:
            to_run.append(entry)
    sources = _sources(part)
    for entry, result in zip(to_run, _run_suite(library, to_run, kwargs, part), strict=True):
        findings[entry.id] = _finding(entry, result, part, sources, not_checked)
    return findings


def _selected(table: pd.DataFrame, rows: Rows | None, columns: list[str]) -> pd.DataFrame:
    if rows is None:
        return table.reset_index(drop=True)
    column = table[rows.column]
    mask = column.notna() if rows.values is None else column.isin(rows.values)
    return table.loc[mask, columns].reset_index(drop=True)


def columns_read(entry: Expectation, kwargs: Mapping[str, Any], table: pd.DataFrame) -> set[str]:
    """Name the columns of a table that a rule looks at; kwargs: its arguments, parameters in their places."""
    if "column_set" in kwargs:
        return set(table.columns)
    texts = {entry.rows.column} if entry.rows else set()
    for value in kwargs.values():
        texts |= {item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)}
    prefixes = tuple(kwargs[name] for name in ("prefix", "right_prefix") if name in kwargs)
    return {name for name in table.columns if name in texts or name.startswith(prefixes)}


def _looked_at(entry: Expectation, kwargs: Mapping[str, Any], part: pd.DataFrame) -> int | None:
    """Count the values that a rule looks at; None where the rule itself reports it or is about the table."""
    looks_at = FORMS[entry.type].looks_at
    if looks_at in ("own", "table"):
        return None
    columns = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    if looks_at == "rows":
        return len(part)
    if any(name not in part.columns for name in columns):
        return None  # the missing column is what will be reported
    present = part[columns].notna()
    either = kwargs.get("ignore_row_if") == "either_value_is_missing"
    return int((present.all(axis=1) if either else present.any(axis=1)).sum())


def _empty(entry: Expectation, rows: int, not_checked: list[NotChecked]) -> _Finding | None:
    if entry.allow_empty is not None:
        not_checked.append(NotChecked(id=entry.id, reason=f"nothing to look at: {entry.allow_empty}"))
        return None
    return _Finding(
        observed=f"nothing to look at: {rows} rows, none with a value; a rule that saw nothing proves nothing"
    )


# ---------------------------------------------------------------- great_expectations


def _open_library() -> Any:
    """Open great_expectations without a file or a connection; return its context."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    import perception.quality.expectations  # noqa: F401 - registers our own before they are named

    # given whole: by default the library makes a temporary folder for its pages, which a read-only root has not
    configuration = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(), progress_bars=ProgressBarsConfig(globally=False)
    )
    return gx.get_context(mode="ephemeral", project_config=configuration)


def _run_suite(
    library: Any, entries: Sequence[Expectation], kwargs: Mapping[str, Mapping[str, Any]], part: pd.DataFrame
) -> list[Any]:
    """Return the library's result of every entry, in their order."""
    if not entries:
        return []
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.validator.validator import Validator

    # the library keeps one of several equal expectations, so rules whose bounds coincide share one result
    same = {entry.id: json.dumps([entry.type, kwargs[entry.id]], default=str) for entry in entries}
    configurations = [
        ExpectationConfiguration(
            type=entry.type,
            kwargs=dict(kwargs[entry.id]),
            meta={"rule": rule},
            severity=FailureSeverity(entry.severity),
        )
        for rule, entry in {same[entry.id]: entry for entry in entries}.items()
    ]
    for configuration in configurations:
        configuration.to_domain_obj()  # raises for what the library does not know, which a run would only log
    # not Batch.validate: that first hashes the whole table, twice, which takes longer than all the rules
    engine = PandasExecutionEngine(batch_data_dict={"gate": part})
    keys = [name for name in (_key(part), _SOURCE) if name in part.columns]
    results: Any = Validator(execution_engine=engine, data_context=library).graph_validate(
        configurations, {"result_format": {"result_format": "COMPLETE", "unexpected_index_column_names": keys}}
    )
    by_rule: dict[str, Any] = {result.expectation_config.meta["rule"]: result for result in results}
    assert by_rule.keys() == set(same.values()), "the library lost a result"
    return [by_rule[rule] for rule in same.values()]


def _key(table: pd.DataFrame) -> str | None:
    return next((name for name in _KEYS if name in table.columns), None)


def _sources(part: pd.DataFrame) -> frozenset[str]:
    return frozenset(part[_SOURCE].dropna().unique()) if _SOURCE in part.columns else frozenset()


def _finding(
    entry: Expectation, result: Any, part: pd.DataFrame, sources: frozenset[str], not_checked: list[NotChecked]
) -> _Finding | None:
    problem, outcome = _exception(result.exception_info), result.result.get("outcome")
    if problem is not None:
        return _Finding(observed=f"could not be applied: {problem}", sources=sources)
    if isinstance(outcome, Outcome) and outcome.evaluated == 0:
        return _empty(entry, len(part), not_checked)
    if result.success:
        return None
    return _own_finding(outcome, part, sources) if outcome else _core_finding(entry, result.result, part, sources)


def _exception(info: Mapping[str, Any]) -> str | None:
    """Return the message of what was raised; the library nests it under the metric that failed."""
    if info.get("raised_exception"):
        return " ".join(str(info.get("exception_message")).split())
    nested = [item for item in info.values() if isinstance(item, Mapping)]
    return next((message for item in nested if (message := _exception(item)) is not None), None)


def _own_finding(outcome: Outcome, part: pd.DataFrame, sources: frozenset[str]) -> _Finding:
    key = _key(part)
    frames = tuple(
        ({key: part[key].iloc[row]} if key else {"row": int(row)}) | values
        for row, values in zip(outcome.positions[:SHOWN], outcome.values, strict=True)
    )
    if len(outcome.positions):
        sources = _sources(part.iloc[outcome.positions])
    return _Finding(observed=outcome.observed, count=outcome.count, frames=_plain(frames), sources=sources)


def _core_finding(
    entry: Expectation, result: Mapping[str, Any], part: pd.DataFrame, sources: frozenset[str]
) -> _Finding:
    listed = result.get("unexpected_index_list") or []
    if listed and _SOURCE in part.columns:
        sources = frozenset(str(row[_SOURCE]) for row in listed if row.get(_SOURCE) is not None)
    key = _key(part)
    frames = tuple(
        {key: row.get(key)} | {name: value for name, value in row.items() if name not in (key, _SOURCE)}
        for row in listed[:SHOWN]
    )
    count = int(result.get("unexpected_count") or 0)
    return _Finding(observed=_observed(entry, result, count), count=count, frames=_plain(frames), sources=sources)


def _observed(entry: Expectation, result: Mapping[str, Any], count: int) -> str:
    if "unexpected_count" in result:
        return f"{count} of {result['element_count']} rows"
    mismatched = (result.get("details") or {}).get("mismatched", {})
    if entry.type == "expect_table_columns_to_match_set":
        return "; ".join(f"{key}: {', '.join(map(str, names))}" for key, names in sorted(mismatched.items()) if names)
    if "partial_missing_list" in result:
        return f"missing: {', '.join(map(str, result['partial_missing_list']))}"
    return in_words(_plain(result.get("observed_value")))


# ---------------------------------------------------------------- the verdict


def _failed(
    entry: Expectation, finding: _Finding, bound: Mapping[str, Any], waiver: tuple[Waiver | None, str | None]
) -> FailedExpectation:
    kwargs = substitute(entry.kwargs, bound)
    rule = FORMS[entry.type].rule(kwargs)
    if entry.rows is not None:
        rule = f"{entry.rows.bound(bound).in_words()}: {rule}"
    return FailedExpectation(
        id=entry.id,
        rule=rule,
        why=entry.why,
        bound={name: _plain(kwargs[name]) for name in FORMS[entry.type].bounds if name in kwargs},
        observed=finding.observed,
        severity=entry.severity,
        frames=finding.frames,
        count=finding.count,
        remedy=entry.remedy,
        waived_by=waiver[0].in_words() if waiver[0] else None,
        waiver_note=waiver[1],
    )


def _decision(failed: Iterable[FailedExpectation]) -> str:
    """Refuse for what is critical and not waived; a waived failure still warns, so that nobody takes it for a pass."""
    counted = [failure for failure in failed if failure.severity != "info"]
    if any(failure.severity == "critical" and failure.waived_by is None for failure in counted):
        return "refuse"
    return "warn" if counted else "pass"


def _plain(value: Any) -> Any:
    """Return what JSON can hold; numbers that it cannot become words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _failure_lines(failure: FailedExpectation) -> list[str]:
    waived = ", waived" if failure.waived_by else ""
    lines = [f"## {failure.severity.upper()}{waived}: {failure.id}", "", f"- rule: {failure.rule}"]
    lines += [f"- observed: {failure.observed}", f"- why it matters: {failure.why}", f"- what to do: {failure.remedy}"]
    lines += [f"- waived by {failure.waived_by}"] if failure.waived_by else []
    lines += [f"- {failure.waiver_note}", ""] if failure.waiver_note else [""]
    if failure.frames:
        lines += [f"{len(failure.frames)} of {failure.count} offending rows:", ""]
        lines += [f"- {', '.join(f'{key}={value}' for key, value in row.items())}" for row in failure.frames]
        lines.append("")
    return lines
