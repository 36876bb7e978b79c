"""What can be set in params.yaml, derived from the declarations: docs/parameters.md, and the schema that editors complete it by.

A parameter's type and bounds are pydantic's; its meaning is the comment at its declaration.
"""

import ast
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from components.ingest.sources import Source
from components.select import NamedQuota
from components.stage.declaration import Needs
from components.stage.learning import FrameParameters, LearningParameters
from perception.quality.suites import load_suite
from perception.simulator.world import World
from pipelines.graph import Graph
from pipelines.kubeflow.resources import Cluster, Toleration
from pipelines.kubeflow.schedule import Schedule
from pipelines.settings import COUNTS

NESTED = (Source, World, NamedQuota, Cluster, Needs)
_GIVEN = ("sources", "run", "profile", "settings", "final_status", "suite", *COUNTS, *(f"{name}_count" for name in COUNTS))
_KINDS = {"whole_number": {"type": "integer"}, "number": {"type": "number"}, "text": {"type": "string"},
          "time": {"type": "string"}, "list": {"type": "array"}, "mapping": {"type": "object"}}  # fmt: skip
_HEAD = """# Parameters

Every parameter that params.yaml, a profile or `SET=SECTION.NAME=VALUE` may set, derived from the declarations (`nightdrive parameters`
writes this page and params.schema.json, by which editors complete params.yaml). What stands in `common` is given to every
section that has a parameter of the name. A unit is the end of a name: `_px`, `_s`, `_share` (from 0 to 1), `_frames`.
"""
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below",
           "multipleOf": "a multiple of"}  # fmt: skip


def comments(kind: type) -> dict[str, str]:
    """Return what the comments at the declarations say of each field, inherited ones included: behind it, or else above it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if "__dataclass_fields__" not in vars(each):
            continue
        lines = inspect.getsource(each).splitlines()
        for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and node.end_lineno:
                behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()
                above = " ".join(reversed(list(_comments_above(lines, node.lineno - 1))))
                found[ast.unparse(node.target)] = behind.lstrip("# ") or above
    return found


def schema(night: Graph) -> dict[str, Any]:
    """Return the JSON schema of params.yaml: a section for each task, and the profiles that lie over them."""
    defined = _definitions(night)
    sections: dict[str, Any] = {name: _section(defined[kind.__name__]) for name, kind in _parameters(night).items()}
    common = {name: each for section in sections.values() for name, each in section["properties"].items()}
    for suite, task in night.gates.items():
        bounds = {
            each.name: _KINDS[each.kind] | {"description": each.meaning, "default": each.default}
            for each in load_suite(suite).parameters
        }
        gate = _section(defined[task.stage.parameters.__name__])
        gate["properties"]["bounds"] = {"type": "object", "properties": bounds, "additionalProperties": False}
        sections[task.name] = gate
    sections |= {
        "common": {"type": "object", "properties": common, "additionalProperties": False},
        "sources": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Source"}},
        "cluster": {"$ref": "#/$defs/Cluster"},
        "images": {"type": "object", "additionalProperties": {"type": "string"}},
    } | {name: {"type": "integer", "minimum": 1} for name in COUNTS.values()}
    profile = {"type": ["object", "null"], "properties": sections, "additionalProperties": False}
    kept = {each.__name__: defined[each.__name__] for each in (*NESTED, Toleration)}
    profiles = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Profile"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml of Nightdrive",
        "type": "object",
        "properties": {"profiles": profiles, **{name: {"$ref": f"#/$defs/Profile/properties/{name}"} for name in sections}},
        "additionalProperties": False,
        "$defs": kept | {"Profile": profile},
    }


def schema_file(night: Graph) -> str:
    """Return the text of docs/params.schema.json."""
    return json.dumps(schema(night), indent=1, sort_keys=True) + "\n"


def page(night: Graph) -> str:
    """Return docs/parameters.md."""
    defined, shared = _definitions(night), (FrameParameters, LearningParameters)
    parts = [_HEAD]
    for title, kind in (("Every section that reads frames", shared[0]), ("Every section that trains", shared[1])):
        left_out = set(FrameParameters.__dataclass_fields__) if kind is LearningParameters else set()
        parts.append(_table(title, kind, defined, left_out))
    for name, kind in _parameters(night).items():
        base = next((each for each in reversed(shared) if issubclass(kind, each)), None)
        parts.append(_table(f"`{name}`", kind, defined, set(base.__dataclass_fields__) if base else set()))
    for suite, task in night.gates.items():
        rows = [
            f"| `{each.name}` | {each.kind.replace('_', ' ')} | {_value(each.default)} | {each.meaning} |"
            for each in load_suite(suite).parameters
        ]
        parts.append(_rows(f"`{task.name}.bounds`", "What the gate's rules are held against; stages give measured ones.", rows))
    parts.append(_table("Gates beside their bounds", night.tasks[next(iter(night.gates.values())).name].stage.parameters, defined, set()))
    titles = ("`sources.NAME`", "World", "`select.quotas`", "`cluster`", "`cluster.stages.NAME`")
    parts += [_table(title, kind, defined, set()) for title, kind in zip(titles, NESTED, strict=True)]
    return "\n".join([*parts, _table("schedule.yaml", Schedule, defined, set())])
