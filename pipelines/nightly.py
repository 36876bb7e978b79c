"""The night as a Kubeflow pipeline: which stage feeds which.

Read it from top to bottom: every call is one stage, declared in components/STAGE.py, and every artifact between two stages is an
argument. dvc.yaml is the same graph for one machine; a test holds the two and the stage declarations equal.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from kfp import dsl

from components.kfp_face import FINAL_STATUS, container_component
from components.parameters import build_parameters
from perception.errors import InputError
from pipelines.resources import MAX_ITERATIONS, Cluster, equip, image_of, iterations, resource_parameters
from pipelines.settings import stage_of, step_parameters


def build_pipeline(settings: Mapping[str, Any], images: Mapping[str, str]) -> Any:
    """Return the night as a KFP pipeline with the parameters of `settings`, its steps run from `images` by dependency set."""
    cluster = build_parameters(Cluster, settings["cluster"], where="cluster")
    shards = iterations(settings["shards"])
    defaults = resource_parameters(cluster)
    at_once = {"parallelism": cluster.parallel_steps} if cluster.parallel_steps else {}
    chosen: dict[str, Any] = {}  # what this run wants of each: a pipeline parameter, as soon as there is a pipeline

    def call(task: str, *, last_word: str = "", **given: Any) -> Any:
        """Make a step of the task's stage; one that has the last word, under a name of its own, is never retried."""
        stage, is_farewell = stage_of(task), last_word == "farewell"
        known = _without_status(step_parameters(settings, task)) if is_farewell else step_parameters(settings, task)
        image = image_of(cluster.needs(stage.name), images)
        component = container_component(stage, image, exit_handler=is_farewell, never_retried=bool(last_word))
        name = last_word or task
        step = equip(component(task=name, **(known | given)), stage.name, name, image, cluster, chosen)
        return step.set_retry(0) if last_word else step

    @contextmanager
    def accepted(task: str, subject: Any) -> Iterator[Any]:
        """Go on inside with the verdict unless the gate refuses; a refusal fails the run at once and is never retried."""
        gate = call(task, subject=subject, enforce=False)
        with dsl.If(gate.outputs["decision"] != "refuse", name=f"{task}-accepted"):
            yield gate.outputs["verdict"]
        with dsl.Else(name=f"{task}-refused"):
            call(task, last_word=task, subject=subject, enforce=True)

    def nightly(
        store: str = settings["ingest"]["store"],
        registry: str = settings["resolve"]["registry"],
        remote: str = settings["resolve"]["remote"],
        budget_frames: int = settings["select"]["budget_frames"],
        *wanted: Any,
    ) -> None:
        chosen.update(zip(defaults, wanted, strict=True))
        farewell = call("report", last_word="farewell", store=store, registry=registry)
        with dsl.ExitHandler(farewell, name="night"), ExitStack() as night:
            base = call("resolve", registry=registry, remote=remote, store=store).outputs["base"]
            with dsl.ParallelFor(_bounded(list(settings["sources"])), **at_once) as source:
                arrived = call("ingest", source=source, store=store).outputs["arrived"]
            frames = call("gather", arrived=dsl.Collected(arrived)).outputs["frames"]
            verdict_ingest = night.enter_context(accepted("gate_ingest", frames))

            ensemble = call("ensemble", frames=frames, base=base, store=store).outputs["ensemble"]
            with dsl.ParallelFor(shards, **at_once) as shard:
                scored = call(
                    "score",
                    frames=frames,
                    base=base,
                    ensemble=ensemble,
                    shard=shard,
                    shard_count=len(shards),
                    store=store,
                )
                scores = scored.outputs["scores"]
            selection = call(
                "select",
                frames=frames,
                base=base,
                scores=dsl.Collected(scores),
                budget_frames=budget_frames,
                store=store,
            ).outputs["selection"]
            verdict_select = night.enter_context(accepted("gate_select", selection))

            curated = call("curate", frames=frames, base=base, selection=selection, store=store).outputs["curated"]
            verdict_curate = night.enter_context(accepted("gate_curate", curated))
            version = call("publish", base=base, curated=curated, registry=registry, remote=remote).outputs["version"]
            comparison = call(
                "compare", frames=frames, base=base, ensemble=ensemble, selection=selection, store=store
            ).outputs["comparison"]

            adaptation = call("adapt", frames=frames, curated=curated, store=store).outputs["adaptation"]
            verdict_adapt = night.enter_context(accepted("gate_adapt", adaptation))

            network = call("train_prune", frames=frames, curated=curated, adaptation=adaptation, store=store).outputs[
                "network"
            ]
            verdict_train_prune = night.enter_context(accepted("gate_train_prune", network))

            compressed = call("compress", frames=frames, network=network, store=store).outputs["compressed"]
            verdict_compress = night.enter_context(accepted("gate_compress", compressed))

            evaluation = call("evaluate", frames=frames, base=base, compressed=compressed, store=store).outputs[
                "evaluation"
            ]
            verdict_evaluate = night.enter_context(accepted("gate_evaluate", evaluation))

            call(
                "propose",
                last_word="propose",  # nothing follows that could fail the run in its place
                base=base,
                version=version,
                selection=selection,
                comparison=comparison,
                compressed=compressed,
                evaluation=evaluation,
                verdict_ingest=verdict_ingest,
                verdict_select=verdict_select,
                verdict_curate=verdict_curate,
                verdict_adapt=verdict_adapt,
                verdict_train_prune=verdict_train_prune,
                verdict_compress=verdict_compress,
                verdict_evaluate=verdict_evaluate,
                store=store,
                registry=registry,
            )

            report = call(
                "report",
                frames=frames,
                base=base,
                ensemble=ensemble,
                selection=selection,
                curated=curated,
                version=version,
                comparison=comparison,
                adaptation=adaptation,
                network=network,
                compressed=compressed,
                evaluation=evaluation,
                verdict_ingest=verdict_ingest,
                verdict_select=verdict_select,
                verdict_curate=verdict_curate,
                verdict_adapt=verdict_adapt,
                verdict_train_prune=verdict_train_prune,
                verdict_compress=verdict_compress,
                verdict_evaluate=verdict_evaluate,
                store=store,
                registry=registry,
            )
            with dsl.If(
                report.outputs["night"] == "broken", name="night-broken"
            ):  # a stage that no gate follows had a problem
                call("gate_evaluate", last_word="problem", subject=report.outputs["report"], enforce=True)

    _accept(nightly, defaults)
    limits = dsl.PipelineConfig(active_deadline_seconds=round(cluster.night_hours * 3600))
    pipeline: Any = dsl.pipeline(
        name="nightdrive",
        description="Select, adapt, train and prune, compress, evaluate: one night.",
        pipeline_config=limits,
    )
    return pipeline(nightly)


def _accept(pipeline: Any, parameters: Mapping[str, Any]) -> None:
    """Let a pipeline function take further parameters, by position, with these defaults."""
    own = [item for item in inspect.signature(pipeline).parameters.values() if item.kind is item.POSITIONAL_OR_KEYWORD]
    more = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=type(value))
        for name, value in parameters.items()
    ]
    pipeline.__signature__ = inspect.Signature([*own, *more])


def _without_status(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != FINAL_STATUS}


def _bounded(items: list[str]) -> list[str]:
    if len(items) > MAX_ITERATIONS:
        raise InputError(
            f"sources: {len(items)}, and a loop has at most {MAX_ITERATIONS} iterations; put some together"
        )
    return items
