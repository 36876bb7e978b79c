"""What the table of rounds learns from and is judged on: frames in memory with their boxes, rendered or out of a folder."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.tables.frames import STREET_DRIVES, Instances, rendered
from perception.adaptation.detector_quality import labelled_objects
from perception.adaptation.detector_training import TargetSettings, encode_objects
from perception.data.detection import DetectionFrame, DetectionSet, read_bdd100k_boxes, read_coco, read_kitti
from perception.data.detection.boxes import load_image
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.metrics.detection import Objects
from perception.metrics.kitti import LEAST_OVERLAP, NEIGHBOURS, KittiLabels
from perception.simulator.world import World

WORLD_SEED = 7
MOST_INSTANCES = 24  # that a detector learns in a frame, the largest
VEHICLES = ("car", "truck", "bus", "train")  # the one class that is learnt on streets
HIDDEN = "of too few visible pixels"
NOT_LEARNT = "of classes that are not learnt"
SMALLEST_PX = 8  # boxes with a shorter side are crowds: at these sizes they are two places of the heat map wide
READERS: dict[str, Callable[[Path], DetectionSet]] = {
    "kitti": read_kitti,
    "bdd100k": lambda root: read_bdd100k_boxes(root, "train"),
    "coco": lambda root: read_coco(*_coco_part(root)),
}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of one size and the boxes in them.

    images: (frame, 3, height, width) uint8. objects: what a frame holds, in its pixels; crowds are neither learnt nor
    counted. drives: of each frame. kitti: the labels as KITTI judges them, in the file's pixels, and scales: (frame, 4) the
    file's pixels in one of ours; both are empty for other sets.
    """

    classes: tuple[str, ...]
    images: Tensor
    objects: tuple[Objects, ...]
    drives: tuple[str, ...]
    kitti: tuple[KittiLabels, ...] = ()
    scales: NDArray[np.float64] | None = None
    found_frames: int = 0  # in all, those beyond what is used included
    # Of the test part: what both parts hold, judged objects and those that are left out, by reason.
    counts: Mapping[str, int] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> "Frames":
        """Return some of the frames."""
        return Frames(
            classes=self.classes,
            images=self.images[list(rows)],
            objects=tuple(self.objects[row] for row in rows),
            drives=tuple(self.drives[row] for row in rows),
            kitti=tuple(self.kitti[row] for row in rows) if self.kitti else (),
            scales=None if self.scales is None else self.scales[list(rows)],
        )


@lru_cache(maxsize=1)
def open_frames(
    data: Path | None, kind: str, size: tuple[int, int], pool: int, test: int, workers: int
) -> tuple[Frames, Frames]:
    """Return a pool of at most `pool` frames and at most `test` others of other drives; size: (height, width) in pixels."""
    if data is None:
        found = _streets(size, pool + test, workers)
        parts = found.take(range(pool)), found.take(range(pool, pool + test))
        return parts[0], replace(parts[1], counts=found.counts, found_frames=pool + test)
    read = READERS[kind](data)
    drives = [frame.drive_id or frame.frame_id for frame in read.frames]
    order = np.random.default_rng(0).permutation(sorted(set(drives)))
    share = test / (pool + test)
    tested = set(order[: max(1, round(share * len(order)))].tolist())
    parts = [[frame for frame, drive in zip(read.frames, drives, strict=True) if (drive in tested) == to_test]
             for to_test in (False, True)]  # fmt: skip
    if not all(parts):
        raise InputError(f"DATA = {data}: {len(set(drives))} drives; a pool and a test part need at least one each")
    kept, judged = (
        _decoded(read.classes, frames[:most], kind, size) for frames, most in zip(parts, (pool, test), strict=True)
    )
    return kept, replace(judged, counts=Counter(kept.counts) + Counter(judged.counts), found_frames=len(read))


def targets(frames: Frames) -> Instances:
    """Encode what a detector is to say about frames."""
    height, width = frames.images.shape[-2:]
    settings = TargetSettings(most_instances=MOST_INSTANCES)
    encode = partial(encode_objects, height_px=height, width_px=width, classes=len(frames.classes), settings=settings)
    encoded = [encode(each) for each in frames.objects]
    fields = {name: torch.from_numpy(np.stack([each[name] for each in encoded])) for name in encoded[0]}
    return Instances(fields={"images": frames.images} | fields)


