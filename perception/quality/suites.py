"""Expectation suites as reviewable YAML files, loaded strictly: what is not understood is refused, never dropped."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from perception.data.files import read_text
from perception.errors import InputError
from perception.parameters import number
from perception.quality.vocabulary import FORMS, KWARG_KINDS, PARAMETER, in_words

SUITES_FOLDER = Path(__file__).parent / "suites"
SUITE_NAMES = ("ingest", "select", "curate", "adapt", "adapt_metrics", "train_prune", "compress", "evaluate")
SEVERITIES = ("critical", "warning", "info")
PARAMETER_KINDS = ("whole_number", "number", "text", "time", "list", "mapping")

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,79}")
_ENTRY_KEYS = ("id", "type", "kwargs", "severity", "why", "remedy", "rows", "allow_empty")
_SUITE_KEYS = ("name", "meta", "extends", "parameters", "expectations")
_META_KEYS = ("owner", "table", "file")
_PARAMETER_KEYS = ("meaning", "kind", "default", "optional")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A bound that is given when the gate runs."""

    name: str
    meaning: str
    kind: str  # one of PARAMETER_KINDS
    optional: bool  # where it is not given, what needs it is not checked, and the verdict says so
    default: Any  # None: it must be given, unless it is optional


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that an expectation is about."""

    column: str
    values: Any = None  # list of values, or a parameter; None: every row that has a value in the column

    def in_words(self) -> str:
        """Say which rows."""
        return f"rows with {f'a {self.column}' if self.values is None else f'{self.column} {in_words(self.values)}'}"

    def bound(self, parameters: Mapping[str, Any]) -> Rows:
        """Return the same with the values of parameters in their places."""
        return Rows(column=self.column, values=substitute(self.values, parameters))


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One rule of a suite."""

    id: str
    type: str
    kwargs: Mapping[str, Any]  # as in the file; {$PARAMETER: name} stands for a bound given at run time
    severity: str  # one of SEVERITIES
    why: str
    remedy: str
    rows: Rows | None  # None: all rows
    allow_empty: str | None  # the reason why this rule may find nothing to look at; None: then it fails

    def rule(self) -> str:
        """Say the rule in words, parameters as $name."""
        said = FORMS[self.type].rule(self.kwargs)
        return f"{self.rows.in_words()}: {said}" if self.rows else said


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
    content = _read(path)
    where = f"suite {path.name}"
    _only(content, _SUITE_KEYS, where)
    name = _text(content, "name", where)
    if name != path.stem:
        raise InputError(f"{where} is named {name!r}; name it {path.stem!r} as its file")
    meta = _mapping(content, "meta", where)
    _only(meta, _META_KEYS, f"{where}, meta")
    entries, declared = _entries(content, where), _optional_mapping(content, "parameters", where)
    parent = content.get("extends")
    if parent is not None:
        base = _base(f"{parent}", where)
        entries = _entries(base, f"suite {parent}") + entries
        declared = _optional_mapping(base, "parameters", f"suite {parent}") | declared
    if not entries:
        raise InputError(f"{where} has no expectations, so everything would pass it; write at least one")
    suite = Suite(
        name=name,
        **{key: _text(meta, key, f"{where}, meta") for key in _META_KEYS},
        parameters=tuple(_parameter(key, value, where) for key, value in declared.items()),
        expectations=tuple(_expectation(entry, where) for entry in entries),
        sha256=hashlib.sha256(json.dumps([entries, declared], sort_keys=True, default=str).encode()).hexdigest(),
    )
    _check_whole(suite, where)
    return suite


