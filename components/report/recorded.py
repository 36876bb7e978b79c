"""The night's own row among all nights, in the registry."""

import os
from typing import Any, cast

from components.report.parameters import ReportParameters
from components.stage.declaration import Paths
from components.stage.learning import COMMIT_VARIABLE
from components.stage.parameters import absolute
from components.stage.records import log
from perception.data.tables import read_record
from perception.reporting.summary import NightSummary
from perception.versioning.nights import Night, NightFigures, record_night, used_tonight
from perception.versioning.tonight import Tonight, kept_beside, seen_by


def record_row(inputs: Paths, parameters: ReportParameters, summary: NightSummary, told: dict[str, Any]) -> None:
    """Record a night that has begun; told: what its tasks told beside their artifacts."""
    base = inputs.maybe("base")
    if base is None:
        log("the night is not recorded: it ended before it knew what it starts from")
        return
    registry, tonight = absolute(parameters.registry), read_record(base / "night.json", Tonight)
    book = seen_by(registry, tonight, kept_beside(absolute(parameters.store)))
    code = os.environ.get(COMMIT_VARIABLE, "")
    row = Night(
        night=tonight.night,
        date=tonight.moment.date(),
        profile=parameters.profile,
        base=told.get("base"),
        status=cast(Any, summary.status),  # the summary has checked that it is one of them
        used=used_tonight(book, erasures=0, parameters=parameters.settings_sha256, code=code),
        figures=_figures(summary, told),
    )
    record_night(registry, row)


def _figures(summary: NightSummary, told: dict[str, Any]) -> NightFigures:
    conditions = summary.evaluation.miou_by_condition or {}
    judged = {name: miou for name, miou in conditions.items() if miou is not None}
    return NightFigures(
        new_frames=told.get("new"),
        repeated_frames=told.get("repeated"),
        rejected_frames=told.get("rejected"),
        labelled_frames=told.get("labelled"),
        frames_at_annotators=told.get("at_annotators"),
        chosen_frames=told.get("chosen"),
        miou=summary.evaluation.miou,
        worst_condition=min(judged, key=lambda name: judged[name], default=None),
        verdict=summary.promotion.decision,
        seconds=summary.seconds,
    )
