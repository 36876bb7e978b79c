"""`make watch`: what no run can do for itself. Its CronJob (manifests/) looks every ten minutes, and a person may at any time.

A night that lost a pod is tried again through the backend's own retry, which keeps finished steps. A night that ended without its
farewell (deadline, cancel, lost node, a retry) gets its report from its records. A night that was due and did not start is told.
What was done for a night is written down beside its records, so that the next look does not do it again.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from components.stage.execution import Call, Outcome, execute, recorded
from components.stage.kfp_step import FINAL_STATUS
from components.stage.night import FAREWELL_SECONDS, read_night
from components.stage.program import EXIT_DONE, EXIT_FAILED
from components.stage.records import (
    FAREWELL,
    NIGHT_VARIABLE,
    RECORDS_VARIABLE,
    RUNNING,
    TELLERS,
    WATCH_FILE,
    all_records,
)
from components.stage.registry import find_stage
from perception.data.documents import open_documents
from perception.errors import InputError
from perception.reporting.night_row import culprit
from perception.reporting.outside import post_notice
from pipelines.kubeflow.cron import ZONE_VARIABLE, parse_cron
from pipelines.kubeflow.kfp_api import Server
from pipelines.kubeflow.nights import FAILED, Version, ending, place_of, version_of
from pipelines.kubeflow.runs import ENDED, retry, was_cancelled

EVERY_SECONDS = 600.0
LOOK_BACK = timedelta(days=3)
PATIENCE = timedelta(minutes=30)  # with a night that is due: the scheduler starts one within seconds
DEFAULT_ZONE = "UTC"  # Kubeflow's own
Json = dict[str, Any]


def watch(server: Server, *, once: bool) -> int:
    """Look after the nights, again every ten minutes unless `once`; return the exit code, 1 where something could not be done."""
    while True:
        code = look(server, datetime.now(UTC))
        if once:
            return code
        server.sleep(EVERY_SECONDS)


def look(server: Server, now: datetime) -> int:
    """Look at every night of the last days once; return the exit code."""
    code, runs = EXIT_DONE, list(recent_runs(server, now))
    looks = [(run, partial(_look_at, server, run, now.timestamp())) for run in runs if run.state in ENDED]
    looks += [(each, partial(_look_for_tonight, server, each, runs, now)) for each in _recurring_runs(server)]
    for each, look_there in looks:
        try:
            look_there()
        except InputError as error:  # of one night: the others are looked at all the same
            print(f"{each.display_name}: {error}", flush=True)
            code = EXIT_FAILED
    return code


def _recurring_runs(server: Server) -> list[Any]:
    listing = ("RecurringRunServiceApi", "recurring_run_service_list_recurring_runs", "recurring_runs")
    return [each for each in server.every(*listing, **server.scope) if str(each.mode) == "ENABLE"]


def _look_for_tonight(server: Server, recurring: Any, runs: Sequence[Any], now: datetime) -> None:
    """Say once of the night that was due last that it did not start."""
    version = version_of(server, recurring)
    if not version.farewell:
        return
    due = last_due(recurring, now)
    begun = [run for run in runs if run.recurring_run_id == recurring.recurring_run_id]
    if due is None or any(run.created_at >= due for run in begun):
        return
    place = place_of(version, f"due-{recurring.recurring_run_id}-{due:%Y%m%dT%H%M}")
    active = [run.display_name for run in begun if run.state not in ENDED]
    why = f"{active[0]} still runs" if active else "look at Kubeflow's scheduled-workflow controller"
    if not _done(place):
        said = f"{recurring.display_name}: the night of {due:%Y-%m-%d %H:%M %Z} did not start; {why}"
        notify(said)
        _write_down(place, "notice", said)


def last_due(recurring: Any, now: datetime) -> datetime | None:
    """Return when a recurring run should have started a night last; None where none was due in the last days.

    Raises InputError for a cron expression or a zone that cannot be read, and where there is no expression.
    """
    name, schedule = os.environ.get(ZONE_VARIABLE) or DEFAULT_ZONE, recurring.trigger.cron_schedule
    if schedule is None:
        raise InputError("starts every so many seconds and not by cron: nobody can say when; use `make schedule`")
    try:
        zone, cron = ZoneInfo(name), parse_cron(schedule.cron)
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise InputError(f"its schedule cannot be read ({error}); correct it, or {ZONE_VARIABLE}={name}") from None
    first = max(now - LOOK_BACK, recurring.created_at).astimezone(zone)
    starts = takewhile(lambda start: start <= now - PATIENCE, cron.starts(first))
    return max(starts, default=None)


def recent_runs(server: Server, now: datetime) -> Iterator[Any]:
    """Yield the runs of the last days, the latest first."""
    for run in server.runs(**server.scope):
        if run.created_at < now - LOOK_BACK:
            return
        yield run


def _look_at(server: Server, run: Any, now: float) -> None:
    """Try a night that has ended again where it lost a pod, or else see that its report is written."""
    version = version_of(server, run)
    if not version.farewell:  # somebody else's run
        return
    place = place_of(version, run.run_id)
    records = all_records(place)
    tries = [each for each in _done(place) if each["did"] == "retry"]
    if _lost_a_pod(run, records, place, now) and len(tries) < version.night.watch_retries:
        said = f"{run.display_name}: lost a pod; try {len(tries) + 1} of {version.night.watch_retries}"
        _write_down(place, "retry", said)  # beforehand: a try that the backend refuses is one too
        print(retry(server, run.run_id), flush=True)
        notify(said)
    elif not _is_told(records):
        _tell(run, version, place)
        _, words = ending(version, run)
        said = (
            f"{run.display_name}: {run.state}, without a farewell; its report is in {place}/report. {' '.join(words)}"
        )
        _write_down(place, "report", f"{place}/report")
        print(said, flush=True)  # its report has told people already


def _lost_a_pod(run: Any, records: Sequence[Json], place: str, now: float) -> bool:
    """Tell whether a run failed though no step of it said so, and has the time to be tried again."""
    guilty = culprit([record for record in records if record["name"] != FAREWELL]) or culprit(records)
    night = read_night(place)
    in_time = night is None or now < night.deadline - FAREWELL_SECONDS
    return run.state == FAILED and not was_cancelled(run) and in_time and (not guilty or guilty["status"] == RUNNING)


def _is_told(records: Sequence[Json]) -> bool:
    """Tell whether a night was told and recorded after the last other step began: the backend's retry runs no farewell again."""
    last = max((record["started"] for record in records if record["name"] not in TELLERS), default=0.0)
    farewells = (record for record in records if record["name"] == FAREWELL)
    return any(record["status"] == "done" and record["started"] > last for record in farewells)


