"""The face that a stage shows to Kubeflow Pipelines: a container component derived from its declaration."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.stage.declaration import Port, Stage
from components.stage.kfp_step import NEVER_RETRIED

FINAL_STATUS = "final_status"  # the parameter that an exit handler's run status arrives in
KFP_TYPES = {int: int, float: float, str: str, bool: bool, dict: dict, tuple: list}


def container_component(stage: Stage, image: str, *, exit_handler: bool = False, never_retried: bool = False) -> Any:
    """Return the KFP container component of `stage`, run from `image` by the stage's own command line.

    The component has one parameter for each of the stage's parameters, and `task`, the name of this call in the night.
    As an exit handler it takes no artifact, since KFP lets none reach one, but the final status of the run.
    A step that is never retried ends with exit codes 2 and 3 itself; every other one leaves them to the next gate.
    """
    taken = () if exit_handler else stage.inputs
    flags = [NEVER_RETRIED] if never_retried else []

    def step(
        *_: Any,
    ) -> dsl.ContainerSpec:  # KFP calls it by position, with placeholders that the executor input replaces
        return dsl.ContainerSpec(
            image=image,
            command=["python", "-m", "components", stage.name],
            args=[*flags, "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    parameters = [*_artifacts(taken, stage.outputs), *_parameters(stage, exit_handler), *_values(stage)]
    step.__name__ = stage.name
    step.__doc__ = stage.summary
    step.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    step.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    declare: Callable[..., Any] = dsl.container_component
    return declare(step)


def kfp_type(hint: Any) -> type:
    """Return the KFP parameter type that carries values of a parameter field's type."""
    origin = typing.get_origin(hint) or hint
    if origin not in KFP_TYPES:
        raise TypeError(f"parameter type {hint}: KFP carries only {', '.join(kind.__name__ for kind in KFP_TYPES)}")
    return KFP_TYPES[origin]


def _artifacts(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> list[inspect.Parameter]:
    taken = [
        _keyword(port.name, dsl.Input[list[dsl.Artifact]] if port.many else dsl.Input[dsl.Artifact]) for port in inputs
    ]
    return taken + [_keyword(port.name, dsl.Output[dsl.Artifact]) for port in outputs]


def _values(stage: Stage) -> list[inspect.Parameter]:
    return [_keyword(name, dsl.OutputPath(str)) for name in stage.values]


def _parameters(stage: Stage, exit_handler: bool) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(stage.parameters)
    types = {item.name: kfp_type(hints[item.name]) for item in dataclasses.fields(stage.parameters)}
    final = {FINAL_STATUS: dsl.PipelineTaskFinalStatus} if exit_handler else {}
    return [_keyword(name, kind) for name, kind in ({"task": str} | types | final).items()]


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
