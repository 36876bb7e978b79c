"""Pseudo-labels: a network's own confident predictions as labels, and the checks that keep them honest."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.data.taxonomies import IGNORE
from perception.errors import InputError
from perception.metrics.jackknife import share_interval

BINS = 1000  # of confidence, in a histogram: thresholds are exact to 1/1000


def pseudo_labels(
    probabilities: NDArray[np.floating], thresholds: ArrayLike
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Label the pixels whose most probable class is probable enough.

    probabilities: (class, height, width), sums to 1 over class; thresholds: a scalar or (class,), in [0, 1]. Returns
    the label (height, width) uint8, 255 where the highest probability is below its class's threshold, and the
    confidence (height, width) float32, that highest probability. Equal probabilities go to the lower class id.
    """
    classes = probabilities.shape[0]
    limits = _thresholds(thresholds, classes)
    winner = probabilities.argmax(axis=0)
    confidence = np.take_along_axis(probabilities, winner[None], axis=0)[0]
    label = np.where(confidence >= limits[winner], winner, IGNORE).astype(np.uint8)
    return label, confidence.astype(np.float32)


def _thresholds(thresholds: ArrayLike, classes: int) -> NDArray[np.float64]:
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in ((), (classes,)):
        raise InputError(f"thresholds have shape {limits.shape}; give one number or one for each of {classes} classes")
    if not ((limits >= 0.0) & (limits <= 1.0)).all():
        raise InputError(f"thresholds are {limits.tolist()}; give values between 0 and 1")
    return np.broadcast_to(limits, (classes,))


def confidence_histogram(
    predictions: Iterable[tuple[NDArray[np.uint8], NDArray[np.floating]]], classes: int
) -> NDArray[np.int64]:
    """Count confidences by predicted class, one image at a time: (class, bin) int64 over bins of [0, 1].

    Memory does not grow with the number of images.

    predictions: pairs of class ids (height, width) uint8 (255 is left out) and confidence (height, width) in [0, 1].
    """
    counts = np.zeros(classes * BINS, dtype=np.int64)
    for label, confidence in predictions:
        known = label != IGNORE
        bins = np.minimum((confidence[known] * BINS).astype(np.int64), BINS - 1)
        counts += np.bincount(label[known].astype(np.int64) * BINS + bins, minlength=classes * BINS)
    return counts.reshape(classes, BINS)


def class_thresholds(histogram: NDArray[np.int64], kept_share: float, highest: float = 0.9) -> NDArray[np.float64]:
    """Choose a confidence threshold for each class that keeps about the same share of each class's pixels.

    histogram: of confidence_histogram; kept_share: share of each class's predicted pixels to keep, in (0, 1]; highest:
    no threshold rises above it, so that a class the network is sure of keeps more. Returns (class,) float64; a class
    that is never predicted gets `highest`.
    Class-balanced self-training: Zou, Yu, Kumar, Wang, ECCV 2018 (arXiv 1810.07911), eq. 4 and algorithm 2.
    """
    if not 0.0 < kept_share <= 1.0:
        raise InputError(f"kept share is {kept_share}; give a share above 0 and at most 1")
    if not 0.0 <= highest <= 1.0:
        raise InputError(f"highest threshold is {highest}; give a value between 0 and 1")
    totals = histogram.sum(axis=1)
    from_above = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]  # pixels at least as confident as each bin
    enough = from_above >= np.maximum(1, np.ceil(kept_share * totals))[:, None]
    lowest_bin = enough.sum(axis=1) - 1  # enough is true up to some bin: the highest edge that still keeps the share
    return np.where(totals > 0, np.minimum(lowest_bin / BINS, highest), highest)


@dataclass(frozen=True)
class PseudoQuality:
    """How good pseudo-labels are on frames whose labels are known; NaN where there is nothing to judge.

    coverage: share of labelled pixels that got a pseudo-label; precision: share of those that are right;
    coverage_by_class: (class,) the same over pixels whose true class it is; precision_by_class: (class,) over pixels
    that got this pseudo-label. said_px, right_px: (class,) int64, pixels that got this pseudo-label, and those that it
    is right for.
    """

    coverage: float
    precision: float
    coverage_by_class: NDArray[np.float64]
    precision_by_class: NDArray[np.float64]
    said_px: NDArray[np.int64]
    right_px: NDArray[np.int64]


def pseudo_quality(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], classes: int) -> PseudoQuality:
    """Compare pseudo-labels with true labels.

    pairs: (label, pseudo-label), both (height, width) uint8 class ids; 255 in the label is not judged, 255 in the
    pseudo-label means that it says nothing. Raises InputError when a pair differs in size or holds an unknown class.
    """
    nothing = np.zeros((classes, classes + 1), dtype=np.int64)
    return quality_of_counts(sum((pair_counts(label, pseudo, classes) for label, pseudo in pairs), start=nothing))


