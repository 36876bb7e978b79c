from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.tables.data import Labelled
from benchmarks.tables.night import plan, report, table
from benchmarks.tables.runner import Request
from perception.data.taxonomies import IGNORE
from perception.errors import InputError
from perception.models.checkpoint import load_network

TINY = replace(
    plan.PLANS["small"],
    height_px=32,
    width_px=32,
    width=0.5,
    batch_frames=4,
    simulator_steps=3,
    steps=6,
    epochs=3,
    prune_epoch=1,
    cost_share=0.9,
)


def request(**changes: object) -> Request:
    return Request(**({"table": "night", "data": Path("camvid"), "data_kind": "camvid", "seeds": 2} | changes))


def results(**rows: float) -> dict:
    found = {
        f"{row}-seed{seed}": {
            "miou": miou + seed,
            "worst_clip_miou": miou - 10,
            "parameters": 100_000 if row in report.SHRUNK else 1_000_000,
            "macs": 1e6,
        }
        for row, miou in rows.items()
        for seed in range(2)
    }
    names = [name for name in found if name == "full-seed0" or name.split("-")[0] in report.SHRUNK]
    times = {name: 4.0 if name == "full-seed0" else 0.8 for name in names}
    return found | {"latency": {"latency_ms": times, "bytes": dict.fromkeys(names, 2048)}}


def test_the_promise_is_held_to_the_figures() -> None:
    found = results(full=50.0, random=40.0, chosen=42.0, simulator=45.0, pseudo=48.5, pruned=48.0, compressed=47.0)
    body, figures = report.page(plan.PLANS["small"], request(), found)
    assert "- holds: a tenth of the labels and the simulator reach 97.0 % of full supervision (goal 95)" in body
    assert "- holds: the network that ships keeps 10.0 % of the parameters (goal 10)" in body
    assert "- holds: it is 5.0 times faster (goal 4)" in body
    assert (
        "- does not hold: the network that ships is -1.5 (-1.5 to -1.5) points from the row before it (goal at most 1 lost)"
        in body
    )
    assert "in all (goal" not in body
    assert "| 10 % of the labels, chosen − 10 % of the labels, at random | +2.0" in body
    assert figures["rows"]["chosen"]["latency_ms"] == [4.0, 4.0]
    assert report.plot(figures).axes
    longer, _ = report.page(plan.PLANS["small"], request(), found | results(full_longer=60.0))
    assert (
        "does not hold: a tenth of the labels and the simulator reach 81.0 % of full supervision that learns" in longer
    )


def test_rows_that_are_not_done_in_every_seed_are_left_out() -> None:
    found = results(full=50.0, random=40.0, chosen=42.0)
    del found["chosen-seed1"]
    body, figures = report.page(plan.PLANS["small"], request(), found)
    assert list(figures["rows"]) == ["full", "random"] and "full supervision (goal" not in body
    with pytest.raises(InputError, match="full supervision is not done"):
        report.page(plan.PLANS["small"], request(), results(random=40.0))


def test_every_cell_comes_after_what_it_needs() -> None:
    seen: set[str] = set()
    for cell in table.cells(request()):
        assert set(cell.needs) <= seen, cell.name
        seen.add(cell.name)
    with pytest.raises(InputError, match="give CamVid"):
        table.cells(request(data=None, data_kind="scenes"))


def frames(count: int, seed: int) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Labelled(images, (images[:, 0] > 127).long())


def test_a_pruned_row_learns_shrinks_and_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table.Work, "real", lambda _: (frames(12, 0), frames(20, 1), ["a"] * 12))
    monkeypatch.setattr(table.Work, "simulator", lambda work: work.labels(list(range(6))))
    work = table.Work(request(work=tmp_path), TINY)
    before = {"choose-seed0": {"chosen": [0, 3, 5, 7]}}
    for row in ("pretrained", "simulator"):
        table.CELLS[row][0](work, 0, before)
    found = table._pseudo(work, 0, before, row="pruned", teacher="simulator", shrink=True)
    dense = table.CELLS["full"][0](work, 0, before)
    assert found["parameters"] < dense["parameters"] and found["macs"] < dense["macs"]
    assert 0 <= found["worst_clip_miou"] <= found["miou"] <= 100
    network = load_network(work.network_path("pruned", 0))
    assert sum(each.numel() for each in network.parameters()) == found["parameters"]


def test_pseudo_labels_are_the_most_confident_pixels_of_each_class() -> None:
    class Sure(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:  # class 0 above, 1 below, surer to the right
            ramp = torch.linspace(0.5, 3, images.shape[3]).expand(len(images), 1, *images.shape[2:]).clone()
            upper = torch.arange(images.shape[2])[None, None, :, None] < images.shape[2] // 2
            zeros = torch.zeros(len(images), 9, *images.shape[2:])
            return torch.cat([ramp * upper, ramp * ~upper, zeros], 1)

    plan = replace(TINY, kept_share=0.25, highest_threshold=1.0)
    labels = table._pseudo_labels(Sure(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), plan)
    assert (labels[:, :, :20] == IGNORE).all()
    assert (labels[:, :16, -4:] == 0).all() and (labels[:, 16:, -4:] == 1).all()


def test_rows_named_longer_learn_as_many_steps_as_the_rows_with_pseudo_labels_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {}

    def judged(_work: table.Work, lesson: table._Lesson, row: str, _seed: int) -> dict:
        steps[row] = lesson.steps
        return {}

    monkeypatch.setattr(table.Work, "real", lambda _: (frames(12, 0), frames(20, 1), ["a"] * 12))
    monkeypatch.setattr(table, "_trained", lambda _work, _seed, lesson: lesson)
    monkeypatch.setattr(table, "_kept_and_judged", judged)
    for row in ("full", "full_longer", "chosen", "chosen_longer"):
        table.CELLS[row][0](table.Work(request(work=tmp_path), TINY), 0, {"choose-seed0": {"chosen": [0, 3]}})
    assert steps == {"full": 6, "full_longer": 3 + 6 + 6, "chosen": 6, "chosen_longer": 3 + 6 + 6}
