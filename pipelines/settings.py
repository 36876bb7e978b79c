"""The parameters of a night: params.yaml, one of its profiles and overrides, checked against the stage declarations."""

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.ingest.sources import Source
from components.stage.parameters import build_parameters, overlay, parse_value, plain_values, read_yaml
from perception.data.footage.settings import split_at_night
from perception.data.source_files import S3
from perception.errors import InputError, did_you_mean
from perception.versioning.anchor import split_address
from perception.versioning.processes import holds_user_information
from pipelines.cluster import Cluster
from pipelines.graph import Graph, Task
from pipelines.prices import Prices
from pipelines.season import SeasonParameters

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"
COUNTS = {"batch": "batches", "shard": "shards"}  # what a fan-out counts, and the setting that says how many there are
# Top-level sections that are no task's parameters.
SHARED = (
    "common",
    "sources",
    "release",
    *COUNTS.values(),
    "images",
    "cluster",
    "prices",
    "season",
    "profiles",
    "profile",
)


def load_settings(
    night: Graph,
    profile: str,
    overrides: Sequence[str] = (),
    data: str = "",
    run: str = "",
    date: str = "",
    file: Path = PARAMS_FILE,
) -> dict[str, Any]:
    """Return the settings of one night: a checked section for every task, with `profile`, `sources`, `batches`, `shards`,
    `images` and `cluster`.

    `overrides` are SECTION.NAME=VALUE; `data` replaces {data} in the paths of sources; `run` names the run (default: the profile),
    `date` is its UTC day (default: the day on which it begins).
    Raises InputError for an unknown profile, section or parameter, a value out of range, and DATA missing where it is needed.
    """
    from pipelines.release import Release  # here, so that a command line need not wait for pandas

    written = read_yaml(file)
    profiles = _profiles(written, file.name)
    if profile not in profiles:
        raise InputError(
            f"PROFILE={profile}: no such profile{did_you_mean(profile, list(profiles))}; {file.name} has {', '.join(profiles)}"
        )
    settings = _layered(written, profiles[profile] or {})
    settings |= {name: settings.get(name) or {} for name in ("release", "prices", "season", *night.tasks)}
    settings["release"] = {"contract": {}} | settings["release"]
    for override in overrides:
        _override(settings, override)
    _check_sections(settings, night, file.name)
    _refuse_passwords(settings)
    sources = {name: _with_data(name, source, data) for name, source in settings["sources"].items()}
    for name, source in sources.items():
        build_parameters(Source, source, where=f"sources.{name}")
    build_parameters(Release, settings["release"], where="release")
    build_parameters(SeasonParameters, settings["season"], where="season")
    cluster: Any = build_parameters(Cluster, settings["cluster"], where="cluster")
    prices: Any = build_parameters(Prices, settings["prices"], where="prices")
    for name in ("registry", "remote"):
        settings["common"][name] = str(settings["common"].get(name, "")).replace("{profile}", profile)
    policy = {name: value for name, value in settings["release"].items() if name != "contract"}
    shared = settings["common"] | {"sources": sources, "profile": profile, "release": policy}
    shared["contract"] = settings["release"]["contract"]
    shared |= {"settings_sha256": _digest(settings), "run": run or profile, "night_date": date}
    shared |= {f"{over}_count": settings[name] for over, name in COUNTS.items()}
    sections = {task.name: _section(task, settings[task.name], shared) for task in night.tasks.values()}
    if "report" in sections:
        sections["report"]["settings"] = _shown(sections)
        sections["report"] |= {"price_per_hour": prices.by_task(night, cluster), "currency": prices.currency}
    kept = (*COUNTS.values(), "images", "cluster", "season")
    return {name: settings[name] for name in kept} | {"sources": sources, "profile": profile} | sections


