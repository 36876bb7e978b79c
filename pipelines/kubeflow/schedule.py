"""`make schedule`: bring the recurring run on the cluster in line with schedule.yaml.

Kubeflow Pipelines cannot change a recurring run, only delete and create it, and deleting ends the run that it has started. So it
is replaced only where it differs, and never while one of its runs is active. One run at a time, and no catching up on nights
that were missed: the next one sees the same frames. It names no version, so that each night runs the latest one uploaded.
"""

import re
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from components.stage.parameters import build_parameters, read_yaml
from perception.errors import InputError
from perception.parameters import BrokenRule, checked, matching
from pipelines.kubeflow.kfp_api import Server
from pipelines.kubeflow.runs import ENDED
from pipelines.kubeflow.submit import PIPELINE, SERVICE_ACCOUNT, experiment

SCHEDULE_FILE = Path(__file__).parents[2] / "schedule.yaml"
# second, minute, hour, day of month, month, day of week
_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES = {
    4: ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    5: ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}


@checked
class Schedule:
    """Declare a recurring night."""

    name: Annotated[str, matching(r"(?s).*\S.*", "must not be empty")]  # of the recurring run
    cron: str  # six fields, seconds first
    time_zone: str  # of the IANA data base, such as Europe/Berlin
    enabled: bool = True  # or held back
    service_account: str = SERVICE_ACCOUNT  # of the run's pods

    def __post_init__(self) -> None:
        if self.time_zone not in zoneinfo.available_timezones():
            raise BrokenRule("time_zone", self.time_zone, "is no IANA time zone")
        if problem := _cron_problem(self.cron):
            raise BrokenRule("cron", self.cron, problem)

    @property
    def trigger(self) -> str:
        """Return the cron expression with its time zone, as the server's cron library reads it."""
        return f"TZ={self.time_zone} {self.cron}"


def read_schedule(file: Path) -> Schedule:
    """Read a schedule file; raises InputError naming what is wrong."""
    return build_parameters(Schedule, read_yaml(file), where=file.name, place=file.name)


def reconcile(server: Server, wanted: Schedule, *, dry_run: bool = False) -> tuple[str, bool]:
    """Bring the server's recurring run in line; return what was done, and whether the server is in line now."""
    pipeline_id = _pipeline_id(server)
    found = _recurring_runs(server, wanted.name)
    differences = _differences(wanted, pipeline_id, found[0]) if found else ["it does not exist yet"]
    if len(found) > 1:
        differences.append(f"it exists {len(found)} times")
    if not differences:
        return f"schedule {wanted.name}: unchanged ({wanted.trigger}{'' if wanted.enabled else ', disabled'})", True
    listed = "".join(f"\n  {difference}" for difference in differences)
    if dry_run:
        return f"schedule {wanted.name}: would be {'replaced' if found else 'created'}:{listed}", False
    if found and differences == [_enabled_line(wanted.enabled)]:
        _switch(server, found[0].recurring_run_id, wanted.enabled)
        return f"schedule {wanted.name}: {'enabled' if wanted.enabled else 'disabled'}", True
    active = [run for each in found for run in _active_runs(server, each.recurring_run_id)]
    if active:
        return (
            f"schedule {wanted.name}: differs, but {active[0].display_name} is {str(active[0].state).lower()} and would be ended; "
            f"run `make schedule` again when it is done, or `make cancel RUN={active[0].run_id}` first:{listed}",
            False,
        )
    _replace(server, wanted, pipeline_id, found)
    return f"schedule {wanted.name}: {'replaced' if found else 'created'} ({wanted.trigger}):{listed}", True


def _replace(server: Server, wanted: Schedule, pipeline_id: str, found: Sequence[Any]) -> None:
    """Create the wanted recurring run and only then delete the old ones, which start nothing meanwhile."""
    for old in found:
        _switch(server, old.recurring_run_id, False)
    try:
        _create(server, wanted, pipeline_id)
    except InputError:
        for old in found:
            _switch(server, old.recurring_run_id, str(old.mode) == "ENABLE")
        raise
    for old in found:
        server.ask("RecurringRunServiceApi", "recurring_run_service_delete_recurring_run", old.recurring_run_id)


