"""The drawing of the night in docs/dag.md, derived from the graph."""

from collections.abc import Iterator

from pipelines.graph import Graph, Task

_HEAD = """# The night, drawn

Derived from pipelines/nightly.py by `make dag`; a test fails when this page and the graph differ. An arrow is an artifact that one
task hands to the next; a dotted arrow is a verdict that must be good first. A box is a fan-out: one task for each. `report` and
`propose` read every verdict, `report` what every task gave; those arrows are left out. Where `gather` finds nothing new, a night
ends there: on Kubeflow a condition round all that follows, on one machine the engine stops. A task that is *asked again* runs on
every night, whatever is the same; the others are reused while inputs, parameters and code are the same.

```mermaid
flowchart TD
"""
_TOLD = ("propose", "report")  # take from nearly everywhere


def page(night: Graph) -> str:
    """Return the page: the drawing (Mermaid) and a table of every task."""
    rows = [
        "| task | fan-out | reads outside | result | image | CPU | memory | GPU | time-out |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_row, night.tasks.values()),
    ]
    return _HEAD + "\n".join([*_drawing(night), "```", "", *rows, ""])


def _drawing(night: Graph) -> Iterator[str]:
    for task in night.tasks.values():
        shape = f'{{{{"{task.name}"}}}}' if task.suite else f'["{task.name}"]'
        if task.over:
            yield f'  subgraph {task.over} ["one a {task.over}"]\n    {task.name}{shape}\n  end'
        else:
            yield f"  {task.name}{shape}"
    for task in night.tasks.values():
        given = {artifact.task: None for artifacts in task.takes.values() for artifact in artifacts}
        shown = [name for name in given if task.name not in _TOLD or name in ("publish", "evaluate", "propose")]
        yield from (f"  {name} --> {task.name}" for name in shown)
        yield from (f"  {gate} -. accepted .-> {task.name}" for gate in task.after)


def _row(task: Task) -> str:
    needs = task.stage.needs
    cells = (
        task.name,
        f"one a {task.over}" if task.over else "",
        ", ".join(task.reads_outside) or "nothing",
        "reused" if task.reusable else "asked again",
        needs.image,
        f"{needs.cpu_cores:g}",
        f"{needs.memory_gib:g} GiB",
        needs.gpu_count or "–",
        f"{needs.timeout_minutes} min",
    )
    return f"| {' | '.join(map(str, cells))} |"
