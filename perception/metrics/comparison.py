"""Challenger and champion, or a reference release: is the new network no worse in every figure that the contract names?

Both networks are judged on the same frames, and drives are left out in pairs, so that what makes a drive hard for both
cancels. Two questions are asked of every figure, with errors in opposite directions:

worse: is it behind by more than the margin, and is at least half of that beyond doubt? Two trainings of one
recipe differ in truth, not by chance alone, so "surely worse than nothing" would refuse good networks on a large test
set. One false alarm among all figures is enough to refuse, so the bounds hold for all figures at once: their critical
value is the quantile of the greatest studentised difference (Westfall and Young, "Resampling-Based Multiple Testing",
1993; maxT), which knows how the figures hang together. Where `seed_spread` says by how much trainings that differ only
by their seed scatter in a figure, a refusal needs a loss beyond what two of them differ by, for all figures together; what
may be released stays as the contract says. A seed mostly lifts or lowers all conditions alike, so a loss within that wider
margin is refused all the same where it exceeds the contract's own margin and sets the condition apart: where it is greater
than the loss on all other frames by more than seeds make it, and by at least half the margin.

no worse: is it shown that the figure is not behind by more than the margin? Here every figure must pass, so each may be
asked at the full level (Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", 1982: intersection-union).
A margin that depends on the other network's figure is part of what is left out of and worked out again.

open: neither. The test set cannot tell yet; `drives_needed` says how many drives would probably be enough.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse, special

from perception.errors import InputError
from perception.metrics.confusion import iou_of_tallies, mean_known, tallies
from perception.metrics.contract import CLASS, OVERALL, Clause
from perception.metrics.jackknife import leave_one_out, spread_of
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.settings import Confidence
from perception.parameters import Seed, ShareFromZero, checked

Floats = NDArray[np.float64]
APART = " apart"  # after a condition's name: its figure less that of all other frames
SURE_SHARE = 0.5  # of the margin: a refusal needs a loss that surely exceeds this
POWER = 0.8  # of the number of drives that would be enough
_DRAWS = 4000  # of the greatest studentised difference
_LEAST_SHOWN = 2  # drives that must label a class for a condition's mean to count it


@checked
class RegressionRule:
    """Say how sure a comparison has to be: of a loss over all figures together, of "no worse" for each figure."""

    confidence: Confidence = 0.95
    seed: Seed = 0  # of what is drawn to judge all figures together
    # Standard deviation of a figure between trainings that differ only by their seed, by the figure's name, and of a
    # condition's difference from all other frames, by its name and " apart": as seed_spread() gives them.
    seed_spread: dict[str, ShareFromZero] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Compare one figure: mIoU overall or in a condition, or the IoU of a class.

    lower bounds the difference at the rule's confidence for this figure alone, upper for all figures together.
    """

    name: str  # overall, column=value, or class=name
    required: bool  # by the contract
    margin: float
    champion: float
    challenger: float
    difference: float  # challenger - champion
    lower: float
    upper: float
    drives: int
    frames: int
    outcome: str  # better, no worse, open or worse
    # to show "no worse" in most cases if the difference is what was seen; None: no number would
    drives_needed: int | None
    apart: float | None = None  # a condition's difference less that on all other frames; None: not judged
    apart_margin: float | None = None  # what two seeds differ by at most in that, at least half the margin


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Name a figure of the contract that could not be judged."""

    name: str
    required: bool
    drives: int
    drives_needed: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Hold what was found against one other network: every figure of the contract, judged or not."""

    judgements: tuple[Judgement, ...]  # most worrying first
    gaps: tuple[Gap, ...]
    critical_value: float | None = None  # standard errors that a refusal needs


