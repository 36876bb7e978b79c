"""Champion and challenger: is the new network no worse, overall, in every condition and in every class?

Both networks are judged on the same frames, and drives are resampled in pairs, so that what makes a drive hard for both
cancels. Two questions are asked of every figure, with errors in opposite directions:

refuse: is the figure worse by more than the margin, and is at least half of that beyond doubt? Two trainings of one
recipe differ in truth, not by chance alone, so "surely worse than nothing" would refuse good networks on a large test
set. One false alarm among all figures is enough to refuse, so the bounds hold for all figures at once: their critical
value is the quantile of the greatest studentised difference (Westfall and Young, "Resampling-Based Multiple Testing",
1993; maxT), which knows how the figures hang together. Where `seed_spread` says by how much trainings that differ only
by their seed scatter in a figure, its margin is at least what two of them differ by at most, for all figures together.
A seed mostly lifts or lowers all conditions alike, so a loss within that wider margin is refused all the same where it
exceeds the rule's own margin and sets the condition apart: where it is greater than the loss on all other frames by
more than seeds make it, and by at least half the rule's own margin. That is what a network looks like which has unlearned one condition.

promote: is it shown that the figure is not worse by more than the margin? Here every figure must pass, so each may be
asked at the full level (Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", 1982: intersection-union).

hold: neither. The test set cannot tell yet; `drives_needed` says how many drives would be enough at this difference.

not_enough_evidence: no figure, or no condition that was asked about, has the drives and frames to be judged at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse, special

from perception.errors import InputError
from perception.metrics.bootstrap import drive_weights, resampled_sums
from perception.metrics.confusion import iou_of_tallies, mean_known, tallies
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.settings import IntervalSettings
from perception.metrics.slices import column_slices
from perception.parameters import ShareFromZero, checked

OVERALL = "overall"
APART = " apart"  # after a condition's name: its figure less that of all other frames
SURE_SHARE = 0.5  # of the margin: a refusal needs a loss that surely exceeds this
_BLOCK_NUMBERS = 4_000_000  # resampled counts in memory at once


@checked
class RegressionRule(IntervalSettings):
    """Say when a challenger is worse than the champion, and how sure one has to be.

    confidence: of a refusal over all figures together, of a promotion for each figure.
    """

    margin: ShareFromZero = 0.02  # mIoU by which it may fall behind, overall and in any condition
    class_margin: ShareFromZero = 0.05  # IoU by which it may fall behind in any class
    resamples: Annotated[int, Field(ge=100)] = 2000
    unit: str = "drives"  # what is resampled, in words: drives, or clips of them
    # Standard deviation of a figure between trainings that differ only by their seed, by the figure's name, and of a
    # condition's difference from all other frames, by its name and " apart": as seed_spread() gives them.
    seed_spread: dict[str, ShareFromZero] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Compare one figure: mIoU overall or in a condition, or the IoU of a class.

    lower bounds the difference at the rule's confidence for this figure alone, upper for all figures together.
    """

    name: str  # overall, column=value, or class=name
    margin: float
    champion: float
    challenger: float
    difference: float  # challenger - champion
    lower: float
    upper: float
    drives: int
    frames: int
    outcome: str  # worse, no worse, or open
    drives_needed: int | None  # to show "no worse" if the difference is what was seen; None: no number would
    apart: float | None = None  # a condition's difference less that on all other frames; None: not judged
    apart_margin: float | None = None  # what two seeds differ by at most in that, at least half the rule's own margin


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Say whether the challenger may replace the champion, with reasons, weightiest first."""

    decision: str  # promote, hold, refuse or not_enough_evidence
    reasons: tuple[str, ...]
    judgements: tuple[Judgement, ...] = ()  # most worrying first
    unknown: tuple[str, ...] = ()  # figures with too few drives or frames to be judged
    critical_value: float | None = None  # standard errors that a refusal needs

    @property
    def reason(self) -> str:
        """Return the reasons in one line."""
        return "; ".join(self.reasons)


@dataclass(frozen=True, eq=False)
class _Figures:
    """Hold what is compared: per-drive tallies (drive, figure, 3, class) and which classes each figure averages."""

    names: list[str]
    champion: NDArray[np.float64]
    challenger: NDArray[np.float64]
    averaged: NDArray[np.bool_]  # (figure, class)
    drives: NDArray[np.int64]  # (figure,)
    frames: NDArray[np.int64]
    own_margins: NDArray[np.float64]  # the rule's
    unknown: list[str]

    @property
    def conditions(self) -> NDArray[np.bool_]:
        """Return which figures are conditions: (figure,) bool. The first figure is that of all frames."""
        return np.array([name != OVERALL and not name.startswith("class=") for name in self.names], bool)

    def totals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the champion's and the challenger's figures on all drives: (figure,) each."""
        theirs, ours = (_values(part.sum(axis=0)[None], self.averaged)[0] for part in (self.champion, self.challenger))
        return theirs, ours

    def differences(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return challenger's less champion's figures, and those of all frames outside a condition: (resample, figure) each."""
        ours, theirs = (self.both(resampled_sums(weights, each)) for each in (self.challenger, self.champion))
        return ours[0] - theirs[0], ours[1] - theirs[1]

    def both(self, sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return figures of summed tallies (resample, figure, 3, class), and those of all frames outside a condition."""
        rest = np.where(self.conditions[:, None, None], sums[:, :1] - sums, 0.0)
        return _values(sums, self.averaged), _values(rest, self.averaged)


def compare(
    champion: SegmentationScore, challenger: SegmentationScore, classes: Sequence[str], rule: RegressionRule
) -> Verdict:
    """Judge the challenger against the champion on the same frames: overall, by condition and by class.

    A condition's mIoU averages the classes that at least `minimum_drives` of its drives show: one that flickers in and
    out of the resamples says more about the draw than about the networks. Raises InputError when the two scores are not
    of the same frames.
    """
    _check_same_frames(champion, challenger)
    figures = _figures(champion, challenger, classes, rule)
    if not figures.names:
        few = f"the test set has fewer than {rule.minimum_drives} {rule.unit} or {rule.minimum_frames} frames: nothing can be judged"
        return Verdict(decision="not_enough_evidence", reasons=(few,), unknown=tuple(figures.unknown))
    judgements, critical = _judge(figures, rule)
    blind = bool(champion.columns) and not figures.conditions.any()
    missing = _missing_in_words(champion, figures.unknown, rule) if blind else ""
    return _verdict(judgements, figures.unknown, critical, rule, missing)


def seed_spread(scores: Sequence[SegmentationScore], classes: Sequence[str], rule: RegressionRule) -> dict[str, float]:
    """Measure how networks that differ only by the seed of their training scatter: figure → standard deviation of it.

    scores: of two networks or more, on the same frames; figures are those that `compare` would judge by this rule.
    A variance of a handful of networks may be far too small by chance, so each is averaged with the mean variance of
    its kind, of conditions or of classes (moderated variances, Smyth 2004, with a prior as heavy as the data). So is
    that of how far a condition lies apart from all other frames, with those of the same column.
    Raises InputError for fewer networks and for scores of different frames.
    """
    if len(scores) < 2:
        raise InputError(f"{len(scores)} score: the spread between seeds needs two networks or more; train another")
    values, apart = [], []
    for score in scores:
        _check_same_frames(scores[0], score)
        figures = _figures(scores[0], score, classes, rule)
        own, rest = (each[0] for each in figures.both(figures.challenger.sum(axis=0)[None]))
        values.append(own)
        apart.append(own - rest)
    kinds = ["class" if name.startswith("class=") else "condition" for name in figures.names]
    spread = dict(zip(figures.names, _moderated(np.array(values), kinds), strict=True))
    known = np.flatnonzero(np.isfinite(apart).all(axis=0))
    columns = [figures.names[index].partition("=")[0] for index in known]
    of_apart = _moderated(np.array(apart)[:, known], columns)
    return spread | {figures.names[index] + APART: each for index, each in zip(known, of_apart, strict=True)}


def _moderated(values: NDArray[np.float64], kinds: Sequence[str]) -> list[float]:
    """Return the standard deviation of each column of (network, figure), its variance averaged with that of its kind."""
    variance = np.var(values, axis=0, ddof=1)
    for kind in set(kinds):
        members = np.array([each == kind for each in kinds], bool)
        variance[members] = (variance[members] + variance[members].mean()) / 2
    deviations: list[float] = np.sqrt(variance).tolist()
    return deviations


def _check_same_frames(champion: SegmentationScore, challenger: SegmentationScore) -> None:
    if champion.counts.shape != challenger.counts.shape or list(champion.frames.frame_id) != list(
        challenger.frames.frame_id
    ):
        raise InputError(
            "champion and challenger were not judged on the same frames and classes; evaluate both on one test set"
        )


def _figures(
    champion: SegmentationScore, challenger: SegmentationScore, classes: Sequence[str], rule: RegressionRule
) -> _Figures:
    groups = champion.groups
    drive_of = np.unique(groups.drive_id.to_numpy(str), return_inverse=True)[1]
    counted = [tallies(score.counts) for score in (champion, challenger)]
    pairs = [_by_drive(counts, drive_of) for counts in counted]
    everything = np.ones(len(groups), bool)
    slices = [(OVERALL, everything), *((each.name, each.rows) for each in column_slices(groups, champion.columns))]
    found, unknown = [], []
    for name, rows in slices:
        theirs, ours = (_by_drive(counts * rows[:, None, None], drive_of) for counts in counted)
        drives, frames = len(np.unique(drive_of[rows])), int(groups.frames[rows].sum())
        shown = (theirs[:, 1] > 0).sum(axis=0) >= rule.minimum_drives
        if drives < rule.minimum_drives or frames < rule.minimum_frames or not shown.any():
            unknown.append(name)
        else:
            found.append((name, theirs, ours, shown, drives, frames, rule.margin))
    for index, name in enumerate(classes):
        drives = int((pairs[0][:, 1, index] > 0).sum())
        if drives < rule.minimum_drives:
            unknown.append(f"class={name}")
        else:
            only = np.arange(len(classes)) == index
            found.append((f"class={name}", *pairs, only, drives, int(groups.frames.sum()), rule.class_margin))
    return _Figures(
        names=[each[0] for each in found],
        champion=np.stack([each[1] for each in found], axis=1) if found else np.zeros((0, 0, 3, len(classes))),
        challenger=np.stack([each[2] for each in found], axis=1) if found else np.zeros((0, 0, 3, len(classes))),
        averaged=np.array([each[3] for each in found], dtype=bool),
        drives=np.array([each[4] for each in found], dtype=np.int64),
        frames=np.array([each[5] for each in found], dtype=np.int64),
        own_margins=np.array([each[6] for each in found], dtype=np.float64),
        unknown=unknown,
    )


def _margins(figures: _Figures, rule: RegressionRule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each figure's margin, widened to what two seeds differ by at most, and that of how far it lies apart.

    At most: at the rule's confidence for all of them together; infinite where the spread was not measured. A condition
    lies apart by at least half the rule's own margin.
    """
    spread = rule.seed_spread
    tests = len(figures.names) + sum(name + APART in spread for name in figures.names)
    between_two = math.sqrt(2) * float(special.ndtri(rule.confidence ** (1 / max(tests, 1))))  # Sidak
    wide = np.array([between_two * spread.get(name, 0.0) for name in figures.names], np.float64)
    apart = np.array([between_two * spread.get(name + APART, math.inf) for name in figures.names], np.float64)
    # A spread that a few networks happened to make small must not let a hair's breadth set a condition apart.
    return np.maximum(figures.own_margins, wide), np.maximum(apart, SURE_SHARE * figures.own_margins)


def _by_drive(counts: NDArray[np.int64], drive_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum counts (group, 3, class) by drive: (drive, 3, class)."""
    place = (drive_of, np.arange(len(drive_of)))
    member = sparse.csr_array((np.ones(len(drive_of)), place))
    summed: NDArray[np.float64] = (member @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:])
    return summed


def _values(counts: NDArray[np.float64], averaged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average IoU over each figure's classes: counts (resample, figure, 3, class) → (resample, figure), NaN where none is."""
    return mean_known(np.where(averaged, iou_of_tallies(counts), np.nan))


@dataclass(frozen=True)
class _Losses:
    """How far each figure fell, and with what error: (figure,) each; a kind of difference is judged as a whole."""

    seen: NDArray[np.float64]  # challenger - champion
    error: NDArray[np.float64]  # standard error
    studentised: NDArray[np.float64]  # (resample, figure): how far resamples lie below what was seen, in errors

    def surely_beyond(self, critical: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which figures fell by more than the margin, at least SURE_SHARE of it beyond doubt: (figure,)."""
        upper = self.seen + critical * self.error
        beyond: NDArray[np.bool_] = (self.seen < -margin) & (upper < -margin * SURE_SHARE)
        return beyond


def _losses(seen: NDArray[np.float64], resampled: NDArray[np.float64], drives: NDArray[np.int64]) -> _Losses:
    # With n drives a bootstrap's spread is too small by sqrt((n - 1) / n), and Student's quantile stands for the normal.
    error = np.maximum(np.nanstd(resampled, axis=0) * np.sqrt(drives / (drives - 1)), 1e-12)
    return _Losses(seen, error, np.nan_to_num((seen - resampled) / error))


def _judge(figures: _Figures, rule: RegressionRule) -> tuple[list[Judgement], float]:
    """Return every figure's judgement, most worrying first, and the standard errors that a refusal needs."""
    margins, apart_margins = _margins(figures, rule)
    whole, whole_resampled, apart, apart_resampled = _differences(figures, rule)
    asked = np.isfinite(apart_margins) & np.isfinite(apart)
    losses = _losses(whole, whole_resampled, figures.drives)
    losses_apart = _losses(np.where(asked, apart, 0.0), np.where(asked, apart_resampled, 0.0), figures.drives)
    critical = _critical_value(losses, losses_apart, rule.confidence)
    together = special.stdtrit(figures.drives - 1, special.ndtr(critical))

    own = figures.own_margins
    set_apart = asked & losses.surely_beyond(together, own)
    set_apart &= losses_apart.surely_beyond(together, np.where(asked, apart_margins, 0.0))
    worse = losses.surely_beyond(together, margins) | set_apart

    lower = losses.seen - special.stdtrit(figures.drives - 1, rule.confidence) * losses.error
    allowed = np.where(set_apart, own, margins)
    outcome = np.where(worse, "worse", np.where(lower > -allowed, "no worse", "open"))
    theirs, ours = figures.totals()
    judged = [
        Judgement(
            name=name,
            margin=float(allowed[k]),
            champion=float(theirs[k]),
            challenger=float(ours[k]),
            difference=float(losses.seen[k]),
            lower=float(lower[k]),
            upper=float(losses.seen[k] + together[k] * losses.error[k]),
            drives=int(figures.drives[k]),
            frames=int(figures.frames[k]),
            outcome=str(outcome[k]),
            drives_needed=_drives_needed(losses, allowed, figures.drives, k, rule.confidence),
            apart=float(apart[k]) if asked[k] else None,
            apart_margin=float(apart_margins[k]) if asked[k] else None,
        )
        for k, name in enumerate(figures.names)
    ]
    order = ("worse", "open", "no worse")
    return sorted(judged, key=lambda each: (order.index(each.outcome), each.lower + each.margin)), critical


def _differences(figures: _Figures, rule: RegressionRule) -> tuple[NDArray[np.float64], ...]:
    """Return challenger - champion, in every resample of drives too, then how far each lies apart, likewise.

    Shapes (figure,), (resample, figure), (figure,), (resample, figure).
    """
    weights = drive_weights(len(figures.champion), rule.resamples, rule.seed)
    block = max(1, _BLOCK_NUMBERS // max(1, figures.champion[0].size))
    parts = [figures.differences(weights[start : start + block]) for start in range(0, rule.resamples, block)]
    resampled, resampled_rest = (np.concatenate(each) for each in zip(*parts, strict=True))
    (whole,), (rest,) = figures.differences(np.ones((1, len(figures.champion))))
    return whole, resampled, whole - rest, resampled - resampled_rest


def _critical_value(losses: _Losses, losses_apart: _Losses, confidence: float) -> float:
    """Return the quantile of the greatest studentised difference of all, at least the normal distribution's."""
    greatest = np.maximum(losses.studentised, losses_apart.studentised).max(axis=1)
    return max(float(np.quantile(greatest, confidence)), float(special.ndtri(confidence)))


def _drives_needed(
    losses: _Losses, allowed: NDArray[np.float64], drives: NDArray[np.int64], k: int, confidence: float
) -> int | None:
    """Return how many drives would put the lower bound above the margin, were difference and spread as they were seen."""
    room = float(losses.seen[k] + allowed[k])
    if room <= 0:
        return None
    needed = int(drives[k]) * (float(special.ndtri(confidence)) * float(losses.error[k]) / room) ** 2
    return max(2, math.ceil(needed)) if needed < 1e9 else None


def _missing_in_words(score: SegmentationScore, unknown: Sequence[str], rule: RegressionRule) -> str:
    """Say what a test set lacks, none of whose conditions can be judged."""
    groups = score.groups
    slices = [each for each in column_slices(groups, score.columns) if each.name in unknown]
    counts = [
        f"{each.name} has {groups.drive_id[each.rows].nunique()} {rule.unit} and {int(groups.frames[each.rows].sum())} frames"
        for each in slices
    ]
    found = ", ".join(counts) or f"no frame says its {', '.join(score.columns)}"
    return f"no condition can be judged, each needs {rule.minimum_drives} {rule.unit} and {rule.minimum_frames} frames: {found}"


def _verdict(
    judgements: list[Judgement], unknown: list[str], critical: float, rule: RegressionRule, missing: str
) -> Verdict:
    worse = [each for each in judgements if each.outcome == "worse"]
    still_open = [each for each in judgements if each.outcome == "open"]
    if worse:
        decision, reasons = "refuse", [_worse_in_words(each) for each in worse]
    elif missing:
        decision, reasons = "not_enough_evidence", [missing]
    elif still_open:
        decision, reasons = "hold", [_open_in_words(each, rule.unit) for each in still_open]
    else:
        shown = f"shown to be no worse than the champion in each of {len(judgements)} figures, {rule.confidence:.0%} confidence"
        decision, reasons = "promote", [shown]
    if unknown and not missing:
        reasons.append(f"unknown, too few {rule.unit} or frames: {', '.join(unknown)}")
    return Verdict(
        decision=decision,
        reasons=tuple(reasons),
        judgements=tuple(judgements),
        unknown=tuple(unknown),
        critical_value=critical,
    )


def _worse_in_words(each: Judgement) -> str:
    if each.apart is not None and each.apart_margin is not None and each.apart < -each.apart_margin:
        more = f", {-100 * each.apart:.1f} more than on all other frames, where it may be {100 * each.apart_margin:.1f}"
    else:
        more = ""
    return (
        f"{each.name}: {100 * each.challenger:.1f} % against the champion's {100 * each.champion:.1f} %, "
        f"worse by {-100 * each.difference:.1f} points (allowed {100 * each.margin:.1f}; surely by {-100 * each.upper:.1f}){more}"
    )


def _open_in_words(each: Judgement, unit: str) -> str:
    needed = (
        f"about {each.drives_needed} {unit} would tell" if each.drives_needed else f"more {unit} alone will not show it"
    )
    return (
        f"{each.name}: {100 * each.difference:+.1f} points, but up to {-100 * each.lower:.1f} worse cannot be ruled out "
        f"on {each.drives} {unit} (allowed {100 * each.margin:.1f}; {needed})"
    )
