"""The table of selection by disagreement on a few images: every kind of row, and the page that comes out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tables.data import Labelled
from benchmarks.tables.dpe import plan, table
from benchmarks.tables.dpe.committees import COMMITTEES, _varied, member_probabilities, train_committee
from benchmarks.tables.results import write_results
from benchmarks.tables.runner import Request, run_cells
from perception.errors import InputError
from perception.uncertainty.dpe import EnsembleLoss
from tests.benchmarks.tables.test_runner import write_idx

TINY = dataclasses.replace(
    plan.PLANS["small"],
    pool_frames=200,
    validation_frames=50,
    betas=(1e-6,),
    recipe=dataclasses.replace(plan.PLANS["small"].recipe, steps_at_1024=20),
)


@pytest.fixture
def request_for_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """Fashion-MNIST with 300 images of two easy and eight hard classes, and a plan to go with it."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 100)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        images = np.clip(25 * labels[:, None, None] + generator.normal(0, 20, (count, 28, 28)), 0, 255).astype(np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    monkeypatch.setitem(plan.PLANS, "small", TINY)
    return Request(table="dpe", data=tmp_path, data_kind="fashion_mnist", seeds=2, work=tmp_path / "work")


def test_the_table_runs_and_shows_every_row(request_for_tiny: Request, tmp_path: Path) -> None:
    cells = table.cells(request_for_tiny)
    assert len({cell.name for cell in cells}) == len(cells)
    done, seconds = run_cells(cells, request_for_tiny)
    labelled = done["ensemble-k_centre-4-8-16-32-seed0-16"]["labelled"]
    assert len(labelled) == len(set(labelled)) == 64
    page = write_results(
        tmp_path / "out", request_for_tiny, table.report(request_for_tiny, done), "make table", seconds, "a machine"
    )
    text = page.read_text()
    for kind in COMMITTEES:
        assert f"| {kind}, k_centre |" in text
    for heading in ("Test accuracy", "Differences", "Calibration", "Sweep", "20 % against 100 %"):
        assert heading in text
    assert (tmp_path / "out" / "dpe_fashion_mnist-small.svg").exists()


def test_rows_that_are_not_begun_are_left_out(request_for_tiny: Request) -> None:
    done, _ = run_cells(table.cells(request_for_tiny), request_for_tiny, only="sweep|ensemble-random")
    body = table.report(request_for_tiny, done).body
    assert "| ensemble, random |" in body and "k_centre |" not in body


def test_all_rows_of_a_round_come_before_the_next_round(request_for_tiny: Request) -> None:
    names = [cell.name for cell in table.cells(request_for_tiny) if "-4-8-16-32-" in cell.name]
    percents = [int(name.rsplit("-", 1)[1]) for name in names]
    assert percents == sorted(percents) and percents.count(32) == percents.count(4) > 2


MEDIUM = dataclasses.replace(
    plan.PLANS["medium"],
    pool_frames=300,
    validation_frames=50,
    betas=(1e-5,),
    recipe=dataclasses.replace(plan.PLANS["medium"].recipe, channels=2, batch_frames=8, steps_at_1024=10),
    arms=plan.PLANS["medium"].arms[::2],  # ensemble, random and dpe, k_centre
)


def test_seeds_run_apart_join_in_one_page_and_the_sweep_comes_last(
    request_for_tiny: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan.PLANS, "medium", MEDIUM)
    request = dataclasses.replace(request_for_tiny, size="medium")
    cells = table.cells(request)
    assert cells[0].name.startswith("ensemble-random-4") and cells[-1].name.startswith("sweep-")
    with pytest.raises(InputError, match="no row"):
        table.report(request, {})
    first, _ = run_cells(cells, request, only="seed0")
    assert len(first) == len(cells) / 2
    body = table.report(request, first).body
    assert "over 1 seeds" in body and "| dpe, k_centre |" in body and "fixed beforehand" in body and "Sweep" in body
    both, _ = run_cells(cells, request, only="seed1")
    assert len(both) == len(cells) and "over 2 seeds" in table.report(request, both).body


def test_rounds_to_come_are_dashes(request_for_tiny: Request) -> None:
    cells = [cell for cell in table.cells(request_for_tiny) if cell.name.startswith(("sweep", "ensemble"))]
    done, _ = run_cells(cells, request_for_tiny, only="sweep|random|k_centre.*-(4|8)$")
    body = table.report(request_for_tiny, done).body
    row = next(line for line in body.splitlines() if line.startswith("| ensemble, k_centre |"))
    assert row.endswith("| – | – |") and row.count("±") == 2
    difference = next(
        line for line in body.splitlines() if line.startswith("| ensemble, k_centre - ensemble, random |")
    )
    assert difference.endswith("| – | – |") and "DPE with" not in body


def test_rounds_wait_for_the_sweep_that_chooses_their_loss(request_for_tiny: Request) -> None:
    cells = table.cells(request_for_tiny)
    done, _ = run_cells(cells, request_for_tiny, only="seed0")
    assert done and all(name.startswith("sweep") for name in done)


def test_varied_images_are_mirrored_and_shifted_copies_of_their_own() -> None:
    images = torch.rand(20, 3, 6, 5, generator=torch.Generator().manual_seed(3))
    found = _varied(images, torch.Generator().manual_seed(4), reach_px=2)
    generator = torch.Generator().manual_seed(4)
    mirrored = torch.rand(20, generator=generator) < 0.5
    tops, lefts = torch.randint(0, 5, (2, 20), generator=generator).tolist()
    for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        image = images[index].flip(2) if mirrored[index] else images[index]
        padded = torch.zeros(3, 10, 9)
        padded[:, 2:8, 2:7] = image
        assert torch.equal(found[index], padded[:, top : top + 6, left : left + 5])
    assert 0 < mirrored.sum() < 20 and len(set(tops)) > 1 and len(set(lefts)) > 1


@pytest.mark.parametrize("kind", COMMITTEES)
def test_committees_answer_with_probabilities_and_the_same_seed_trains_the_same(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labelled = Labelled(torch.randn(40, 1, 28, 28, generator=generator), torch.arange(40) % 10)
    found = [
        member_probabilities(
            train_committee(kind, labelled, TINY.recipe, seed=1, device="cpu", loss=EnsembleLoss(beta=1e-6)),
            labelled.images,
            "cpu",
        )
        for _ in range(2)
    ]
    assert found[0].shape == (1 if kind == "single" else TINY.recipe.members, 40, 10)
    torch.testing.assert_close(found[0].sum(2), torch.ones(found[0].shape[:2]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