@dataclass(frozen=True, eq=False)
class _Figure:
    """Hold one figure's tallies, the champion's and the challenger's: (drive, 2, 3, class) each."""

    name: str
    clause: Clause
    inside: Floats  # of the frames that the figure rests on
    whole: Floats  # of all frames
    averaged: NDArray[np.bool_]  # (class,)
    drives: int
    frames: int

    @property
    def outside(self) -> Floats:
        """Return the tallies of all frames that are not of its condition: (drive, 2, 3, class); none for a class."""
        return self.whole - self.inside if self.whole.shape == self.inside.shape else np.zeros_like(self.inside)

    @property
    def rows(self) -> NDArray[np.bool_]:
        """Return which drives it rests on: (drive,)."""
        return np.asarray(self.inside.any(axis=(1, 2, 3)))

    def both(self, counts: Floats) -> Floats:
        """Return the champion's figure and the challenger's from summed tallies (..., 2, 3, class): (..., 2)."""
        return mean_known(np.where(self.averaged, iou_of_tallies(counts), np.nan))

    def difference(self, counts: Floats) -> Floats:
        """Return challenger - champion from summed tallies (..., 2, 3, class): (...)."""
        champion, challenger = np.moveaxis(self.both(counts), -1, 0)
        return np.asarray(challenger - champion)

    def judged(self, counts: Floats) -> Floats:
        """Return the difference, and how much room it leaves above the margin, from summed tallies: (..., 2)."""
        difference = self.difference(counts)
        return np.stack([difference, difference + self.margin(self.both(counts)[..., 0])], axis=-1)

    def margin(self, champion: Floats) -> Floats:
        """Return by how much the figure may fall behind the champion's."""
        return np.clip(self.clause.share * champion, self.clause.least, self.clause.most)


def compare(
    champion: SegmentationScore,
    challenger: SegmentationScore,
    classes: Sequence[str],
    clauses: Mapping[str, Clause],
    rule: RegressionRule,
) -> Comparison:
    """Judge the challenger against another network on the same frames, in every figure that the contract names.

    clauses: as Contract.named gives them. A condition's mIoU averages the classes that at least two of its drives show.
    Raises InputError when the two scores are not of the same frames.
    """
    _check_same_frames(champion, challenger)
    figures, gaps = _figures(champion, challenger, classes, clauses)
    if not figures:
        return Comparison(judgements=(), gaps=gaps)
    judgements, critical = _judge(figures, rule)
    return Comparison(judgements=judgements, gaps=gaps, critical_value=critical)


def since(reference: SegmentationScore, challenger: SegmentationScore, confidence: float) -> tuple[float, float]:
    """Return how far mIoU has come since a reference release on the same frames, and by how much a one-sided bound lies beside it."""
    _check_same_frames(reference, challenger)
    drives, drive_of = np.unique(reference.groups.drive_id.to_numpy(str), return_inverse=True)
    counts = np.stack([tallies(score.counts) for score in (reference, challenger)], axis=1)
    by_drive = _by_drive(counts, drive_of, len(drives))

    def come(summed: Floats) -> Floats:
        values = mean_known(iou_of_tallies(summed))
        return np.asarray(values[..., 1] - values[..., 0])

    return float(come(by_drive.sum(axis=0))), float(spread_of(leave_one_out(come, by_drive)).half_width(confidence))


