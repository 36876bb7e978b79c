"""The graph: every mistake is an error where it is written, and the night itself holds what it promises."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from components.stage.declaration import Needs, Port, Stage
from components.stage.registry import all_stages
from pipelines import drawing
from pipelines.graph import FOOTAGE, REGISTRY, Artifact, Graph, GraphError
from pipelines.nightly import nightly

ROOT = Path(__file__).parents[2]


def started() -> tuple[Graph, Artifact, Artifact]:
    """A night that has begun: its base and its arrivals."""
    night = Graph()
    base, arrivals = night.task("resolve")
    return night, base, arrivals


def gathered() -> tuple[Graph, Artifact, Artifact]:
    """A night with frames: its base and its frames."""
    night, base, arrivals = started()
    return night, base, night.task("gather", arrived=night.each("batch", "ingest", arrivals=arrivals), base=base)


# ---------------------------------------------------------------- mistakes


def unfilled() -> None:
    night, _, frames = gathered()
    night.task("ensemble", frames=frames)


def empty() -> None:
    night, base, _ = started()
    night.task("gather", arrived=(), base=base)


def unknown_port() -> None:
    night, base, frames = gathered()
    night.task("ensemble", frames=frames, base=base, scores=frames)


def gate_without_table() -> None:
    night, base, frames = gathered()
    night.task("ensemble", frames=frames, base=base, gate="select")


def unknown_suite() -> None:
    night, base, arrivals = started()
    night.task("gather", arrived=night.each("batch", "ingest", arrivals=arrivals), base=base, gate="arrivals")


def fan_out_without_gather() -> None:
    night, _, arrivals = started()
    night.each("batch", "ingest", arrivals=arrivals)
    night.check()


def fan_out_without_parameters() -> None:
    night, base, frames = gathered()
    night.each("shard", "ensemble", frames=frames, base=base)


def unknown_outside() -> None:
    Graph().task("resolve", reads_outside=("weather",))


def list_for_one() -> None:
    night, base, arrivals = started()
    night.task("ensemble", frames=night.each("batch", "ingest", arrivals=arrivals), base=base)


def two_for_one() -> None:
    night, base, frames = gathered()
    night.task("ensemble", frames=(frames, frames), base=base)


def shares_for_whole() -> None:
    night, base, arrivals = started()
    night.task("gather", arrived=arrivals, base=base)


def whole_for_shares() -> None:
    night, base, _ = started()
    night.each("batch", "ingest", arrivals=base)


def shares_of_another_fan_out() -> None:
    night, _, arrivals = started()
    night.task("ingest", arrivals=arrivals)


def later_task() -> None:
    night, base, _ = started()
    night.task("gather", arrived=Artifact("ingest", "arrived", "batch"), base=base)


def told_twice() -> None:
    night, *_ = started()
    night.task("resolve")


def no_news() -> None:
    night, base, _ = started()
    night.only_if_news(base)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (unfilled, "ensemble: nobody fills its input 'base'"),
        (empty, "gather: nobody fills its input 'arrived'"),
        (unknown_port, "ensemble: takes 'scores', but its stage has no such input; it has frames, base"),
        (gate_without_table, "ensemble: has a gate, but gives no single folder with a gate table"),
        (unknown_suite, "gather: gate 'arrivals' has no suite in perception/quality/suites"),
        (fan_out_without_gather, "ingest: one a batch, but nobody gathers what it gives"),
        (fan_out_without_parameters, "ensemble: is fanned out over 'shard', but has no parameters shard and shard_count"),
        (unknown_outside, "resolve: reads 'weather', which is none of registry, footage, clock"),
        (list_for_one, "ensemble: input 'frames' takes one folder, but is given a list"),
        (two_for_one, "ensemble: input 'frames' takes one folder, but is given a list"),
        (shares_for_whole, "gather: input 'arrived' and resolve's output do not agree on what they share out"),
        (whole_for_shares, "ingest: input 'arrivals' and resolve's output do not agree on what they share out"),
        (shares_of_another_fan_out, "ingest: input 'arrivals' and resolve's output do not agree on what they share out"),
        (later_task, "gather: input 'arrived' takes what 'ingest' gives, which is no earlier task"),
        (told_twice, "task 'resolve': must be a new name"),
        (no_news, "resolve: does not say whether anything is new"),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_where_it_is_written(mistake: Callable[[], None], said: str) -> None:
    with pytest.raises(GraphError) as caught:
        mistake()
    assert str(caught.value).startswith(said)


def test_a_misspelt_stage_is_named() -> None:
    with pytest.raises(Exception, match=r"there is no components/resolves\.py"):
        Graph().task("resolves")


# ---------------------------------------------------------------- what waits for what


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Declare a stage of ports: known(name, takes, gives); a port that ends in ! has a gate table."""

    def declare(name: str, takes: str, gives: str) -> None:
        def port(word: str) -> Port:
            return Port(name=word.rstrip("!"), about="", gate_table="!" in word)

        stage = Stage(
            name=name, summary="", inputs=tuple(map(port, takes.split())), outputs=tuple(map(port, gives.split())),
            parameters=object, needs=Needs(image="torch"), run=lambda *_: None,
        )  # fmt: skip
        module = ModuleType(f"components.{name}")
        module.STAGE = stage  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        stages.append(name)

    stages = ["gate"]
    monkeypatch.setattr("components.stage.registry.stage_names", lambda: stages)
    return declare


