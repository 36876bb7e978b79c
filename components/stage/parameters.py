"""Parameters: from params.yaml, a profile and overrides to what a stage declares, with every mistake named."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from perception.errors import InputError
from perception.parameters import BrokenRule

Parameters = TypeVar("Parameters")
NEXT = "change it in params.yaml or with SET"
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_RULES = {  # pydantic's kinds of error in our words
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "bool_type": "must be true or false",
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


def build_parameters(kind: type[Parameters], given: Mapping[str, Any], where: str) -> Parameters:
    """Return the declared class `kind` (perception/parameters.py) built from plain values, checked and converted.

    Raises InputError for an unknown, missing or mistyped parameter and for a broken bound or rule, however deep it lies.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False)
        unknown = [each for each in found if each["type"] in _UNKNOWN]
        raise InputError(_in_words(kind, (unknown or found)[0], where).replace("\n", "\\n")) from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def plain_values(parameters: Any) -> dict[str, Any]:
    """Return what built parameters hold as plain values (mappings, lists, numbers, text) that build the same again."""
    values: dict[str, Any] = TypeAdapter(type(parameters)).dump_python(parameters, mode="json", by_alias=True)
    return values


def _in_words(kind: type, error: Mapping[str, Any], where: str) -> str:
    """Return one line about the first mistake: the parameter, its value, the rule, and what to do next."""
    *place, name = error["loc"] or ("",)
    above, cause = ".".join(map(str, (where, *place))), error.get("ctx", {}).get("error")
    if error["type"] in _UNKNOWN:
        hint = did_you_mean(name, _known_names(kind, nested=bool(place)))
        return f"{above}: unknown parameter {name!r}{hint}; see docs/parameters.md for the ones there are"
    if error["type"] == "missing" and isinstance(name, str):
        return f"{above}: parameter {name!r} is missing; set it in params.yaml"
    path = [str(part) for part in (where, *error["loc"]) if part != "[key]"]
    if isinstance(cause, BrokenRule):
        return f"{'.'.join(path)}.{cause.name} = {cause.value!r}: {cause.rule}; {NEXT}"
    rule = _RULES.get(error["type"], str(cause or error["msg"]))
    return f"{'.'.join(path)} = {error['input']!r}: {rule.format(**_plain_context(error))}; {NEXT}"


def _plain_context(error: Mapping[str, Any]) -> dict[str, Any]:
    context = dict(error.get("ctx", {}))
    return context | ({"expected": context["expected"].replace("'", "")} if "expected" in context else {})


def _known_names(kind: type, nested: bool) -> list[str]:
    schema = TypeAdapter(kind).json_schema()
    parts = schema.get("$defs", {}).values() if nested else [schema]
    return [name for part in parts for name in part.get("properties", {})]


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
