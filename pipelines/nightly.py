"""The night as a Kubeflow pipeline: which stage feeds which.

Read `arrive`, `choose`, `learn` and `tell` from top to bottom: every call is one stage, declared in components/STAGE.py, and
every artifact between two stages is an argument. dvc.yaml is the same graph for one machine; a test holds the two and the
stage declarations equal.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kfp import dsl

from components.stage.kfp_component import FINAL_STATUS, container_component
from components.stage.parameters import build_parameters
from perception.errors import InputError
from pipelines.kubeflow.resources import MAX_ITERATIONS, Cluster, equip, image_of, iterations, resource_parameters
from pipelines.settings import stage_of, step_parameters


def build_pipeline(settings: Mapping[str, Any], images: Mapping[str, str]) -> Any:
    """Return the night as a KFP pipeline with the parameters of `settings`, its steps run from `images` by dependency set."""
    steps = Steps(settings, images, build_parameters(Cluster, settings["cluster"], where="cluster"))
    defaults = resource_parameters(steps.cluster)

    def nightly(
        store: str = settings["ingest"]["store"],
        registry: str = settings["resolve"]["registry"],
        remote: str = settings["resolve"]["remote"],
        budget_frames: int = settings["select"]["budget_frames"],
        *wanted: Any,
    ) -> None:
        steps.chosen.update(zip(defaults, wanted, strict=True))
        run = SimpleNamespace(store=store, registry=registry, remote=remote, budget_frames=budget_frames)
        farewell = steps.call("report", last_word="farewell", store=store, registry=registry)
        with dsl.ExitHandler(farewell, name="night"), ExitStack() as accepted:
            made = SimpleNamespace()  # the artifacts so far, by the names of the ports that take them
            arrive(steps, run, made, accepted)
            choose(steps, run, made, accepted)
            learn(steps, run, made, accepted)
            tell(steps, run, made)

    _accept(nightly, defaults)
    limits = dsl.PipelineConfig(active_deadline_seconds=round(steps.cluster.night_hours * 3600))
    pipeline: Any = dsl.pipeline(
        name="nightdrive",
        description="Select, adapt, train and prune, compress, evaluate: one night.",
        pipeline_config=limits,
    )
    return pipeline(nightly)


# ---------------------------------------------------------------- the night, from top to bottom


def arrive(steps: "Steps", run: Any, made: Any, accepted: ExitStack) -> None:
    """Find the version to start from, and take in what the fleet brought."""
    made.base = steps.call("resolve", registry=run.registry, remote=run.remote, store=run.store).outputs["base"]
    with dsl.ParallelFor(_bounded(list(steps.settings["sources"])), **steps.at_once) as source:
        arrived = steps.call("ingest", source=source, store=run.store).outputs["arrived"]
    made.frames = steps.call("gather", arrived=dsl.Collected(arrived)).outputs["frames"]
    made.verdict_ingest = accepted.enter_context(steps.accepted("gate_ingest", made.frames))


def choose(steps: "Steps", run: Any, made: Any, accepted: ExitStack) -> None:
    """Let an ensemble's disagreement choose the frames to label, and publish the version that holds them."""
    shards = iterations(steps.settings["shards"])
    ensemble = steps.call("ensemble", frames=made.frames, base=made.base, store=run.store)
    made.ensemble = ensemble.outputs["ensemble"]
    with dsl.ParallelFor(shards, **steps.at_once) as shard:
        scored = steps.call(
            "score",
            frames=made.frames,
            base=made.base,
            ensemble=made.ensemble,
            shard=shard,
            shard_count=len(shards),
            store=run.store,
        )
        scores = scored.outputs["scores"]
    selected = steps.call(
        "select",
        frames=made.frames,
        base=made.base,
        scores=dsl.Collected(scores),
        budget_frames=run.budget_frames,
        store=run.store,
    )
    made.selection = selected.outputs["selection"]
    made.verdict_select = accepted.enter_context(steps.accepted("gate_select", made.selection))

    curated = steps.call("curate", frames=made.frames, base=made.base, selection=made.selection, store=run.store)
    made.curated = curated.outputs["curated"]
    made.verdict_curate = accepted.enter_context(steps.accepted("gate_curate", made.curated))
    published = steps.call("publish", base=made.base, curated=made.curated, registry=run.registry, remote=run.remote)
    made.version = published.outputs["version"]
    compared = steps.call(
        "compare",
        frames=made.frames,
        base=made.base,
        ensemble=made.ensemble,
        selection=made.selection,
        store=run.store,
    )
    made.comparison = compared.outputs["comparison"]


