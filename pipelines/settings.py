"""The parameters of a night: params.yaml, one of its profiles and overrides, checked against the stage declarations."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.ingest import Source
from components.report import GATES
from components.stage.declaration import Stage
from components.stage.parameters import build_parameters, did_you_mean, overlay, parse_value, plain_values, read_yaml
from components.stage.registry import all_stages
from perception.errors import InputError
from pipelines.kubeflow.resources import Cluster

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"
SHARED = (
    "common",
    "sources",
    "shards",
    "images",
    "cluster",
    "profiles",
    "profile",
)  # top-level sections that are not tasks


def load_settings(
    profile: str, overrides: Sequence[str] = (), data: str = "", run: str = "", file: Path = PARAMS_FILE
) -> dict[str, Any]:
    """Return the settings of one night: a checked section for every task, with `profile`, `sources`, `shards`, `images` and `cluster`.

    `overrides` are SECTION.NAME=VALUE; `data` replaces {data} in the paths of sources; `run` names the run (default: the profile).
    Raises InputError for an unknown profile, section or parameter, a value out of range, and DATA missing where it is needed.
    """
    written = read_yaml(file)
    profiles = _profiles(written, file.name)
    if profile not in profiles:
        raise InputError(
            f"PROFILE={profile}: no such profile{did_you_mean(profile, list(profiles))}; {file.name} has {', '.join(profiles)}"
        )
    settings = _layered(written, profiles[profile] or {})
    for override in overrides:
        _override(settings, override)
    _check_sections(settings, file.name)
    settings["sources"] = {name: _with_data(name, source, data) for name, source in settings["sources"].items()}
    for name, source in settings["sources"].items():
        build_parameters(Source, source, where=f"sources.{name}")
    build_parameters(Cluster, settings["cluster"], where="cluster")
    night = {name: settings[name] for name in ("sources", "shards", "images", "cluster")} | {"profile": profile}
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
    if name not in all_stages():
        raise InputError(f"section {task!r}: no such stage{did_you_mean(task, list(all_stages()))}; mend params.yaml")
    return all_stages()[name]


def step_parameters(settings: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a plain value for every parameter of the task's stage, as a pipeline step wants them."""
    given = _of_first_call(task, settings) | settings[task]
    complete: Any = build_parameters(stage_of(task).parameters, given, where=task)
    return plain_values(complete)


def _profiles(written: Mapping[str, Any], file: str) -> dict[str, Any]:
    profiles = written.get("profiles")
    if not isinstance(profiles, dict) or not all(isinstance(each or {}, dict) for each in profiles.values()):
        raise InputError(f"{file}: `profiles` must be a mapping of mappings; mend it")
    return profiles


def _check_sections(settings: Mapping[str, Any], file: str) -> None:
    """Refuse a night with a section missing or of the wrong shape, or a shared parameter that no stage has."""
    stages = [name for name in all_stages() if name != "gate"] + [f"gate_{suite}" for suite in GATES]
    for name in ("common", "sources", "images", "cluster", *stages):
        if not isinstance(settings.get(name), dict):
            raise InputError(f"{file}: section {name!r} must be a mapping, is {settings.get(name)!r}; mend it")
    shards = settings.get("shards")
    if not isinstance(shards, list) or not shards or shards != list(range(len(shards))):
        raise InputError(f"{file}: shards = {shards!r}: must count from 0, such as [0, 1]; mend it")
    for name, source in settings["sources"].items():
        if not isinstance(source, dict) or not re.fullmatch("[A-Za-z0-9_-]+", str(name)):
            raise InputError(f"{file}: source {name!r}: must be a mapping, its name letters, digits, _ and -; mend it")
    known = sorted({item.name for stage in all_stages().values() for item in dataclasses.fields(stage.parameters)})
    for name in settings["common"]:
        if name not in known:
            raise InputError(
                f"{file}: common.{name}: no stage has such a parameter{did_you_mean(name, known)}; mend it"
            )


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
        if sections[0] == "cluster" and place is not settings:
            place.setdefault(section, {})  # what is not overridden yet has no section; the names are checked as a whole
        if not isinstance(place.get(section), dict):
            raise InputError(f"SET={override}: no section {section!r}{did_you_mean(section, list(place))}")
        place = place[section]
    place[name] = parse_value(value, override)


def _with_data(name: str, source: Mapping[str, Any], data: str) -> dict[str, Any]:
    path = str(source.get("path", ""))
    if "{data}" in path and not data:
        raise InputError(f"source {name!r} reads {path}: say where the data are, DATA=DIR")
    if "{data}" in path and not Path(data).is_dir():
        raise InputError(f"DATA={data}: no such folder; give the folder that holds the data set")
    return dict(source) | ({"path": path.replace("{data}", data)} if path else {})


def _section(
    task: str, own: Mapping[str, Any], shared: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the task's section with what it shares with others filled in, after building its parameters once to check them."""
    parameters = stage_of(task).parameters
    names = {item.name for item in dataclasses.fields(parameters)}
    section = {name: value for name, value in shared.items() if name in names} | dict(own)
    build_parameters(parameters, _of_first_call(task, settings) | section, where=task)
    return section


def _of_first_call(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from call to call of a task that is called once a source or once a shard."""
    return {"ingest": {"source": next(iter(settings["sources"]))}, "score": {"shard": settings["shards"][0]}}.get(
        task, {}
    )
