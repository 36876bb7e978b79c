"""The table of recipes on a toy's size: every row learns from what it says, and the page tells all of them."""

from pathlib import Path

import pytest
import torch

from benchmarks.tables.recipe import table
from benchmarks.tables.recipe.table import Plan, Row, cells, report
from benchmarks.tables.runner import Request, run_cells
from perception.models.settings import NetworkChoice

TINY = NetworkChoice(arguments={"width": 0.1})
ROWS = {
    "labels": Row(about="labels alone", network=TINY, frames="labelled", steps=2, channels_last=False),
    "both": Row(about="the simulator first", network=TINY, frames="both", steps=2, simulator_steps=2),
    "all": Row(about="all labels", network=TINY, frames="all", steps=2, encoder_rate_share=1.0),
}


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    plan = Plan(
        height_px=16, width_px=32, drives=2, frames_per_drive=2, labelled_frames=2, simulator_frames=3, test_drives=2,
        batch_frames=2, rows=ROWS,
    )  # fmt: skip
    monkeypatch.setitem(table.PLANS, "small", plan)
    return Request(table="recipe", data=None, data_kind="scenes", seeds=1, work=tmp_path)


def test_every_row_learns_and_is_told(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[list[int], int]] = []
    fit = table._fit

    def noted(
        work: table.Work, network: torch.nn.Module, sources: list[table.Labelled], steps: int, *more: object
    ) -> float:
        learned.append(([len(source) for source in sources], steps))
        return fit(work, network, sources, steps, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(table, "_fit", noted)
    results, _ = run_cells(cells(request_), request_)
    assert learned == [([2], 2), ([3], 2), ([2, 3], 2), ([4], 2)]
    found = report(request_, results)
    assert set(found.figures) == set(ROWS) and all(0 <= row["miou"][0] <= 100 for row in found.figures.values())
    assert "| the simulator first | 2 + 2 | adamw 0.002, 0.5 of it on the encoder |" in found.body
