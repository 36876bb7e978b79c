"""Declare parameters: a field's type has its bounds, its name the unit, its comment what it means.

From that come the check of what a person wrote, the message where that is wrong, docs/parameters.md and the schema by which
editors complete params.yaml (pipelines/commands/parameters.py). Text for numbers (1e-6, which YAML takes for text) and dates for
text are converted, 3.0 is the whole number 3, and a boolean is no number; inside lists and mappings as well.
"""

import dataclasses
import functools
import operator
import re
import types
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import core_schema

from perception.errors import InputError, did_you_mean

Kind = TypeVar("Kind", bound=type)

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareFromZero = Annotated[float, Field(ge=0, lt=1)]
ShareToOne = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]  # a century: what is counted from a night's date stays a date
Pixels = Annotated[int, Field(ge=1, le=16384)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]

Range = tuple[float, float]  # (low, high)

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_RULES = {  # pydantic's kinds of error in our words
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "date_type": "must be a date such as 2026-11-23",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "missing": "holds too few values",  # of a list; a parameter that is missing has a message of its own
    "too_long": "must hold at most {max_length} values",
    "too_short": "must hold at least {min_length} values",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "literal_error": "must be {expected}",
}


class BrokenRule(ValueError):
    """Say which parameter breaks a rule that it shares with others: raised in a declaration's `__post_init__`."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        """Hold the parameter, its value and the rule, such as "must hold the budget"."""
        super().__init__(name, value, rule)
        self.name, self.value, self.rule = name, value, rule


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def checked(kind: Kind) -> Kind:
    """Return a class of parameters as a frozen dataclass that checks and converts what it is built from.

    Its construction raises InputError for the first mistake, however deep it lies.
    """
    hints = get_type_hints(kind, include_extras=True)
    kind.__annotations__ = {name: _converting(hints[name]) for name in kind.__annotations__}
    config = ConfigDict(
        extra="forbid", allow_inf_nan=False, validate_default=True, validate_by_name=True, validate_by_alias=True
    )
    made: Any = dataclass(kind, frozen=True, kw_only=True, config=config)
    build = made.__init__

    @functools.wraps(build)
    def build_in_our_words(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            build(self, *arguments, **values)
        except ValidationError as error:
            raise InputError(in_words(made, error, made.__name__, "the call")) from None

    made.__init__ = build_in_our_words
    return made  # type: ignore[no-any-return]


def in_words(kind: type, errors: ValidationError, where: str, place: str, reference: str = "docs/parameters.md") -> str:
    """Return the first mistake in one line: the parameter, its value, the rule, and what to do next.

    kind: the class that was built; where: what the line calls it; place: where a person changes it; reference: the page
    that names what there is.
    """
    found = errors.errors(include_url=False)
    error: Mapping[str, Any] = next((each for each in found if each["type"] in _UNKNOWN), found[0])
    *above, name = error["loc"] or ("",)
    cause = error.get("ctx", {}).get("error")
    if error["type"] in _UNKNOWN:
        hint = did_you_mean(str(name), _known_names(kind, nested=bool(above)))
        said = f"{_path(where, *above)}: unknown parameter {name!r}{hint}; see {reference} for the ones there are"
    elif error["type"] == "missing" and isinstance(name, str):
        said = f"{_path(where, *above)}: parameter {name!r} is missing; set it in {place}"
    elif isinstance(cause, BrokenRule):
        said = f"{_path(where, *error['loc'], cause.name)} = {cause.value!r}: {cause.rule}; change it in {place}"
    else:
        ours = _RULES.get(error["type"])
        rule = ours.format(**_plain_context(error)) if ours else cause or error["msg"]
        said = f"{_path(where, *error['loc'])} = {error['input']!r}: {rule}; change it in {place}"
    return said.replace("\n", "\\n")


def _path(*parts: Any) -> str:
    return ".".join(str(part) for part in parts if part != "[key]")


def _plain_context(error: Mapping[str, Any]) -> dict[str, Any]:
    context = dict(error.get("ctx", {}))
    return context | ({"expected": context["expected"].replace("'", "")} if "expected" in context else {})


def _known_names(kind: type, nested: bool) -> list[str]:
    schema = TypeAdapter(kind).json_schema()
    parts = schema.get("$defs", {}).values() if nested else [schema]
    return [name for part in parts for name in part.get("properties", {})]


def matching(pattern: str, rule: str) -> AfterValidator:
    """Return the bound of a text that must match a regular expression as a whole; rule: in words, "must be ..."."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


@dataclasses.dataclass(frozen=True)
class within:  # noqa: N801 - reads as a word of the declarations
    """Bound both ends of a range, in the check and in the schema."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(self._check, handler(kind))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return handler(schema) | {"prefixItems": [{"type": "number", "minimum": self.low, "maximum": self.high}] * 2}

    def _check(self, given: Range) -> Range:
        if not self.low <= given[0] <= given[1] <= self.high:
            raise ValueError(f"must rise and lie within {self.low:g} and {self.high:g}")
        return given


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
