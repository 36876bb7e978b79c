"""Expectation suites as reviewable YAML files, loaded strictly: what is not understood is refused, never dropped."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from perception.data.files import read_text
from perception.errors import InputError, did_you_mean
from perception.parameters import BrokenRule, checked, in_words, matching, number
from perception.quality.vocabulary import FORMS, KWARG_KINDS, PARAMETER
from perception.quality.vocabulary import in_words as said

SUITES_FOLDER = Path(__file__).parent / "suites"
SUITE_NAMES = ("ingest", "select", "curate", "adapt", "adapt_metrics", "train_prune", "compress", "evaluate")

Entry = TypeVar("Entry")


def _tidied(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a text that is not empty")
    return " ".join(text.split())


Text = Annotated[str, AfterValidator(_tidied)]
Identifier = Annotated[str, matching("[a-z][a-z0-9_]{0,79}", "must be lower-case words joined by underscores")]


@checked
class Parameter:
    """A bound that is given when the gate runs."""

    name: Identifier
    meaning: Text
    kind: Literal["whole_number", "number", "text", "time", "list", "mapping"]
    optional: bool = False  # where it is not given, what needs it is not checked, and the verdict says so
    default: Any = None  # None: it must be given, unless it is optional

    def __post_init__(self) -> None:
        if self.default is not None:
            _check_value("default", self.default, self.kind)
            if self.optional:
                raise BrokenRule(
                    "default", self.default, "is always given, so nothing is optional; keep one of the two"
                )


@checked
class Rows:
    """The rows that an expectation is about."""

    column: Text
    values: Any = Field(
        default=None, alias="in"
    )  # list of values, or a parameter; None: rows with a value in the column
    present: Literal[True] | None = None  # written where there are no values

    def __post_init__(self) -> None:
        if (self.values is None) == (self.present is None):
            raise BrokenRule("column", self.column, "needs either in: [values] or present: true beside it")
        if self.values is not None and not _is_parameter(self.values):
            _check_value("in", self.values, "list")

    def in_words(self) -> str:
        """Say which rows."""
        return f"rows with {f'a {self.column}' if self.values is None else f'{self.column} {said(self.values)}'}"

    def bound(self, parameters: Mapping[str, Any]) -> Rows:
        """Return the same with the values of parameters in their places."""
        return replace(self, **{"values": substitute(self.values, parameters)})


@checked
class Expectation:
    """One rule of a suite."""

    id: Identifier
    type: str  # one of FORMS
    kwargs: dict[str, Any]  # as in the file; {$PARAMETER: name} stands for a bound given at run time
    severity: Literal["critical", "warning", "info"]
    why: Text
    remedy: Text
    rows: Rows | None = None  # None: all rows
    allow_empty: Text | None = None  # the reason why this rule may find nothing to look at; None: then it fails

    def __post_init__(self) -> None:
        if self.type not in FORMS:
            raise BrokenRule("type", self.type, f"is none that a suite may use{did_you_mean(self.type, list(FORMS))}")
        form = FORMS[self.type]
        known = form.required + form.optional
        for name, value in self.kwargs.items():
            if name not in known:
                rule = f"is no argument of {self.type}{did_you_mean(name, known)}"
                raise BrokenRule(f"kwargs.{name}", value, rule)
            if not _is_parameter(value):
                _check_value(f"kwargs.{name}", value, KWARG_KINDS[name])
        for name in form.required:
            if name not in self.kwargs:
                raise BrokenRule("kwargs", self.kwargs, f"{self.type} needs the argument {name}")
        if form.one_of and not any(name in self.kwargs for name in form.one_of):
            raise BrokenRule("kwargs", self.kwargs, f"always passes without any of {', '.join(form.one_of)}")
        if not 0.5 <= self.kwargs.get("mostly", 1) <= 1:
            raise BrokenRule("kwargs.mostly", self.kwargs["mostly"], "must be a share from 0.5 to 1")

    def rule(self) -> str:
        """Say the rule in words, parameters as $name."""
        rule = FORMS[self.type].rule(self.kwargs)
        return f"{self.rows.in_words()}: {rule}" if self.rows else rule


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The rules that one gate judges by."""

    name: str
    owner: str
    table: str  # what one row of the judged table is
    file: str  # name of that table in the folder that its stage writes
    parameters: tuple[Parameter, ...]
    expectations: tuple[Expectation, ...]  # in the order of the file
    sha256: str  # of the content; says later by which rules was judged


