"""The night as a Kubeflow pipeline, derived from the graph: flat, one loop a fan-out, one condition where news is asked for.

A gate is a plain step that exits 3; what follows depends on it. All of a task's settings travel as one JSON text, because every
input of a step costs its bytes six times over in the run that Kubeflow keeps, and a run has a size limit.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl

from components.stage.kfp_component import container_component
from components.stage.kfp_step import FINAL_STATUS, SETTINGS, TASK, numbered
from components.stage.night import NIGHT
from components.stage.parameters import build_parameters
from components.stage.records import FAREWELL
from pipelines.cluster import Cluster
from pipelines.graph import FOOTAGE, NEWS, NOTHING_NEW, Artifact, Graph, Task
from pipelines.kubeflow.resources import image_of, iterations, with_resources
from pipelines.kubeflow.sources import mount_sources
from pipelines.settings import COUNTS, step_parameters


def build_pipeline(night: Graph, settings: Mapping[str, Any], images: Mapping[str, str]) -> Any:
    """Return the night as a KFP pipeline with the parameters of `settings`, its steps run from `images` by dependency set."""
    cluster: Any = build_parameters(Cluster, settings["cluster"], where="cluster")
    steps = Steps(night, settings, images, cluster)

    def nightly() -> None:
        with dsl.ExitHandler(steps.farewell(), name="night"), contextlib.ExitStack() as rest:
            for task in night.tasks.values():
                if task.only_if_news and not steps.news:
                    said = steps.made[night.news_from].outputs[NEWS]
                    steps.news.append(rest.enter_context(dsl.If(said != NOTHING_NEW, name=NEWS)))
                steps.add(task)

    pipeline: Any = dsl.pipeline(
        name="nightdrive",
        description="Select, adapt, train and prune, compress, evaluate: one night.",
        pipeline_config=dsl.PipelineConfig(active_deadline_seconds=round(cluster.night_hours * 3600)),
    )
    return pipeline(nightly)


@dataclass(frozen=True)
class Steps:
    """Gather the steps of a night as they are added."""

    night: Graph
    settings: Mapping[str, Any]
    images: Mapping[str, str]
    cluster: Cluster
    made: dict[str, Any] = field(default_factory=dict)  # by task
    # the condition round what is left out when nothing is new, once entered
    news: list[Any] = field(default_factory=list)

    def add(self, task: Task) -> None:
        """Add a task's step, in a loop where it is one of many; it waits for the gates on what it takes."""
        with self._loop(task) as item:
            number = {task.over: item} if task.over else {}
            step = self._step(task, task.name, self._inputs(task) | number)
            step.after(*(self.made[gate] for gate in task.after))
        self.made[task.name] = step

    def farewell(self) -> Any:
        """Return the step that tells the night at its end whatever happened: the report, without artifacts."""
        (task,) = (each for each in self.night.tasks.values() if each.at_failure and each.stage.name == "report")
        return self._step(task, FAREWELL, {}, exit_handler=True)

    def _step(self, task: Task, name: str, given: Mapping[str, Any], *, exit_handler: bool = False) -> Any:
        image = image_of(self.cluster.needs(task.stage.name), self.images)
        values = {TASK: name, NIGHT: self._night(), **step_parameters(self.settings, task)}
        values.pop(FINAL_STATUS, None)  # the backend's to give
        taken = () if exit_handler else named_inputs(task)
        takes = {key: bool(artifact.over) and not port.shares for port, key, artifact in taken}
        component = container_component(name, task.stage, image, takes, over=task.over, exit_handler=exit_handler)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        step = with_resources(component(**{SETTINGS: text}, **given), task.stage.name, image, self.cluster)
        if FOOTAGE in task.reads_outside:
            mount_sources(step, self.cluster)
        step.set_display_name(name)
        return step.set_caching_options(task.reusable and not task.reads_outside and not exit_handler)

    def _night(self) -> dict[str, Any]:
        about = {"store": self.settings["resolve"]["store"], "profile": self.settings["profile"]}
        return about | {"hours": self.cluster.night_hours, "watch_retries": self.cluster.watch_retries}

    def _inputs(self, task: Task) -> dict[str, Any]:
        given = {}
        for _, name, artifact in named_inputs(task):
            output = self.made[artifact.task].outputs[artifact.port]
            given[name] = dsl.Collected(output) if artifact.over else output
        return given

    @contextlib.contextmanager
    def _loop(self, task: Task) -> Iterator[Any]:
        if not task.over:
            yield None
            return
        at_once = {"parallelism": self.cluster.parallel_steps} if self.cluster.parallel_steps else {}
        with dsl.ParallelFor(iterations(self.settings[COUNTS[task.over]]), **at_once) as item:
            yield item


def named_inputs(task: Task) -> Iterator[tuple[Any, str, Artifact]]:
    """Yield (port, KFP input, artifact): a port that several tasks fill has one numbered input for each."""
    for port in task.stage.inputs:
        given = task.takes.get(port.name, ())
        for number, artifact in enumerate(given):
            yield port, port.name if len(given) == 1 else numbered(port.name, number), artifact
