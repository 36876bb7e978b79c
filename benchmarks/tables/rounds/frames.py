"""What the table of rounds learns from and is judged on: frames in memory with their boxes, rendered or out of a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.tables.frames import STREET_DRIVES, Instances, street
from perception.adaptation.detector_quality import labelled_objects
from perception.adaptation.detector_training import TargetSettings, encode_objects
from perception.data.decoding import decode_image
from perception.data.detection import DetectionFrame, DetectionSet, read_bdd100k_boxes, read_coco, read_kitti
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.metrics.detection import Objects
from perception.metrics.kitti import LEAST_OVERLAP, KittiLabels
from perception.simulator.world import World

WORLD_SEED = 7
MOST_INSTANCES = 24  # that a detector learns in a frame, the largest
STREET_CLASSES = {  # KITTI's, of the 19 that are rendered
    "car": ("car", "truck", "bus", "train"),
    "pedestrian": ("person",),
    "cyclist": ("rider", "motorcycle", "bicycle"),
}
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
        return found.take(range(pool)), found.take(range(pool, pool + test))
    read = READERS[kind](data)
    drives = [frame.drive_id or frame.frame_id for frame in read.frames]
    order = np.random.default_rng(0).permutation(sorted(set(drives)))
    share = test / (pool + test)
    tested = set(order[: max(1, round(share * len(order)))].tolist())
    parts = [[frame for frame, drive in zip(read.frames, drives, strict=True) if (drive in tested) == to_test]
             for to_test in (False, True)]  # fmt: skip
    if not all(parts):
        raise InputError(f"DATA = {data}: {len(set(drives))} drives; a pool and a test part need at least one each")
    return tuple(  # type: ignore[return-value]
        _decoded(read.classes, frames[:most], kind, size) for frames, most in zip(parts, (pool, test), strict=True)
    )


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
    classes = load_taxonomy("cityscapes19").classes
    kind_of = {classes.index(name): kind for kind, names in enumerate(STREET_CLASSES.values()) for name in names}
    class_ids, kinds = list(kind_of), np.array(list(kind_of.values()))
    found = street(World(), WORLD_SEED, STREET_DRIVES, count, size, workers)
    smallest = TargetSettings().smallest_area_px
    labelled = [labelled_objects(each, class_ids, smallest) for each in found.instances]
    return Frames(
        classes=tuple(STREET_CLASSES),
        images=found.images,
        objects=tuple(
            Objects(boxes=each.boxes, class_ids=kinds[each.class_ids], crowd=each.crowd) for each in labelled
        ),
        drives=tuple(str(number) for number in range(count)),
    )


def _decoded(classes: Sequence[str], frames: Sequence[DetectionFrame], kind: str, size: tuple[int, int]) -> Frames:
    """Read frames at one size. Of KITTI the classes that it judges are learnt; what is like them is a crowd."""
    names = [name.lower() for name in classes]
    learnt = [name for name in names if name in LEAST_OVERLAP] if kind == "kitti" else names
    channels = np.array([learnt.index(name) if name in learnt else -1 for name in names])
    images, objects, scales = [], [], []
    for frame in frames:
        image = decode_image(frame.image_path.read_bytes(), frame.image_path)
        scale = np.tile(np.array(image.shape[1::-1]) / size[::-1], 2)
        images.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
        scales.append(scale)
        objects.append(_objects(frame, names, channels, scale))
    return Frames(
        classes=tuple(learnt),
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        objects=tuple(objects),
        drives=tuple(frame.drive_id or frame.frame_id for frame in frames),
        kitti=tuple(_kitti_labels(frame, names) for frame in frames) if kind == "kitti" else (),
        scales=np.stack(scales),
    )


def _objects(
    frame: DetectionFrame, names: Sequence[str], channels: NDArray[np.int64], scale: NDArray[np.float64]
) -> Objects:
    """Return a frame's boxes; a crowd of no class excuses what is found there in any class, so it stands in each."""
    own = channels[frame.labels] if len(frame.labels) else np.zeros(0, np.int64)
    excused = frame.ignored | np.isin([names[label] for label in frame.labels], ("van", "person_sitting"))
    boxes, classes = frame.boxes / scale, int(channels.max()) + 1
    counted, general = (own >= 0) & ~excused, excused & (own < 0)
    crowds = np.repeat(boxes[general], classes, axis=0)
    everywhere = np.tile(np.arange(classes), int(general.sum()))
    named = (own >= 0) & excused
    parts = [(boxes[counted], own[counted], False), (boxes[named], own[named], True), (crowds, everywhere, True)]
    return Objects(
        boxes=np.concatenate([part for part, _, _ in parts]),
        class_ids=np.concatenate([kinds for _, kinds, _ in parts]),
        crowd=np.concatenate([np.full(len(part), is_crowd) for part, _, is_crowd in parts]),
    )


def _kitti_labels(frame: DetectionFrame, names: Sequence[str]) -> KittiLabels:
    kinds = [names[label] for label in frame.labels]
    return KittiLabels(kinds=kinds, boxes=frame.boxes, truncation=frame.truncated, occlusion=frame.occluded)


def _coco_part(root: Path) -> tuple[Path, Path]:
    """Return the instances file of the train part, and the folder of its images, which has the part's name."""
    (annotations, *_) = sorted((root / "annotations").glob("instances_train*.json"))
    return annotations, root / annotations.stem.removeprefix("instances_")
