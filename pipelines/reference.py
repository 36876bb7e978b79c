"""What can be set in params.yaml, derived from the declarations: docs/parameters.md, and the schema by which editors complete it.

A parameter's type and bounds are pydantic's; its meaning is the comment at its declaration.
"""

import ast
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from pydantic.json_schema import models_json_schema

from components.ingest.sources import Source
from components.select import NamedQuota
from components.stage.declaration import Needs
from components.stage.learning import FrameParameters, LearningParameters
from perception.data.footage.settings import FootageSettings, Sampling
from perception.metrics.contract import Clause, Contract, Exemption, ObjectRule
from perception.models.settings import NetworkChoice
from perception.quality.suites import Parameter, load_suite
from perception.simulator.world import World
from pipelines.cluster import Cluster
from pipelines.graph import Graph
from pipelines.kubeflow.schedule import Schedule
from pipelines.prices import Prices
from pipelines.release import Release
from pipelines.season import SeasonParameters
from pipelines.settings import COUNTS

# What the engine gives a task, not params.yaml.
GIVEN = {
    "sources",
    "release",
    "contract",
    "run",
    "profile",
    "settings",
    "price_per_hour",
    "currency",
    "final_status",
    "suite",
    *COUNTS,
    *(f"{n}_count" for n in COUNTS),
}
_HEAD = """# Parameters

Every parameter that params.yaml, a profile or `SET=SECTION.NAME=VALUE` may set, derived from the declarations: `nightdrive
parameters` writes this page, and params.schema.json, by which editors complete params.yaml. What stands in `common` is given to
every section that has a parameter of that name. The end of a name is its unit: `_px`, `_s`, `_share` (0 to 1), `_frames`.
"""
_NESTED = {
    "sources.NAME": Source,
    "sources.NAME.footage": FootageSettings,
    "sources.NAME.footage.sampling": Sampling,
    "sources.NAME.world": World,
    "select.quotas": NamedQuota,
    "release.contract": Contract,
    "release.contract.clauses": Clause,
    "release.contract.exemptions": Exemption,
    "release.contract.objects": ObjectRule,
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
_TYPES = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping", "array": "list"}
_KINDS = {"whole_number": "integer", "number": "number", "text": "string", "list": "array", "mapping": "object"}


def schema(night: Graph) -> dict[str, Any]:
    """Return the JSON schema of params.yaml: a section for each task of the night, and the profiles that lie over them."""
    defined = _definitions(night)
    stages = {name: defined[task.stage.parameters.__name__] for name, task in night.tasks.items()}
    sections = {name: _object(_own(each["properties"])) for name, each in stages.items()}
    shared = {name: each for section in sections.values() for name, each in section["properties"].items()}
    for suite, task in night.gates.items():
        bounds = _object({each.name: _bound(each) for each in load_suite(suite).parameters})
        sections[task.name] = _object(sections[task.name]["properties"] | {"bounds": bounds})
    sections |= {name: {"type": "integer", "minimum": 1} for name in COUNTS.values()}
    sections |= {
        "common": _object({name: each for name, each in shared.items() if name != "bounds"}),
        "sources": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Source"}},
        "release": {"$ref": "#/$defs/Release"},
        "cluster": {"$ref": "#/$defs/Cluster"},
        "prices": {"$ref": "#/$defs/Prices"},
        "images": {"type": "object", "additionalProperties": {"type": "string"}},
        "season": {"$ref": "#/$defs/SeasonParameters"},
    }
    night_of = {name: {"$ref": f"#/$defs/Profile/properties/{name}"} for name in sections}
    profiles = {"type": "object", "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Profile"}, {"type": "null"}]}}
    nested = {name: each for name, each in defined.items() if each not in stages.values()}
    whole = _object(night_of | {"profiles": profiles, "profile": {"type": "string"}})
    definitions = {name: _object(each["properties"]) for name, each in nested.items()} | {"Profile": _object(sections)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions} | whole


def schema_file(night: Graph) -> str:
    """Return the text of docs/params.schema.json."""
    return json.dumps(schema(night), indent=1, sort_keys=True) + "\n"


