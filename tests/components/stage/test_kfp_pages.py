"""What Kubeflow's own pages are given: metadata as kfp's own classes write it, pages as one file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.stage import kfp_step
from components.stage.declaration import Page, Paths, Refused
from components.stage.kfp_pages import confusion, numbers, show
from components.stage.kfp_step import run_step
from components.stage.registry import all_stages
from tests.components.stage.test_execution import COPY
from tests.components.stage.test_kfp_step import executor_input


def test_a_confusion_matrix_is_what_kfps_own_class_writes() -> None:
    wanted = dsl.ClassificationMetrics()
    wanted.log_confusion_matrix(["road", "car"], [[5, 1], [0, 7]])
    assert confusion({"classes": ["road", "car"], "rows": [[5, 1], [0, 7]]}) == wanted.metadata


def test_figures_are_the_numbers_of_nested_records() -> None:
    content = {
        "seconds": None,
        "model": {"macs": 7, "network": "erfnet", "pruned": {"miou": 0.5}},
        "done": True,
        "list": [1],
    }
    assert dict(numbers(content)) == {"model.macs": 7, "model.pruned.miou": 0.5}


@pytest.mark.parametrize("kind", ["HTML", "Markdown"])
def test_a_page_is_one_file_where_kubeflow_takes_it_from(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "report.html").write_text("<p>")
    page = Page(name="page", kind=kind, port="report", file="report.html")
    assert show(page, tmp_path / "report.html", tmp_path / "s3" / "bucket" / "page") == {}
    assert (tmp_path / "s3" / "bucket" / "page").read_text() == "<p>"


PAGES = (
    Page(name="page", kind="HTML", port="copied", file="page.html"),
    Page(name="figures", kind="Metrics", port="copied", file="figures.json"),
)


@pytest.mark.parametrize("refused", [False, True])
def test_a_step_gives_its_pages_and_counts_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> dict[str, object]:
        (outputs.one("copied") / "page.html").write_text("<p>")
        (outputs.one("copied") / "figures.json").write_text(json.dumps({"model": {"miou": 0.5}}))
        if refused:
            raise Refused("no")
        return {"frames": 12, "none": None}

    monkeypatch.setattr(kfp_step, "find_stage", lambda _: replace(COPY, run=run, pages=PAGES))
    given = executor_input(tmp_path)
    for name in ("page", "figures"):
        uri = str(tmp_path / "deep" / name)
        given["outputs"]["artifacts"][name] = {"artifacts": [{"name": name, "uri": uri}]}
    for name in ("a/out", "b/out"):
        (tmp_path / name).mkdir(parents=True)
    assert run_step(["copy", "--executor-input", json.dumps(given)]) == (3 if refused else 0)
    written = json.loads((tmp_path / "deep" / "executor_output.json").read_text())["artifacts"]
    metadata = {name: each["artifacts"][0]["metadata"] for name, each in written.items()}
    counts = {} if refused else {"frames": 12}
    assert metadata == {"copied": counts, "page": counts, "figures": {"model.miou": 0.5}}
    assert (tmp_path / "deep" / "page").read_text() == "<p>", "a refusal, too, is explained"


def test_every_page_is_of_a_port_that_its_stage_has() -> None:
    pages = [(stage, page) for stage in all_stages().values() for page in stage.pages]
    assert pages
    for stage, page in pages:
        assert page.port in {port.name for port in stage.outputs}, stage.name
        assert hasattr(dsl, page.kind)
