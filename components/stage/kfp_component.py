"""The face that a stage shows to Kubeflow Pipelines: a container component derived from its declaration."""

import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.stage.declaration import Stage
from components.stage.kfp_step import FINAL_STATUS, SETTINGS


def container_component(name: str, stage: Stage, image: str, *, exit_handler: bool = False) -> Any:
    """Return the KFP container component of a task of `stage`, run from `image` by the stage's own command line.

    name: of the task; KFP's API names the step by it. It takes no artifact: what tasks give each other goes through the store
    (components/stage/exchange.py). An exit handler is given the final status of the run.
    """

    def step(*_: Any) -> dsl.ContainerSpec:  # KFP calls it by position, with placeholders
        return dsl.ContainerSpec(
            image=image,
            command=["python", "-m", "components.stage", stage.name],
            args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    shown = {page.port for page in stage.pages if page.kind in ("HTML", "Markdown")}
    annotations: dict[str, Any] = {
        port.name: dsl.Output[dsl.Artifact] for port in stage.outputs if port.name not in shown
    }
    annotations |= {page.name: dsl.Output[getattr(dsl, page.kind)] for page in stage.pages}
    annotations |= {SETTINGS: str}
    annotations |= {FINAL_STATUS: dsl.PipelineTaskFinalStatus} if exit_handler else {}
    annotations |= {stage.value: dsl.OutputPath(str)} if stage.value else {}
    parameters = [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
        for key, annotation in annotations.items()
    ]
    step.__name__ = name
    step.__doc__ = stage.summary
    step.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    step.__annotations__ = annotations
    declare: Callable[..., Any] = dsl.container_component
    return declare(step)
