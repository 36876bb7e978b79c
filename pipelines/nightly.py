"""The night as a Kubeflow pipeline: which stage feeds which.

Read it from top to bottom: every call is one stage, declared in components/STAGE.py, and every artifact between two stages is an
argument. dvc.yaml is the same graph for one machine; a test holds the two and the stage declarations equal.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from kfp import dsl

from components.kfp_face import FINAL_STATUS, container_component
from components.stages import STAGES
from pipelines.resources import apply_needs
from pipelines.settings import stage_of, step_parameters


def build_pipeline(settings: Mapping[str, Any], images: Mapping[str, str]) -> Any:
    """Return the night as a KFP pipeline with the parameters of `settings`, its steps run from `images` by dependency set."""

    def call(task: str, **given: Any) -> Any:
        stage = stage_of(task)
        component = container_component(stage, images[stage.needs.image])
        step = component(task=task, **(step_parameters(settings, task) | given))
        return apply_needs(step, stage.needs, name=task)

    @contextmanager
    def accepted(task: str, subject: Any) -> Iterator[Any]:
        """Go on inside with the verdict unless the gate refuses; a refusal fails the run at once and is never retried."""
        gate = call(task, subject=subject, enforce=False)
        with dsl.If(gate.outputs["decision"] != "refuse", name=f"{task}-accepted"):
            yield gate.outputs["verdict"]
        with dsl.Else(name=f"{task}-refused"):
            call(task, subject=subject, enforce=True).set_retry(0)

    @dsl.pipeline(name="nightdrive", description="Select, adapt, train and prune, compress, evaluate: one night.")
    def nightly(
        store: str = settings["ingest"]["store"],
        registry: str = settings["resolve"]["registry"],
        remote: str = settings["resolve"]["remote"],
        budget_frames: int = settings["select"]["budget_frames"],
    ) -> None:
        last_words = container_component(STAGES["report"], images[STAGES["report"].needs.image], exit_handler=True)
        known = {name: value for name, value in step_parameters(settings, "report").items() if name != FINAL_STATUS}
        farewell = last_words(task="farewell", **(known | {"store": store, "registry": registry}))
        apply_needs(farewell, STAGES["report"].needs, name="farewell")
        with dsl.ExitHandler(farewell, name="night"), ExitStack() as night:
            base = call("resolve", registry=registry, remote=remote, store=store).outputs["base"]
            with dsl.ParallelFor(list(settings["sources"])) as source:
                arrived = call("ingest", source=source, store=store).outputs["arrived"]
            frames = call("gather", arrived=dsl.Collected(arrived)).outputs["frames"]
            verdict_ingest = night.enter_context(accepted("gate_ingest", frames))

            ensemble = call("ensemble", frames=frames, base=base, store=store).outputs["ensemble"]
            with dsl.ParallelFor(list(settings["shards"])) as shard:
                scores = call("score", frames=frames, base=base, ensemble=ensemble, shard=shard, store=store).outputs[
                    "scores"
                ]
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
            comparison = call("compare", frames=frames, base=base, selection=selection, store=store).outputs[
                "comparison"
            ]

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

    return nightly
