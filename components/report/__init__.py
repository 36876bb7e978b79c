"""report: put the whole night on one page, and its figures into summary.json."""

import os
from typing import TYPE_CHECKING, Any

from components.report.parameters import ReportParameters
from components.stage.declaration import Needs, Page, Paths, Port, Stage
from components.stage.records import NIGHT_VARIABLE, RUNNING, log, read_records

if TYPE_CHECKING:
    from perception.reporting.page import NightReport


def run(inputs: Paths, outputs: Paths, parameters: ReportParameters) -> dict[str, Any]:
    """Write report.html and summary.json from whatever the night got done; tell its row among all nights."""
    from components.report.night import gather_night
    from perception.reporting.night_row import told_by
    from perception.reporting.page import render_report
    from perception.reporting.summary import write_summary

    tasks, folder = read_records(), outputs.one("report")
    last = bool(parameters.final_status) or not os.environ.get(NIGHT_VARIABLE)
    if not last:
        # On a cluster tasks run beside this one, those that it takes from have ended, and the farewell follows.
        tasks = [task for task in tasks if task["status"] != RUNNING]
    night = gather_night(inputs, parameters, tasks)
    write_summary(night.summary, folder / "summary.json")
    (folder / "report.html").write_text(render_report(night), encoding="utf-8")
    untold = _record_and_tell(parameters, night, tasks) if tasks and last else []
    told = told_by(tasks)
    log(f"night {night.summary.status}: report of {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")
    return {name: told.get(name) for name in ("base", "new", "chosen", "miou", "verdict")} | {
        "status": night.summary.status,
        "untold": "; ".join(untold) or None,
    }


def _record_and_tell(parameters: ReportParameters, night: "NightReport", tasks: list[dict[str, Any]]) -> list[str]:
    """Record the night in the registry, tell whoever else wants to know, and return why somebody could not be told."""
    from components.report.recorded import notice, record_row  # here, since only the last teller has git
    from perception.reporting.outside import WEBHOOK, tell_outside

    row = record_row(parameters, night.summary, tasks)
    untold = tell_outside(row, notice(parameters, night, row) if os.environ.get(WEBHOOK) else "")
    for each in untold:
        log(f"not told: {each}")
    return untold


_ABOUT = {
    "frames": "the night's frames",
    "base": "the data version that the night started from",
    "ensemble": "the ensemble that scored the pool",
    "selection": "the chosen frames",
    "curated": "the next data version",
    "version": "the published data version",
    "comparison": "strategy against random",
    "adaptation": "what the simulator taught",
    "network": "dense and pruned weights",
    "compressed": "the exported network",
    "evaluation": "figures on the frozen test set",
}

STAGE = Stage(
    name="report",
    summary="Put the whole night on one page and its figures into summary.json.",
    inputs=(
        *(Port(name=name, about=about, optional=True) for name, about in _ABOUT.items()),
        Port(name="verdicts", about="verdict of each gate", many=True, optional=True),
    ),
    outputs=(Port(name="report", about="report.html and summary.json"),),
    pages=(
        Page(name="page", kind="HTML", port="report", file="report.html"),
        Page(name="figures", kind="Metrics", port="report", file="summary.json"),
    ),
    parameters=ReportParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=1, memory_gib=4),
    run=run,
)
