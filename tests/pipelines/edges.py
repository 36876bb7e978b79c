"""The edges of a night, read out of each of its forms: the graph, dvc.yaml, the compiled pipeline."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from components.stage.exchange import taken
from components.stage.kfp_step import read_settings
from components.stage.registry import find_stage
from pipelines.graph import Graph

Edge = tuple[str, str, str, str]  # task, input port, producing task, its output port


def graph_edges(night: Graph) -> set[Edge]:
    """Return the artifact edges of a graph."""
    return {
        (task.name, port, artifact.task, artifact.port)
        for task in night.tasks.values()
        for port, given in task.takes.items()
        for artifact in given
    }


def options(command: str) -> dict[str, list[str]]:
    """Return the values of every option of a command line, by its name as a port's."""
    words, found = shlex.split(command), {}
    for option, value in zip(words[4::2], words[5::2], strict=True):
        found.setdefault(option.removeprefix("--").replace("-", "_"), []).append(value)
    return found


def dvc_edges(stages: Mapping[str, Mapping[str, Any]]) -> set[Edge]:
    """Return the artifact edges of dvc.yaml's stages, read from their commands."""
    calls = {
        name: (stage.get("do", stage)["cmd"], options(stage.get("do", stage)["cmd"])) for name, stage in stages.items()
    }
    producers = {}
    for name, (command, given) in calls.items():
        for port in find_stage(shlex.split(command)[3]).outputs:
            producers[_whole(given[port.name][0])] = (name, port.name)
    return {
        (name, port.name, *producers[_whole(folder)])
        for name, (command, given) in calls.items()
        for port in find_stage(shlex.split(command)[3]).inputs
        for folder in given.get(port.name, [])
    }


def _whole(folder: str) -> str:
    return folder.removesuffix("/*").removesuffix("/${item}")


def settings_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a step of the compiled pipeline."""
    return read_settings(task["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"])


def steps(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]]:
    """Yield every step of a compiled pipeline: the task's name, its description, its component, the DAGs that it lies in."""

    def walk(dag: Mapping[str, Any], inside: tuple[str, ...]) -> Iterator[Any]:
        for key, task in dag["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                yield from walk(component["dag"], (*inside, key))
            else:
                yield task["taskInfo"]["name"], task, component, inside

    yield from walk(spec["root"]["dag"], ())


def kfp_edges(spec: Mapping[str, Any]) -> set[Edge]:
    """Return the artifact edges of a compiled pipeline: what its steps are told to take."""
    edges: set[Edge] = set()
    for _, task, _, _ in steps(spec):
        about = settings_of(task)["step"]
        for port, texts in about.get("takes", {}).items():
            edges |= {(about["task"], port, given.task, given.port) for text in texts for given in taken(text)}
    return edges


def waits_for(spec: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return by step of a compiled pipeline every step that it waits for, itself or through others and the DAGs around them."""
    inside = {name: (key, dags) for name, key, dags in _places(spec["root"]["dag"], spec)}
    found: dict[str, set[str]] = {}
    for name, (key, dags) in inside.items():
        dag, before = spec["root"]["dag"], set()
        for each in (*dags, key):
            before |= set(dag["tasks"][each].get("dependentTasks", []))
            dag = spec["components"][dag["tasks"][each]["componentRef"]["name"]].get("dag", dag)
        found[name] = {other for other, (known, around) in inside.items() if {known, *around} & before}
    return {name: _closure(name, found) for name in found}


def _places(dag: Mapping[str, Any], spec: Mapping[str, Any], around: tuple[str, ...] = ()) -> Iterator[Any]:
    for key, task in dag["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            yield from _places(component["dag"], spec, (*around, key))
        else:
            yield task["taskInfo"]["name"], key, around


def _closure(name: str, direct: Mapping[str, set[str]]) -> set[str]:
    return direct[name] | {far for near in direct[name] for far in _closure(near, direct)}
