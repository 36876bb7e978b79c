"""Runs as Kubeflow 2.17's API tells them, and the records that their steps left in a folder store."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from components.stage.kfp_step import write_settings
from pipelines.nightly import nightly
from pipelines.settings import load_settings, step_parameters

Json = dict[str, Any]


@cache
def report_parameters() -> Json:
    """Return what a farewell is told of a smoke night; the parameters of the others' tasks stand in their records."""
    night = nightly()
    told = step_parameters(load_settings(night, "smoke"), night.tasks["report"])
    return {name: value for name, value in told.items() if name != "settings"}


def version_spec(store: Path | str, watch_retries: int = 2, **more: Any) -> Json:
    """Return the compiled pipeline of a small night, as much of it as is read; more: what its farewell is told."""
    night = {"store": str(store), "profile": "smoke", "hours": 20.0, "watch_retries": watch_retries}
    parameters = report_parameters() | {"store": str(store)} | more
    told = write_settings({"step": {"task": "farewell"}, "_night": night, **parameters})

    def task(name: str, component: str, **more: Any) -> Json:
        return {"componentRef": {"name": component}, "taskInfo": {"name": name}, **more}

    given = {"settings": {"runtimeValue": {"constant": told}}}
    inside = {"gather": task("gather", "comp-gather"), "gate-ingest": task("gate_ingest", "comp-gate")}
    root = {"night": task("night", "comp-night"), "farewell": task("farewell", "comp-report")}
    root["farewell"]["inputs"] = {"parameters": given}
    leaves = {f"comp-{name}": {"executorLabel": f"exec-{name}"} for name in ("gather", "gate", "report")}
    return {"root": {"dag": {"tasks": root}}, "components": {"comp-night": {"dag": {"tasks": inside}}, **leaves}}


def run_of(state: str, *tasks: tuple[str, str], **more: Any) -> Json:
    """Return what a run becomes: its state and its tasks, by Argo's names of their nodes."""
    details = [
        {
            "display_name": name,
            "state": task_state,
            "start_time": f"2026-01-01T00:{position:02d}:00Z",
            "end_time": f"2026-01-01T00:{position + 1:02d}:30Z",
            **({"error": {"message": f"{name} broke\nbadly"}} if task_state == "FAILED" else {}),
        }
        for position, (name, task_state) in enumerate(tasks)
    ]
    return {"state": state, "run_details": {"task_details": details}, **more}


def leave_record(store: Path, night: str, task: str, status: str, started: float = 1000.0, **more: Any) -> None:
    """Write a task's record where a step of that night would have."""
    record = {"format": 1, "night": night, "name": task, "status": status, "attempt": 1, "started": started}
    record |= {"seconds": 60.0, "peak_rss_mib": 100.0, "message": "", "values": {}, "failed": []}
    record |= {"parameters": {}, **more}
    target = store / "nights" / night / f"{task}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record))
