"""Facts measured once on the pixels of a frame, and near-duplicates found from them.

Gates judge these columns and never open an image again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from perception.data.picture_hash import luma_hash
from perception.data.taxonomies import UNKNOWN, Taxonomy, label_lookup
from perception.errors import InputError

HASH_BITS = 64
_HISTOGRAM_EXACT_PX = 2**24  # float32 counts of cv2.calcHist are exact up to here
_BLOCK_PAIRS = 1 << 22  # pairs compared at once: 32 MiB of 64-bit differences


def profile_frame(
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8] | None,
    taxonomy: Taxonomy | None,
    counted: Taxonomy | None = None,
) -> dict[str, int | float | str | None]:
    """Measure the facts about one frame that gates judge.

    image: (height, width, 3) uint8 RGB. label: (height, width) uint8 raw values as in the label file, or None.
    taxonomy: how to read the raw values; given exactly when there is a label.
    counted: the taxonomy whose classes are counted, where sources of several taxonomies are to be compared;
    None: the label's own.

    Returns width_px, height_px, brightness_mean and contrast_std (mean and standard deviation of luma, 0..255),
    sharpness (variance of the Laplacian of luma; Pech-Pacheco et al. 2000), dhash (64-bit difference hash, 16 hex
    digits); and, None without a label, label_min, label_max (raw values), unknown_label_px, void_fraction (share of
    pixels in no counted class, unknown ones included) and px_<class> for every class of the taxonomy.
    """
    import cv2  # here, since the gates read a profile and never make one

    if (label is None) != (taxonomy is None):
        raise InputError("profile_frame got a label or a taxonomy alone; give both, or neither for an unlabelled frame")
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    brightness, contrast = cv2.meanStdDev(luma)
    # a 3 x 3 Laplacian of 8-bit values lies within +-1020, which 16 bits hold exactly
    _, edges = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    facts: dict[str, int | float | str | None] = {
        "width_px": int(image.shape[1]),
        "height_px": int(image.shape[0]),
        "brightness_mean": float(brightness[0, 0]),
        "contrast_std": float(contrast[0, 0]),
        "sharpness": float(edges[0, 0]) ** 2,
        "dhash": luma_hash(luma),
    }
    if label is None or taxonomy is None:
        return facts | dict.fromkeys(("label_min", "label_max", "unknown_label_px", "void_fraction"))
    return facts | label_facts(label, taxonomy, counted)


def label_facts(
    label: npt.NDArray[np.uint8], taxonomy: Taxonomy, counted: Taxonomy | None = None
) -> dict[str, int | float]:
    """Count the classes of one label.

    label: (height, width) uint8 raw values of `taxonomy`. counted: as in profile_frame.
    Returns label_min, label_max, unknown_label_px, void_fraction, px_<class>.
    """
    counts = _histogram(label)
    seen = np.flatnonzero(counts)
    if not len(seen):
        raise InputError(f"the label of shape {label.shape} has no pixels; give a label of the image's size")
    counted = counted or taxonomy
    ids = taxonomy.raw if counted.name == taxonomy.name else label_lookup(taxonomy.name, counted.name)
    by_class = np.bincount(ids, weights=counts, minlength=256).astype(np.int64)[: len(counted.classes)]
    facts: dict[str, int | float] = {
        "label_min": int(seen[0]),
        "label_max": int(seen[-1]),
        "unknown_label_px": int(counts[taxonomy.raw == UNKNOWN].sum()),
        "void_fraction": 1.0 - int(by_class.sum()) / label.size,
    }
    facts.update({f"px_{name}": int(px) for name, px in zip(counted.classes, by_class, strict=True)})
    return facts


def _histogram(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    import cv2  # here, since the gates read a profile and never make one

    if 0 < label.size <= _HISTOGRAM_EXACT_PX:  # 10 times faster than bincount, which widens every pixel to 64 bits
        return cv2.calcHist([label], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return np.bincount(label.ravel(), minlength=256)


def hash_values(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Read 16-digit hexadecimal hashes as (frame,) uint64; raise InputError for what is none."""
    try:
        if any(len(text) != 16 for text in hashes):
            raise ValueError
        return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)
    except ValueError:
        bad = next(text for text in hashes if len(text) != 16 or set(text) - set("0123456789abcdefABCDEF"))
        raise InputError(
            f"image hash {bad!r} is not 16 hexadecimal digits; compute it with profile_frame (column dhash)"
        ) from None


def near_duplicate_pairs(hashes_a: Sequence[str], hashes_b: Sequence[str], max_distance: int) -> npt.NDArray[np.int64]:
    """Find every pair of hashes, one of each side, that differ in at most max_distance of their 64 bits.

    Returns (pair, 3) int64: index in hashes_a, index in hashes_b, distance in bits; ordered by (a, b).
    """
    a, index_a = np.unique(hash_values(hashes_a), return_inverse=True)
    b, index_b = np.unique(hash_values(hashes_b), return_inverse=True)
    rows_a = pd.DataFrame({"i": index_a, "a": np.arange(len(index_a))})
    rows_b = pd.DataFrame({"j": index_b, "b": np.arange(len(index_b))})
    found = pd.DataFrame(near_values(a, b, max_distance), columns=["i", "j", "distance"])
    pairs = found.merge(rows_a, on="i").merge(rows_b, on="j").sort_values(["a", "b"])
    return pairs[["a", "b", "distance"]].to_numpy(np.int64)


def near_values(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64], max_distance: int) -> npt.NDArray[np.int64]:
    """Find every pair of values that differ in at most max_distance bits.

    a, b: uint64, each without repeats. Returns (pair, 3) int64: index in a, index in b, distance; ordered by (a, b).

    Exact, without comparing every pair: of max_distance + 1 groups of bits at least one must be equal in both
    (the pigeonhole argument of Manku et al. 2007, "Detecting near-duplicates for web crawling").
    """
    if not 0 <= max_distance < HASH_BITS:
        raise InputError(f"max_distance is {max_distance}; it must be 0 to {HASH_BITS - 1} bits")
    found = [np.empty((0, 3), dtype=np.int64)]
    edges = np.linspace(0, HASH_BITS, max_distance + 2).round().astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64(((1 << int(high - low)) - 1) << int(low))
        found.extend(_near_in_band(a, b, mask, max_distance))
    return np.unique(np.concatenate(found), axis=0)


def _near_in_band(
    a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64], mask: np.uint64, max_distance: int
) -> list[npt.NDArray[np.int64]]:
    band_b = b & mask
    order_b = np.argsort(band_b, kind="stable")
    keys_b = band_b[order_b]
    keys_a = a & mask
    first = np.searchsorted(keys_b, keys_a, side="left")
    count = np.searchsorted(keys_b, keys_a, side="right") - first
    ends = np.cumsum(count)
    found, start = [], 0
    while start < len(a):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK_PAIRS, side="right")))
        block = slice(start, stop)
        i = np.repeat(np.arange(start, stop), count[block])
        within = np.arange(len(i)) - np.repeat(ends[block] - count[block] - before, count[block])
        j = order_b[np.repeat(first[block], count[block]) + within]
        distance = np.bitwise_count(a[i] ^ b[j])
        near = distance <= max_distance
        found.append(np.column_stack([i[near], j[near], distance[near].astype(np.int64)]))
        start = stop
    return found
