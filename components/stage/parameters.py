"""Parameters: from params.yaml, a profile and overrides to the frozen dataclass of a stage, with every mistake named."""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from perception.errors import InputError

Parameters = TypeVar("Parameters")


def build_parameters(kind: type[Parameters], given: Mapping[str, Any], where: str) -> Parameters:
    """Build the parameter dataclass `kind` from plain values, checking names and types.

    Raises InputError for an unknown, missing or mistyped parameter; the dataclass itself checks ranges.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise InputError(
                f"{where}: unknown parameter {name!r}{did_you_mean(name, list(fields))}; see params.yaml for the ones there are"
            )
    hints = typing.get_type_hints(kind)
    values = {name: _convert(value, hints[name], f"{where}.{name}") for name, value in given.items()}
    missing = [name for name, item in fields.items() if name not in values and _has_no_default(item)]
    if missing:
        raise InputError(f"{where}: parameter {missing[0]!r} is missing; set it in params.yaml")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise InputError unless `condition` holds: the parameter, its value and the rule."""
    if not condition:
        raise InputError(f"{name} = {value!r}: {rule}; change it in params.yaml or with SET")


def absolute(location: str) -> str:
    """Return a folder's absolute path; leave a URL as it is."""
    return location if "://" in location else str(Path(location).resolve())


def read_section(file: Path | None, section: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return one section of a YAML parameter file with NAME=VALUE overrides applied."""
    values: dict[str, Any] = {}
    if file is not None:
        given = read_yaml(file).get(section) or {}
        if not isinstance(given, dict):
            raise InputError(f"{file}: section {section!r} must be a mapping, is {given!r}; mend it")
        values = dict(given)
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"override {override!r}: must be NAME=VALUE")
        values[name] = parse_value(value, override)
    return values


def parse_value(text: str, where: str) -> Any:
    """Read one YAML value of an override, naming the override in the error."""
    import yaml  # here, so that --help need not wait for it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            f"override {where!r}: is not a YAML value ({' '.join(str(error).split())}); quote it"
        ) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping, naming the file in every error."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; pass the path of a parameter file") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); pass the path of a parameter file") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: is not valid YAML ({' '.join(str(error).split())}); mend it") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: must hold a mapping of sections, holds {type(content).__name__}; mend it")
    return content


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` on top, section by section; a list or a scalar is replaced whole."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the hint that ends an error about a misspelt name, or nothing where no known name is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _has_no_default(item: "dataclasses.Field[Any]") -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        hint = next(kind for kind in inner if kind is not type(None))
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} = {value!r}: must be a list; mend params.yaml")
        return tuple(_convert(item, inner[0], where) for item in value)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} = {value!r}: must be a mapping; mend params.yaml")
        return dict(value)
    return _convert_scalar(value, hint, where)


def _convert_scalar(value: Any, hint: type, where: str) -> Any:
    if hint is float and isinstance(value, str):  # YAML takes 1e-3, which has no dot, for text
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} = {value!r}: must be finite; mend params.yaml")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    # KFP hands every number over as a float: 3.0 is the whole number 3.
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is int and isinstance(value, bool):
        raise InputError(f"{where} = {value!r}: must be a whole number; mend params.yaml")
    if not isinstance(value, hint):
        wanted = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
        raise InputError(f"{where} = {value!r}: must be {wanted}; mend params.yaml")
    return value