def seed_spread(
    scores: Sequence[SegmentationScore], classes: Sequence[str], clauses: Mapping[str, Clause]
) -> dict[str, float]:
    """Measure how networks that differ only by the seed of their training scatter: figure → standard deviation of it.

    scores: of two networks or more, on the same frames; figures are those that `compare` would judge.
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
        figures, _ = _figures(scores[0], score, classes, clauses)
        own, rest = (
            np.array([each.both(part.sum(axis=0))[1] for each, part in zip(figures, parts, strict=True)])
            for parts in ([each.inside for each in figures], [each.outside for each in figures])
        )
        values.append(own)
        apart.append(own - rest)
    names = [each.name for each in figures]
    kinds = ["class" if name.startswith(CLASS) else "condition" for name in names]
    spread = dict(zip(names, _moderated(np.array(values), kinds), strict=True))
    known = np.flatnonzero(np.isfinite(apart).all(axis=0))
    columns = [names[index].partition("=")[0] for index in known]
    of_apart = _moderated(np.array(apart)[:, known], columns)
    return spread | {names[index] + APART: each for index, each in zip(known, of_apart, strict=True)}


def _moderated(values: NDArray[np.float64], kinds: Sequence[str]) -> list[float]:
    """Return the standard deviation of each column of (network, figure), its variance averaged with that of its kind."""
    variance = np.var(values, axis=0, ddof=1)
    for kind in set(kinds):
        members = np.array([each == kind for each in kinds], bool)
        variance[members] = (variance[members] + variance[members].mean()) / 2
    deviations: list[float] = np.sqrt(variance).tolist()
    return deviations


def _check_same_frames(champion: SegmentationScore, challenger: SegmentationScore) -> None:
    same = champion.counts.shape == challenger.counts.shape
    if not same or champion.frames.frame_id.tolist() != challenger.frames.frame_id.tolist():
        raise InputError(
            "champion and challenger were not judged on the same frames and classes; evaluate both on one test set"
        )


def _figures(
    champion: SegmentationScore,
    challenger: SegmentationScore,
    classes: Sequence[str],
    clauses: Mapping[str, Clause],
) -> tuple[list[_Figure], tuple[Gap, ...]]:
    """Return the figures that enough drives show, and those of the contract that too few do."""
    groups = champion.groups
    drives, drive_of = np.unique(groups.drive_id.to_numpy(str), return_inverse=True)
    counts = np.stack([tallies(score.counts) for score in (champion, challenger)], axis=1)
    whole = _by_drive(counts, drive_of, len(drives))
    columns = {column: groups[column].to_numpy(object) for column in champion.columns}
    frames_of, found, gaps = groups.frames.to_numpy(), [], []
    for name, clause in clauses.items():
        column, _, value = name.partition("=")
        inside, frames = whole, int(frames_of.sum())
        if name.startswith(CLASS):
            inside = whole[..., [classes.index(value)]]
        elif name != OVERALL:
            rows = np.asarray(columns.get(column, np.full(len(groups), None)) == value, bool)
            inside, frames = _by_drive(counts[rows], drive_of[rows], len(whole)), int(frames_of[rows].sum())
        shown = inside[:, 0, 1] > 0
        showing = int(shown.any(axis=1).sum())
        if showing < clause.minimum_drives:
            gaps.append(Gap(name=name, required=clause.required, drives=showing, drives_needed=clause.minimum_drives))
        else:
            averaged = shown.sum(axis=0) >= _LEAST_SHOWN
            found.append(_Figure(name, clause, inside, whole, averaged, showing, frames))
    return found, tuple(gaps)


def _by_drive(counts: NDArray[np.int64], drive_of: NDArray[np.int64], drives: int) -> Floats:
    """Sum counts (group, ...) by drive: (drive, ...)."""
    member = sparse.csr_array((np.ones(len(drive_of)), (drive_of, np.arange(len(drive_of)))), (drives, len(drive_of)))
    summed: Floats = (member @ counts.reshape(len(counts), math.prod(counts.shape[1:]))).reshape(
        drives, *counts.shape[1:]
    )
    return summed


@dataclass(frozen=True, eq=False)
class _Loss:
    """How far a figure fell, and how that scatters over drives."""

    seen: float  # challenger - champion
    error: float  # standard error
    freedom: float
    deviations: Floats  # (drive,): what leaving each drive out changes

    def surely_beyond(self, critical: float, margin: float) -> bool:
        """Return whether the figure fell by more than the margin, at least SURE_SHARE of it beyond doubt."""
        return self.seen < -margin and self.upper(critical) < -margin * SURE_SHARE

    def upper(self, critical: float) -> float:
        """Return the bound of the difference from above, `critical` normal standard errors away or as many as that is of Student's."""
        return self.seen + float(special.stdtrit(self.freedom, special.ndtr(critical))) * self.error


def _loss(seen: float, left_out: Floats, rows: NDArray[np.bool_]) -> _Loss:
    spread = spread_of(left_out)
    deviations = np.zeros(len(rows))
    deviations[rows] = left_out - left_out.mean()
    return _Loss(seen, float(spread.error), float(spread.freedom), deviations)


def _judge(figures: Sequence[_Figure], rule: RegressionRule) -> tuple[tuple[Judgement, ...], float]:
    """Return every figure's judgement, most worrying first, and the standard errors that a refusal needs."""
    losses, rooms = zip(*(_losses(each) for each in figures), strict=True)
    losses_apart = [_loss_apart(each) if each.name + APART in rule.seed_spread else None for each in figures]
    critical = _critical_value([*losses, *(each for each in losses_apart if each)], rule)
    judged = [
        _judgement(figure, loss, room, apart, critical, _between_seeds(rule, len(figures)), rule)
        for figure, loss, room, apart in zip(figures, losses, rooms, losses_apart, strict=True)
    ]
    order = ("worse", "open", "no worse", "better")
    return tuple(sorted(judged, key=lambda each: (order.index(each.outcome), each.lower + each.margin))), critical


