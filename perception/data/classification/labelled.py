"""What every reader of a classification set gives: images as one array, and one class id an image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

# The largest file of the formats read here, SVHN's extra part, has 1.3 GB and unfolds to 1.6 GB.
BYTES_LIMIT = 4 * 2**30


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Hold a set for classification.

    images: (image, height, width, channel) uint8, RGB or grey. labels: (image,) int64, ids that count from 0.
    classes: names in the order of their ids.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def labelled_images(
    images: NDArray[np.uint8], labels: NDArray[np.integer], classes: tuple[str, ...], path: Path
) -> LabelledImages:
    """Check that images and labels belong together and return them; raises InputError that names `path`."""
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(images)} images and {len(labels)} labels, must be as many; copy it again")
    if len(labels) == 0:
        raise InputError(f"{path}: holds no images; give the path of the data set")
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        raise InputError(
            f"{path}: label of image {outside[0]} is {labels[outside[0]]}, must lie in 0..{len(classes) - 1}; "
            "correct it or name another format"
        )
    return LabelledImages(np.ascontiguousarray(images), labels.astype(np.int64), classes)


def checked_file(path: Path, remedy: str, limit_bytes: int = BYTES_LIMIT) -> Path:
    """Return the path of a plain file of a sane size; raises InputError for anything else."""
    if not path.is_file():
        found = "is not a file" if path.exists() else "file is missing"
        raise InputError(f"{path}: {found}; {remedy}")
    if path.stat().st_size > limit_bytes:
        raise InputError(f"{path}: file has {path.stat().st_size} bytes, more than {limit_bytes}; {remedy}")
    return path


def chosen_part(part: str, known: tuple[str, ...]) -> str:
    """Return the part of the set that was asked for; raises InputError for one that the format does not have."""
    if part not in known:
        raise InputError(f"part {part!r} is unknown; use one of {', '.join(known)}")
    return part


def damaged(path: Path, why: str) -> InputError:
    """Build the error for a file that is not what its format says."""
    return InputError(f"{path}: {' '.join(why.split())[:200]}; copy it again or name its format")
