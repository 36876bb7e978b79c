"""`make schedule`: bring the recurring run on the cluster in line with schedule.yaml.

Kubeflow Pipelines cannot change a recurring run, only delete and create it, and deleting ends the run that it has started. So it
is replaced only where it differs, and never while one of its runs is active. One run at a time, and no catching up on nights
that were missed: the next one sees the same frames. It names the version that this checkout compiles to: left to itself Kubeflow
runs whatever was uploaded last. Kubeflow reads cron in the server's zone and refuses any other (`TZ=`): the expression is translated.
"""

import tempfile
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from components.stage.parameters import build_parameters, read_yaml
from perception.errors import InputError
from perception.parameters import BrokenRule, checked, matching
from pipelines.kubeflow import kubernetes_api
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.cron import ZONE_VARIABLE, next_change, parse_cron, translated
from pipelines.kubeflow.images import pushed_images
from pipelines.kubeflow.kfp_api import Server
from pipelines.kubeflow.runs import ENDED
from pipelines.kubeflow.submit import (
    EXPERIMENT,
    NIGHTLY,
    SERVICE_ACCOUNT,
    experiment,
    find_version,
    moved_anchor,
    upload,
    version_name,
)

SCHEDULE_FILE = Path(__file__).parents[2] / "schedule.yaml"
SHOWN_STARTS = 3
ZONE_KEY = "cronScheduleTimezone"  # of the installation's settings, which Kubeflow's manifests take ZONE_VARIABLE from


@checked
class Schedule:
    """Declare a recurring night."""

    name: Annotated[str, matching(r"(?s).*\S.*", "must not be empty")]  # of the recurring run
    cron: str  # six fields, seconds first, on the clocks of time_zone
    time_zone: str  # of the IANA data base, such as Europe/Berlin
    server_time_zone: str = "UTC"  # what the server's CRON_SCHEDULE_TIMEZONE says; Kubeflow's own default is UTC
    enabled: bool = True  # or held back
    service_account: str = SERVICE_ACCOUNT  # of the run's pods

    def __post_init__(self) -> None:
        for field in ("time_zone", "server_time_zone"):
            if getattr(self, field) not in zoneinfo.available_timezones():
                raise BrokenRule(field, getattr(self, field), "is no IANA time zone")
        try:
            self.trigger(datetime.now(UTC))
        except ValueError as error:
            raise BrokenRule("cron", self.cron, str(error)) from None

    @property
    def zones(self) -> tuple[zoneinfo.ZoneInfo, zoneinfo.ZoneInfo]:
        """Return the zone that people live in and the server's."""
        return zoneinfo.ZoneInfo(self.time_zone), zoneinfo.ZoneInfo(self.server_time_zone)

    def trigger(self, now: datetime) -> str:
        """Return the cron expression that the server is given, in its own zone, as clocks stand at the next start."""
        return translated(parse_cron(self.cron), *self.zones, now).text

    def preview(self, now: datetime) -> str:
        """Return the next starts on both clocks, one a line, and what the next change of clocks does to them."""
        home, server = self.zones
        cron = parse_cron(self.trigger(now))
        lines = [
            f"  next: {start.astimezone(home):%a %Y-%m-%d %H:%M} {home.key} = {start:%a %Y-%m-%d %H:%M} {server.key}"
            for start in cron.first(SHOWN_STARTS, now.astimezone(server))
        ]
        if day := next_change(home, server, now):
            after = datetime(day.year, day.month, day.day, 12, tzinfo=home).astimezone(server)
            (start,) = cron.first(1, after)
            lines.append(
                f"  from {day} on clocks differ by another time: it would start at {start.astimezone(home):%H:%M} {home.key}; "
                "run `make schedule` again that day"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Version:
    """Name the version of the pipeline that every scheduled night runs."""

    name: str
    pipeline_id: str
    version_id: str  # empty: not uploaded yet
    experiment: str = EXPERIMENT  # that its runs belong to


def read_schedule(file: Path) -> Schedule:
    """Read a schedule file; raises InputError naming what is wrong."""
    return build_parameters(Schedule, read_yaml(file), where=file.name, place=file.name)


def bring_in_line(server: Server, wanted: Schedule, images: Path | None, *, dry_run: bool) -> bool:
    """Compare the zone, compile and upload the night of this checkout, reconcile, and print it; return whether all is in line.

    images: the file of digests that `make images` wrote. A dry run uploads and changes nothing.
    """
    print(compare_zone(wanted), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "nightdrive.yaml"
        compile_pipeline(NIGHTLY, package, moved_anchor(NIGHTLY), images=pushed_images(images))
        name = version_name(package)
        pipeline_id, version_id = find_version(server, name) if dry_run else upload(server, package)
    version = Version(name=name, pipeline_id=pipeline_id, version_id=version_id)
    now = datetime.now(UTC)
    said, in_line = reconcile(server, wanted, version, now, dry_run=dry_run)
    print(f"{said}\n{wanted.preview(now)}")
    return in_line


def compare_zone(wanted: Schedule) -> str:
    """Return what to say about the server's zone; raises InputError where it is another than schedule.yaml says."""
    installed, reason = kubernetes_api.install_config()
    if installed is None:
        return f"server's time zone: {reason}; taken as {wanted.server_time_zone}, as server_time_zone says"
    has = installed.get(ZONE_KEY, "")
    if has != wanted.server_time_zone:
        raise InputError(
            f"server_time_zone = {wanted.server_time_zone!r}: the server's {ZONE_VARIABLE} is {has!r} (the zone of every "
            "recurring run); set server_time_zone to it in the schedule's file"
        )
    return f"server's time zone: {has}"


def reconcile(
    server: Server, wanted: Schedule, version: Version, now: datetime, *, dry_run: bool = False
) -> tuple[str, bool]:
    """Bring the server's recurring run in line; return what was done, and whether the server is in line now."""
    trigger = f"{wanted.trigger(now)} in {wanted.server_time_zone}, version {version.name}"
    found = _recurring_runs(server, wanted.name)
    differences = _differences(wanted, version, now, found[0]) if found else ["it does not exist yet"]
    if len(found) > 1:
        differences.append(f"it exists {len(found)} times")
    if not differences:
        return f"schedule {wanted.name}: unchanged ({trigger}{'' if wanted.enabled else ', disabled'})", True
    listed = "".join(f"\n  {difference}" for difference in differences)
    if dry_run:
        return f"schedule {wanted.name}: would be {'replaced' if found else 'created'}:{listed}", False
    if found and differences == [_enabled_line(wanted.enabled)]:
        _switch(server, found[0].recurring_run_id, wanted.enabled)
        return f"schedule {wanted.name}: {'enabled' if wanted.enabled else 'disabled'}", True
    active = [run for each in found for run in _active_runs(server, version.experiment, each.recurring_run_id)]
    if active:
        return (
            f"schedule {wanted.name}: differs, but {active[0].display_name} is {str(active[0].state).lower()} and would be ended; "
            f"run `make schedule` again when it is done, or `make cancel RUN={active[0].run_id}` first:{listed}",
            False,
        )
    _replace(server, wanted, version, now, found)
    return f"schedule {wanted.name}: {'replaced' if found else 'created'} ({trigger}):{listed}", True


def _replace(server: Server, wanted: Schedule, version: Version, now: datetime, found: Sequence[Any]) -> None:
    """Create the wanted recurring run and only then delete the old ones, which start nothing meanwhile."""
    for old in found:
        _switch(server, old.recurring_run_id, False)
    try:
        _create(server, wanted, version, now)
    except InputError:
        for old in found:
            _switch(server, old.recurring_run_id, str(old.mode) == "ENABLE")
        raise
    for old in found:
        server.ask("RecurringRunServiceApi", "recurring_run_service_delete_recurring_run", old.recurring_run_id)


def _create(server: Server, wanted: Schedule, version: Version, now: datetime) -> None:
    import kfp_server_api

    reference = kfp_server_api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
    )
    schedule = kfp_server_api.V2beta1CronSchedule(cron=wanted.trigger(now))
    body = kfp_server_api.V2beta1RecurringRun(
        display_name=wanted.name,
        experiment_id=experiment(server, version.experiment),
        pipeline_version_reference=reference,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=schedule),
        max_concurrency="1",
        no_catchup=True,
        mode="ENABLE" if wanted.enabled else "DISABLE",
        service_account=wanted.service_account,
        namespace=server.namespace or None,
    )
    server.ask_once("RecurringRunServiceApi", "recurring_run_service_create_recurring_run", body)


