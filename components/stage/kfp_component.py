"""The face that a stage shows to Kubeflow Pipelines: a container component derived from its declaration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from components.stage.declaration import Stage
from components.stage.kfp_step import FINAL_STATUS, SETTINGS


def container_component(
    name: str, stage: Stage, image: str, takes: Mapping[str, bool], *, over: str = "", exit_handler: bool = False
) -> Any:
    """Return the KFP container component of a task of `stage`, run from `image` by the stage's own command line.

    name: of the task; KFP's API names the step by it. takes: for each artifact whether it is a list, gathered from a loop.
    over: the parameter that counts the loop around the step. An exit handler takes no artifact, since KFP lets none reach
    one, but the final status of the run.
    """

    def step(*_: Any) -> dsl.ContainerSpec:  # KFP calls it by position, with placeholders
        return dsl.ContainerSpec(
            image=image,
            command=["python", "-m", "components.stage", stage.name],
            args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    annotations = {taken: dsl.Input[list[dsl.Artifact] if many else dsl.Artifact] for taken, many in takes.items()}
    annotations |= {port.name: dsl.Output[dsl.Artifact] for port in stage.outputs}
    annotations |= {SETTINGS: str} | ({over: int} if over else {})
    annotations |= {FINAL_STATUS: dsl.PipelineTaskFinalStatus} if exit_handler else {}
    annotations |= {value: dsl.OutputPath(str) for value in stage.values}
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
