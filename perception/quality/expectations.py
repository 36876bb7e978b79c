"""Our checks as Great Expectations classes.

Importing this module registers them and imports great_expectations (3 s), so only the function that runs a suite does.
"""

from __future__ import annotations

import json
import types
from typing import Any, ClassVar

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.validator.metric_configuration import MetricConfiguration

from perception.quality.checks import CHECKS, Outcome
from perception.quality.vocabulary import FORMS

_METRIC = "nightdrive.check"


class CheckMetric(TableMetricProvider):
    """Run one check on the whole batch."""

    metric_name = _METRIC
    value_keys = ("check", "arguments")

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,  # noqa: N805 - the library calls it as a class method
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],  # noqa: ARG002
        runtime_configuration: dict[str, Any],  # noqa: ARG002
    ) -> Outcome:
        table, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        return CHECKS[metric_value_kwargs["check"]](table, **json.loads(metric_value_kwargs["arguments"]))


class _Check(BatchExpectation):
    """What all our expectations share: the arguments go to the check, its outcome is the result."""

    arguments: ClassVar[tuple[str, ...]] = ()

    def get_validation_dependencies(self, execution_engine: Any = None, runtime_configuration: Any = None) -> Any:
        """Ask for the check's metric."""
        dependencies = super().get_validation_dependencies(execution_engine, runtime_configuration)
        arguments = {name: getattr(self, name) for name in self.arguments}
        dependencies.set_metric_configuration(
            _METRIC,
            MetricConfiguration(
                metric_name=_METRIC,
                metric_domain_kwargs={"batch_id": self.batch_id},
                # as text, since a metric's arguments are its cache key
                metric_value_kwargs={"check": self.expectation_type, "arguments": json.dumps(arguments)},
            ),
        )
        return dependencies

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002
        execution_engine: Any = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        outcome: Outcome = metrics[_METRIC]
        return {"success": outcome.success, "result": {"observed_value": outcome.observed, "outcome": outcome}}


def _register(name: str, arguments: tuple[str, ...]) -> None:
    """Make the class of one of our expectations: the library lists it by its name, and its arguments are its fields."""
    body = {"__module__": __name__, "__annotations__": dict.fromkeys(arguments, Any)}
    body |= {"success_keys": arguments, "arguments": arguments}
    title = "".join(word.capitalize() for word in name.split("_"))
    types.new_class(title, (_Check,), exec_body=lambda namespace: namespace.update(body))


for _name, _form in FORMS.items():
    if _form.looks_at == "own":
        _register(_name, _form.required)