def bind(suite: Suite, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter of the suite, defaults filled in and optional ones not given as None.

    Raises InputError for a missing, unknown or unusable value.
    """
    values = {parameter.name: parameter.default for parameter in suite.parameters} | usable(suite, parameters)
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
            raise InputError(f"suite {suite.name} has no parameter {name!r}{_nearest(name, kinds)}")
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
        raise InputError(f"there is no suite {str(path)!r}{_nearest(str(path), SUITE_NAMES)}")
    return SUITES_FOLDER / f"{path}.yaml"


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"suite {path.name} is not a mapping with name, meta and expectations; write one")
    return content


def _base(name: str, where: str) -> dict[str, Any]:
    base = _read(_suite_path(name))
    _only(base, _SUITE_KEYS, f"suite {name}")
    if "extends" in base:
        raise InputError(f"{where} extends {name}, which itself extends another; extend one that does not")
    return base


def _entries(content: Mapping[str, Any], where: str) -> list[Any]:
    entries = content.get("expectations") or []
    if not isinstance(entries, list):
        raise InputError(f"{where}: expectations is not a list; write one entry for each rule")
    return entries


def _expectation(entry: Any, where: str) -> Expectation:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: the expectation {entry!r} is not a mapping; write id, type, kwargs, severity, …")
    identifier = _text(entry, "id", where)
    where = f"{where}, expectation {identifier}"
    if not _IDENTIFIER.fullmatch(identifier):
        raise InputError(f"{where}: the id must be lower-case words joined by underscores")
    _only(entry, _ENTRY_KEYS, where)
    kind, severity = _text(entry, "type", where), _text(entry, "severity", where)
    if kind not in FORMS:
        raise InputError(f"{where}: unknown type {kind!r}{_nearest(kind, FORMS)}")
    if severity not in SEVERITIES:
        raise InputError(f"{where}: unknown severity {severity!r}; it must be one of {', '.join(SEVERITIES)}")
    kwargs = _optional_mapping(entry, "kwargs", where)
    _check_kwargs(kind, kwargs, where)
    return Expectation(
        id=identifier,
        type=kind,
        kwargs=kwargs,
        severity=severity,
        why=_text(entry, "why", where),
        remedy=_text(entry, "remedy", where),
        rows=_rows(entry["rows"], where) if "rows" in entry else None,
        allow_empty=_text(entry, "allow_empty", where) if "allow_empty" in entry else None,
    )


def _check_kwargs(kind: str, kwargs: Mapping[str, Any], where: str) -> None:
    form = FORMS[kind]
    known = form.required + form.optional
    _only(kwargs, known, f"{where}, kwargs")
    for name in form.required:
        if name not in kwargs:
            raise InputError(f"{where}: {kind} needs the argument {name}; add it under kwargs")
    if form.one_of and not any(name in kwargs for name in form.one_of):
        raise InputError(f"{where}: {kind} without any of {', '.join(form.one_of)} always passes; give a bound")
    for name, value in kwargs.items():
        if not (isinstance(value, Mapping) and PARAMETER in value):
            _value(value, KWARG_KINDS[name], f"{where}, {name}")
    if "mostly" in kwargs and not 0.5 <= kwargs["mostly"] <= 1:
        raise InputError(f"{where}: mostly is {kwargs['mostly']}; it must be a share from 0.5 to 1")


def _rows(value: Any, where: str) -> Rows:
    where = f"{where}, rows"
    if not isinstance(value, dict) or set(value) not in ({"column", "in"}, {"column", "present"}):
        raise InputError(
            f"{where} is {value!r}; write {{column: NAME, in: [values]}} or {{column: NAME, present: true}}"
        )
    column = _text(value, "column", where)
    if "present" in value:
        if value["present"] is not True:
            raise InputError(f"{where}: present is {value['present']!r}; only true is known")
        return Rows(column=column)
    if not (isinstance(value["in"], dict) and PARAMETER in value["in"]):
        _value(value["in"], "list", where)
    return Rows(column=column, values=value["in"])


def _parameter(name: Any, value: Any, where: str) -> Parameter:
    where = f"{where}, parameter {name}"
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise InputError(f"{where}: the name must be lower-case words joined by underscores")
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a mapping; write meaning, kind and perhaps default or optional")
    _only(value, _PARAMETER_KEYS, where)
    kind = _text(value, "kind", where)
    if kind not in PARAMETER_KINDS:
        raise InputError(f"{where}: unknown kind {kind!r}; it must be one of {', '.join(PARAMETER_KINDS)}")
    optional, default = value.get("optional", False), value.get("default")
    if not isinstance(optional, bool):
        raise InputError(f"{where}: optional is {optional!r}; write true or false")
    if optional and default is not None:
        raise InputError(f"{where} is optional and has a default, so it is always given; keep one of the two")
    if default is not None:
        default = _value(default, kind, f"{where}, default")
    return Parameter(name=name, meaning=_text(value, "meaning", where), kind=kind, optional=optional, default=default)


def _check_whole(suite: Suite, where: str) -> None:
    seen: set[str] = set()
    for expectation in suite.expectations:
        if expectation.id in seen:
            raise InputError(f"{where}: the id {expectation.id} is given twice; every expectation needs its own")
        seen.add(expectation.id)
    declared = {parameter.name: parameter for parameter in suite.parameters}
    used: set[str] = set()
    for expectation in suite.expectations:
        for name in sorted(needed_parameters(expectation)):
            if name not in declared:
                raise InputError(
                    f"{where}, expectation {expectation.id}: the parameter {name} is not declared"
                    f"{_nearest(name, declared)}; declare it under parameters"
                )
            if declared[name].optional and expectation.severity == "critical":
                raise InputError(
                    f"{where}, expectation {expectation.id} is critical and needs the optional parameter {name}, "
                    "without which it would not be checked; make the parameter mandatory or the rule a warning"
                )
            used.add(name)
        for argument, value in expectation.kwargs.items():
            if isinstance(value, Mapping) and PARAMETER in value:
                given, wanted = declared[value[PARAMETER]].kind, KWARG_KINDS[argument]
                if given not in _FITS[wanted]:
                    raise InputError(
                        f"{where}, expectation {expectation.id}: {argument} is a {wanted} and the parameter "
                        f"{value[PARAMETER]} a {given}; declare it as {' or '.join(_FITS[wanted])}"
                    )
    for name in sorted(declared.keys() - used):
        raise InputError(f"{where}: the parameter {name} is declared and not used; remove it or use it")


def _value(value: Any, kind: str, where: str) -> Any:
    """Return a value as its kind, or refuse it. Bounds that compare with nothing (NaN, empty lists) are refused."""
    in_words, fits = _KINDS[kind]
    if not fits(value):
        raise InputError(f"{where} is {value!r}; it must be {in_words}")
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


def _only(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{_nearest(str(key), known)}")


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} is {value!r}; write a text")
    return " ".join(value.split())


def _mapping(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} is {value!r}; write a mapping")
    return value


def _optional_mapping(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    return _mapping(content, key, where) if content.get(key) is not None else {}


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known) or 'none'}"
