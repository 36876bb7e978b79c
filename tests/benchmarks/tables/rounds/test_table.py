"""The table of rounds at a tiny size: on streets and on folders of three layouts, and how boxes become what is learnt."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.tables.command import table as command
from benchmarks.tables.data import data_kind
from benchmarks.tables.rounds import frames, table
from components.stage.program import run_program
from perception.data.detection import read_kitti_detections
from perception.errors import InputError

TINY = replace(
    table.PLANS["small"], size_px=(32, 64), pool_frames=12, test_frames=3, first_frames=2, steps=2, width=0.25
)


def run(tmp_path: Path, *more: str) -> str:
    """Run the table and return its page."""
    frames.open_frames.cache_clear()
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert run_program(command, ["rounds", "--seeds", "1", *folders, *more], "table") == 0
    return (tmp_path / "out" / "rounds.md").read_text()


def cell(tmp_path: Path, section: str, name: str) -> dict:
    return json.loads((tmp_path / "work/rounds" / section / f"{name}.json").read_text())["found"]


def picture(path: Path, height: int = 96, width: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(int.from_bytes(path.stem.encode()) % 1000).integers(0, 256, (height, width, 3))
    cv2.imwrite(str(path), noise.astype(np.uint8))


def kitti(root: Path, count: int) -> Path:
    rest = "-1 -1 -1 -1000 -1000 -1000 -10"
    for number in range(count):
        picture(root / "training/image_2" / f"{number:06d}.png")
        lines = [f"Car 0.0 0 0 {20 + number} 30 90 80 {rest}", f"Pedestrian 0.0 1 0 100 20 130 90 {rest}",
                 f"Van 0.0 0 0 140 20 180 60 {rest}", f"DontCare -1 -1 -10 0 0 20 20 {rest}",
                 f"Cyclist 0.0 0 0 150 50 190 90 {rest}"]  # fmt: skip
        path = root / "training/label_2" / f"{number:06d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    return root


def coco(root: Path, count: int) -> Path:
    for number in range(count):
        picture(root / "train2017" / f"{number:012d}.png")
    images = [{"id": n, "file_name": f"{n:012d}.png", "height": 96, "width": 200} for n in range(count)]
    boxes = [
        {"id": n + 1, "image_id": n, "category_id": 1 + n % 2, "bbox": [20, 20, 60, 50], "area": 3000}
        for n in range(count)
    ]
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return root


def bdd100k(root: Path, count: int) -> Path:
    box = {"x1": 20, "y1": 20, "x2": 90, "y2": 80}
    labels = [
        {"id": "0", "category": "car", "box2d": box},
        {"id": "1", "category": "person", "box2d": box, "attributes": {"crowd": True}},
    ]
    names = [f"{n:08x}-{n:08x}.jpg" for n in range(count)]
    for name in names:
        picture(root / "images/100k/train" / name)
    (root / "labels/det_20").mkdir(parents=True)
    (root / "labels/det_20/det_train.json").write_text(json.dumps([{"name": name, "labels": labels} for name in names]))
    return root


def test_streets_are_labelled_by_rounds_and_a_second_call_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(table.PLANS, "small", TINY)
    page = run(tmp_path)
    assert "| chosen | 2 frames | 4 frames | 8 frames |" in page and "| uncertain and apart |" in page
    first = cell(tmp_path, "scenes-small", "first-seed0-2")["labelled"]
    again = cell(tmp_path, "scenes-small", "k_centre-seed0-4")["labelled"]["k_centre"]
    assert first["random"][:2] == first["k_centre"][:2] and again[:4] == first["k_centre"] and len(set(again)) == 8
    assert cell(tmp_path, "scenes-small", "k_centre-seed0-8")["labelled"] == {}
    capsys.readouterr()
    assert run(tmp_path) == page and "[1/" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        (kitti, ("car easy", "pedestrian moderate", "cyclist hard")),
        (coco, ("dog", "cat")),
        (bdd100k, ("car", "pedestrian", "traffic sign")),
    ],
)
def test_folders_are_read_and_judged_by_their_own_classes(
    layout, rows: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.PLANS, "small", replace(TINY, members=1))
    folder = layout(tmp_path / "data", 12)
    assert data_kind(folder) == layout.__name__
    page = run(tmp_path, "--data", str(folder))
    assert all(f"| {row} |" in page for row in rows)
    written = list((tmp_path / "work").rglob("detections/k_centre-seed0-8"))
    assert len(written) == (layout is kitti)
    assert all(len(read_kitti_detections(each)) == 2 for each in written)


def test_a_pool_smaller_than_the_schedule_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames.open_frames.cache_clear()
    folder = kitti(tmp_path / "data", 4)
    arguments = ["rounds", "--data", str(folder), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert run_program(command, arguments, "table") == 2
    assert "are to be labelled in the end" in capsys.readouterr().err
    with pytest.raises(InputError, match="at least one each"):
        frames.open_frames(kitti(tmp_path / "one", 1), "kitti", (32, 64), 4, 2, 1)


def test_what_is_like_a_class_or_not_labelled_is_neither_learnt_nor_counted(tmp_path: Path) -> None:
    pool, test = frames.open_frames(kitti(tmp_path / "data", 4), "kitti", (96, 200), 3, 1, 1)
    assert pool.classes == ("car", "pedestrian", "cyclist") and pool.scales is not None and np.all(pool.scales == 1)
    objects = pool.objects[0]
    assert objects.class_ids[~objects.crowd].tolist() == [0, 1, 2]
    crowds = {tuple(box) for box in objects.boxes[objects.crowd].tolist()}
    assert crowds == {(140.0, 20.0, 180.0, 60.0), (0.0, 0.0, 20.0, 20.0)}
    assert test.counts == {"judged": 12, "like a judged class": 4, "crowds and regions without labels": 4}
    encoded = frames.targets(pool).fields
    assert encoded["boxes"][0, :3].tolist() != [[0] * 4] * 3 and int((encoded["places"][0] >= 0).sum()) == 3
    assert encoded["judged"][0, :4, :4].eq(0).all() and torch.isclose(
        encoded["side_weights"][0].sum(), torch.tensor(3.0), atol=1.0
    )
