"""Class numbers, scores and outputs that are out of range or no numbers, and shares of broken frames that are asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from components.ingest.sources import Source
from perception.data.manifest import COLUMNS, read_manifest
from perception.data.store import FolderStore
from perception.errors import InputError
from perception.metrics.detection import Objects, average_precision
from perception.metrics.kitti import KittiDetections, KittiLabels, kitti_ap
from perception.quality.intake import (
    SourceRules,
    admit_frames,
    check_source,
    join_intakes,
    read_intake,
    write_frames_folder,
)
from perception.training.loop import batch_logits
from tests.cases.test_decoders import INTAKE, PLAIN, SIZE, arrival, grey_bits, stored
from tests.cases.test_decoders import VALUES as LABEL

BOXES = np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]])


def found(ids: list[int], scores: list[float] | None = None, boxes: np.ndarray = BOXES) -> Objects:
    return Objects(boxes=boxes, class_ids=np.array(ids), scores=None if scores is None else np.array(scores))


def test_ids_and_scores_of_average_precision() -> None:
    labels, good = [found([0, 1])], [found([0, 1], [0.9, 0.8])]
    assert average_precision(labels, good, 2).ap == pytest.approx(1)
    for kind, given in (("labels", [found([1, 2])]), ("labels", [found([-1, 0])])):
        with pytest.raises(InputError, match=rf"{kind} of frame 0 hold class id (2|-1), must be 0\.\.1: count from 0"):
            average_precision(given, good, 2)
    with pytest.raises(InputError, match="detections of frame 0 hold class id 2"):
        average_precision(labels, [found([1, 2], [0.9, 0.8])], 2)
    for broken in (found([0, 1], [0.9, float("nan")]), found([0, 1], [0.9, 0.8], BOXES * np.nan)):
        with pytest.raises(InputError, match="detections of frame 0 hold a box or score that is no finite number"):
            average_precision(labels, [broken], 2)


def test_scores_of_kitti() -> None:
    truth = [
        KittiLabels(
            kinds=["car"], boxes=np.array([[0.0, 0, 50, 50]]), truncation=np.zeros(1), occlusion=np.zeros(1, np.int64)
        )
    ]
    broken = [KittiDetections(kinds=["car"], boxes=np.array([[0.0, 0, 50, 50]]), scores=np.array([np.nan]))]
    with pytest.raises(InputError, match="detections of frame 0 hold a box or score that is no finite number"):
        kitti_ap(truth, broken, "car")


class Spoilt(nn.Module):
    """Give NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 19, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images) * float("nan")


def test_a_network_that_gives_nan_has_no_confusion(tmp_path: Path) -> None:
    from perception.data.loading import FrameSet, LoadSettings, ordered_batches

    store = FolderStore(tmp_path)
    settings = LoadSettings(height_px=SIZE[0], width_px=SIZE[1], taxonomy="cityscapes19")
    with pytest.raises(InputError, match="the network gives NaN or infinity"):
        batch_logits(Spoilt(), next(ordered_batches(FrameSet(stored(store, PLAIN), store, settings), 1)))


# ---------------------------------------------------------------- broken frames of a labelled source


def source(**given: object) -> Source:
    return Source(
        **({"format": "gta5", "path": "x", "domain": "synthetic", "split": "train", "labels": "given"} | given)
    )


def test_the_share_of_broken_frames_that_is_asked_for_holds(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    arrivals = [arrival(PLAIN if number else grey_bits(LABEL % 4, 2)) for number in range(10)]
    for number, each in enumerate(arrivals):
        type(each.facts).frame_id = f"f{number}"
    taken = admit_frames(arrivals, 10, store, INTAKE)
    assert len(taken.rejected) == 1

    def gathered(given: Source, known: int = 0) -> None:
        rule = SourceRules(format=given.format, labels=given.labels, max_rejected_fraction=given.tolerated_fraction())
        check_source(taken, "s", rule, known)

    gathered(source(max_rejected_fraction=0.2))
    gathered(source(max_rejected_fraction=0.05), known=10)
    for given in (source(), source(max_rejected_fraction=0.05)):
        with pytest.raises(InputError, match=r"1 of 10 files of source 's' are broken, (none|at most 5%) may be"):
            gathered(given)
    assert source(labels="none").tolerated_fraction() == 0.1
    assert source(split="test", max_rejected_fraction=0.0).tolerated_fraction() == 0
    with pytest.raises(InputError, match="a test set with a frame missing is another test set"):
        source(split="test", max_rejected_fraction=0.2)


# ---------------------------------------------------------------- columns whose values are all missing


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_column_that_is_missing_in_one_batch_keeps_its_type_and_values(
    order: tuple[int, int], tmp_path: Path
) -> None:
    store, folders = FolderStore(tmp_path / "store"), []
    for number in (0, 1):
        each = arrival(PLAIN)
        facts = type(each.facts)
        facts.frame_id, facts.weather, facts.camera = f"f{number}", ["rain", None][number], None
        intake = admit_frames([each], 1, store, INTAKE)
        write_frames_folder(replace(intake, read=intake.read.assign(signature="1:1")), folder := tmp_path / str(number))
        folders.append(read_intake(folder))
    frames = join_intakes([folders[number] for number in order]).manifest
    (tmp_path / "frames").mkdir()
    write_frames_folder(join_intakes([folders[number] for number in order]), tmp_path / "frames")
    again = read_manifest(tmp_path / "frames" / "manifest.parquet")
    for table in (frames.sort_values("frame_id"), again):
        assert table.weather.isna().tolist() == [False, True] and table.weather.iloc[0] == "rain"
        assert table.camera.isna().all() and table.instances_uri.isna().all() and table.timestamp_utc.isna().all()
    kinds = {field.name: field.type for field in pq.read_schema(tmp_path / "frames" / "manifest.parquet")}
    assert {name: kinds[name] for name in COLUMNS.names} == {field.name: field.type for field in COLUMNS}
    (tmp_path / "alone").mkdir()
    write_frames_folder(folders[1], tmp_path / "alone")
    alone = read_manifest(tmp_path / "alone" / "manifest.parquet")
    assert alone.weather.isna().all() and len(alone) == 1