def learn(steps: "Steps", run: Any, made: Any, accepted: ExitStack) -> None:
    """Adapt from the simulator, train and prune, compress, evaluate."""
    adapted = steps.call("adapt", frames=made.frames, curated=made.curated, store=run.store)
    made.adaptation = adapted.outputs["adaptation"]
    made.verdict_adapt = accepted.enter_context(steps.accepted("gate_adapt", made.adaptation))

    trained = steps.call(
        "train_prune", frames=made.frames, curated=made.curated, adaptation=made.adaptation, store=run.store
    )
    made.network = trained.outputs["network"]
    made.verdict_train_prune = accepted.enter_context(steps.accepted("gate_train_prune", made.network))

    made.compressed = steps.call("compress", frames=made.frames, network=made.network, store=run.store).outputs[
        "compressed"
    ]
    made.verdict_compress = accepted.enter_context(steps.accepted("gate_compress", made.compressed))

    evaluated = steps.call("evaluate", frames=made.frames, base=made.base, compressed=made.compressed, store=run.store)
    made.evaluation = evaluated.outputs["evaluation"]
    made.verdict_evaluate = accepted.enter_context(steps.accepted("gate_evaluate", made.evaluation))


def tell(steps: "Steps", run: Any, made: Any) -> None:
    """Put the version before people and report; both take every artifact that their declaration names."""
    for task, last_word, artifact, value, named in (
        ("propose", "problem_propose", "review", "state", "propose-broken"),
        ("report", "problem", "report", "night", "night-broken"),
    ):
        told = steps.call(task, **_taken_by(task, made), store=run.store, registry=run.registry)
        # No gate follows that could refuse a problem of this stage, or of one that only this stage reads.
        with dsl.If(told.outputs[value] == "broken", name=named):
            steps.call("gate_evaluate", last_word=last_word, subject=told.outputs[artifact], enforce=True)


def _taken_by(task: str, made: Any) -> dict[str, Any]:
    return {port.name: getattr(made, port.name) for port in stage_of(task).inputs}


# ---------------------------------------------------------------- how a step is made


@dataclass(frozen=True)
class Steps:
    """Make the steps of a night: what every call of a stage has in common."""

    settings: Mapping[str, Any]
    images: Mapping[str, str]
    cluster: Cluster
    chosen: dict[str, Any] = field(default_factory=dict)  # what this run wants of each resource: a pipeline parameter

    @property
    def at_once(self) -> dict[str, int]:
        """Return the options of a loop: how many iterations run at once."""
        return {"parallelism": self.cluster.parallel_steps} if self.cluster.parallel_steps else {}

    def call(self, task: str, *, last_word: str = "", **given: Any) -> Any:
        """Make a step of the task's stage; one that has the last word, under a name of its own, is never retried."""
        stage, is_farewell = stage_of(task), last_word == "farewell"
        known = step_parameters(self.settings, task)
        if is_farewell:
            known = {name: value for name, value in known.items() if name != FINAL_STATUS}
        image = image_of(self.cluster.needs(stage.name), self.images)
        component = container_component(stage, image, exit_handler=is_farewell, never_retried=bool(last_word))
        name = last_word or task
        step = equip(component(task=name, **(known | given)), stage.name, name, image, self.cluster, self.chosen)
        return step.set_retry(0) if last_word else step

    @contextmanager
    def accepted(self, task: str, subject: Any) -> Iterator[Any]:
        """Go on inside with the verdict unless the gate refuses; a refusal fails the run at once and is never retried."""
        gate = self.call(task, subject=subject, enforce=False)
        with dsl.If(gate.outputs["decision"] != "refuse", name=f"{task}-accepted"):
            yield gate.outputs["verdict"]
        with dsl.Else(name=f"{task}-refused"):
            self.call(task, last_word=task, subject=subject, enforce=True)


def _accept(pipeline: Any, parameters: Mapping[str, Any]) -> None:
    """Let a pipeline function take further parameters, by position, with these defaults."""
    own = [item for item in inspect.signature(pipeline).parameters.values() if item.kind is item.POSITIONAL_OR_KEYWORD]
    more = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=type(value))
        for name, value in parameters.items()
    ]
    pipeline.__signature__ = inspect.Signature([*own, *more])


def _bounded(items: list[str]) -> list[str]:
    if len(items) > MAX_ITERATIONS:
        raise InputError(
            f"sources: {len(items)}, and a loop has at most {MAX_ITERATIONS} iterations; put some together"
        )
    return items
