"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the binary version, and JPEG files packed in one npz."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.data.classification import labelled
from perception.data.decoding import decode_image
from perception.errors import InputError

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
    "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
    "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
    "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
    "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
    "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
    "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
    "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
_PIXEL_BYTES = 3 * 32 * 32
_BATCH_BYTES_LIMIT = 2**29  # the largest published file, CIFAR-100's training part, has 155 MB


class _Layout(NamedTuple):
    """Say how the binary version of one of the two sets is laid out."""

    classes: tuple[str, ...]
    folder: str
    files: dict[str, tuple[str, ...]]  # by part
    label_bytes: int  # before the pixels of a record; the last one is the class


_LAYOUTS = {
    "cifar10": _Layout(
        CIFAR10_CLASSES,
        "cifar-10-batches-bin",
        {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
        1,
    ),
    "cifar100": _Layout(CIFAR100_CLASSES, "cifar-100-binary", {"train": ("train.bin",), "test": ("test.bin",)}, 2),
}


def read_cifar10(path: Path, part: str) -> labelled.LabelledImages:
    """Read `train` (50,000 images) or `test` (10,000) of CIFAR-10: RGB images of 32x32 pixels, 10 classes.

    path: a folder with data_batch_1.bin ... test_batch.bin (binary version), the folder above it, or an npz file of
    packed JPEG files (read_jpeg_npz). Raises InputError.
    """
    return _read(path, part, _LAYOUTS["cifar10"])


def read_cifar100(path: Path, part: str) -> labelled.LabelledImages:
    """Read `train` (50,000 images) or `test` (10,000) of CIFAR-100: RGB images of 32x32 pixels, its 100 fine classes.

    path: a folder with train.bin and test.bin (binary version), the folder above it, or an npz file of packed JPEG
    files (read_jpeg_npz). Raises InputError.
    """
    return _read(path, part, _LAYOUTS["cifar100"])


def read_jpeg_npz(path: Path, part: str) -> labelled.LabelledImages:
    """Read images of one size that are packed as JPEG files in an npz file.

    It holds PART_jpeg (bytes of all files one after another, uint8), PART_offset (where each starts, and the end:
    (image + 1,) int64), PART_label ((image,) integers) and classes (names). Nothing in it is unpickled.
    Raises InputError.
    """
    data, offset, label, classes = _npz_arrays(path, f"{part}_jpeg", f"{part}_offset", f"{part}_label", "classes")
    if data.dtype != np.uint8 or not {offset.dtype.kind, label.dtype.kind} <= set("iu") or classes.dtype.kind != "U":
        raise labelled.damaged(path, "arrays have other types than the layout of packed JPEG files says")
    if any(array.ndim != 1 for array in (data, offset, label, classes)) or len(offset) != len(label) + 1:
        raise labelled.damaged(path, f"{part}_offset must have one entry more than {part}_label")
    if offset[0] != 0 or offset[-1] != len(data) or (np.diff(offset.astype(np.int64)) <= 0).any():
        raise labelled.damaged(path, f"{part}_offset must rise from 0 to the {len(data)} bytes of {part}_jpeg")
    bounds = zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True)
    decoded = [
        decode_image(data[start:stop].tobytes(), f"{path}: {part} image {number}")
        for number, (start, stop) in enumerate(bounds)
    ]
    sizes = {image.shape for image in decoded}
    if len(sizes) > 1:
        raise labelled.damaged(path, f"{part} images have {len(sizes)} sizes, must have one")
    images = np.stack(decoded) if decoded else np.empty((0, 1, 1, 3), np.uint8)
    return labelled.labelled_images(images, label, tuple(classes.tolist()), path)


def _npz_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    labelled.checked_file(path, "give the path of an npz file of packed JPEG files")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > labelled.BYTES_LIMIT:
                raise labelled.damaged(path, f"unfolds to more than {labelled.BYTES_LIMIT} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            absent = [name for name in names if name not in arrays.files]
            if absent:
                raise labelled.damaged(path, f"has no array {absent[0]}, it holds {', '.join(arrays.files[:9])}")
            return [arrays[name] for name in names]
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise many types on damaged files
        raise labelled.damaged(path, f"not a readable npz file ({error})") from None


def _read(path: Path, part: str, layout: _Layout) -> labelled.LabelledImages:
    names = layout.files[labelled.chosen_part(part, tuple(layout.files))]
    if path.suffix == ".npz":
        return read_jpeg_npz(path, part)
    folder = next((each for each in (path, path / layout.folder) if (each / names[0]).exists()), None)
    if folder is None:
        found = f"holds no {names[0]} (the binary version)" if path.is_dir() else "folder is missing"
        raise InputError(f"{path}: {found}; give the path of the data set")
    records = np.concatenate([_records(folder / name, layout.label_bytes + _PIXEL_BYTES) for name in names])
    images = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return labelled.labelled_images(images, records[:, layout.label_bytes - 1].astype(np.int64), layout.classes, folder)


def _records(path: Path, record_bytes: int) -> NDArray[np.uint8]:
    """Read records of label bytes and 3072 pixel values, channel by channel: (image, record_bytes) uint8."""
    data = np.fromfile(labelled.checked_file(path, "copy the whole data set", _BATCH_BYTES_LIMIT), np.uint8)
    if len(data) == 0 or len(data) % record_bytes:
        raise labelled.damaged(path, f"has {len(data)} bytes, must be records of {record_bytes}")
    return data.reshape(-1, record_bytes)
