"""The night's own row among all nights, in the registry."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from components.report.parameters import ReportParameters
from components.stage.parameters import absolute
from components.stage.records import log
from perception.reporting.night_row import told_by
from perception.reporting.summary import NightSummary
from perception.versioning.nights import Night, NightFigures, record_night, used_tonight
from perception.versioning.tonight import Tonight, kept_beside, seen_by

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
}


def record_row(parameters: ReportParameters, summary: NightSummary, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Record a night that has begun; tasks: the records that its tasks left behind."""
    told = told_by(tasks)
    if "entries" not in told:
        log("the night is not recorded: it ended before it knew what it starts from")
        return
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
        used=used_tonight(book, erasures=0, parameters=parameters.settings_sha256, code=told["code"]),
        figures=_figures(told, summary),
    )
    record_night(registry, row)


def _figures(told: Mapping[str, Any], summary: NightSummary) -> NightFigures:
    judged = {name: miou for name, miou in (told.get("miou_by_condition") or {}).items() if miou is not None}
    return NightFigures(
        **{figure: told.get(name) for figure, name in _TOLD_AS.items()},
        worst_condition=min(judged, key=lambda name: judged[name], default=None),
        seconds=summary.seconds,
        cost=summary.cost,
        currency=summary.currency,
    )
