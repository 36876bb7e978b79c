"""Readers of classification sets: images as one array with one class id an image, for tables and benchmarks."""

from collections.abc import Callable, Mapping
from pathlib import Path

from perception.data.classification.cifar import read_cifar10, read_cifar100, read_jpeg_npz
from perception.data.classification.files import read_class_folders, read_icdar_characters
from perception.data.classification.idx import read_fashion_mnist
from perception.data.classification.labelled import LabelledImages
from perception.data.classification.svhn import read_svhn
from perception.errors import InputError

CLASSIFICATION_READERS: Mapping[str, Callable[[Path, str], LabelledImages]] = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "fashion_mnist": read_fashion_mnist,
    "icdar_characters": read_icdar_characters,
    "imagenet": read_class_folders,
    "jpeg_npz": read_jpeg_npz,
    "svhn": read_svhn,
}


def read_classification(format: str, path: Path, part: str) -> LabelledImages:
    """Read one part (train, test, ...) of a classification set by the name of its format; raises InputError."""
    if format not in CLASSIFICATION_READERS:
        raise InputError(f"format {format!r} is unknown; use one of {', '.join(sorted(CLASSIFICATION_READERS))}")
    return CLASSIFICATION_READERS[format](path, part)
