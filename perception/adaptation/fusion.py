"""Fuse a segmentation with detected instances, and make the pseudo-ground-truth that follows from it.

Saleh, Aliakbarian, Salzmann, Petersson, Alvarez: Effective Use of Synthetic Data for Urban Scene Semantic
Segmentation, ECCV 2018 (arXiv 1807.06132): foreground from a detector, the rest from a segmentation network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.data.taxonomies import IGNORE
from perception.errors import InputError
from perception.parameters import Fraction, checked


@checked
class FusionSettings:
    """What is kept of the detector's instances; the paper keeps all of them."""

    score_threshold: Fraction = 0.0  # instances with a lower score are left out
    class_score_thresholds: tuple[Fraction, ...] | None = None  # one a class, on top of score_threshold; None: none


@dataclass(frozen=True)
class Instances:
    """The instances found in one image.

    masks: (instance, height, width) bool; classes: (instance,) uint8 class ids; scores: (instance,) float, finite.
    Raises InputError when the three disagree.
    """

    masks: NDArray[np.bool_]
    classes: NDArray[np.uint8]
    scores: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.masks.dtype != np.bool_:
            raise InputError(
                f"instance masks are {self.masks.dtype} {self.masks.shape}; give bool (instance, height, width)"
            )
        if self.classes.dtype != np.uint8:
            raise InputError(f"instance classes are {self.classes.dtype}; give uint8 class ids")
        if not len(self.masks) == len(self.classes) == len(self.scores):
            counts = f"{len(self.masks)} masks, {len(self.classes)} classes, {len(self.scores)} scores"
            raise InputError(f"instances have {counts}; give one of each an instance")
        if not np.isfinite(self.scores).all():
            raise InputError("an instance score is not finite; leave such instances out")


def fuse(
    segmentation: NDArray[np.uint8], instances: Instances, settings: FusionSettings | None = None
) -> NDArray[np.uint8]:
    """Paste instances over a segmentation, highest score first; the segmentation fills the holes.

    segmentation: (height, width) uint8 class ids over all classes. Returns (height, width) uint8. A pixel that masks
    share goes to the one of highest score; equal scores go to the lower class id, so the order of the instances never
    matters. As in section 3 of the paper there is no threshold unless settings name one: its rule needs no real
    validation data.
    """
    pasted = paste(segmentation.shape, kept(instances, settings) if settings else instances)
    return np.where(pasted == IGNORE, segmentation, pasted)


def pseudo_ground_truth(
    segmentation: NDArray[np.uint8], instances: Instances, foreground: tuple[bool, ...]
) -> NDArray[np.uint8]:
    """Make a training label: instances, and the segmentation where no mask lies and it says background.

    segmentation: (height, width) uint8; foreground: one flag a class. Returns (height, width) uint8 that is 255
    exactly where no mask lies and the segmentation holds a foreground class (or 255): foreground is trusted only
    where the detector saw its shape. Raises InputError when a class id has no flag.
    """
    highest = int(segmentation[segmentation != IGNORE].max(initial=0))
    if highest >= len(foreground):
        raise InputError(
            f"segmentation holds class {highest}, foreground has {len(foreground)} flags; give one a class"
        )
    untrusted = np.ones(256, dtype=bool)
    untrusted[: len(foreground)] = foreground
    pasted = paste(segmentation.shape, instances)
    holes = np.where(untrusted[segmentation], np.uint8(IGNORE), segmentation)
    return np.where(pasted == IGNORE, holes, pasted)


def paste(shape: tuple[int, ...], instances: Instances) -> NDArray[np.uint8]:
    """Lay instances on an empty canvas.

    shape: (height, width). Returns (height, width) uint8: the class of the best mask at each pixel, 255 where none
    lies. Raises InputError when the masks have another size.
    """
    if instances.masks.shape[1:] != shape:
        raise InputError(f"instance masks are {instances.masks.shape[1:]}, segmentation {shape}; give both at one size")
    canvas = np.full(shape, IGNORE, dtype=np.uint8)
    # Painting from the worst to the best leaves the best on top: the same as first come, first served from the best.
    for index in np.lexsort((instances.classes, -instances.scores))[::-1]:
        canvas[instances.masks[index]] = instances.classes[index]
    return canvas


def kept(instances: Instances, settings: FusionSettings) -> Instances:
    """Leave out the instances whose score is below the thresholds; raises InputError when a class has none."""
    enough = instances.scores >= settings.score_threshold
    if settings.class_score_thresholds is not None and len(enough):
        thresholds = np.asarray(settings.class_score_thresholds)
        highest = int(instances.classes.max())
        if highest >= len(thresholds):
            raise InputError(f"class {highest} has no score threshold ({len(thresholds)} given); give one a class")
        enough &= instances.scores >= thresholds[instances.classes]
    return chosen(instances, enough)


def chosen(instances: Instances, rows: NDArray[np.bool_]) -> Instances:
    """Keep the instances of `rows`, (instance,) bool."""
    return Instances(instances.masks[rows], instances.classes[rows], instances.scores[rows])
