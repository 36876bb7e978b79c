"""`make dag`: draw the compiled pipeline into docs/dag.md, from the YAML that Kubeflow gets and nothing else."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.kubeflow.compile import compile_pipeline

PAGE = Path(__file__).parents[2] / "docs" / "dag.md"


@dataclass
class Graph:
    """Gather the tasks of a compiled pipeline, and which feeds which."""

    tasks: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # node: row of the table
    inside: dict[str, list[str]] = field(default_factory=dict)  # node: the loops around it, outermost first
    edges: list[tuple[str, str, str]] = field(default_factory=list)  # from, to, what is written at the arrow
    exits: list[str] = field(default_factory=list)  # nodes that run whatever happened


def read_graph(package: Path) -> Graph:
    """Read the graph out of a compiled pipeline."""
    import yaml

    spec, platform = yaml.safe_load_all(package.read_text())
    graph = Graph()
    _walk(
        graph,
        spec,
        platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"],
        spec["root"]["dag"],
        {},
        [],
        None,
    )
    graph.edges = list(dict.fromkeys(graph.edges))
    order = _in_order(graph)
    graph.tasks = {node: graph.tasks[node] for node in order}
    graph.edges.sort(key=lambda edge: (order.index(edge[1]), order.index(edge[0])))
    return graph


def write_page(target: Path) -> Path:
    """Compile the nightly profile, draw it into `target` and return that."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "night.yaml"
        compile_pipeline("nightly", package)
        target.write_text(page(read_graph(package)))
    return target