def load_suite(name_or_path: str | Path) -> Suite:
    """Load a suite by the name of a shipped one or from a YAML file.

    Raises InputError for anything unknown, misspelt, doubled, empty or missing: see docs/gates.md.
    """
    path = _suite_path(name_or_path)
    where = f"suite {path.name}"
    file = built(_File, read_yaml(path), where)
    if file.name != path.stem:
        raise InputError(f"{where} is named {file.name!r}; name it {path.stem!r} as its file")
    entries, declared = list(file.expectations), file.parameters
    if file.extends:
        base = built(_File, read_yaml(_suite_path(file.extends)), f"suite {file.extends}")
        if base.extends:
            raise InputError(f"{where} extends {file.extends}, which itself extends another; extend one that does not")
        entries, declared = [*base.expectations, *entries], base.parameters | declared
    if not entries:
        raise InputError(f"{where} has no expectations, so everything would pass it; write at least one")
    suite = Suite(
        name=file.name,
        **vars(file.meta),
        parameters=tuple(
            built(Parameter, {"name": name, **each}, f"{where}, parameter {name}") for name, each in declared.items()
        ),
        expectations=tuple(built(Expectation, each, f"{where}, expectation {each.get('id')}") for each in entries),
        sha256=hashlib.sha256(json.dumps([entries, declared], sort_keys=True, default=str).encode()).hexdigest(),
    )
    _check_whole(suite, where)
    return suite


@checked
class _Meta:
    owner: Text
    table: Text
    file: Text


@checked
class _File:
    """What a suite's file holds."""

    name: Text
    meta: _Meta
    extends: Text | None = None
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)
    expectations: tuple[dict[str, Any], ...] = ()


def built(kind: type[Entry], given: Any, where: str) -> Entry:
    """Return the declared class `kind` built from what a file holds; raise InputError, which begins with `where`."""
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise InputError(in_words(kind, error, where, "the file", "docs/gates.md")) from None


