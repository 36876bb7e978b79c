"""The edges of a night, read out of each of its forms: the graph, dvc.yaml, the compiled pipeline."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

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
    return dict(json.loads(task["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]))


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
    """Return the artifact edges of a compiled pipeline, followed through its loops and conditions."""
    edges: set[Edge] = set()

    def produced(dag: Mapping[str, Any], key: str, output: str) -> tuple[str, str]:
        task = dag["tasks"][key]
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" not in component:
            return settings_of(task)["task"], output
        selector = component["dag"]["outputs"]["artifacts"][output]["artifactSelectors"][0]
        return produced(component["dag"], selector["producerSubtask"], selector["outputArtifactKey"])

    def walk(dag: Mapping[str, Any], known: Mapping[str, tuple[str, str]]) -> None:
        for task in dag["tasks"].values():
            given = {}
            for port, source in task.get("inputs", {}).get("artifacts", {}).items():
                if "componentInputArtifact" in source:
                    given[port] = known[source["componentInputArtifact"]]
                else:
                    output = source["taskOutputArtifact"]
                    given[port] = produced(dag, output["producerTask"], output["outputArtifactKey"])
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                walk(component["dag"], given)
            else:
                edges.update(
                    (settings_of(task)["task"], port.partition("__")[0], *source) for port, source in given.items()
                )

    walk(spec["root"]["dag"], {})
    return edges
