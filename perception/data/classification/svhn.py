"""SVHN's cropped digits (Netzer et al., NIPS workshop 2011): train_32x32.mat, test_32x32.mat, extra_32x32.mat."""

from pathlib import Path

import numpy as np

from perception.data.classification import labelled
from perception.data.matlab import read_mat

SVHN_CLASSES = tuple("0123456789")


def read_svhn(folder: Path, part: str) -> labelled.LabelledImages:
    """Read `train` (73,257 images), `test` (26,032) or `extra` (531,131): RGB images of 32x32 pixels, 10 digits.

    folder: holds PART_32x32.mat with X (32, 32, 3, image) uint8 and y (image, 1), where 10 stands for the digit 0.
    Raises InputError.
    """
    path = folder / f"{labelled.chosen_part(part, ('train', 'test', 'extra'))}_32x32.mat"
    content = read_mat(path, "X", "y")
    pixels, digits = content["X"], content["y"].ravel()
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        raise labelled.damaged(path, f"X is {pixels.dtype} {pixels.shape}, must be uint8 (32, 32, 3, image)")
    if digits.dtype.kind not in "uif" or not np.isin(digits, np.arange(1, 11)).all():
        raise labelled.damaged(path, "y must hold whole numbers from 1 to 10")
    return labelled.labelled_images(pixels.transpose(3, 0, 1, 2), digits.astype(np.int64) % 10, SVHN_CLASSES, path)
