"""The night's own row among all nights, in the registry."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from components.report.parameters import ReportParameters
from components.stage.parameters import absolute
from components.stage.records import log
from perception.reporting.night_row import told_by, turned_away
from perception.reporting.page import NightReport
from perception.reporting.summary import NightSummary
from perception.versioning.decisions import PROPOSED
from perception.versioning.nights import Night, NightFigures, record_night, used_tonight
from perception.versioning.tonight import Tonight, kept_beside, seen_by
from perception.versioning.trend import read_trend

_TOLD_AS = {
    "pool_frames": "pool",
    "new_frames": "new",
    "repeated_frames": "repeated",
    "rejected_frames": "rejected",
    "labelled_frames": "labelled",
    "human_labels": "human_labels",
    "frames_at_annotators": "at_annotators",
    "chosen_frames": "chosen",
    "miou": "miou",
    "miou_by_condition": "miou_by_condition",
    "verdict": "verdict",
    "fresh_frames": "fresh_frames",
    "fresh_accuracy": "fresh_accuracy",
    "fresh_accuracy_champion": "fresh_accuracy_champion",
    "reference": "reference",
    "miou_since_reference": "miou_since_reference",
    "miou_since_reference_lower_95": "miou_since_reference_lower_95",
    "miou_since_reference_upper_95": "miou_since_reference_upper_95",
}


def record_row(parameters: ReportParameters, summary: NightSummary, tasks: Sequence[Mapping[str, Any]]) -> Night | None:
    """Record a night that has begun and return its row, None of one that has not; tasks: the records of its tasks."""
    told = told_by(tasks)
    if "entries" not in told:
        log("the night is not recorded: it ended before it knew what it starts from")
        return None
    registry = absolute(parameters.registry)
    tonight = Tonight(night=told["night"], date=told["date"], entries=told["entries"])
    book = seen_by(registry, tonight, kept_beside(absolute(parameters.store)))
    row = Night(
        night=tonight.night,
        date=tonight.moment.date(),
        profile=parameters.profile,
        base=told["base"],
        version=told.get("version") if told.get("version") != told["base"] else None,
        status=cast(Any, summary.status),  # the summary has checked that it is one of them
        registry_commit=told.get("registry_commit"),
        used=used_tonight(book, parameters=parameters.settings_sha256, code=told["code"]),
        figures=_figures(told, summary),
    )
    return record_night(registry, row)


def notice(parameters: ReportParameters, report: NightReport, row: Night | None) -> str:
    """Return what people should hear of a night: that it went wrong, or that its version waits for them; empty: nothing."""
    name = f"night {row.night if row else parameters.run} (profile {parameters.profile}): {report.summary.status}"
    if guilty := report.failed_stage or report.refused_gate:
        return f"{name} at {guilty}: {' '.join(report.error_lines)}"
    if row is None or row.version is None:
        return ""
    listed = {each.night.night: each for each in read_trend(absolute(parameters.registry))}
    waits = listed[row.night].decision == PROPOSED
    return f"{name}; {row.version} waits for a decision (its network: {row.figures.verdict})" if waits else ""


def _figures(told: Mapping[str, Any], summary: NightSummary) -> NightFigures:
    judged = {name: miou for name, miou in (told.get("miou_by_condition") or {}).items() if miou is not None}
    return NightFigures(
        **{figure: told.get(name) for figure, name in _TOLD_AS.items()},
        denied_frames=turned_away(told),
        worst_condition=min(judged, key=lambda name: judged[name], default=None),
        seconds=summary.seconds,
        cost=summary.cost,
        currency=summary.currency,
    )
