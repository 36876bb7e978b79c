"""How large the tables' experiments are, as plans.yaml beside this file says."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

Plan = TypeVar("Plan")


def settings_of(table: str) -> dict[str, Any]:
    """Return a table's entry of plans.yaml as it is written."""
    written: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("plans.yaml").read_text("utf-8"))[table]
    return written


def plans_of(table: str, kind: type[Plan]) -> dict[str, Plan]:
    """Return a table's plans by size."""
    return TypeAdapter(dict[str, kind]).validate_python(settings_of(table))  # type: ignore[valid-type]
