"""The page that draws the pipeline is the pipeline."""

import pytest

from pipelines.commands.dag_page import PAGE, Graph, page, read_graph
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.settings import stage_of


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    package = tmp_path_factory.mktemp("compiled") / "night.yaml"
    compile_pipeline("nightly", package)
    return read_graph(package)


def test_the_page_in_docs_is_what_the_pipeline_gives(graph: Graph) -> None:
    assert PAGE.read_text() == page(graph), "run `make dag` and commit docs/dag.md"


def test_every_gate_decides_and_what_it_refuses_is_tried_once(graph: Graph) -> None:
    gates = [node for node in graph.tasks if node.startswith("gate_") and "refused" not in node]
    assert len(gates) == 7
    for gate in gates:
        assert (gate, f"{gate} refused", "refused") in graph.edges
        assert graph.tasks[f"{gate} refused"]["tries"] == 1
    assert graph.exits == ["farewell"]


def test_every_artifact_of_the_declarations_is_an_arrow(graph: Graph) -> None:
    for node in graph.tasks:
        if node == "farewell" or node.startswith("problem") or "refused" in node:
            continue
        wanted = sum(not port.optional for port in stage_of(node).inputs)
        assert len({source for source, target, label in graph.edges if target == node and not label}) >= min(wanted, 1)
    assert ("ingest", "gather", "") in graph.edges
    assert graph.inside["score"] == ["one a batch of shards"]