def _differences(wanted: Schedule, version: Version, now: datetime, found: Any) -> list[str]:
    """Return, one a line, what the server has and what is wanted."""
    reference = found.pipeline_version_reference
    trigger = found.trigger.cron_schedule.cron if found.trigger and found.trigger.cron_schedule else None
    pairs = {
        "cron": (trigger, wanted.trigger(now)),
        "pipeline": (reference.pipeline_id if reference else None, version.pipeline_id),
        "version": ((reference.pipeline_version_id or "the latest") if reference else None, version.version_id),
        "runs at once": (int(found.max_concurrency or 0), 1),
        "catches up on missed nights": (not found.no_catchup, False),
        "service account": (found.service_account, wanted.service_account),
    }
    lines = [f"{name}: {has!r} -> {wants!r}" for name, (has, wants) in pairs.items() if has != wants]
    return lines + ([_enabled_line(wanted.enabled)] if (str(found.mode) == "ENABLE") != wanted.enabled else [])


def _enabled_line(enabled: bool) -> str:
    return f"enabled: {not enabled} -> {enabled}"


def _recurring_runs(server: Server, name: str) -> list[Any]:
    listing = ("recurring_run_service_list_recurring_runs", "recurring_runs")
    return server.named("RecurringRunServiceApi", *listing, name, **server.scope)


def _active_runs(server: Server, experiment_name: str, recurring_run_id: str) -> list[Any]:
    runs = server.runs(experiment_id=experiment(server, experiment_name))
    return [run for run in runs if run.recurring_run_id == recurring_run_id and run.state not in ENDED]


def _switch(server: Server, recurring_run_id: str, enabled: bool) -> None:
    operation = "enable" if enabled else "disable"
    server.ask("RecurringRunServiceApi", f"recurring_run_service_{operation}_recurring_run", recurring_run_id)
