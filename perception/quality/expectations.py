"""Our checks as Great Expectations classes.

Importing this module registers them and imports great_expectations (3 s), so only the function that runs a suite does.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.validator.metric_configuration import MetricConfiguration

from perception.quality.checks import CHECKS, Outcome

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


class ExpectValuesToBePresent(_Check):
    """Every row has a value in every column of the list."""

    column_list: list[Any]
    success_keys = arguments = ("column_list",)


class ExpectValuesToBeFinite(_Check):
    """Every row has a finite number in every column of the list."""

    column_list: list[Any]
    success_keys = arguments = ("column_list",)


class ExpectGroupToStayOnOneSide(_Check):
    """No group (a drive) has rows on two sides (splits)."""

    group_column: str
    side_column: str
    sides: dict[str, Any]
    success_keys = arguments = ("group_column", "side_column", "sides")


class ExpectGroupShareToBeAtMost(_Check):
    """No group (a drive) gives more than its share of the rows."""

    group_column: str
    max_share: float
    success_keys = arguments = ("group_column", "max_share")


class ExpectClassPixelsToFillTheFrame(_Check):
    """The pixels of all classes and of no class add up to the frame."""

    prefix: str
    void_column: str
    width_column: str
    height_column: str
    success_keys = arguments = ("prefix", "void_column", "width_column", "height_column")


class ExpectClassSharesToStayNear(_Check):
    """Class shares of pixels stay near a reference."""

    prefix: str
    reference: dict[str, Any]
    floor_share: float
    max_divergence_nats: float
    success_keys = arguments = ("prefix", "reference", "floor_share", "max_divergence_nats")


class ExpectClassMixToBeKept(_Check):
    """The mix of classes resembles a reference's: none collapsed, none swollen."""

    prefix: str
    reference: dict[str, Any]
    least_share: float
    lowest_ratio: float
    highest_ratio: float
    success_keys = arguments = ("prefix", "reference", "least_share", "lowest_ratio", "highest_ratio")


class ExpectClassPixelsToBeRight(_Check):
    """Enough of the counted pixels are right."""

    prefix: str
    right_prefix: str
    min_share: float
    success_keys = arguments = ("prefix", "right_prefix", "min_share")


class ExpectClassPixelsToReach(_Check):
    """Every class has enough pixels."""

    prefix: str
    classes: list[Any]
    min_px: int
    success_keys = arguments = ("prefix", "classes", "min_px")


class ExpectNoNearDuplicatesAcrossSides(_Check):
    """No image of one side (of splits) looks like one of the other."""

    hash_column: str
    side_column: str
    sides: dict[str, Any]
    max_distance_bits: int
    success_keys = arguments = ("hash_column", "side_column", "sides", "max_distance_bits")
