"""The data sets that tables are run on, held in memory as uint8."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.data.classification import read_classification
from perception.data.decoding import decode_image, decode_label
from perception.data.readers import open_reader
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError

DATA_KINDS = ("cifar10", "fashion_mnist", "camvid", "kitti", "bdd100k", "coco", "scenes")
CLASSIFICATION = ("cifar10", "fashion_mnist")
SEGMENTATION = ("camvid", "scenes")
_LANDMARKS = {  # what is in a folder that holds a data set
    "fashion_mnist": "train-images-idx3-ubyte.gz",
    "camvid": "trainannot",
    "kitti": "training/label_2",
    "bdd100k": "labels/det_20",
    "coco": "annotations/instances_train*.json",
}


@dataclass(frozen=True)
class Labelled:
    """Images with their labels.

    images: (frame, channel, height, width) uint8. labels: int64 or, to save memory, uint8; (frame,) or, per pixel with
    255 = ignored, (frame, height, width).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Any) -> "Labelled":
        """Return some of the frames."""
        return Labelled(self.images[rows], self.labels[rows])

    def on(self, device: str) -> "Labelled":
        """Return the frames on a device."""
        return Labelled(self.images.to(device), self.labels.to(device))


def data_kind(path: Path | None) -> str:
    """Tell which data set a path holds: one of DATA_KINDS; no path stands for procedural scenes.

    Raises InputError when nothing known is there.
    """
    if path is None:
        return "scenes"
    if path.is_file() and path.suffix == ".npz":
        return "cifar10"
    for kind, landmark in _LANDMARKS.items():
        if any(path.glob(landmark)):
            return kind
    known = ", ".join(f"{kind} (with {landmark})" for kind, landmark in _LANDMARKS.items())
    raise InputError(f"DATA = {path}: no data set that tables know; give CIFAR-10 as .npz, or a folder: {known}")


def classification(path: Path, kind: str) -> tuple[Labelled, Labelled]:
    """Return train and test images of a classification data set. Raises InputError for another kind."""
    if kind not in CLASSIFICATION:
        raise InputError(f"DATA = {path} holds {kind}; this table wants one of {', '.join(CLASSIFICATION)}")
    read = [read_classification("jpeg_npz" if kind == "cifar10" else kind, path, part) for part in ("train", "test")]
    train, test = (
        Labelled(torch.tensor(each.images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(each.labels))
        for each in read
    )
    return train, test


def camvid(path: Path, height_px: int, width_px: int) -> tuple[Labelled, Labelled, list[str]]:
    """Return CamVid's train and val frames at a lower resolution, and the drive of each train frame.

    Images are reduced by area, labels by nearest pixel. Labels: 0..10, 255 = unlabelled. Frames of a drive are
    in the order in which they were filmed.
    """
    train, drives = _camvid_part(path, "train", height_px, width_px)
    val, _ = _camvid_part(path, "val", height_px, width_px)
    return train, val, drives


def _camvid_part(path: Path, part: str, height_px: int, width_px: int) -> tuple[Labelled, list[str]]:
    reader = open_reader("camvid")
    taxonomy = load_taxonomy(reader.taxonomy)
    images, labels, drives = [], [], []
    for frame in reader.frames(path, part, True):
        image = decode_image(reader.image(frame), frame.image_path)
        raw = decode_label(reader.label(frame) or b"", str(frame.label_path), taxonomy, image.shape[:2])
        size = (width_px, height_px)
        images.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        labels.append(cv2.resize(taxonomy.raw[raw], size, interpolation=cv2.INTER_NEAREST_EXACT))
        drives.append(frame.drive_id)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Labelled(pixels, torch.from_numpy(np.stack(labels)).long()), drives