def _losses(figure: _Figure) -> tuple[_Loss, _Loss]:
    """Return the difference, and the room that it leaves above the margin."""
    rows = figure.rows
    seen, left_out = figure.judged(figure.inside.sum(axis=0)), leave_one_out(figure.judged, figure.inside[rows])
    difference, room = (_loss(float(seen[k]), left_out[:, k], rows) for k in range(2))
    return difference, room


def _loss_apart(figure: _Figure) -> _Loss | None:
    """Return how far a condition's difference lies from that on all other frames; None where there are none."""
    outside = figure.outside
    if not outside.any():
        return None
    left_out = leave_one_out(figure.difference, figure.inside) - leave_one_out(figure.difference, outside)
    seen = figure.difference(figure.inside.sum(axis=0)) - figure.difference(outside.sum(axis=0))
    return _loss(float(seen), left_out, np.ones(len(outside), bool))


def _critical_value(losses: Sequence[_Loss], rule: RegressionRule) -> float:
    """Return the quantile of the greatest studentised difference of all, at least the normal distribution's."""
    deviations = np.stack([each.deviations for each in losses], axis=1)
    size = np.sqrt((deviations**2).sum(axis=0))
    scaled = np.divide(deviations, size, out=np.zeros_like(deviations), where=size > 0)
    generator = np.random.default_rng(rule.seed)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    drawn = generator.standard_normal((_DRAWS, len(values))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return max(float(np.quantile(drawn.max(axis=1), rule.confidence)), float(special.ndtri(rule.confidence)))


def _between_seeds(rule: RegressionRule, figures: int) -> float:
    """Return by how many standard deviations between seeds two trainings differ at most, for all figures together (Sidak)."""
    tests = figures + sum(name.endswith(APART) for name in rule.seed_spread)
    return math.sqrt(2) * float(special.ndtri(rule.confidence ** (1 / tests)))


def _judgement(
    figure: _Figure,
    loss: _Loss,
    room: _Loss,
    apart: _Loss | None,
    critical: float,
    between: float,
    rule: RegressionRule,
) -> Judgement:
    champion, challenger = map(float, figure.both(figure.inside.sum(axis=0)))
    margin = room.seen - loss.seen
    apart_margin = None
    worse = loss.surely_beyond(critical, max(margin, between * rule.seed_spread.get(figure.name, 0.0)))
    if apart:
        # A spread that a few networks happened to make small must not let a hair's breadth set a condition apart.
        apart_margin = max(between * rule.seed_spread[figure.name + APART], SURE_SHARE * margin)
        worse |= loss.surely_beyond(critical, margin) and apart.surely_beyond(critical, apart_margin)
    room_left = room.seen - float(special.stdtrit(room.freedom, rule.confidence)) * room.error
    lower = loss.seen - float(special.stdtrit(loss.freedom, rule.confidence)) * loss.error
    good = "better" if lower > 0 else "no worse" if room_left > 0 else "open"
    return Judgement(
        name=figure.name,
        required=figure.clause.required,
        margin=margin,
        champion=champion,
        challenger=challenger,
        difference=loss.seen,
        lower=lower if good == "better" else room_left - margin,
        upper=loss.upper(critical),
        drives=figure.drives,
        frames=figure.frames,
        outcome="worse" if worse else good,
        drives_needed=_drives_needed(room, figure.drives, rule.confidence),
        apart=apart.seen if apart else None,
        apart_margin=apart_margin,
    )


def _drives_needed(room: _Loss, drives: int, confidence: float) -> int | None:
    """Return how many drives would show "no worse" in POWER of cases, were difference and spread as they were seen."""
    if room.seen <= 0:
        return None
    needed = drives * (float(special.ndtri(confidence) + special.ndtri(POWER)) * room.error / room.seen) ** 2
    return max(2, math.ceil(needed)) if needed < 1e9 else None
