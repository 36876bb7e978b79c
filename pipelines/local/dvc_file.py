"""The night as DVC runs it on one machine: dvc.yaml, derived from the graph.

An artifact is a folder of the port's name, of a fan-out one folder each in it; a verdict lies in gates/SUITE. A task that must
not be reused is asked again on every run (`always_changed`), and what hangs on it runs only if its output changed. code.yaml
holds a hash of the source that each stage reaches, so that a changed method runs again, and nothing else does.
"""

from collections.abc import Iterator
from typing import Any

from components.stage.execution import option_name
from pipelines.graph import Artifact, Graph, Task
from pipelines.settings import COUNTS

HEADER = """# The night on one machine, derived from pipelines/nightly.py by `nightdrive dag`; a test fails when the two differ.
# `make run` copies this file into runs/RUN beside that run's params.yaml and code.yaml and calls `dvc repro` there.
"""
ITEM = "${item}"


def dvc_file(night: Graph) -> str:
    """Return the text of dvc.yaml."""
    import yaml

    stages = {task.name: _stage(night, task) for task in night.tasks.values()}
    return HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=10**6)


def folder_of(night: Graph, artifact: Artifact) -> str:
    """Return the folder of an artifact in the night's own; of a fan-out the folder that holds them all."""
    suite = night.tasks[artifact.task].suite
    return f"gates/{suite}" if suite else artifact.port


def outputs_of(night: Graph, task: Task) -> list[str]:
    """Return the folders that a task writes."""
    return [folder_of(night, Artifact(task.name, port.name)) for port in task.stage.outputs]


def _stage(night: Graph, task: Task) -> dict[str, Any]:
    always = {} if task.reusable else {"always_changed": True}
    done = {
        "cmd": " ".join(_command(night, task)),
        "params": [task.name, {"code.yaml": [task.stage.name]}],
        "deps": _dependencies(night, task),
        "outs": [{f"{folder}/{ITEM}" if task.over else folder: {"cache": False}} for folder in outputs_of(night, task)],
        **always,
    }
    done = {key: value for key, value in done.items() if value}
    return {"foreach": f"${{{COUNTS[task.over]}}}", "do": done} if task.over else done


def _command(night: Graph, task: Task) -> list[str]:
    words = ["python", "-m", "components.stage", task.stage.name]
    if task.over:
        words += ["--task", f"{task.name}@{ITEM}", "--set", f"{task.over}={ITEM}"]
    elif task.name != task.stage.name:
        words += ["--task", task.name]
    words += ["--params", "params.yaml"]
    for name, artifact, folder in _taken(night, task):
        words += [option_name(name), f"'{folder}/*'" if artifact.over else folder]
    for port, folder in zip(task.stage.outputs, outputs_of(night, task), strict=True):
        words += [option_name(port.name), f"{folder}/{ITEM}" if task.over else folder]
    return words


def _dependencies(night: Graph, task: Task) -> list[str]:
    taken = [folder for _, _, folder in _taken(night, task)]
    gates = [folder for gate in task.after for folder in outputs_of(night, night.tasks[gate])]
    return list(dict.fromkeys([*taken, *gates]))


def _taken(night: Graph, task: Task) -> Iterator[tuple[str, Artifact, str]]:
    """Yield (port, artifact, folder) of what a task takes."""
    shared_out = {port.name for port in task.stage.inputs if port.shares}
    for name, given in task.takes.items():
        for artifact in given:
            folder = folder_of(night, artifact)
            yield name, artifact, f"{folder}/{ITEM}" if name in shared_out else folder