def _streets(size: tuple[int, int], count: int, workers: int) -> Frames:
    """Render one street frame a drive; a thing's box is that of its visible pixels."""
    taxonomy, drives = load_taxonomy("cityscapes19"), range(STREET_DRIVES, STREET_DRIVES + count)
    class_ids = [taxonomy.classes.index(name) for name in VEHICLES]
    found = rendered(World(), "street", taxonomy, WORLD_SEED, drives, size, workers)
    labelled = [labelled_objects(each, class_ids, TargetSettings().smallest_area_px) for each in found.instances]
    counts: Counter[str] = Counter()
    objects = [
        _sorted_out(each.boxes, np.zeros_like(each.class_ids), np.where(each.crowd, HIDDEN, ""), 1, counts)
        for each in labelled
    ]
    return Frames(
        classes=("car",),
        images=found.images,
        objects=tuple(objects),
        drives=tuple(str(number) for number in range(count)),
        counts=counts,
    )


def _sorted_out(
    boxes: NDArray[Any], class_ids: NDArray[Any], reasons: NDArray[np.str_], classes: int, counts: Counter[str]
) -> Objects:
    """Return what counts, and as crowds what excuses a detection; add to the counts what is judged and what is left out, and why.

    boxes: (object, 4); class_ids: (object,), -1 of a region that excuses what is found there in any class; reasons:
    (object,) why it is left out, empty for what counts. Boxes with a side below SMALLEST_PX are left out too.
    """
    small = (boxes[:, 2:] - boxes[:, :2] < SMALLEST_PX).any(axis=1) & (reasons == "")
    reasons = np.where(small, f"smaller than {SMALLEST_PX} pixels", reasons)
    counts.update(reason or "judged" for reason in reasons.tolist())
    kept = reasons != NOT_LEARNT
    anywhere = kept & (class_ids < 0)
    named = kept & ~anywhere
    everywhere = np.tile(np.arange(classes), int(anywhere.sum()))
    return Objects(
        boxes=np.concatenate([boxes[named], np.repeat(boxes[anywhere], classes, axis=0)]),
        class_ids=np.concatenate([class_ids[named], everywhere]),
        crowd=np.concatenate([reasons[named] != "", np.ones(len(everywhere), bool)]),
    )


def _decoded(classes: Sequence[str], frames: Sequence[DetectionFrame], kind: str, size: tuple[int, int]) -> Frames:
    """Read frames at one size. Of KITTI the classes that it judges are learnt; what is like them is a crowd."""
    names = [name.lower() for name in classes]
    learnt = [name for name in names if name in LEAST_OVERLAP] if kind == "kitti" else names
    channels = np.array([learnt.index(name) if name in learnt else -1 for name in names])
    images, objects, scales, counts = [], [], [], Counter[str]()
    for frame in frames:
        image = load_image(frame)
        scale = np.tile(np.array(image.shape[1::-1]) / size[::-1], 2)
        images.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
        scales.append(scale)
        reasons = _reasons(frame, names, learnt)
        objects.append(_sorted_out(frame.boxes / scale, channels[frame.labels], reasons, len(learnt), counts))
    return Frames(
        classes=tuple(learnt),
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        objects=tuple(objects),
        drives=tuple(frame.drive_id or frame.frame_id for frame in frames),
        kitti=tuple(_kitti_labels(frame, names) for frame in frames) if kind == "kitti" else (),
        scales=np.stack(scales),
        counts=counts,
    )


def _reasons(frame: DetectionFrame, names: Sequence[str], learnt: Sequence[str]) -> NDArray[np.str_]:
    """Say for every object of a frame why it is left out: (object,), empty for what counts."""
    kinds = np.array([names[label] for label in frame.labels], str)
    reasons = np.where(np.isin(kinds, learnt), "", NOT_LEARNT)
    reasons = np.where(
        np.isin(kinds, tuple(NEIGHBOURS.values())) & ~np.isin(kinds, learnt), "like a judged class", reasons
    )
    return np.where(frame.ignored, "crowds and regions without labels", reasons)


def _kitti_labels(frame: DetectionFrame, names: Sequence[str]) -> KittiLabels:
    kinds = [names[label] for label in frame.labels]
    return KittiLabels(kinds=kinds, boxes=frame.boxes, truncation=frame.truncated, occlusion=frame.occluded)


def _coco_part(root: Path) -> tuple[Path, Path]:
    """Return the instances file of the train part, and the folder of its images, which has the part's name."""
    (annotations, *_) = sorted((root / "annotations").glob("instances_train*.json"))
    return annotations, root / annotations.stem.removeprefix("instances_")
