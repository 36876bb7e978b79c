"""Frames with instance maps, as the detector learns from them: one size, the class ids of one taxonomy."""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.adaptation.detector_training import INSTANCES_PER_CLASS, TargetSettings
from perception.data.decoding import BadFrame
from perception.data.loading import FrameSet, LoadSettings
from perception.data.store import Store
from perception.data.taxonomies import label_lookup, load_taxonomy
from perception.errors import InputError
from perception.training.distributed import own_frames, sum_over_processes

InstanceMap = NDArray[np.uint16]


class InstanceFrames:
    """Give random access to the frames of a manifest that have instances; the first ones to fill the cache stay in it.

    Raises InputError when no frame has instances.
    """

    def __init__(self, frames: pd.DataFrame, store: Store, settings: LoadSettings) -> None:
        known = frames[frames["instances_uri"].notna()] if "instances_uri" in frames else frames[:0]
        if not len(known):
            raise InputError(
                f"none of {len(frames)} frames has an instance map, which a detector learns from; "
                "ingest simulator frames with instances or train no detector"
            )
        self.settings = settings
        self._images = FrameSet(known, store, settings, labels_required=False)
        self._store = store
        self._uris: list[str] = known["instances_uri"].tolist()
        self._taxonomies: list[str] = known["label_taxonomy"].tolist()
        self._cache: dict[int, InstanceMap] = {}
        self._cache_frames = settings.cache_mib * 2**20 // (settings.height_px * settings.width_px * 2)

    def __len__(self) -> int:
        return len(self._uris)

    @property
    def frame_ids(self) -> list[str]:
        """Return the frames' names in their order."""
        return self._images.frame_ids

    def load(self, index: int) -> tuple[NDArray[np.uint8], InstanceMap]:
        """Load one frame: image (height, width, 3) uint8 RGB, instances (height, width) uint16, class id * 1000 + number.

        0 is no instance. Raises InputError for a blob that is missing or corrupt and BadFrame for one that is no
        instance map.
        """
        image = np.ascontiguousarray(self._images.load(index)[0].transpose(1, 2, 0))
        return image, self._instances(index).copy()

    def _instances(self, index: int) -> InstanceMap:
        if index in self._cache:
            return self._cache[index]
        name = f"instances of frame {self.frame_ids[index]}"
        raw = decode_instances(self._store.get(self._uris[index]), name)
        size = (self.settings.width_px, self.settings.height_px)
        small = np.asarray(cv2.resize(raw, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint16)
        mapped = mapped_instances(small, self._taxonomies[index], self.settings.taxonomy, name)
        if len(self._cache) < self._cache_frames:
            self._cache[index] = mapped
        return mapped


def decode_instances(data: bytes, name: str) -> InstanceMap:
    """Decode an instance map: (height, width) uint16 as the file holds it; raises BadFrame for anything else."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise BadFrame(name, "not a readable PNG", "ingest the frame again")
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise BadFrame(name, f"holds {pixels.dtype} {pixels.shape}, must be one 16-bit channel", "ingest it again")
    return np.asarray(pixels, np.uint16)


def mapped_instances(instances: InstanceMap, source: str, target: str, name: str = "instances") -> InstanceMap:
    """Say instances in the class ids of another taxonomy, numbered from 1 within each class.

    instances: (height, width) uint16, value in a label file of `source` * 1000 + number; values below 1000 (regions that
    are no single thing) and classes that `target` lacks or counts as background become 0. Two classes that `target` does
    not tell apart keep their instances apart. Raises BadFrame for more than 999 instances of a class.
    """
    foreground, lookup = load_taxonomy(target).foreground, label_lookup(source, target)
    present = np.flatnonzero(np.bincount(instances.ravel(), minlength=1 << 16))
    table, count = np.zeros(1 << 16, np.uint16), np.zeros(256, np.int64)
    for value in present[present >= INSTANCES_PER_CLASS].tolist():
        class_id = int(lookup[min(value // INSTANCES_PER_CLASS, 255)])
        if class_id >= len(foreground) or not foreground[class_id]:
            continue
        count[class_id] += 1
        if count[class_id] >= INSTANCES_PER_CLASS:
            raise BadFrame(name, f"holds more than 999 instances of class {class_id}", "give frames with fewer things")
        table[value] = class_id * INSTANCES_PER_CLASS + count[class_id]
    return table[instances]


def learnable_classes(frames: InstanceFrames, fewest_instances: int = 1) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Name the classes of which the frames show enough instances that are large enough to learn.

    Returns the class ids, ascending, and the number of such instances by class: (256,) int64. A detector needs no channel
    for a class that it never sees. Each process looks at its share of the frames.
    """
    smallest = TargetSettings().smallest_area_px
    counts = np.zeros(256, np.int64)
    for index in own_frames(len(frames)):
        areas = np.bincount(frames._instances(index).ravel(), minlength=1 << 16)
        areas[0] = 0
        counts += np.bincount(np.flatnonzero(areas >= smallest) // INSTANCES_PER_CLASS, minlength=256)
    counts = sum_over_processes(counts)
    return tuple(np.flatnonzero(counts >= fewest_instances).tolist()), counts
