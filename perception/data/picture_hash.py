"""The difference hash of a picture: near-duplicates have nearly the same."""

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
