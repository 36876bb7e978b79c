"""A trained detector as the adaptation uses it: what it finds in frames, at the size that is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor, nn

from perception.adaptation.detector import DETECTOR_NETWORKS, DetectSettings, detect
from perception.adaptation.fusion import FusionSettings, Instances, chosen, kept
from perception.data.loading import FrameSet, ordered_batches
from perception.errors import InputError
from perception.models.checkpoint import load_network, network_metadata, save_network
from perception.training.distributed import own_frames


@dataclass(frozen=True)
class Foreground:
    """Hold a detector, the class id of each of its channels, which peaks count, and which instances fusion keeps."""

    network: nn.Module
    class_ids: tuple[int, ...]
    detect: DetectSettings = field(default_factory=DetectSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)

    def find(self, images: Tensor) -> list[Instances]:
        """Find the instances of each frame that fusion keeps; images (frame, 3, height, width) float32 in [0, 1]."""
        device = next(self.network.parameters()).device
        found = detect(self.network, images.to(device), self.class_ids, self.detect)
        return [kept(each.instances, self.fusion) for each in found]


def of_classes(instances: Instances, flags: Sequence[bool]) -> Instances:
    """Leave out the instances of classes without a flag; flags: one a class id."""
    return chosen(instances, np.asarray(flags, bool)[instances.classes])


def at_size(instances: Instances, size: Sequence[int]) -> Instances:
    """Resize masks to (height, width), each pixel the nearest one."""
    if instances.masks.shape[1:] == tuple(size):
        return instances
    shape, method = (size[1], size[0]), cv2.INTER_NEAREST_EXACT
    masks = [cv2.resize(mask.view(np.uint8), shape, interpolation=method) for mask in instances.masks]
    return replace(instances, masks=np.array(masks, np.uint8).reshape(-1, *size).astype(bool))


def instances_of(foreground: Foreground | None, frames: FrameSet, batch_frames: int) -> Iterator[Instances]:
    """Yield the instances of each of own_frames, at the networks' size; none without a detector."""
    own = own_frames(len(frames), batch_frames)
    if foreground is None:
        masks = np.zeros((0, frames.settings.height_px, frames.settings.width_px), bool)
        yield from [Instances(masks, np.zeros(0, np.uint8), np.zeros(0, np.float32))] * len(own)
        return
    for batch in ordered_batches(frames, batch_frames, own):
        yield from foreground.find(batch.images)


def score_thresholds(by_class: Mapping[str, float], classes: Sequence[str]) -> tuple[float, ...] | None:
    """Turn score thresholds by class name into one a class; None where none is given. Raises InputError for a name."""
    unknown = [name for name in by_class if name not in classes]
    if unknown:
        raise InputError(f"score threshold for class {unknown[0]!r}: no such class; use {', '.join(classes)}")
    return tuple(float(by_class.get(name, 0.0)) for name in classes) if by_class else None


def save_foreground(foreground: Foreground, path: Path, metadata: Mapping[str, str]) -> str:
    """Write the detector with its class ids to one file and give its sha256."""
    ids = " ".join(str(class_id) for class_id in foreground.class_ids)
    return save_network(foreground.network, path, {**metadata, "class_ids": ids}, DETECTOR_NETWORKS)


def load_foreground(path: Path, fusion: FusionSettings | None = None) -> Foreground:
    """Read a detector that save_foreground wrote. Raises InputError for a file that is none."""
    ids = network_metadata(path).get("class_ids")
    if ids is None:
        raise InputError(f"file {path}: names no class ids, so it is no detector; write it with save_foreground")
    network = load_network(path, DETECTOR_NETWORKS)
    return Foreground(network, tuple(int(each) for each in ids.split()), fusion=fusion or FusionSettings())
