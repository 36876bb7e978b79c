"""kfp.local, mended: of a condition on what a task gives it finds the value only where that is called Output.

Anything else it takes for an input of the DAG around, and the condition for false; Kubeflow itself does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator


def _value(channel: str, io_store: Any) -> Any:
    task, _, output = channel.removeprefix("pipelinechannel--").rpartition("-")
    return io_store.get_task_output(task, output)


@contextmanager
def conditions_on_values() -> Iterator[None]:
    """Let conditions ask for what a task gives by its own name."""
    kept = ConditionEvaluator.__dict__["_resolve_pipeline_channel"]
    ConditionEvaluator._resolve_pipeline_channel = staticmethod(_value)
    try:
        yield
    finally:
        ConditionEvaluator._resolve_pipeline_channel = kept
