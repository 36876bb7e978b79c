"""report: put the whole night on one page, and its figures into summary.json."""

import os
from typing import Any

from components.report.parameters import ReportParameters
from components.stage.declaration import Needs, Page, Paths, Port, Stage
from components.stage.records import NIGHT_VARIABLE, RUNNING, log, read_records


def run(inputs: Paths, outputs: Paths, parameters: ReportParameters) -> dict[str, Any]:
    """Write report.html and summary.json from whatever the night got done; tell its row among all nights."""
    from components.report.night import gather_night
    from components.report.recorded import record_row
    from perception.reporting.night_row import told_by
    from perception.reporting.page import render_report
    from perception.reporting.summary import write_summary
    from perception.training.setup import set_threads

    set_threads(parameters.threads)
    tasks, folder = read_records(), outputs.one("report")
    if os.environ.get(NIGHT_VARIABLE) and not parameters.final_status:
        # On a cluster tasks run beside this one; those that it takes from have ended.
        tasks = [task for task in tasks if task["status"] != RUNNING]
    night = gather_night(inputs, parameters, tasks)
    write_summary(night.summary, folder / "summary.json")
    (folder / "report.html").write_text(render_report(night), encoding="utf-8")
    told = told_by(tasks)
    if not os.environ.get(NIGHT_VARIABLE):  # on a cluster this step's image has no git
        record_row(inputs, parameters, night.summary, told)
    log(f"night {night.summary.status}: report of {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")
    return {name: told.get(name) for name in ("base", "new", "chosen", "miou", "verdict")} | {
        "status": night.summary.status
    }


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
