"""The tables about smaller networks, whole, on a toy data set: every arm trains, and the report tells of all of them."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tables import shrinking
from benchmarks.tables.data import Labelled
from benchmarks.tables.results import write_results
from benchmarks.tables.runner import Request, run_cells
from benchmarks.tables.shrinking import Epoch, Task, structured, torch_pruning_hooks, train_arm
from perception.compression.cost import count_macs
from perception.errors import InputError
from perception.models.checkpoint import describe_leaves
from perception.training.setup import seeded

TINY = {
    "epochs": 2, "prune_epoch": 0, "learning_rate": 2e-3, "press": 0.1, "energy": 0.9,
    "target": {"target_cost_share": 0.5, "costs": "parameters"},
}  # fmt: skip


def toy(frames: int = 32, size: int = 24, channels: int = 3) -> Task:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (frames,), generator=generator)
    images = torch.randint(0, 120, (frames, channels, size, size), generator=generator).to(torch.uint8)
    for frame, label in zip(images, labels.tolist(), strict=True):
        frame[:, 12 * (label // 2) : 12 * (label // 2) + 12, 12 * (label % 2) : 12 * (label % 2) + 12] += 100
    data = Labelled(images, labels)
    return Task(data, data.take(slice(0, 16)), 4, "accuracy", 16, 2)


def request_for(table: str, work: Path = Path("unused")) -> Request:
    return Request(table=table, data=Path("toy"), data_kind="cifar10", seeds=1, work=work)


@pytest.mark.parametrize("table", ["prune", "compress", "expand", "decompose"])
def test_table_runs_whole(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module(f"benchmarks.tables.{table}.table")
    if table == "prune":
        pytest.importorskip("torch_pruning")
    task = toy()
    monkeypatch.setattr(module, "open_task", lambda _: task)
    share = {"target_cost_share": 0.5, "costs": "parameters"}
    target = {"target": share, "first_reload": 0, "spread_target": share | {"lost": "share"}, "peer_ratio": 0.5}
    settings = {"small": TINY, "accuracy": {"small": TINY | target}}
    if table == "decompose":
        settings = {"accuracy": {"small": {"epochs": 2, "learning_rate": 2e-3}}}
    if table == "expand":
        plan = {"epochs": 2, "batch_frames": 16, "kernel": 5, "rates": (0.01, 0.1)}
        monkeypatch.setattr(module, "SETTINGS", {"small": plan})
    else:
        monkeypatch.setattr(module, "SETTINGS", settings)
    request = request_for(table, tmp_path)
    cells = module.cells(request)
    assert len({cell.name for cell in cells}) == len(cells)
    results, seconds = run_cells(cells, request)
    report = module.report(request, results)
    page = write_results(tmp_path / "out", request, report, "make table", seconds, "a machine").read_text()
    for about in (module._arms(task) if table == "decompose" else module.ARMS).values():
        assert f"| {about} |" in page
    assert (tmp_path / "out" / f"{table}_cifar10-small.svg").exists()
    if table == "prune":
        assert results["scratch_0"]["leaves"] == results["ours_0"]["leaves"] != results["dense_0"]["leaves"]
        assert results["spread_0"]["parameters"] < results["dense_0"]["parameters"]
        assert results["narrow_0"]["parameters"] <= results["ours_0"]["parameters"]
        assert results["peer_0"]["parameters"] < results["dense_0"]["parameters"] and not results["peer_0"]["raised"]
    if table == "compress":
        assert results["early_0"]["parameters"] < 0.6 * results["dense_0"]["parameters"]
    if table == "expand":
        found = results["ck_fc_0"]
        assert found["contracted_parameters"] == results["compact_lr0.01_0"]["parameters"] < found["parameters"]
        assert found["contraction_error"] < 1e-4


def test_expand_tells_of_the_seeds_that_both_arms_have_at_their_best_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module("benchmarks.tables.expand.table")
    monkeypatch.setattr(module, "open_task", lambda _: toy())
    rates = module.SETTINGS["small"]["rates"]
    scores = {"compact": [70.0, 73.0, 71.0], "ck": [75.0, 74.0, 72.0]}  # by rate, seed 0
    found = {
        f"{arm}_lr{rate:g}_0": score for arm, row in scores.items() for rate, score in zip(rates, row, strict=True)
    }
    found |= {f"compact_lr{rates[1]:g}_1": 73.5, f"ck_lr{rates[0]:g}_1": 75.5, f"ck_lr{rates[2]:g}_2": 99.0}
    plain = {"loss": 0.5, "train_seconds": 1.0, "contraction_error": 1e-6, "parameters": 9, "contracted_parameters": 4}
    results = {
        name: plain
        | {"score_percent": score, "contracted_score_percent": score, "rate": float(name.split("_lr")[1][:-2])}
        for name, score in found.items()
    }
    request = Request(table="expand", data=Path("toy"), data_kind="cifar10", seeds=3)
    report = module.report(request, results)
    assert "CK is +2.00 (+2.00 to +2.00) points" in report.body and "2 seeds" in report.body
    assert report.figures["ck"]["score_percent"] == [75.0, 75.5] and "ck_fc" not in report.figures
    del results[f"ck_lr{rates[0]:g}_0"]
    with pytest.raises(InputError, match="ck has not been trained at every learning rate"):
        module.report(request, results)


def test_batches_are_the_same_for_a_seed_and_mirror_labels_with_images() -> None:
    task = toy()
    first, second = ([batch.images for batch in Epoch(task, 3, 1)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and len(first) == 2
    assert not torch.equal(first[0], next(iter(Epoch(task, 3, 2))).images)
    maps = task.train.images[:, 0].long() % 4  # one label a pixel, told by the pixel itself
    marked = Task(Labelled(task.train.images, maps), task.test, 4, "mIoU", 16, 0)
    for batch in Epoch(marked, 0, 0):
        assert torch.equal(batch.images[:, 0].long() % 4, batch.labels)


def test_every_frame_is_cut_out_of_its_padded_self() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (7, 3, 5, 6), generator=generator).to(torch.uint8)
    corners = torch.randint(0, 5, (7, 2), generator=generator)
    padded = torch.zeros(7, 3, 9, 10, dtype=torch.uint8)
    padded[:, :, 2:7, 2:8] = images
    slow = [padded[k, :, y : y + 5, x : x + 6] for k, (y, x) in enumerate(corners.tolist())]
    assert torch.equal(shrinking.shifted(images, corners, 2), torch.stack(slow))


def test_training_cost_counts_the_smaller_network_only_after_it_shrank() -> None:
    task = toy()
    network = seeded(lambda: shrinking.small_classifier(task), 0)
    dense = count_macs(network, task.shape)

    def shrink(epoch: int, trained: torch.nn.Module, _: object) -> None:
        if epoch == 1:
            trained[3] = torch.nn.Conv2d(32, 64, 3, stride=2, padding=1)

    found = train_arm(task, network, request_for("prune"), epochs=3, learning_rate=1e-3, seed=0, after_epoch=shrink)
    assert found["macs"] < dense and found["train_macs"] == 32 * (2 * dense + found["macs"])


def test_structured_takes_the_structure_and_not_the_weights() -> None:
    task = toy()
    pytest.importorskip("torch_pruning")
    network = seeded(lambda: shrinking.small_classifier(task), 0)
    last = list(network.modules())[-1]
    step, epoch, raised = torch_pruning_hooks(network, task, ratio=0.5, epoch=0, multiple_of=8, outputs=[last])
    hooks: dict[str, Any] = {"after_step": step, "after_epoch": epoch}
    train_arm(task, network, request_for("prune"), epochs=2, learning_rate=1e-3, seed=0, **hooks)
    other = structured(lambda: shrinking.small_classifier(task), describe_leaves(network), 5)
    assert describe_leaves(other) == describe_leaves(network) and raised == []
    assert not torch.equal(next(other.parameters()), next(network.parameters()))
