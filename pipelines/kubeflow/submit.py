"""`make pipeline-submit`: compile the night, upload it as a version named by its content, start a run and follow it."""

import hashlib
import tempfile
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from components.stage.program import EXIT_DONE, EXIT_INTERRUPTED
from perception.errors import InputError, Unreachable
from perception.versioning.anchor import split_address
from perception.versioning.trust import anchored
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.images import pushed_images
from pipelines.kubeflow.kfp_api import Server, connect
from pipelines.kubeflow.runs import follow as follow_run
from pipelines.nightly import nightly
from pipelines.settings import load_settings

# The nights' versions; what is tried once (SET, DATA, another profile) is a version of a pipeline of its own, so that it can never
# become the latest night.
PIPELINE, ONE_OFFS = "nightdrive", "nightdrive-one-off"
NIGHTLY = "nightly"  # the profile of the nights
EXPERIMENT = "nightdrive"
SERVICE_ACCOUNT = "nightdrive-runner"


def version_name(package: Path) -> str:
    """Return the name of a compiled pipeline's version, which is its content's."""
    return f"{PIPELINE}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"


def find_version(server: Server, name: str) -> tuple[str, str]:
    """Return (pipeline id, version id) of a version of the nights' pipeline, each empty where there is none."""
    for pipeline in server.pipelines(PIPELINE):
        found = [str(version.pipeline_version_id) for version in _versions(server, str(pipeline.pipeline_id), name)]
        return str(pipeline.pipeline_id), found[0] if found else ""
    return "", ""


def upload(
    server: Server, package: Path, pipeline: str = PIPELINE, *, say: Callable[[str], None] = print
) -> tuple[str, str]:
    """Make sure that the server has this very pipeline as a version of `pipeline`; return (pipeline id, version id).

    A version is named by its content, so that uploading the same one again finds it and changes nothing.
    """
    pipeline_id, name = _pipeline(server, pipeline, say), version_name(package)

    def find() -> list[Any]:
        return _versions(server, pipeline_id, name)

    def create() -> Any:
        options = {"name": name, "pipelineid": pipeline_id}
        return server.ask_once("PipelineUploadServiceApi", "upload_pipeline_version", str(package), **options)

    version, is_new = once(server, find, create)
    say(f"version {name}: {'uploaded' if is_new else 'is there already'}")
    return pipeline_id, str(version.pipeline_version_id)


def start(
    server: Server,
    pipeline_id: str,
    version_id: str,
    service_account: str = SERVICE_ACCOUNT,
    experiment_name: str = EXPERIMENT,
) -> str:
    """Start a run of a version and return its id."""
    import kfp_server_api

    name = f"{PIPELINE} {datetime.now():%Y-%m-%d %H:%M:%S} {uuid.uuid4().hex[:4]}"  # no two runs share a name
    experiment_id = experiment(server, experiment_name)
    reference = kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=pipeline_id, pipeline_version_id=version_id)
    wanted = kfp_server_api.V2beta1Run(
        experiment_id=experiment_id,
        display_name=name,
        pipeline_version_reference=reference,
        service_account=service_account,
    )

    def find() -> list[Any]:
        return server.named("RunServiceApi", "run_service_list_runs", "runs", name, experiment_id=experiment_id)

    run, _ = once(server, find, lambda: server.ask_once("RunServiceApi", "run_service_create_run", wanted), new=True)
    return str(run.run_id)


def experiment(server: Server, name: str = EXPERIMENT) -> str:
    """Return the id of an experiment, by default of the one that holds the nights, made where it is missing."""
    import kfp_server_api

    def find() -> list[Any]:
        listing = ("experiment_service_list_experiments", "experiments")
        return server.named("ExperimentServiceApi", *listing, name, **server.scope)

    wanted = kfp_server_api.V2beta1Experiment(display_name=name, **server.scope)
    found, _ = once(
        server, find, lambda: server.ask_once("ExperimentServiceApi", "experiment_service_create_experiment", wanted)
    )
    return str(found.experiment_id)


def once(
    server: Server, find: Callable[[], list[Any]], create: Callable[[], Any], *, new: bool = False
) -> tuple[Any, bool]:
    """Return the first that `find` finds, or else what `create` makes, and whether it was made now.

    A server that fails while it creates may have done so all the same: it is asked before anything is made a second time.
    new: nothing of that name can be there yet, so that the first question is spared.
    """
    if not new and (found := find()):
        return found[0], False
    for pause in (1.0, 3.0, None):
        try:
            return create(), True
        except Unreachable:
            if found := find():
                return found[0], True
            if pause is None:
                raise
            server.sleep(pause)
    raise AssertionError


def _versions(server: Server, pipeline_id: str, name: str) -> list[Any]:
    listing = ("pipeline_service_list_pipeline_versions", "pipeline_versions")
    return server.named("PipelineServiceApi", *listing, name, pipeline_id)


def _pipeline(server: Server, name: str, say: Callable[[str], None]) -> str:
    import kfp_server_api

    def create() -> Any:
        wanted = kfp_server_api.V2beta1Pipeline(display_name=name, **server.scope)
        return server.ask_once("PipelineServiceApi", "pipeline_service_create_pipeline", wanted)

    pipeline, is_new = once(server, lambda: server.pipelines(name), create)
    if is_new:
        say(f"pipeline {name}: created")
    return str(pipeline.pipeline_id)


def moved_anchor(profile: str, overrides: Sequence[str] = (), data: str = "") -> list[str]:
    """Return the override by which a night refuses a registry older than it is now; none where its address names no root.

    Raises InputError where the registry does not hold what its address says.
    """
    registry = load_settings(nightly(), profile, overrides, data)["resolve"]["registry"]
    return [f"common.registry={anchored(registry)}"] if split_address(registry)[1].root else []


def submit(
    profile: str,
    overrides: Sequence[str],
    data: str,
    images: Path | None,
    host: str,
    service_account: str,
    *,
    preflight: bool,
    follow: bool,
) -> int:
    """Compile, upload and start a night and return the exit code: the run's where it is followed.

    Raises InputError where the preflight finds that something is missing, Unreachable where the server does not answer.
    """
    from pipelines.kubeflow import preflight as looking

    server = connect(host)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "nightdrive.yaml"
        moved = [*overrides, *moved_anchor(profile, overrides, data)]
        compile_pipeline(profile, package, moved, data, pushed_images(images))
        if preflight and looking.run(package, service_account, profile, overrides, data):
            raise InputError("the cluster lacks what is listed above; mend it, or skip this check with PREFLIGHT=no")
        pipeline = PIPELINE if (profile, data, *overrides) == (NIGHTLY, "") else ONE_OFFS
        pipeline_id, version_id = upload(server, package, pipeline)
        run_id = start(server, pipeline_id, version_id, service_account)
    print(f"run {run_id}: {server.run_url(run_id)}", flush=True)
    if not follow:
        return EXIT_DONE
    try:
        return follow_run(server, run_id)
    except KeyboardInterrupt:
        print(f"\nthe run goes on; `make pipeline-status RUN={run_id}` shows it, `make cancel RUN={run_id}` ends it")
        return EXIT_INTERRUPTED
