"""A night on the cluster as its version and its own records tell it: Kubeflow's API knows neither our names nor why a step ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.stage.kfp_step import ABOUT, SETTINGS, read_settings
from components.stage.night import NIGHT, NightSettings, records_place
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_DONE, EXIT_FAILED, EXIT_OF_STATUS
from components.stage.records import FAREWELL, RUNNING, TELLERS, all_records
from perception.errors import InputError
from perception.reporting.night_row import culprit
from pipelines.kubeflow.kfp_api import Server

SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"


@dataclass(frozen=True, kw_only=True)
class Version:
    """Hold what the version of a run says about it."""

    # of its steps as people know them, by their keys in the version, which Argo names nodes by
    names: Mapping[str, str]
    farewell: Mapping[str, Any]  # what the farewell is told, its parameters and the night's; empty: no night of ours

    @property
    def night(self) -> NightSettings:
        """Return what every step is told of its night; raises InputError for a version that is no night of ours."""
        if not self.farewell:
            raise InputError(
                "its version is no night of this program's; name a run that `make pipeline-submit` started"
            )
        return build_parameters(NightSettings, self.farewell[NIGHT], where=NIGHT)

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the report of such a night."""
        return {name: value for name, value in self.farewell.items() if name not in (NIGHT, ABOUT)}


def version_of(server: Server, run: Any) -> Version:
    """Ask for the version of a run, or of a recurring run that names one."""
    spec, named = run.pipeline_spec, run.pipeline_version_reference
    if not spec and named and named.pipeline_version_id:
        asked = (named.pipeline_id, named.pipeline_version_id)
        spec = server.ask("PipelineServiceApi", "pipeline_service_get_pipeline_version", *asked).pipeline_spec
    return read_version((spec or {}).get("pipeline_spec", spec or {}))


def read_version(spec: Mapping[str, Any]) -> Version:
    """Return what a compiled pipeline says; of one that this program did not compile nothing but names."""
    if "root" not in spec:  # none of KFP 2's
        return Version(names={}, farewell={})
    dags = [item["dag"] for item in (spec["root"], *spec["components"].values()) if "dag" in item]
    tasks = {key: task for dag in dags for key, task in dag["tasks"].items()}
    steps = {key for key, task in tasks.items() if "executorLabel" in spec["components"][task["componentRef"]["name"]]}
    told = tasks.get(FAREWELL, {}).get("inputs", {}).get("parameters", {}).get(SETTINGS, {}).get("runtimeValue", {})
    settings = read_settings(told.get("constant", "{}"))
    return Version(
        names={key: tasks[key]["taskInfo"]["name"] for key in steps}, farewell=settings if NIGHT in settings else {}
    )


def place_of(version: Version, run_id: str) -> str:
    """Return where a run keeps its records."""
    return records_place(version.night.store, run_id)


def ending(version: Version, run: Any) -> tuple[int, list[str]]:
    """Return the exit code of a run that has ended, and what to say of it, by what its steps left behind.

    3 and 2 are said by a record alone: without one nobody knows whether a step that failed had refused.
    """
    if run.state == SUCCEEDED:
        return EXIT_DONE, []
    try:
        records = all_records(place_of(version, run.run_id))
    except InputError as error:
        return EXIT_FAILED, [f"why is not known here: {error}; Kubeflow says {run.state}"]
    return ending_by(records)


def ending_by(records: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code of a run that did not end well, and what to say of it.

    records: of all its tasks; those that tell the night are to blame where no other is.
    """
    guilty = culprit([record for record in records if record["name"] not in TELLERS]) or culprit(records)
    if guilty is None:
        return EXIT_FAILED, ["no step left a record of what went wrong: one was ended before it began, or cancelled"]
    said = "was killed before it was done" if guilty["status"] == RUNNING else guilty["message"]
    rules = [f"  {each['id']}: {each['rule']}; observed {each['observed']}" for each in guilty["failed"]]
    return EXIT_OF_STATUS.get(guilty["status"], EXIT_FAILED), [f"{guilty['name']}: {guilty['status']}: {said}", *rules]
