"""The few words that a night is told in, each checked when it is written: a task, one task for each of a list, a gate, news.

    frames = night.task("gather", arrived=arrived, gate="ingest")     a task, its artifacts by port, and the gate on what it gives
    scores = night.each("shard", "score", frames=frames)              one task a shard; whoever takes `scores` gathers the list
    night.only_if_news(frames)                                        where it says that nothing is new, all that follows is left out

Whoever takes an artifact waits for the gate on it. What a task reads outside the pipeline, and whether an engine may reuse its
result while its inputs are the same, stands in the task itself. Both engines are derived from this and from nothing else.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import perception.quality
from components.stage.declaration import Port, Stage
from components.stage.registry import find_stage

REGISTRY, FOOTAGE, CLOCK = "registry", "footage", "clock"
_OUTSIDE = (REGISTRY, FOOTAGE, CLOCK)
# The value of a stage that tells whether there is anything new, and what it says then.
NEWS, NOTHING_NEW = "news", "nothing"
_SUITES = Path(perception.quality.__file__).parent / "suites"


class GraphError(Exception):
    """Say what is wrong with a graph where it is written; a fault of ours, never of a user."""


@dataclass(frozen=True)
class Artifact:
    """Name what a task gives at one of its ports."""

    task: str
    port: str
    over: str = ""  # the fan-out that gives one a batch or shard


@dataclass(frozen=True, kw_only=True)
class Task:
    """Hold one task of the night."""

    name: str
    stage: Stage
    takes: Mapping[str, tuple[Artifact, ...]]  # by input port
    over: str = ""  # the parameter that counts its fan-out, such as shard; empty: a single task
    suite: str = ""  # of a gate: what it judges by
    after: tuple[str, ...] = ()  # the gates that it waits for
    reads_outside: tuple[str, ...] = ()  # what it reads that is no artifact: registry, footage, clock
    reusable: bool = True  # an engine may reuse its result while inputs, parameters and code are the same
    writes_registry: bool = False  # what others see of the registry changes by it
    at_failure: bool = False  # runs with what there is also when the night fails before it
    only_if_news: bool = False  # left out of a night with nothing new

    def sources(self) -> set[str]:
        """Return the names of the tasks that must be done before this one."""
        return {artifact.task for given in self.takes.values() for artifact in given} | set(self.after)


@dataclass
class Graph:
    """Gather the tasks of a night in the order in which they are told."""

    tasks: dict[str, Task] = field(default_factory=dict)
    news_from: str = ""  # the task that says whether there is anything new

    def task(
        self,
        name: str,
        *,
        gate: str = "",
        reads_outside: tuple[str, ...] = (),
        reusable: bool = True,
        writes_registry: bool = False,
        at_failure: bool = False,
        **takes: Artifact | tuple[Artifact, ...],
    ) -> Any:
        """Add a task of the stage of that name; return what it gives: an artifact, or a tuple of them in the stage's order.

        gate: the suite that judges what it gives. Raises GraphError for a port that nobody fills or that the stage lacks, an
        unknown thing outside, and a gate on what has no gate table.
        """
        stage = find_stage(name)
        more = {"reusable": reusable, "writes_registry": writes_registry, "at_failure": at_failure}
        self._add(name, stage, takes, reads_outside=reads_outside, **more)
        given = tuple(Artifact(name, port.name) for port in stage.outputs)
        if gate:
            self._gate(gate, stage, name)
        return given[0] if len(given) == 1 else given

    def each(self, over: str, name: str, *, reads_outside: tuple[str, ...] = (), **takes: Artifact) -> Any:
        """Add one task of the stage for each batch or shard, counted by its parameter `over`; return what they give, as a list."""
        stage = find_stage(name)
        if not {over, f"{over}_count"} <= {item.name for item in fields(stage.parameters)}:
            raise GraphError(f"{name}: is fanned out over {over!r}, but has no parameters {over} and {over}_count")
        self._add(name, stage, takes, over=over, reads_outside=reads_outside)
        given = tuple(Artifact(name, port.name, over) for port in stage.outputs)
        return given[0] if len(given) == 1 else given

    def only_if_news(self, said_by: Artifact) -> None:
        """Leave out all that follows where the task of this artifact says that nothing is new; raises GraphError."""
        if self.tasks[said_by.task].stage.value != NEWS:
            raise GraphError(f"{said_by.task}: does not say whether anything is new; give its stage the value {NEWS!r}")
        self.news_from = said_by.task

    @property
    def verdicts(self) -> tuple[Artifact, ...]:
        """Return the verdict of every gate so far."""
        return tuple(Artifact(task.name, task.stage.outputs[0].name) for task in self.tasks.values() if task.suite)

    @property
    def gates(self) -> dict[str, Task]:
        """Return the gates by suite, in the order in which they are told."""
        return {task.suite: task for task in self.tasks.values() if task.suite}

    def downstream(self, names: set[str]) -> set[str]:
        """Return every task that these lead to, without them."""
        reached = set(names)
        for task in self.tasks.values():
            if task.sources() & reached:
                reached.add(task.name)
        return reached - names

    def upstream(self, names: set[str]) -> set[str]:
        """Return every task that leads to one of these; one of them too where it leads to another."""
        leading: set[str] = set()
        for task in reversed(list(self.tasks.values())):
            if task.name in names | leading:
                leading |= task.sources()
        return leading

    def check(self) -> "Graph":
        """Return the graph; raises GraphError where a fan-out has no gather."""
        taken = {artifact for task in self.tasks.values() for given in task.takes.values() for artifact in given}
        for task in self.tasks.values():
            if task.over and not any(artifact.task == task.name for artifact in taken):
                raise GraphError(f"{task.name}: one a {task.over}, but nobody gathers what it gives")
        return self

    def _add(self, name: str, stage: Stage, takes: Mapping[str, Any], **more: Any) -> None:
        if name in self.tasks or not re.fullmatch("[a-z_]+", name):
            raise GraphError(f"task {name!r}: must be a new name of small letters and _")
        given = {port: each if isinstance(each, tuple) else (each,) for port, each in takes.items()}
        for outside in more.get("reads_outside", ()):
            if outside not in _OUTSIDE:
                raise GraphError(f"{name}: reads {outside!r}, which is none of {', '.join(_OUTSIDE)}")
        for problem in self._mistakes(stage, given, more.get("over", "")):
            raise GraphError(f"{name}: {problem}")
        judged_by = {task.takes["subject"][0]: task.name for task in self.gates.values()}
        gates = [judged_by[artifact] for each in given.values() for artifact in each if artifact in judged_by]
        sources = {artifact.task for each in given.values() for artifact in each}
        implied = self.upstream(sources | set(gates))  # what it waits for anyway
        after = [gate for gate in dict.fromkeys(gates) if gate not in implied and stage.name != "gate"]
        more |= {"after": tuple(after), "only_if_news": bool(self.news_from)}
        self.tasks[name] = Task(name=name, stage=stage, takes=given, **more)

    def _gate(self, suite: str, stage: Stage, name: str) -> None:
        judged = [Artifact(name, port.name) for port in stage.outputs if port.gate_table]
        if len(judged) != 1:
            raise GraphError(f"{name}: has a gate, but gives no single folder with a gate table")
        if not (_SUITES / f"{suite}.yaml").is_file():
            raise GraphError(f"{name}: gate {suite!r} has no suite in perception/quality/suites")
        gate, takes = find_stage("gate"), {"subject": judged[0]}
        self._add(f"gate_{suite}", gate, takes, suite=suite, reads_outside=(CLOCK,), reusable=False)

    def _mistakes(self, stage: Stage, given: Mapping[str, tuple[Artifact, ...]], over: str) -> Iterator[str]:
        known = {port.name: port for port in stage.inputs}
        for name in given:
            if name not in known:
                yield f"takes {name!r}, but its stage has no such input; it has {', '.join(known) or 'none'}"
        for name, port in known.items():
            if not given.get(name) and not port.optional:
                yield f"nobody fills its input {name!r}"
            for artifact in given.get(name, ()):
                yield from self._mismatches(port, artifact, over, len(given[name]))

    def _mismatches(self, port: Port, artifact: Artifact, over: str, count: int) -> Iterator[str]:
        if artifact.task not in self.tasks:
            yield f"input {port.name!r} takes what {artifact.task!r} gives, which is no earlier task"
        elif (artifact.over or count > 1) and not port.many:
            yield f"input {port.name!r} takes one folder, but is given a list"
        elif self._output(artifact).shares != (over if port.shares else ""):
            yield f"input {port.name!r} and {artifact.task}'s output do not agree on what they share out"

    def _output(self, artifact: Artifact) -> Port:
        return next(port for port in self.tasks[artifact.task].stage.outputs if port.name == artifact.port)
