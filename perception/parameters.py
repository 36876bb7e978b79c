"""Declare parameters: a field's type has its bounds, its name the unit, its comment what it means.

From that come the check of what a person wrote, the message where that is wrong, docs/parameters.md and the schema that editors
complete params.yaml by (pipelines/commands/parameters.py). Text for numbers (1e-6, which YAML takes for text) and dates for text are converted, 3.0 is the
whole number 3, and a boolean is no number; inside lists and mappings as well.
"""

import functools
import operator
import re
import types
from datetime import date
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

Kind = TypeVar("Kind", bound=type)

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareFromZero = Annotated[float, Field(ge=0, lt=1)]
ShareToOne = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class BrokenRule(ValueError):
    """Say which parameter breaks a rule that it shares with others: raised in a declaration's `__post_init__`."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        """Hold the parameter, its value and the rule, such as "must hold the budget"."""
        super().__init__(name, value, rule)
        self.name, self.value, self.rule = name, value, rule


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def checked(kind: Kind) -> Kind:
    """Return a class of parameters as a frozen dataclass that checks and converts what it is built from.

    Its construction raises pydantic's ValidationError; components.stage.parameters tells it in our words.
    """
    hints = get_type_hints(kind, include_extras=True)
    kind.__annotations__ = {name: _converting(hints[name]) for name in kind.__annotations__}
    config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)
    return dataclass(kind, frozen=True, kw_only=True, config=config)  # type: ignore[return-value]


def matching(pattern: str, rule: str) -> AfterValidator:
    """Return the bound of a text that must match a regular expression as a whole; rule: in words, "must be ..."."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def number(value: Any) -> Any:
    """Return text that says a number as that number, and anything else as it is: YAML takes 1e-6 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


_KINDS: dict[Any, tuple[Any, ...]] = {  # what every such value goes through, wherever it stands
    int: (Strict(), BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)),
    float: (Strict(), BeforeValidator(number)),
    bool: (Strict(),),
    str: (Strict(), BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)),
}  # fmt: skip


def _converting(hint: Any, bounds: tuple[Any, ...] = ()) -> Any:
    """Return a type hint whose numbers, texts and booleans, however deep, are converted first and then checked strictly."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _converting(inner[0], inner[1:])
    if hint in _KINDS:
        strict, *convert = _KINDS[hint]
        return Annotated[(hint, strict, *bounds, *convert)]  # type: ignore[return-value]
    if origin in (Union, types.UnionType):
        hint = functools.reduce(operator.or_, map(_converting, inner))
    elif origin in (tuple, dict):
        hint = origin[tuple(each if each is ... else _converting(each) for each in inner)]
    return Annotated[(hint, *bounds)] if bounds else hint