def changed_settings(settings: Mapping[str, Any], night: Graph, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a night with overrides, TASK.NAME=VALUE or common.NAME=VALUE for every task with such a parameter.

    settings: as load_settings gave them. Raises InputError as it does, and for an override of anything else.
    """
    changed = copy.deepcopy(dict(settings))
    for override in overrides:
        section, _, rest = override.partition(".")
        parameter = rest.partition("=")[0].partition(".")[0]
        having = [task.name for task in night.tasks.values() if _has(task, parameter)]
        named = having if section == "common" else [section] if section in night.tasks else []
        if not named:
            raise InputError(
                f"SET={override}: a night is repeated on its own frames; name a parameter of a task or one in common"
            )
        for name in named:
            _override(changed, f"{name}.{rest}")
            changed["report"]["settings"][f"{name}.{parameter}"] = str(changed[name].get(parameter))
    for task in night.tasks.values():
        own = changed[task.name] | ({task.over: 0} if task.over else {})
        build_parameters(task.stage.parameters, own, where=task.name)
    return changed


def _has(task: Task, parameter: str) -> bool:
    return parameter in {item.name for item in dataclasses.fields(task.stage.parameters)}


def step_parameters(settings: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return a plain value for every parameter of a task but the one that counts its fan-out, as a pipeline step wants them."""
    given = settings[task.name] | ({task.over: 0} if task.over else {})
    complete: Any = build_parameters(task.stage.parameters, given, where=task.name)
    return {name: value for name, value in plain_values(complete).items() if name != task.over}


def _profiles(written: Mapping[str, Any], file: str) -> dict[str, Any]:
    profiles = written.get("profiles")
    if not isinstance(profiles, dict) or not all(isinstance(each or {}, dict) for each in profiles.values()):
        raise InputError(f"{file}: `profiles` must be a mapping of mappings; mend it")
    return profiles


def _check_sections(settings: Mapping[str, Any], night: Graph, file: str) -> None:
    """Refuse a night with a section missing or of the wrong shape, a section of no task, or a shared parameter that no stage has."""
    for name in settings:
        if name not in SHARED and name not in night.tasks:
            hint = did_you_mean(name, list(night.tasks))
            raise InputError(f"{file}: section {name!r}: no task of the night has this name{hint}; mend it")
    for name in ("common", "sources", "release", "images", "cluster", "prices", "season", *night.tasks):
        if not isinstance(settings.get(name), dict):
            raise InputError(f"{file}: section {name!r} must be a mapping, is {settings.get(name)!r}; mend it")
    for name in COUNTS.values():
        count = settings.get(name)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10_000:
            raise InputError(f"{file}: {name} = {count!r}: must be a whole number from 1 to 10,000; mend it")
    for name, source in settings["sources"].items():
        if not isinstance(source, dict) or not re.fullmatch("[A-Za-z0-9_-]+", str(name)):
            raise InputError(f"{file}: source {name!r}: must be a mapping, its name letters, digits, _ and -; mend it")
    stages = [task.stage for task in night.tasks.values()]
    known = sorted({item.name for stage in stages for item in dataclasses.fields(stage.parameters)})
    for name in settings["common"]:
        if name not in known:
            raise InputError(
                f"{file}: common.{name}: no stage has such a parameter{did_you_mean(name, known)}; mend it"
            )


def _digest(settings: Mapping[str, Any]) -> str:
    """Return the hash of everything that was asked for: nights with the same one do the same with the same frames."""
    asked = {name: value for name, value in settings.items() if name != "prices"}
    registry, _ = split_address(str(settings["common"].get("registry", "")))  # its anchor moves with every submit
    asked["common"] = settings["common"] | {"registry": registry}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _refuse_passwords(values: Mapping[Any, Any], where: str = "") -> None:
    """Raise InputError, without the value, for a URL with user information: settings stand in pipelines, records and reports."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _refuse_passwords(value, f"{where}{name}.")
        elif isinstance(value, str) and holds_user_information(value):
            raise InputError(
                f"{where}{name}: holds user information, which everybody who may look at a night would see; leave it out, and give it "
                "to git's credential store or to the environment (docs/cluster.md: secrets)"
            )


def _shown(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameters of the night that its report lists, as text, by their dotted names."""
    named = {f"{task}.{name}": value for task, section in sections.items() for name, value in section.items()}
    hidden = {"report.settings", "report.price_per_hour", "report.currency", *(f"{task}.sources" for task in sections)}
    return {name: str(value) for name, value in sorted(named.items()) if name not in hidden}


def _layered(written: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    merged = overlay({name: value for name, value in written.items() if name != "profiles"}, profile)
    if "sources" in profile:  # a profile's sources replace the others: a night never mixes two fleets by accident
        merged["sources"] = dict(profile["sources"])
    for name, section in profile.items():  # as does a section's network: no other takes the arguments of one
        if isinstance(section, Mapping) and "network" in section:
            merged[name]["network"] = section["network"]
    return merged


def _override(settings: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    *sections, name = path.split(".")
    if not separator or not (sections or name in COUNTS.values()):
        counts = " or ".join(f"{count}=4" for count in COUNTS.values())
        raise InputError(f"SET={override}: must be SECTION.NAME=VALUE, such as select.budget_frames=20, or {counts}")
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
    if "{data}" in path and not data.startswith(S3) and not Path(split_at_night(data)[0]).is_dir():
        raise InputError(f"DATA={data}: no such folder; give the folder that holds the data set, or s3://BUCKET/PREFIX")
    return dict(source) | ({"path": path.replace("{data}", data)} if path else {})


def _section(task: Task, own: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's section with what it shares with others filled in, after building its parameters once to check them."""
    names = {item.name for item in dataclasses.fields(task.stage.parameters)}
    for over, count in COUNTS.items():
        if f"{over}_count" in own:
            raise InputError(f"{task.name}.{over}_count: is one number of the whole night; set {count} in its place")
    if "contract" in own:
        raise InputError(f"{task.name}.contract: is one of the whole night's; set release.contract in its place")
    section = {name: value for name, value in shared.items() if name in names} | dict(own)
    section |= {"suite": task.suite} if task.suite else {}
    build_parameters(task.stage.parameters, section | ({task.over: 0} if task.over else {}), where=task.name)
    return section
