"""Parameters: from params.yaml, a profile and overrides to what a stage declares, with every mistake named."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import TypeAdapter, ValidationError

from perception.data.files import read_text
from perception.errors import InputError
from perception.parameters import in_words

Parameters = TypeVar("Parameters")

PLACE = "params.yaml or with SET"  # where most parameters are written


def build_parameters(kind: type[Parameters], given: Mapping[str, Any], where: str, place: str = PLACE) -> Parameters:
    """Return the declared class `kind` (perception/parameters.py) built from plain values, checked and converted.

    Raises InputError for an unknown, missing or mistyped parameter and for a broken bound or rule, however deep it lies.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        raise InputError(in_words(kind, error, where, place)) from None
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def plain_values(parameters: Any) -> dict[str, Any]:
    """Return every parameter as a plain value that builds the same again; what lies deeper and is as by default is left out."""
    dump = functools.partial(TypeAdapter(type(parameters)).dump_python, parameters, mode="json", by_alias=True)
    values: dict[str, Any] = dump() | dump(exclude_defaults=True)
    return values


def shared_fields(kind: type[Parameters], source: Any, /, **more: Any) -> Parameters:
    """Return the dataclass `kind` with what `source` holds under the same names, and with `more`."""
    names = {field.name for field in dataclasses.fields(kind)} & vars(source).keys()  # type: ignore[arg-type]
    return kind(**{name: getattr(source, name) for name in names - more.keys()}, **more)


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
        return yaml.load(text, Loader=_safe_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            f"override {where!r}: is not a YAML value ({' '.join(str(error).split())}); quote it"
        ) from None


@functools.cache
def _safe_loader() -> Any:
    """Return YAML's safe loader but for dates, which stay text: an engine takes none."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return Loader


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping, naming the file in every error."""
    import yaml

    try:
        content = yaml.load(read_text(file), Loader=_safe_loader())
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
