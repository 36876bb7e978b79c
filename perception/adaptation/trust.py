"""Decide, class by class and from evidence, whether pseudo-labels take a foreground class from the detector's masks.

The paper takes all of them (methods: Saleh et al., ECCV 2018, arXiv 1807.06132). A detector that was trained for minutes
finds some classes and invents others, so the choice can be measured on frames whose labels are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perception.adaptation.pseudo import PseudoQuality
from perception.parameters import Fraction, checked

Trust = Literal["measured", "all", "none"]


@checked
class TrustRule:
    """Say which foreground classes pseudo-labels take from the detector.

    measured: those whose masks are right more often than the segmentation's own pseudo-labels of the class, at least as
    often as `least_precision`, and on at least `least_right_share` as many pixels; all: every class that the detector
    knows, as in the paper; none: no class.
    """

    classes: Trust = "measured"
    least_precision: Fraction = 0.3  # share of a class's mask pixels that must be right
    least_right_share: Fraction = 0.5  # of the pixels that the segmentation's own labels are right for


@dataclass(frozen=True, kw_only=True)
class ClassTrust:
    """Say of one foreground class whether the detector is trusted with it, and why; None: nothing to measure."""

    class_id: int
    trusted: bool
    reason: str
    precision_plain: float | None  # of the segmentation's own pseudo-labels, on frames whose labels are known
    precision_detector: float | None  # of the detector's masks, on the same frames
    coverage_plain: float | None  # share of the class's pixels that got any pseudo-label
    coverage_detector: float | None


def decide_trust(
    rule: TrustRule, known: Sequence[int], foreground: Sequence[bool], plain: PseudoQuality, detector: PseudoQuality
) -> tuple[ClassTrust, ...]:
    """Decide for every foreground class; known: the class ids that the detector was taught.

    plain: quality of the segmentation's own pseudo-labels; detector: of the paper's pseudo-ground-truth, whose foreground
    is masks alone; both on the same labelled frames.
    """
    decided = []
    for class_id in np.flatnonzero(foreground).tolist():
        ours, theirs = _measured(detector.precision_by_class, class_id), _measured(plain.precision_by_class, class_id)
        right = int(detector.right_px[class_id]), int(plain.right_px[class_id])
        trusted, reason = _decision(rule, class_id in known, ours, theirs, right)
        decided.append(
            ClassTrust(
                class_id=class_id,
                trusted=trusted,
                reason=reason,
                precision_plain=theirs,
                precision_detector=ours,
                coverage_plain=_measured(plain.coverage_by_class, class_id),
                coverage_detector=_measured(detector.coverage_by_class, class_id),
            )
        )
    return tuple(decided)


def _decision(
    rule: TrustRule, known: bool, ours: float | None, theirs: float | None, right: tuple[int, int]
) -> tuple[bool, str]:
    """Decide one class; ours, theirs: precision of masks and of the segmentation; right: the right pixels of both."""
    if not known:
        return False, "the detector was not taught this class"
    if rule.classes != "measured":
        return rule.classes == "all", f"trust_detector is {rule.classes}"
    if ours is None:
        return False, "the detector found none on the labelled frames, so nothing speaks for it"
    if ours < rule.least_precision:
        return False, f"{ours:.1%} of its mask pixels are right, below the least {rule.least_precision:.0%}"
    if theirs is not None and ours <= theirs:
        return False, f"{ours:.1%} of its mask pixels are right, of the segmentation's {theirs:.1%}"
    if right[0] < rule.least_right_share * right[1]:
        return False, f"its masks are right on {right[0]} px only, the segmentation on {right[1]} px"
    than = "the segmentation says none" if theirs is None else f"of the segmentation's {theirs:.1%}"
    return True, f"{ours:.1%} of its mask pixels are right, {than}"


def _measured(values: np.ndarray, class_id: int) -> float | None:
    value = float(values[class_id])
    return None if value != value else value