def _create(server: Server, wanted: Schedule, pipeline_id: str) -> None:
    import kfp_server_api

    reference = kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=pipeline_id)
    body = kfp_server_api.V2beta1RecurringRun(
        display_name=wanted.name,
        experiment_id=experiment(server),
        pipeline_version_reference=reference,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=wanted.trigger)),
        max_concurrency="1",
        no_catchup=True,
        mode="ENABLE" if wanted.enabled else "DISABLE",
        service_account=wanted.service_account,
        namespace=server.namespace or None,
    )
    server.ask_once("RecurringRunServiceApi", "recurring_run_service_create_recurring_run", body)


def _differences(wanted: Schedule, pipeline_id: str, found: Any) -> list[str]:
    """Return, one a line, what the server has and what is wanted."""
    reference = found.pipeline_version_reference
    trigger = found.trigger.cron_schedule.cron if found.trigger and found.trigger.cron_schedule else None
    pairs = {
        "cron": (trigger, wanted.trigger),
        "pipeline": (reference.pipeline_id if reference else None, pipeline_id),
        "pinned version": ((reference.pipeline_version_id or None) if reference else None, None),
        "runs at once": (int(found.max_concurrency or 0), 1),
        "catches up on missed nights": (not found.no_catchup, False),
        "service account": (found.service_account, wanted.service_account),
    }
    lines = [f"{name}: {has!r} -> {wants!r}" for name, (has, wants) in pairs.items() if has != wants]
    return lines + ([_enabled_line(wanted.enabled)] if (str(found.mode) == "ENABLE") != wanted.enabled else [])


def _enabled_line(enabled: bool) -> str:
    return f"enabled: {not enabled} -> {enabled}"


def _pipeline_id(server: Server) -> str:
    for item in server.pipelines(PIPELINE):
        return str(item.pipeline_id)
    raise InputError(f"pipeline {PIPELINE}: is not on the server yet; run `make pipeline-submit` once")


def _recurring_runs(server: Server, name: str) -> list[Any]:
    listing = ("recurring_run_service_list_recurring_runs", "recurring_runs")
    return server.named("RecurringRunServiceApi", *listing, name, **server.scope)


def _active_runs(server: Server, recurring_run_id: str) -> list[Any]:
    runs = server.runs(experiment_id=experiment(server))
    return [run for run in runs if run.recurring_run_id == recurring_run_id and run.state not in ENDED]


def _switch(server: Server, recurring_run_id: str, enabled: bool) -> None:
    operation = "enable" if enabled else "disable"
    server.ask("RecurringRunServiceApi", f"recurring_run_service_{operation}_recurring_run", recurring_run_id)


def _cron_problem(text: str) -> str:
    """Return what is wrong with a cron expression, or nothing."""
    fields = text.split()
    if len(fields) != 6:
        return "must have six fields: second minute hour day month weekday"
    for position, part in enumerate(fields):
        for item in part.split(","):
            if problem := _cron_item_problem(item, position):
                return f"{item!r} {problem}"
    return (
        ""
        if fields[0].isdigit()
        else "must begin with one second, such as 0; else a night would start every few seconds"
    )


def _cron_item_problem(item: str, position: int) -> str:
    (lowest, highest), matched = _RANGES[position], re.fullmatch(r"(\*|\?|\w+(?:-\w+)?)(?:/(\d+))?", item)
    if matched is None:
        return "is no cron field"
    numbers = [] if matched[1] in "*?" else [_cron_number(word, position) for word in matched[1].split("-")]
    known = [number for number in numbers if number is not None and lowest <= number <= highest]
    if known != numbers:
        return f"must lie in {lowest}..{highest}"
    if known != sorted(known):
        return "ends before it begins"
    return "has a step of 0" if matched[2] == "0" else ""


def _cron_number(word: str, position: int) -> int | None:
    names = _NAMES.get(position, [])
    if word.upper() in names:
        return names.index(word.upper()) + (1 if position == 4 else 0)
    return int(word) if word.isdigit() else None
