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
SHARED = ("common", "sources", "shards", "images", "profiles", "profile")  # top-level sections that are not tasks


def load_settings(
    profile: str, overrides: Sequence[str] = (), data: str = "", run: str = "", file: Path = PARAMS_FILE
) -> dict[str, Any]:
    """Return the settings of one night: a checked section for every task, with `profile`, `sources`, `shards` and `images`.

    `overrides` are SECTION.NAME=VALUE; `data` replaces {data} in the paths of sources; `run` names the run (default: the profile).
    Raises InputError for an unknown profile, section or parameter, a value out of range, and DATA missing where it is needed.
    """
    written = read_yaml(file)
    profiles = written.get("profiles") or {}
    if profile not in profiles:
        raise InputError(
            f"PROFILE={profile}: no such profile{did_you_mean(profile, list(profiles))}; {file.name} has {', '.join(profiles)}"
        )
    settings = _layered(written, profiles[profile] or {})
    for override in overrides:
        _override(settings, override)
    settings["sources"] = {name: _with_data(name, source, data) for name, source in settings["sources"].items()}
    night = {name: settings[name] for name in ("sources", "shards", "images")} | {"profile": profile}
    shared = settings["common"] | {
        "sources": settings["sources"],
        "shard_count": len(settings["shards"]),
        "run": run or profile,
    }
    shared |= {"profile": profile, "waivers": [profile, *settings["sources"]]}
    sections = {task: _section(task, settings[task] or {}, shared, settings) for task in settings if task not in SHARED}
    if "report" in sections:
        sections["report"]["settings"] = _flat(sections)
    return night | sections


def stage_of(task: str) -> Stage:
    """Return the stage behind a task; a gate is called once a suite, as gate_SUITE."""
    name = "gate" if task.startswith("gate_") else task
    if name not in STAGES:
        raise InputError(f"section {task!r}: no such stage{did_you_mean(task, list(STAGES))}; mend params.yaml")
    return STAGES[name]


def step_parameters(settings: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a plain value for every parameter of the task's stage, as a pipeline step wants them."""
    given = _of_first_call(task, settings) | settings[task]
    complete: Any = build_parameters(stage_of(task).parameters, given, where=task)
    values = {item.name: getattr(complete, item.name) for item in dataclasses.fields(complete)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return every parameter of the night as text, by its dotted name."""
    named = {f"{task}.{name}": value for task, section in sections.items() for name, value in section.items()}
    return {name: str(value) for name, value in sorted(named.items()) if not name.endswith(".sources")}


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


def _section(
    task: str, own: Mapping[str, Any], shared: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the task's section with what it shares with others filled in, after building its parameters once to check them."""
    parameters = stage_of(task).parameters
    names = {item.name for item in dataclasses.fields(parameters)}
    section = {name: value for name, value in shared.items() if name in names} | dict(own)
    checked: Any = build_parameters(parameters, _of_first_call(task, settings) | section, where=task)
    if task == "ingest":
        for source in settings["sources"]:
            dataclasses.replace(checked, source=source).chosen()
    return section


def _of_first_call(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from call to call of a task that is called once a source or once a shard."""
    return {"ingest": {"source": next(iter(settings["sources"]))}, "score": {"shard": settings["shards"][0]}}.get(
        task, {}
    )
