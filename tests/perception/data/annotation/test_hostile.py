"""What an outsider's label drop holds costs its own frame or drop, in little memory and time, whatever it is."""

import os
from pathlib import Path

import pytest

from perception.data.annotation import read_label
from perception.data.decoding import BadFrame
from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import (
    HEIGHT,
    NOTHING,
    WIDTH,
    annotate,
    box,
    change_manifest,
    held,
    outline,
    returned,
)

RUNS = {"size": [HEIGHT, WIDTH]}
JSON_FILES = {
    "nested deep": "[" * 100_000,
    "nested deep in an object": '{"annotations": ' + "[" * 100_000,
    "a number": "7",
    "a list of numbers": "[1, 2]",
    "a list of lists": "[[], []]",
    "a task that is a list": '[{"data": [], "annotations": []}]',
    "annotations that are numbers": '[{"data": {"image": "frame0.png"}, "annotations": [1]}]',
    "a value that is a number": '[{"data": {"image": "a"}, "annotations": [{"result": '
    '[{"type": "x", "original_width": 1, "original_height": 1, "value": 3}]}]}]',
    "annotations that are text": '{"annotations": "x", "images": [], "categories": []}',
    "images that are numbers": '{"annotations": [], "images": [1], "categories": []}',
    "ids that are lists": '{"annotations": [{"id": []}], "images": [{"id": []}], "categories": []}',
    "digits without end": '{"annotations": ' + "9" * 5000 + "}",
}


@pytest.fixture
def drop(drop: Path) -> Path:
    """A batch with its drop.json and one good label, of frame1."""
    outline(drop, "frame1", [{"label": "road", "polygon": box(0, 0, 31, 23)}])
    return drop


def read_all(drop: Path, store: FolderStore) -> tuple[list[str], list[BadFrame]]:
    """Return the frames that are labelled, and what is wrong with others."""
    good, bad = [], []
    for each in returned(drop.parent):
        try:
            if read_label(each, "cityscapes19", store):
                good.append(each.frame_id)
        except BadFrame as problem:
            bad.append(problem)
    return good, bad


@pytest.mark.parametrize("text", JSON_FILES.values(), ids=JSON_FILES)
def test_json_of_any_shape_costs_its_own_drop(drop: Path, store: FolderStore, text: str) -> None:
    (drop.parent / "odd.json").write_text(text)
    good, bad = read_all(drop, store)
    assert good == ["frame1"]
    assert len(bad) == 1 and "odd.json" in str(bad[0])


@pytest.mark.parametrize(
    "counts", [[-5, HEIGHT * WIDTH + 5], [2**32 + HEIGHT * WIDTH], [1.5, 2], ["x"], [[1]], [True], [10**30]]
)
def test_run_lengths_that_are_none_are_never_drawn(
    drop: Path, store: FolderStore, counts: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocotools import mask

    def draw(*arguments: object) -> None:
        raise AssertionError(f"cocoapi writes beyond its memory with {arguments}")

    monkeypatch.setattr(mask, "frPyObjects", draw)
    annotate(drop, [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": RUNS | {"counts": counts}}])
    good, bad = read_all(drop, store)
    assert good == ["frame1"]
    assert len(bad) == 1 and "run lengths do not add up" in str(bad[0])


def test_a_pipe_and_an_endless_device_are_no_drops(drop: Path, store: FolderStore) -> None:
    (drop / "labels").mkdir()
    os.mkfifo(drop / "labels" / "frame0.png")
    (drop / "labels" / "frame2.png").symlink_to("/dev/zero")
    os.mkfifo(drop.parent / "pipe.zip")
    os.mkfifo(drop.parent / "pipe.json")
    (drop.parent / "endless.xml").symlink_to("/dev/zero")
    good, bad = read_all(drop, store)
    assert good == ["frame1"]
    assert {name for name in ("pipe.zip", "pipe.json", "endless.xml") if any(name in str(each) for each in bad)} == {
        "pipe.zip",
        "pipe.json",
        "endless.xml",
    }


def test_an_image_that_the_store_does_not_have_costs_its_frame(drop: Path, store: FolderStore) -> None:
    sha256 = "ab" * 32
    change_manifest(drop, image_sha256=sha256, image_uri=f"sha256/ab/{sha256}.png")
    good, bad = read_all(drop, store)
    assert good == [] and len(bad) == 1 and "the store has no sha256/ab/" in str(bad[0])


def test_a_drops_own_manifest_says_nothing_of_a_frame(drop: Path) -> None:
    known = held(drop)
    change_manifest(drop, drive_id="elsewhere", weather="fog", width_px=100_000, height_px=100_000)
    truth = {row.frame_id: (row.drive_id, row.weather, row.width_px) for row in known.itertuples()}
    (label,) = returned(drop, known)
    assert (label.facts.drive_id, label.facts.weather, label.facts.width_px) == truth[label.frame_id]
    assert [each.problem.rule for each in returned(drop, NOTHING)] == ["no batch holds this frame"]
    (drop / "manifest.parquet").write_bytes(b"none")
    assert [each.problem for each in returned(drop, known)] == [None]