def quality_of_counts(counts: NDArray[np.int64]) -> PseudoQuality:
    """Derive the quality from the sum of pair_counts over frames: (class, class + 1) int64."""
    said, right = counts[:, :-1], np.diagonal(counts)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: nothing to judge
        return PseudoQuality(
            coverage=float(np.float64(said.sum()) / counts.sum()),
            precision=float(np.float64(right.sum()) / said.sum()),
            coverage_by_class=said.sum(axis=1) / counts.sum(axis=1),
            precision_by_class=right / said.sum(axis=0),
            said_px=said.sum(axis=0),
            right_px=right.copy(),
        )


def precision_interval(counts: NDArray[np.int64]) -> list[float] | None:
    """Return the 95 % interval of precision over drives; None where too few are known.

    counts: (drive, class, class + 1), the sum of pair_counts over each drive's frames.
    """
    tallies = np.stack([np.diagonal(counts, axis1=1, axis2=2).sum(-1), counts[..., :-1].sum((1, 2))], axis=-1)
    shown = tallies[tallies[:, 1] > 0]
    if len(shown) < 2:
        return None
    low, high = share_interval(lambda summed: summed[..., 0] / summed[..., 1], shown, 0.95)
    return None if np.isnan(low) else [float(low), float(high)]


def pair_counts(label: NDArray[np.uint8], pseudo: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count a frame's pixels by true class (row) and pseudo-label (column, the last one: none).

    label, pseudo: (height, width) uint8; pixels with label 255 are left out. Returns (class, class + 1) int64. Raises
    InputError when the two differ in size or hold an unknown class.
    """
    if label.shape != pseudo.shape:
        raise InputError(
            f"label is {label.shape} and pseudo-label {pseudo.shape} (height, width); give both at one size"
        )
    judged = label != IGNORE
    truth = label[judged].astype(np.int64)
    guess = np.where(pseudo[judged] == IGNORE, classes, pseudo[judged]).astype(np.int64)
    if truth.size and (truth.max() >= classes or guess.max() > classes):
        raise InputError(f"label or pseudo-label holds a class id above {classes - 1}; give ids of the target taxonomy")
    return np.bincount(truth * (classes + 1) + guess, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_prior(pixel_counts: ArrayLike) -> NDArray[np.float64]:
    """Turn pixel counts by class into shares: (class,) float64 that sums to 1. Raises InputError when all are zero."""
    counts = np.asarray(pixel_counts, dtype=np.float64)
    if (counts < 0).any() or counts.sum() <= 0:
        raise InputError(f"pixel counts are {counts.tolist()}; give counts of at least 0 that are not all 0")
    return counts / counts.sum()


def collapsed_classes(prior_reference: ArrayLike, prior_pseudo: ArrayLike, ratio: float) -> list[int]:
    """Name the classes that pseudo-labels have all but lost.

    prior_reference, prior_pseudo: (class,) shares of pixels by class, in the labels that taught the network and in
    its pseudo-labels; ratio: a class has collapsed when its share falls below ratio times the reference, in (0, 1].
    A class that the reference does not hold cannot collapse. Returns class ids, ascending.
    """
    if not 0.0 < ratio <= 1.0:
        raise InputError(f"collapse ratio is {ratio}; give a share above 0 and at most 1")
    reference, pseudo = _same_classes(prior_reference, prior_pseudo)
    return [int(index) for index in np.flatnonzero((reference > 0) & (pseudo < ratio * reference))]


def prior_drift(prior_reference: ArrayLike, prior_pseudo: ArrayLike) -> float:
    """Measure how far two class priors lie apart: their total variation distance, 0 (equal) to 1 (disjoint).

    prior_reference, prior_pseudo: (class,) shares that sum to 1.
    """
    reference, pseudo = _same_classes(prior_reference, prior_pseudo)
    return float(0.5 * np.abs(reference - pseudo).sum())


def _same_classes(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    reference, pseudo = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if reference.ndim != 1 or reference.shape != pseudo.shape:
        raise InputError(
            f"class priors have shapes {reference.shape} and {pseudo.shape}; give both over the same classes"
        )
    return reference, pseudo


def rare_class_weights(frame_pixel_counts: NDArray[np.integer], temperature: float = 0.1) -> NDArray[np.float64]:
    """Weigh frames for sampling so that rare classes are met more often.

    frame_pixel_counts: (frame, class) pixels of each class in each frame. Returns (frame,) float64 that sums to 1:
    a class is drawn with probability proportional to exp((1 - f_c) / temperature), f_c its share of all pixels, then
    a frame that holds it, all such frames alike. Rare class sampling: Hoyer, Dai, Van Gool, DAFormer, CVPR 2022
    (arXiv 2111.14887), eq. 8. Classes that no frame holds are left out.
    """
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; give a value above 0")
    held = frame_pixel_counts > 0
    present = held.any(axis=0)
    if not present.any():
        raise InputError("no frame holds a labelled pixel; give frames with labels")
    share = class_prior(frame_pixel_counts.sum(axis=0))
    logits = np.where(present, (1.0 - share) / temperature, -np.inf)
    class_probability = np.exp(logits - logits.max())
    class_probability /= class_probability.sum()
    frames_with_class = np.maximum(held.sum(axis=0), 1)
    return held @ (class_probability / frames_with_class)
