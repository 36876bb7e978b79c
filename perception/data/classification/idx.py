"""MNIST's idx files, as Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747) is published: gzipped or plain."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.data.classification import labelled

FASHION_MNIST_CLASSES = (
    "t_shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
_PREFIXES = {"train": "train", "test": "t10k"}


def read_fashion_mnist(folder: Path, part: str) -> labelled.LabelledImages:
    """Read `train` (60,000 images) or `test` (10,000) of Fashion-MNIST: grey images of 28x28 pixels, 10 classes.

    folder: holds train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz] and the same with t10k; Debian's package
    dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist. Raises InputError.
    """
    prefix = _PREFIXES[labelled.chosen_part(part, tuple(_PREFIXES))]
    images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
    return labelled.labelled_images(images[..., None], labels, FASHION_MNIST_CLASSES, folder)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes: 0, 0, type 8, number of dimensions, their big-endian sizes, the values.

    Never unfolds more of a gzip file than its header announces. Raises InputError for a file of another kind or size.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise labelled.damaged(path, f"not an idx file of unsigned bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size_bytes = math.prod(shape)
            if size_bytes > labelled.BYTES_LIMIT:
                raise labelled.damaged(path, f"announces {size_bytes} bytes, more than {labelled.BYTES_LIMIT}")
            data = file.read(size_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise labelled.damaged(path, f"cannot be read ({error})") from None
    if len(data) != size_bytes:
        found = "more" if len(data) > size_bytes else f"only {len(data)}"
        raise labelled.damaged(path, f"holds {found} of the {size_bytes} bytes that its header announces")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_file(folder: Path, name: str) -> Path:
    plain = folder / name
    path = plain if plain.exists() else folder / f"{name}.gz"
    return labelled.checked_file(path, "give the folder of the data set")
