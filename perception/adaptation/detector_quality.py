"""Judge a detector on frames whose instances are known: average precision of boxes and masks, by pycocotools."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception.adaptation.detector import detect
from perception.adaptation.detector_training import INSTANCES_PER_CLASS, TargetSettings
from perception.adaptation.foreground import Foreground
from perception.adaptation.instance_frames import InstanceFrames, InstanceMap
from perception.metrics.detection import AveragePrecision, Objects, average_precision
from perception.training.distributed import in_order, own_frames


@dataclass(frozen=True, kw_only=True)
class DetectorQuality:
    """Hold COCO's AP of boxes and of masks over the classes that a detector knows, in the order of its channels."""

    boxes: AveragePrecision
    masks: AveragePrecision
    frames: int


def judge_detector(detector: Foreground, frames: InstanceFrames) -> DetectorQuality:
    """Compare everything that a detector finds with the instances of frames.

    Instances that are too small to be learnt neither count as missed nor make what is found there wrong. Each process
    looks at its share of the frames.
    """
    smallest = TargetSettings().smallest_area_px
    pairs = []
    for index in own_frames(len(frames)):
        image, instances = frames.load(index)
        pairs.append((index, (labelled_objects(instances, detector.class_ids, smallest), _detected(detector, image))))
    labels, found = zip(*in_order(pairs), strict=True)
    classes = len(detector.class_ids)
    boxes, masks = (average_precision(labels, found, classes, masks=kind) for kind in (False, True))
    return DetectorQuality(boxes=boxes, masks=masks, frames=len(frames))


def labelled_objects(instances: InstanceMap, class_ids: Sequence[int], smallest_area_px: int) -> Objects:
    """List the objects of an instance map, (height, width) uint16; classes are numbered as in class_ids.

    Objects of fewer than smallest_area_px pixels are marked as crowd, which excuses what is found there.
    """
    values = [int(each) for each in np.unique(instances) if each and int(each) // INSTANCES_PER_CLASS in class_ids]
    masks = np.array([instances == value for value in values], bool).reshape(-1, *instances.shape)
    return Objects(
        boxes=np.array([_box(mask) for mask in masks], np.float64).reshape(-1, 4),
        class_ids=np.array([list(class_ids).index(value // INSTANCES_PER_CLASS) for value in values], np.int64),
        crowd=masks.sum(axis=(1, 2)) < smallest_area_px,
        masks=masks,
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _detected(detector: Foreground, image: np.ndarray) -> Objects:
    device = next(detector.network.parameters()).device
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)).to(device)
    (found,) = detect(detector.network, pixels, range(len(detector.class_ids)), detector.detect)
    instances = found.instances
    return Objects(boxes=found.boxes, class_ids=instances.classes, scores=instances.scores, masks=instances.masks)