def test_a_task_waits_for_the_gate_on_what_it_takes_unless_it_waits_for_it_anyway(known: Callable[..., None]) -> None:
    known("first", "", "a!")
    known("second", "a", "b!")
    known("third", "a b", "c")
    night = Graph()
    a = night.task("first", gate="select")
    b = night.task("second", a=a, gate="curate")
    night.task("third", a=a, b=b)
    assert list(night.tasks) == ["first", "gate_select", "second", "gate_curate", "third"]
    assert {name: task.after for name, task in night.tasks.items()} == {
        "first": (), "gate_select": (), "second": ("gate_select",), "gate_curate": (),
        "third": ("gate_curate",),
    }  # fmt: skip
    assert night.tasks["third"].sources() == {"first", "second", "gate_curate"}


def test_what_leads_to_a_task_and_what_it_leads_to() -> None:
    night = nightly()
    assert night.upstream({"gather"}) == {"resolve", "ingest"}
    assert night.upstream({"ensemble"}) == {"resolve", "ingest", "gather", "gate_ingest"}
    assert night.upstream({"gather", "ingest"}) == {"resolve", "ingest"}, "one of them leads to the other"
    assert night.downstream({"evaluate"}) == {"gate_evaluate", "propose", "report"}
    assert night.downstream({"gate_adapt"}) == night.downstream({"adapt"}) - {"gate_adapt"}
    assert night.downstream({"gate_adapt"}) >= {"train_prune", "compress", "gate_compress", "evaluate", "report"}
    assert not night.downstream({"gate_adapt"}) & {"publish", "compare", "curate"}
    assert night.downstream({"report"}) == set()


# ---------------------------------------------------------------- the night itself


def test_the_night_is_told_in_at_most_120_lines() -> None:
    assert len((ROOT / "pipelines" / "nightly.py").read_text().splitlines()) <= 120


def test_every_stage_is_in_the_night() -> None:
    assert {task.stage.name for task in nightly().tasks.values()} == set(all_stages())


def test_what_reads_the_world_outside_says_so() -> None:
    tasks = nightly().tasks
    outside = {name: set(task.reads_outside) for name, task in tasks.items() if task.reads_outside and not task.suite}
    assert outside == {
        "resolve": {REGISTRY, FOOTAGE}, "ingest": {FOOTAGE}, "gather": {REGISTRY}, "publish": {REGISTRY},
        "propose": {REGISTRY}, "report": {REGISTRY},
    }  # fmt: skip
    asked_again = {name for name, task in tasks.items() if not task.reusable}
    assert asked_again == {"resolve", "publish"} | {name for name, task in tasks.items() if task.suite}, (
        "a gate looks at the clock: a waiver of yesterday may have expired"
    )


def test_nothing_but_intake_happens_in_a_night_without_news() -> None:
    night = nightly()
    assert night.news_from == "gather"
    assert {name for name, task in night.tasks.items() if not task.only_if_news} == {
        "resolve",
        "ingest",
        "gather",
        "gate_ingest",
    }
    assert {name for name, task in night.tasks.items() if task.at_failure} == {"propose", "report"}


def test_report_and_review_read_every_verdict() -> None:
    night = nightly()
    verdicts = {artifact.task for artifact in night.verdicts}
    assert verdicts == {f"gate_{suite}" for suite in night.gates}
    for name in ("propose", "report"):
        assert {artifact.task for artifact in night.tasks[name].takes["verdicts"]} == verdicts


def test_the_drawing_in_docs_is_that_of_the_graph() -> None:
    assert (ROOT / "docs" / "dag.md").read_text() == drawing.page(nightly()), "run `make dag`"
