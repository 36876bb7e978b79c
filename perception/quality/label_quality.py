"""Which labels a network doubts: frames ranked by how little probability it gives to what was labelled.

The ranking is the one of confident learning for segmentation (Lad and Mueller 2023, "Estimating label quality and errors
in semantic segmentation data via any model"): the model's own probability of the given label, pixel by pixel.  It finds
wrong labels and hard frames alike; a person who looks tells them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perception.data.taxonomies import IGNORE


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelDoubt:
    """How much a network doubts one label."""

    doubt: float | None  # mean probability that it gives to other classes than the labelled one; None without labels
    sure_otherwise: float | None  # share of labelled pixels where it is at least half sure of another class
    confusion: npt.NDArray[np.int64]  # (class labelled, class seen): pixels where it is at least half sure of another


def label_doubt(probs: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.uint8]) -> LabelDoubt:
    """Compare a network's probabilities with a label.

    probs: (class, height, width), sums to 1 over class.  label: (height, width) uint8 class ids, 255 = ignore.
    """
    classes = len(probs)
    known = label != IGNORE
    given = label[known].astype(np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    if not given.size:
        return LabelDoubt(doubt=None, sure_otherwise=None, confusion=confusion)
    seen = probs[:, known]
    of_label = np.take_along_axis(seen, given[None], axis=0)[0]
    best = seen.argmax(axis=0)
    sure = (best != given) & (seen.max(axis=0) >= 0.5)
    np.add.at(confusion, (given[sure], best[sure]), 1)
    return LabelDoubt(
        doubt=float(1.0 - of_label.mean(dtype=np.float64)), sure_otherwise=float(sure.mean()), confusion=confusion
    )


def worst_confusions(confusion: npt.NDArray[np.int64], names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Name the pairs (labelled, seen) with most pixels, most first."""
    order = np.argsort(-confusion, axis=None, kind="stable")[:count]
    pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(order, confusion.shape), strict=True)]
    return [
        {"labelled": names[a], "seen": names[b], "pixels": int(confusion[a, b])} for a, b in pairs if confusion[a, b]
    ]
