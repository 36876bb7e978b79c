"""The adaptation table: batches varied on the device, the pieces it judges, and one tiny run to the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.tables import batches, frames
from benchmarks.tables.adaptation import plan, report
from benchmarks.tables.batches import Variation
from benchmarks.tables.command import table as command
from benchmarks.tables.runner import Request
from components.stage.program import run_program
from perception.adaptation.detector_training import DetectionBatch, TargetSettings, class_channels, encode_targets
from perception.data.taxonomies import label_lookup, load_taxonomy
from perception.errors import InputError

STILL = Variation(zoom=(1.0, 1.0), color=0.0, tint=0.0, gamma=0.0, noise=0.0, blur_share=0.0)


def batch_of(instances: np.ndarray) -> DetectionBatch:
    target = encode_targets(instances, class_channels((11, 13)), 2, TargetSettings(most_instances=4))
    image = torch.from_numpy((instances % 251).astype(np.uint8))[None, None].expand(1, 3, -1, -1)
    return DetectionBatch(images=image, **{name: torch.from_numpy(value)[None] for name, value in target.items()})


def test_a_mirrored_batch_says_what_mirrored_instances_say():
    instances = np.zeros((64, 96), np.uint16)
    instances[20:50, 12:68] = (
        13001  # even sizes and multiples of four: centres of mirrored things fall on mirrored places
    )
    instances[24:48, 28:36] = 11001
    mirrored = batches.mirrored(batch_of(instances), torch.tensor([True]))
    expected = batch_of(np.ascontiguousarray(instances[:, ::-1]))
    for name in ("images", "numbers", "judged"):
        assert torch.equal(getattr(mirrored, name), getattr(expected, name)), name
    assert torch.equal(mirrored.boxes[:, :2], expected.boxes[:, :2])  # the other rows are padding
    # The centre of an even number of places is one of two: one place off, with the same box around.
    assert (mirrored.places - expected.places).abs().max() <= 1
    columns = torch.arange(24) * 4.0 + 2
    left, _, right, _ = mirrored.sides[0].unbind()
    used = mirrored.side_weights[0] > 0
    boxes = torch.stack([(columns - left)[used], (columns + right)[used]], 1)
    assert {tuple(box) for box in boxes.tolist()} == {(28.0, 84.0), (60.0, 68.0)}


def test_unmirrored_frames_stay_as_they_are():
    instances = np.zeros((64, 96), np.uint16)
    instances[20:50, 12:68] = 13001
    batch = batch_of(instances)
    same = batches.mirrored(batch, torch.tensor([False]))
    assert all(torch.equal(getattr(batch, name), getattr(same, name)) for name in ("places", "boxes", "sides", "heat"))


def test_labels_move_with_their_images():
    labels = torch.zeros(6, 32, 48, dtype=torch.uint8)
    labels[:, 8:20, 10:30] = 1
    images = labels[:, None].float().expand(-1, 3, -1, -1)
    generator = torch.Generator().manual_seed(4)
    pixels, classes = batches.moved(images, labels, replace(STILL, zoom=(0.6, 1.8)), generator)
    known = classes != 255
    assert 0 < known.float().mean() < 1 and set(classes.unique().tolist()) == {0, 1, 255}
    wrong = ((pixels[:, 0] > 0.5) != (classes == 1)) & known
    assert wrong.float().mean() < 0.02  # edges alone


def test_no_variation_changes_nothing_but_the_mirror():
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    torch.testing.assert_close(batches.recolored(images, STILL, generator), images.clamp(1e-4, 1))
    pixels, _ = batches.moved(images, torch.zeros(5, 16, 16, dtype=torch.uint8), STILL, generator)
    for moved, image in zip(pixels, images, strict=True):
        assert min(float((moved - each).abs().max()) for each in (image, image.flip(2))) < 1e-5


def test_instances_take_the_classes_of_the_target():
    camvid, lookup = load_taxonomy("camvid11"), label_lookup("cityscapes19", "camvid11")
    instances = np.array([[0, 13002, 15001, 7003, 12004]], np.uint16)  # car, bus, traffic sign, rider
    named = frames._in_taxonomy(instances, lookup, camvid)
    assert named.tolist() == [[0, 8002, 8001, 6003, 10004]]


def results(seeds: int, **rows: float) -> dict:
    return {
        f"{cell}-seed{seed}": {"iou": [value + seed] * 10 + [None], "iou_thresholded": [value + seed] * 11}
        | {"coverage": 50.0, "precision": 80.0, "score_threshold": 0.3}
        for cell, value in rows.items()
        for seed in range(seeds)
    }


def test_the_share_of_the_gap_that_is_closed():
    request = Request(table="adaptation", data=None, data_kind="camvid", seeds=2)
    taxonomy = load_taxonomy("camvid11")
    found = results(2, source=20.0, joint=25.0, fused=30.0, plain=28.0, pseudo=35.0, full=40.0, longer=45.0)
    body, figures = report.page(plan.PLANS["small"], request, taxonomy, found)
    assert "| fused + pseudo-labels | 35.5 ± 0.7 | 35.5 ± 0.7 | 35.5 ± 0.7 | 75 % | 60 % |" in body
    assert figures["rows"]["joint baseline"]["mIoU"] == [25.0, 26.0]
    without, _ = report.page(plan.PLANS["small"], request, taxonomy, results(2, source=20.0, fused=30.0))
    assert "fully supervised" not in without.split("###")[1] and "gap closed" not in without
    with pytest.raises(InputError, match="the row of the source alone is not done"):
        report.page(plan.PLANS["small"], request, taxonomy, results(2, fused=30.0))


def test_a_tiny_table_runs_to_its_page(tmp_path, monkeypatch):
    tiny = replace(
        plan.PLANS["small"], street_px=(32, 64), simulator_frames=4, foreground_frames=2, held_out_frames=2,
        street_frames=2, street_test_frames=2, batch_frames=4, steps=2, student_steps=2, detector_steps=2, rounds=1,
    )  # fmt: skip
    monkeypatch.setitem(plan.PLANS, "small", tiny)
    arguments = ["adaptation", "--seeds", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert run_program(command, arguments, "table") == 0
    page = (tmp_path / "out" / "adaptation.md").read_text()
    assert all(f"| {row} |" in page for row in report.ROWS)
    found = json.loads((tmp_path / "work/adaptation/scenes-small/pseudo-seed0.json").read_text())["found"]
    assert 0 <= found["coverage"] <= 100 and len(found["iou"]) == 19