def _tell(run: Any, version: Version, place: str) -> None:
    """Write the report of a night from its records and record it in the registry, as its farewell would have."""
    stage = find_stage("report")
    os.environ |= {NIGHT_VARIABLE: str(run.run_id), RECORDS_VARIABLE: place}
    with tempfile.TemporaryDirectory() as scratch:
        call = Call(
            stage=stage,
            task=FAREWELL,
            inputs={},
            outputs={port.name: Path(scratch) / port.name for port in stage.outputs},
            parameters=version.parameters | {FINAL_STATUS: {"state": run.state}},
        )

        def told() -> Outcome:
            ended = execute(call)
            documents = open_documents(f"{place}/report")
            for path in (each for folder in call.outputs.values() for each in folder.glob("*")):
                documents.write(path.name, path.read_bytes())
            return ended

        if recorded(FAREWELL, told).code != EXIT_DONE:
            raise InputError("its report could not be written; see above")


def _done(place: str) -> list[Json]:
    """Return what the watch did for a night so far; raises InputError where that cannot be read."""
    try:
        return list(json.loads(open_documents(place).read(WATCH_FILE) or "[]"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}/{WATCH_FILE}: is no list in JSON ({error}); remove it") from None


def _write_down(place: str, did: str, said: str) -> None:
    entry = {"did": did, "at": round(time.time(), 3), "said": said}
    open_documents(place).write(WATCH_FILE, json.dumps([*_done(place), entry]).encode())


def notify(text: str) -> None:
    """Print a line and, where an address is given, post it; raises InputError, without the address, where that fails."""
    print(text, flush=True)
    post_notice(text)
