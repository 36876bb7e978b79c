"""Hashes of what a picture shows: near-duplicates and copies have nearly the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def luma_hash(luma: NDArray[Any]) -> str:
    """Return the 64-bit difference hash of (height, width) luma as 16 hexadecimal digits."""
    import cv2  # here, since the gates read hashes and never make one

    small = cv2.resize(luma, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def difference_hash(image: NDArray[np.uint8]) -> str:
    """Return the 64-bit difference hash of (height, width, 3) uint8 RGB as 16 hexadecimal digits."""
    import cv2

    return luma_hash(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def hash_distance(first: str, second: str) -> int:
    """Return in how many bits two hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


MARK_BITS = 255
COPY_BITS = 40  # marks of a picture and of a copy that was scaled to a third, or saved as a JPEG of quality 50, differ in at most so many
_SIDE_PX, _FREQUENCIES = 64, 16


def picture_mark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mark of (height, width, 3) uint8 RGB, which scaling and JPEG hardly change: (32,) uint8, 255 bits and a zero.

    A bit a frequency: whether its cosine coefficient is above the median of the 16 x 16 lowest ones but the first; after
    C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), with more frequencies.
    """
    import cv2

    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(luma, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:]
    return np.packbits(low > np.median(low))


def mark_distances(mark: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return in how many bits a mark differs from each of others, (mark, 32) uint8: (mark,)."""
    differ: NDArray[np.int64] = np.bitwise_count(others ^ mark).sum(axis=1, dtype=np.int64)
    return differ
