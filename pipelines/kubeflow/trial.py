"""`make test-cluster`: what a platform team runs before it trusts us. Every case against a real installation, in one table.

All that it makes has a name of its own: a pipeline, an experiment, a recurring run, folders below the store and the remote that it is
given. All of it is removed at the end, whatever happened; the namespace and the registry are whose they were. Nights are of the `smoke`
profile and ask for no GPU. New footage is two more drives of the simulated fleet.
"""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.stage.program import EXIT_DONE, EXIT_FAILED
from components.stage.registry import all_stages
from perception.errors import InputError
from pipelines.kubeflow import preflight, submit
from pipelines.kubeflow.images import pushed_images
from pipelines.kubeflow.kfp_api import Server, connect
from pipelines.kubeflow.kubernetes_api import (
    DEFAULT_NAMESPACE,
    NAMESPACE_VARIABLE,
    connect_kubernetes,
    install_config,
    namespace,
)
from pipelines.kubeflow.trial_cases import CASES, PROFILE, Trial, compiled, own_runs
from pipelines.nightly import nightly
from pipelines.settings import load_settings

PLACES = ("store", "remote", "registry")  # of section common: what a trial must be given
OWN = PLACES[:2]  # in which it makes folders of its own


@dataclass(frozen=True, kw_only=True)
class Result:
    """Say how a case ended."""

    case: str
    expected: str
    seen: str
    seconds: float


def test_cluster(overrides: Sequence[str], images: Path | None, host: str, service_account: str) -> int:
    """Run every case, remove what they made, print the table, and return the exit code: 1 where anything was not as expected.

    Raises InputError for a namespace that is not the trial's own, a place that was not given, and what the cluster lacks.
    """
    from kubernetes import client

    server, (places, settled) = connect(host), trial_settings(overrides)
    _check_namespace(server)
    api, reason = connect_kubernetes()
    name = new_name()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(
            server=server,
            pods=client.CoreV1Api(api) if api else None,
            name=name,
            overrides=(*settled, *(f"common.{place}={places[place]}/{name}" for place in OWN)),
            images=pushed_images(images),
            service_account=service_account,
            folder=Path(folder),
        )
        if preflight.run(compiled(trial), service_account, PROFILE, trial.overrides, ""):
            raise InputError("the cluster lacks what is listed above; mend it, then try again")
        if reason:
            print(f"no pod can be killed: {reason}", flush=True)
        try:
            results = [_result(trial, *case) for case in CASES]
        finally:
            clean_up(trial, places)
    print(table(results, ran_against(server)))
    return EXIT_DONE if all(result.seen == result.expected for result in results) else EXIT_FAILED


def new_name() -> str:
    """Return a name that no earlier trial had."""
    return f"{submit.PIPELINE}-trial-{uuid.uuid4().hex[:6]}"


def trial_settings(overrides: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the places that the trial was given and its overrides, those of the caller last; raises InputError for a place missing."""
    given = {override.partition("=")[0] for override in overrides}
    for place in PLACES:
        if f"common.{place}" not in given:
            wanted = " ".join(f"common.{each}=..." for each in PLACES)
            raise InputError(
                f"common.{place}: must be given, a place for trials that the cluster reaches: SET='{wanted}'"
            )
    no_gpu = [f"cluster.stages.{name}.gpu_count=0" for name, stage in all_stages().items() if stage.needs.gpu_count]
    settled = (*no_gpu, *overrides)
    resolve = load_settings(nightly(), PROFILE, settled)["resolve"]
    return {place: str(resolve[place]) for place in PLACES}, settled


def table(results: Sequence[Result], against: str) -> str:
    """Return the results as lines of text, one a case."""
    rows = [("case", "expected", "seen", "seconds", "ran against")]
    rows += [(each.case, each.expected, each.seen, f"{each.seconds:.0f}", against) for each in results]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    marks = [" ", *("+" if each.seen == each.expected else "!" for each in results)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"{mark} {line}".rstrip() for mark, line in zip(marks, lines, strict=True))


def ran_against(server: Server) -> str:
    """Return what the trial ran against: Kubeflow's version where the installation tells it, and its address."""
    installed, _ = install_config()
    version = (installed or {}).get("appVersion", "Kubeflow Pipelines, version not told")
    return f"{version} at {server.host}"


def clean_up(trial: Trial, places: Mapping[str, str]) -> None:
    """Remove everything that the trial made; what cannot be removed is told, and the rest removed all the same."""
    for what, remove in _made(trial):
        try:
            remove()
        except InputError as error:
            print(f"  {what}: could not be removed: {error}", flush=True)
    for place in OWN:
        _empty(f"{places[place]}/{trial.name}")
    print(
        f"removed: {trial.name}, with its runs, versions and folders; the namespace {namespace()} is yours to delete",
        flush=True,
    )


def _result(trial: Trial, case: str, expected: str, run: Callable[[Trial], str]) -> Result:
    print(f"{case}:", flush=True)
    started = time.monotonic()
    try:
        seen = run(trial)
    except InputError as error:  # of one case: the others tell more
        seen = str(error)
    return Result(case=case, expected=expected, seen=seen, seconds=time.monotonic() - started)


def _check_namespace(server: Server) -> None:
    space = namespace()
    if space == DEFAULT_NAMESPACE:
        raise InputError(
            f"{NAMESPACE_VARIABLE}={space}: nights run there; apply manifests/overlays/trial and set it to nightdrive-trial"
        )
    if server.namespace and server.namespace != space:
        raise InputError(
            f"{NAMESPACE_VARIABLE}={space}: KFP_NAMESPACE is {server.namespace}; set both to the trial's namespace"
        )


def _made(trial: Trial) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what the trial made on the server, with what removes it, in an order in which nothing starts anew."""
    ask = trial.server.ask
    listing = ("recurring_run_service_list_recurring_runs", "recurring_runs", trial.name)
    for each in trial.server.named("RecurringRunServiceApi", *listing, **trial.server.scope):
        remove = ("RecurringRunServiceApi", "recurring_run_service_delete_recurring_run", each.recurring_run_id)
        yield each.recurring_run_id, partial(ask, *remove)
    for run in list(own_runs(trial)):
        yield run.run_id, partial(ask, "RunServiceApi", "run_service_delete_run", run.run_id)
    for pipeline in trial.server.pipelines(trial.name):
        remove = ("PipelineServiceApi", "pipeline_service_delete_pipeline", pipeline.pipeline_id)
        yield trial.name, partial(ask, *remove, cascade=True)
    experiment_id = submit.experiment(trial.server, trial.name)
    yield trial.name, partial(ask, "ExperimentServiceApi", "experiment_service_delete_experiment", experiment_id)


def _empty(url: str) -> None:
    """Remove a folder, or every object below s3://bucket/prefix, with all that is in it."""
    from perception.data.s3 import open_bucket

    if not url.startswith("s3://"):
        shutil.rmtree(url, ignore_errors=True)
        return
    bucket = open_bucket(url, os.environ)
    for key in bucket.list(""):
        bucket.remove(key)