def bind(suite: Suite, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter of the suite, defaults filled in and optional ones not given as None.

    Raises InputError for a missing, unknown or unusable value.
    """
    defaults = {parameter.name: parameter.default for parameter in suite.parameters}
    values = dict.fromkeys(defaults) | usable(suite, defaults) | usable(suite, parameters)
    for parameter in suite.parameters:
        if values[parameter.name] is None and not parameter.optional:
            raise InputError(
                f"suite {suite.name} needs the parameter {parameter.name} ({parameter.meaning}); give it to the gate"
            )
    return values


def usable(suite: Suite, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given parameters of a suite by name, converted; one that is None is left out.

    Text for a number is a number: YAML takes 1e-6 for text. Raises InputError for an unknown or unusable value.
    """
    kinds = {parameter.name: parameter.kind for parameter in suite.parameters}
    for name in parameters:
        if name not in kinds:
            raise InputError(
                f"suite {suite.name} has no parameter {name!r}{did_you_mean(name, list(kinds))}; see docs/gates.md"
            )
    return {
        name: _value(number(value) if "number" in kinds[name] else value, kinds[name], f"suite {suite.name}, {name}")
        for name, value in parameters.items()
        if value is not None
    }


def parameters_of(value: Any) -> set[str]:
    """Return the names of the parameters used anywhere inside an argument."""
    if isinstance(value, Mapping):
        if PARAMETER in value:
            return {value[PARAMETER]}
        return set().union(*(parameters_of(item) for item in value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*(parameters_of(item) for item in value))
    return set()


def substitute(value: Any, bound: Mapping[str, Any]) -> Any:
    """Put the values of parameters in their places inside an argument."""
    if isinstance(value, Mapping):
        if PARAMETER in value:
            return bound[value[PARAMETER]]
        return {key: substitute(item, bound) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [substitute(item, bound) for item in value]
    return value


def needed_parameters(expectation: Expectation) -> set[str]:
    """Return the names of the parameters that an expectation uses."""
    return parameters_of(expectation.kwargs) | (parameters_of(expectation.rows.values) if expectation.rows else set())


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is given twice, line {node.start_mark.line + 1}")
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raise InputError where it is missing, not YAML, or gives a key twice."""
    try:
        return yaml.load(read_text(path), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give an existing file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}; mend the file") from None


def _suite_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".yaml":
        return path
    if not (SUITES_FOLDER / f"{path}.yaml").is_file() or path.name != str(path):
        raise InputError(f"there is no suite {str(path)!r}{did_you_mean(str(path), SUITE_NAMES)}; see docs/gates.md")
    return SUITES_FOLDER / f"{path}.yaml"


def _check_whole(suite: Suite, where: str) -> None:
    ids = [expectation.id for expectation in suite.expectations]
    for identifier in ids:
        if ids.count(identifier) > 1:
            raise InputError(f"{where}: the id {identifier} is given twice; every expectation needs its own")
    declared = {parameter.name: parameter for parameter in suite.parameters}
    for expectation in suite.expectations:
        _check_parameters(expectation, declared, f"{where}, expectation {expectation.id}")
    for name in sorted(declared.keys() - set().union(*map(needed_parameters, suite.expectations))):
        raise InputError(f"{where}: the parameter {name} is declared and not used; remove it or use it")


def _check_parameters(expectation: Expectation, declared: Mapping[str, Parameter], where: str) -> None:
    for name in sorted(needed_parameters(expectation)):
        if name not in declared:
            hint = did_you_mean(name, list(declared))
            raise InputError(f"{where}: the parameter {name} is not declared{hint}; declare it under parameters")
        if declared[name].optional and expectation.severity == "critical":
            raise InputError(
                f"{where} is critical and needs the optional parameter {name}, without which it would not be checked; "
                "make the parameter mandatory or the rule a warning"
            )
    for argument, value in expectation.kwargs.items():
        if _is_parameter(value):
            name, wanted = value[PARAMETER], KWARG_KINDS[argument]
            if declared[name].kind not in _FITS[wanted]:
                raise InputError(
                    f"{where}: {argument} is a {wanted} and the parameter {name} a {declared[name].kind}; "
                    f"declare it as {' or '.join(_FITS[wanted])}"
                )


def _is_parameter(value: Any) -> bool:
    return isinstance(value, Mapping) and PARAMETER in value


def _check_value(name: str, value: Any, kind: str) -> None:
    """Refuse a value that is not of a kind, and bounds that compare with nothing (NaN, empty lists)."""
    in_words, fits = _KINDS[kind]
    if not fits(value):
        raise BrokenRule(name, value, f"must be {in_words}")


def _value(value: Any, kind: str, where: str) -> Any:
    """Return a value as its kind, or refuse it."""
    try:
        _check_value(where, value, kind)
    except BrokenRule as error:
        raise InputError(f"{where} is {value!r}; it {error.rule}") from None
    return _KEPT_AS[kind](value) if kind in _KEPT_AS else value


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _time(value: Any) -> pd.Timestamp | None:
    """Return a time in UTC; None for what is none or names no zone."""
    try:
        time = pd.Timestamp(value) if isinstance(value, (str, datetime)) else pd.NaT
    except ValueError:
        return None
    return None if time is pd.NaT or time.tzinfo is None else time.tz_convert("UTC")


# kinds of parameters that may stand for an argument of a kind
_FITS = {
    "number": ("whole_number", "number", "time"),
    "list": ("list",),
    "mapping": ("mapping",),
    "text": ("text",),
    "flag": (),
}
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # in words, and what is of the kind
    "whole_number": ("a whole number", lambda value: _finite(value) and int(value) == value),
    "number": ("a finite number", _finite),
    "text": ("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip())),
    "time": ("a time with its zone, such as 2026-11-23T00:00:00Z", lambda value: _time(value) is not None),
    "list": ("a list with at least one item", lambda value: isinstance(value, (list, tuple)) and len(value) > 0),
    "mapping": ("a mapping with at least one key", lambda value: isinstance(value, Mapping) and len(value) > 0),
    "flag": ("true or false", lambda value: isinstance(value, bool)),
}
_KEPT_AS: dict[str, Callable[[Any], Any]] = {"whole_number": int, "time": _time, "list": list, "mapping": dict}