def page(night: Graph) -> str:
    """Return docs/parameters.md: a table for each section, what several sections share told once."""
    defined, frames = _definitions(night), set(FrameParameters.__dataclass_fields__)
    parts = [
        _HEAD,
        _table("Every section that reads frames", FrameParameters, defined),
        _table("Every section that trains", LearningParameters, defined, but=frames),
    ]
    for name, task in night.tasks.items():
        kind = task.stage.parameters
        if task.suite:
            rows = [(each.name, _bound(each)) for each in load_suite(task.suite).parameters]
            parts.append(_rows(f"{name}.bounds", "Hold the gate's rules against these.", rows))
            continue
        trains = issubclass(kind, LearningParameters)
        shared = set(LearningParameters.__dataclass_fields__) if trains else frames
        parts.append(_table(name, kind, defined, but=GIVEN | (shared if issubclass(kind, FrameParameters) else set())))
    gate = next(iter(night.gates.values())).stage.parameters
    parts.append(_table("gate_NAME", gate, defined, but=GIVEN | {"bounds"}))
    parts.append(_table("NAME.network", NetworkChoice, defined))
    for title, kind in _NESTED.items():
        parts.append(_table(title, kind, defined))
    others = {"release": Release, "prices": Prices, "cluster": Cluster, "cluster.stages.NAME": Needs}
    others |= {"schedule.yaml": Schedule, "season": SeasonParameters}
    for title, kind in others.items():
        parts.append(_table(title, kind, defined))
    return "\n".join(part for part in parts if part)


def meanings(kind: type) -> dict[str, str]:
    """Return what the comment at each field's declaration says, behind it or else above it; inherited fields too."""
    found: dict[str, str] = {}
    for each in (each for each in reversed(kind.__mro__) if "__dataclass_fields__" in vars(each)):
        lines = inspect.getsource(each).splitlines()
        (declaration,) = ast.parse("\n".join(lines)).body
        assert isinstance(declaration, ast.ClassDef)
        for node in declaration.body:
            if isinstance(node, ast.AnnAssign) and node.end_lineno:
                behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip(" #")
                above = takewhile(lambda line: line.startswith("#"), map(str.strip, lines[node.lineno - 2 :: -1]))
                found[ast.unparse(node.target)] = behind or " ".join(line.strip("# ") for line in reversed(list(above)))
    return found


def _definitions(night: Graph) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every parameter class by its name, with what its comments say."""
    kinds = {task.stage.parameters for task in night.tasks.values()} | {FrameParameters, LearningParameters}
    kinds |= {NetworkChoice, *_NESTED.values(), Prices, Release, Cluster, Needs, Schedule, SeasonParameters}
    _, found = models_json_schema([(kind, "validation") for kind in sorted(kinds, key=lambda kind: kind.__name__)])
    defined: dict[str, dict[str, Any]] = found["$defs"]
    for kind in kinds:
        for name, meaning in meanings(kind).items():
            alias = kind.__pydantic_fields__[name].alias or name  # type: ignore[attr-defined]
            defined[kind.__name__]["properties"][alias]["description"] = meaning
    for each in (each for kind in defined.values() for each in kind["properties"].values()):
        each.pop("title", None)
    return defined


def _own(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in properties.items() if name not in GIVEN}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _bound(parameter: Parameter) -> dict[str, Any]:
    kind = {"type": _KINDS.get(parameter.kind, "string"), "description": parameter.meaning}
    return kind | ({"default": parameter.default} if parameter.default is not None else {})


def _table(title: str, kind: type, defined: Mapping[str, Any], but: Collection[str] = ()) -> str:
    properties = defined[kind.__name__]["properties"]
    rows = [(name, each) for name, each in properties.items() if name not in but]
    return _rows(title, inspect.getdoc(kind) or "", rows)


def _rows(title: str, about: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    if not rows:
        return ""
    lines = [
        f"\n## {title}\n\n{about.partition(chr(10))[0]}\n",
        "| name | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, each in rows:
        cells = (f"`{name}`", _words(each), _default(each), each.get("description", ""))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(of: Mapping[str, Any]) -> str:
    if of.get("default") in (None, "", [], {}) or "$ref" in of:
        return ""
    return f"`{json.dumps(of['default'])}`"


def _words(of: Mapping[str, Any]) -> str:
    """Return a JSON schema's type and bounds in words."""
    if "$ref" in of:
        return f"mapping: {of['$ref'].rpartition('/')[2]}"
    if "enum" in of:
        return ", ".join(f"`{each}`" for each in of["enum"])
    if "anyOf" in of:
        return " or ".join(_words(each) for each in of["anyOf"] if each.get("type") != "null") + ", or none"
    bounds = "".join(f", {words} {of[name]:,}" for name, words in _BOUNDS.items() if name in of)
    inner = of.get("items") or (of.get("prefixItems") or [of.get("additionalProperties")])[0]
    of_what = f" of {_words(inner)}" if isinstance(inner, Mapping) and inner else ""
    return f"{_TYPES.get(of.get('type', ''), of.get('type', 'anything'))}{of_what}{bounds}"