def page(graph: Graph) -> str:
    """Return the page: the drawing (Mermaid) and a table of every task."""
    lines = [
        "# The night as compiled",
        "",
        "Drawn from the compiled pipeline by `make dag`; a test fails when this page and the pipeline differ. An arrow is an artifact",
        "that one step hands to the next; a dotted arrow is a verdict that decides. A box around a step is a loop. The report reads the",
        "artifacts of every stage, and the proposal every verdict; those arrows are left out. What is behind a refusal, the two",
        "`problem` steps and `farewell` are never retried: a refusal or bad input fails the run there. `farewell` runs whatever happened.",
        "",
        "```mermaid",
        "flowchart TD",
        *_drawing(graph),
        "```",
        "",
        "| task | image | CPU | memory | GPU | tries | time-out | cached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for node, row in graph.tasks.items():
        cells = (row[name] for name in ("image", "cpu", "memory", "gpus", "tries", "minutes", "cached"))
        lines.append(f"| {node} | " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _walk(
    graph: Graph,
    spec: Mapping[str, Any],
    platform: Mapping[str, Any],
    dag: Mapping[str, Any],
    known: Mapping[str, str],
    loops: list[str],
    gate: str | None,
) -> None:
    """Add the tasks of one level, and of the levels below it; `known` are the producers of its input artifacts."""
    for task in dag["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        inputs = task.get("inputs", {})
        sources = {port: _producer(spec, dag, given, known) for port, given in inputs.get("artifacts", {}).items()}
        if "dag" in component:
            below, decides = loops, gate
            if "parameterIterator" in task:
                below = [*loops, f"one a {_iterated(component)}"]
            if "triggerPolicy" in task and "condition" in task["triggerPolicy"]:
                decides = task["taskInfo"]["name"]
            _walk(graph, spec, platform, component["dag"], sources, below, decides)
            continue
        node = _node_name(task, gate)
        graph.tasks[node] = _row(spec, platform, task, component)
        graph.inside[node] = loops
        if "strategy" in task.get("triggerPolicy", {}):
            graph.exits.append(node)
        graph.edges += [(source, node, "") for source in sources.values()]
        if gate and gate.endswith(("-refused", "-broken")):
            graph.edges.append((_decider(gate), node, gate.rpartition("-")[2]))
        elif gate:
            graph.edges.append((_decider(gate), node, "accepted"))


def _in_order(graph: Graph) -> list[str]:
    """Return the nodes so that each comes after what it waits for, otherwise by name."""
    waits = {node: {source for source, target, _ in graph.edges if target == node} for node in sorted(graph.tasks)}
    order: list[str] = []
    while waits:
        node = next(node for node, sources in waits.items() if sources <= set(order))
        order.append(node)
        del waits[node]
    return order


def _drawing(graph: Graph) -> list[str]:
    lines = []
    fed_by_stage = {(source, target) for source, target, label in graph.edges if not label}
    for number, node in enumerate(graph.tasks):
        loops = graph.inside[node]
        shape = f'{{{{"{node}"}}}}' if node.startswith("gate_") and "refused" not in node else f'["{node}"]'
        drawn = f"  {_key(node)}{shape}"
        lines += [f'  subgraph loop{number} ["{loops[-1]}"]', f"  {drawn}", "  end"] if loops else [drawn]
    for source, target, label in graph.edges:
        if target == "report" or (
            not label and (source.startswith("gate_") or target.endswith("refused") or target.startswith("problem"))
        ):
            continue
        if not label:
            lines.append(f"  {_key(source)} --> {_key(target)}")
        elif label != "accepted" or _first_behind(graph, source, target, fed_by_stage):
            lines.append(f"  {_key(source)} -. {label} .-> {_key(target)}")
    return [*lines, "  gate_evaluate -. accepted .-> report"]


def _first_behind(graph: Graph, gate: str, target: str, fed: set[tuple[str, str]]) -> bool:
    """Tell whether a task behind a gate is one that nothing else behind that gate feeds."""
    behind = {node for source, node, label in graph.edges if source == gate and label == "accepted"}
    return not any((other, target) in fed for other in behind)


def _producer(
    spec: Mapping[str, Any], dag: Mapping[str, Any], given: Mapping[str, Any], known: Mapping[str, str]
) -> str:
    if "componentInputArtifact" in given:
        return known[given["componentInputArtifact"]]
    output = given["taskOutputArtifact"]
    return _produced(spec, dag, output["producerTask"], output["outputArtifactKey"])


def _produced(spec: Mapping[str, Any], dag: Mapping[str, Any], subtask: str, key: str) -> str:
    task = dag["tasks"][subtask]
    component = spec["components"][task["componentRef"]["name"]]
    if "dag" not in component:
        return _node_name(task, None)
    selector = component["dag"]["outputs"]["artifacts"][key]["artifactSelectors"][0]
    return _produced(spec, component["dag"], selector["producerSubtask"], selector["outputArtifactKey"])


def _node_name(task: Mapping[str, Any], gate: str | None) -> str:
    name = str(task["inputs"]["parameters"]["task"]["runtimeValue"]["constant"])
    return f"{name} refused" if gate == f"{name}-refused" else name


def _decider(condition: str) -> str:
    return "report" if condition == "night-broken" else condition.rpartition("-")[0]


def _iterated(component: Mapping[str, Any]) -> str:
    names = [task["componentRef"]["name"] for task in component["dag"]["tasks"].values()]
    return "source" if "comp-ingest" in names else "batch of shards"


def _row(
    spec: Mapping[str, Any], platform: Mapping[str, Any], task: Mapping[str, Any], component: Mapping[str, Any]
) -> dict[str, Any]:
    defaults = {name: item.get("defaultValue") for name, item in spec["root"]["inputDefinitions"]["parameters"].items()}
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    stage = container["command"][-1]
    seconds = int(platform[component["executorLabel"]]["activeDeadlineSeconds"])
    return {
        "image": container["image"],
        "cpu": defaults[f"{stage}_cpu"],
        "memory": defaults[f"{stage}_memory"],
        "gpus": defaults.get(f"{stage}_gpus", "–"),
        "tries": 1 + int(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
        "minutes": f"{seconds // 60} min",
        "cached": "yes" if task["cachingOptions"].get("enableCache") else "no",
    }


def _key(node: str) -> str:
    return node.replace(" ", "_")
