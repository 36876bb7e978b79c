"""The night as a Kubeflow pipeline, derived from the graph: flat, one step a task, one condition where news is asked for.

A gate is a plain step that exits 3; what follows depends on it. A fan-out is one step, whose shares are the indices of a job.
What tasks give each other goes through the store, and all of a step's settings travel as one text, because every input of a
step costs its bytes six times over in the run that Kubeflow keeps, and a run has a size limit (pipelines/kubeflow/size.py).
"""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl

from components.stage.kfp_component import container_component
from components.stage.kfp_step import ABOUT, FINAL_STATUS, SETTINGS, write_settings
from components.stage.night import NIGHT
from components.stage.parameters import build_parameters
from components.stage.records import FAREWELL
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.graph import FOOTAGE, NEWS, NOTHING_NEW, REGISTRY, Artifact, Graph, Task
from pipelines.kubeflow.resources import image_of, with_resources
from pipelines.kubeflow.sources import mount_sources
from pipelines.settings import COUNTS, step_parameters

WITH_GIT = "versioning"  # the dependency set of whatever reads or writes the registry
_REWRITTEN = re.compile(r"\{\{|\$[$(]")  # {{...}} by Kubeflow and Argo, $(NAME) and $$ by Kubernetes


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
        """Add a task's step; it waits for the tasks that it takes from, and for the gates on what it takes."""
        sources = task.sources()
        step = self._step(task, task.name)
        step.after(*(self.made[name] for name in sorted(sources - self.night.upstream(sources))))
        self.made[task.name] = step

    def farewell(self) -> Any:
        """Return the step that tells and records the night at its end whatever happened: the report, without what tasks gave.

        It loads no network, so it runs from the image that has git, and holds the registry's key in place of the report.
        """
        (task,) = (each for each in self.night.tasks.values() if each.at_failure and each.stage.name == "report")
        return self._step(task, FAREWELL, exit_handler=True)

    def _step(self, task: Task, name: str, *, exit_handler: bool = False) -> Any:
        shares = self.settings[COUNTS[task.over]] if task.over else 0
        needs, own_needs = self.cluster.needs(task.stage.name), self.cluster.step_needs(task.stage.name, shares)
        if exit_handler:
            needs = own_needs = dataclasses.replace(needs, image=WITH_GIT)
        image = image_of(needs, self.images)
        own_image = image_of(own_needs, self.images)  # another where a job does the work
        about: dict[str, Any] = {"task": name} | ({"over": task.over} if task.over else {})
        if not exit_handler:
            about |= {"takes": {port: [self._taken(each) for each in given] for port, given in task.takes.items()}}
        values = {ABOUT: about, NIGHT: self._night(), **step_parameters(self.settings, task)}
        for given_later in (FINAL_STATUS, "settings"):  # of the report: by the backend, by the records of all tasks
            values.pop(given_later, None)
        component = container_component(name, task.stage, own_image, exit_handler=exit_handler)
        claims = self.cluster.source_claims if FOOTAGE in task.reads_outside else {}
        settings = write_settings(values)
        if found := _REWRITTEN.search(settings):
            raise InputError(
                f"{name}: a parameter holds {found[0]}, for which Kubeflow, Argo or Kubernetes put in something else; leave it out"
            )
        step = with_resources(
            component(**{SETTINGS: settings}),
            task.stage.name,
            image,
            self.cluster,
            shares,
            claims,
            registry=REGISTRY in task.reads_outside and needs.image == WITH_GIT,
            signs=task.writes_registry or exit_handler,
            outside=exit_handler,
        )
        if claims and not shares:
            mount_sources(step, self.cluster)
        step.set_display_name(name)
        # Its inputs are no part of the key that KFP's cache knows a step by.
        return step.set_caching_options(False)

    def _night(self) -> dict[str, Any]:
        about = {"store": self.settings["resolve"]["store"], "profile": self.settings["profile"]}
        return about | {"hours": self.cluster.night_hours, "watch_retries": self.cluster.watch_retries}

    def _taken(self, artifact: Artifact) -> str:
        shares = f"/{self.settings[COUNTS[artifact.over]]}" if artifact.over else ""
        return f"{artifact.task}.{artifact.port}{shares}"
