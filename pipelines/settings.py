"""The parameters of a night: params.yaml, one of its profiles and overrides, checked against the stage declarations."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.contract import Stage
from components.parameters import build_parameters, did_you_mean, overlay, read_yaml
from components.stages import STAGES
from perception.errors import InputError

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"
SHARED = ("common", "sources", "shards", "profiles", "images")  # top-level sections that are not tasks


def load_settings(profile: str, overrides: Sequence[str] = (), data: str = "", file: Path = PARAMS_FILE) -> dict[str, Any]:
    """Return the settings of one night: a section for every task, with `sources` and `shards`.

    `overrides` are SECTION.NAME=VALUE; `data` replaces {data} in the paths of the sources.
    Raises InputError for an unknown profile, section or parameter, for a value out of range and for a missing DATA.
    """
    written = read_yaml(file)
    profiles = written.get("profiles") or {}
    if profile not in profiles:
        raise InputError(f"PROFILE={profile}: no such profile{did_you_mean(profile, list(profiles))}; {file.name} has {', '.join(profiles)}")
    settings = _layered(written, profiles[profile] or {})
    for override in overrides:
        _override(settings, override)
    settings["sources"] = {name: _with_data(name, source, data) for name, source in settings["sources"].items()}
    complete = {task: _task_section(task, settings, profile) for task in tasks(settings)}
    return {"profile": profile, "sources": settings["sources"], "shards": settings["shards"], **complete}


def tasks(settings: Mapping[str, Any]) -> dict[str, Stage]:
    """Return the stage behind every task that the settings have a section for; a gate is called once a suite."""
    found = {}
    for task in settings:
        if task in SHARED:
            continue
        stage = "gate" if task.startswith("gate_") else task
        if stage not in STAGES:
            raise InputError(f"section {task!r}: no such stage{did_you_mean(task, list(STAGES))}; mend params.yaml")
        found[task] = STAGES[stage]
    return found


def _layered(written: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    merged = overlay({name: value for name, value in written.items() if name != "profiles"}, profile)
    if "sources" in profile:  # a profile's sources replace the others: a night never mixes two fleets by accident
        merged["sources"] = dict(profile["sources"])
    return merged


def _override(settings: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    *sections, name = path.split(".")
    if not separator or not sections:
        raise InputError(f"SET={override}: must be SECTION.NAME=VALUE, such as select.budget_frames=20")
    place = settings
    for section in sections:
        if not isinstance(place.get(section), dict):
            raise InputError(f"SET={override}: no section {section!r}{did_you_mean(section, list(place))}")
        place = place[section]
    place[name] = yaml.safe_load(value)


def _with_data(name: str, source: Mapping[str, Any], data: str) -> dict[str, Any]:
    path = str(source.get("path", ""))
    if "{data}" in path and not data:
        raise InputError(f"source {name!r} reads {path}: say where the data are, DATA=DIR")
    return dict(source) | ({"path": path.replace("{data}", data)} if path else {})


def _task_section(task: str, settings: Mapping[str, Any], profile: str) -> dict[str, Any]:
    stage = tasks(settings)[task]
    shared = dict(settings["common"]) | {"sources": settings["sources"], "shard_count": len(settings["shards"]), "profile": profile}
    fields = {item.name for item in dataclasses.fields(stage.parameters)}
    section = {name: value for name, value in shared.items() if name in fields} | dict(settings[task] or {})
    per_call = {"ingest": {"source": next(iter(settings["sources"]))}, "score": {"shard": settings["shards"][0]}}
    checked = build_parameters(stage.parameters, section | per_call.get(task, {}), where=task)
    if hasattr(checked, "chosen"):
        for name in settings["sources"]:
            dataclasses.replace(checked, source=name).chosen()
    return section
