"""What the verdict lets through and what it holds back, asked of the product's own functions in a fleet whose truth is known."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchmarks.operating.world import CLASSES, Fleet, World, draw_fleet, logit_losses, population, with_share
from perception.metrics.bounds import drives_failure_upper
from perception.metrics.comparison import Comparison, RegressionRule, compare
from perception.metrics.confusion import iou_of_tallies, mean_known, tallies
from perception.metrics.contract import CLASS, OVERALL, Clause, Contract
from perception.metrics.jackknife import share_interval
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.verdict import Verdict, decide
from perception.parameters import Count, NotNegative, Seed, Share, checked

NIGHT = date(2026, 1, 1)
CHAMPION, REFERENCE = "the champion", "the reference release"
FOREGROUND = {name: number > 0 for number, name in enumerate(CLASSES)}  # ten of the eleven are contracted
DRAWN, FILLED = "drives as they come", "every condition filled up to its least number"
Drives = Annotated[int, Field(ge=2)]


@checked
class Study:
    """Say what is simulated, and how often."""

    drives: tuple[Drives, ...] = (10, 48, 100, 240, 1000)  # test drives
    shares: tuple[Share, ...] = (0.01, 0.05, 0.2)  # of the drives, that have the condition in which the loss is
    falls: tuple[NotNegative, ...] = (
        0.0,
        1.0,
        2.0,
        3.0,
        5.0,
        10.0,
        20.0,
    )  # points of mIoU in one condition, of the curve
    repeats: Count = 475  # nights of a cell: a share of 5 % has a standard error of one point then
    frozen_drives: Drives = 240  # of the months' test set
    trends: tuple[float, ...] = (-0.5, -0.1, 0.0)  # points a night
    trend_sd: NotNegative = 0.3  # points, of a night's true change
    years: Count = 100
    nights: Count = 365
    seed: Seed = 0
    workers: Count = 2  # processes
    contract: Contract = Field(default_factory=Contract)
    world: World = Field(default_factory=World)

    @property
    def clauses(self) -> dict[str, Clause]:
        """Return the clause of every figure that the contract names."""
        return self.contract.named({}, FOREGROUND)

    @property
    def least(self) -> int:
        """Return the least number of drives that the contract asks of a condition."""
        return max(
            each.minimum_drives for name, each in self.clauses.items() if each.required and not name.startswith(CLASS)
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Hold one figure of a study: what was asked, and the share of repetitions in which it was so."""

    study: str
    about: Mapping[str, Any]
    share: float
    repeats: int

    @property
    def error(self) -> float:
        """Return the standard error of the share, at least that of one in all repetitions."""
        share = min(max(self.share, 1 / self.repeats), 1 - 1 / self.repeats) if self.repeats > 1 else 0.5
        return float(np.sqrt(share * (1 - share) / self.repeats))


Job = tuple[Callable[..., list[Cell]], Study, int, dict[str, Any]]


def run_study(study: Study) -> list[Cell]:
    """Return every cell of the study, worked out side by side; the same whatever the number of processes."""
    jobs = [(function, study, number, about) for number, (function, about) in enumerate(_jobs(study))]
    if study.workers == 1:
        return [cell for job in jobs for cell in _done(job)]
    with ProcessPoolExecutor(study.workers) as pool:
        return [cell for cells in pool.map(_done, jobs) for cell in cells]


def _jobs(study: Study) -> list[tuple[Callable[..., list[Cell]], dict[str, Any]]]:
    large = [
        drives for drives in study.drives if drives >= 5 * study.least
    ]  # five times of day and five weathers fit in
    jobs: list[tuple[Callable[..., list[Cell]], dict[str, Any]]] = []
    jobs += [(months, {"trend": trend, "year": year}) for trend in study.trends for year in range(study.years)]
    jobs += [
        (at_the_margin, {"figure": "weather=fog", "share": share, "drives": drives, "test_set": DRAWN})
        for share in study.shares
        for drives in study.drives
    ]
    jobs += [
        (at_the_margin, {"figure": figure, "share": share, "drives": drives, "test_set": FILLED})
        for figure, shares in (
            ("weather=fog", study.shares), ("time_of_day=night", study.shares), (OVERALL, (None,)), ("class=bicycle", (None,)),
            ("class=person", (None,)),
        )
        for share in shares
        for drives in large
    ]  # fmt: skip
    jobs += [(equal_networks, {"drives": drives}) for drives in large]
    jobs += [(by_loss, {"drives": drives, "points": points}) for drives in large for points in study.falls]
    jobs += [(interval_coverage, {"drives": drives}) for drives in (2, 5, 10, 50, 500)]
    jobs += [
        (bound_coverage, {"drives": drives, "rate": rate, "correlation": correlation})
        for drives in (48, 240)
        for rate in (0.001, 0.01, 0.1)
        for correlation in (0.0, 0.3, 0.8)
    ]
    return jobs


def _done(job: Job) -> list[Cell]:
    function, study, number, about = job
    return function(study, np.random.default_rng([study.seed, number]), **about)


def judged(scores: Mapping[str, SegmentationScore], challenger: SegmentationScore, study: Study) -> Verdict:
    """Return the product's verdict on a challenger against other networks on the same drives."""
    found = {name: _compared(score, challenger, study) for name, score in scores.items()}
    return decide(found, study.contract, NIGHT)


def _compared(other: SegmentationScore, challenger: SegmentationScore, study: Study) -> Comparison:
    return compare(other, challenger, CLASSES, study.clauses, RegressionRule())


def _cell(study: str, hits: NDArray[np.bool_] | list[bool], **about: Any) -> Cell:
    return Cell(study=study, about=about, share=float(np.mean(hits)), repeats=len(hits))


def at_the_margin(
    study: Study, generator: np.random.Generator, *, figure: str, share: float | None, drives: int, test_set: str
) -> list[Cell]:
    """Ask how often a challenger is promoted whose true loss in one figure is exactly at its margin."""
    world = with_share(study.world, figure, share) if share else study.world
    least = study.least if test_set == FILLED else 0
    truth = population(world, figure, least / drives)
    (amount,) = logit_losses(truth, figure, [_margin(study, truth, figure)])
    promoted = []
    for _ in range(study.repeats):
        fleet = draw_fleet(world, drives, generator, least=least)
        champion = fleet.score(generator)
        verdict = judged({CHAMPION: champion}, fleet.score(generator, fleet.loss(figure, amount)), study)
        promoted.append(verdict.decision == "promote")
    return [_cell("at_the_margin", promoted, figure=figure, share=share, drives=drives, test_set=test_set)]


def _margin(study: Study, truth: Fleet, figure: str) -> float:
    clause = study.clauses[figure]
    return float(np.clip(clause.share * truth.expected(figure), clause.least, clause.most))


def equal_networks(study: Study, generator: np.random.Generator, *, drives: int) -> list[Cell]:
    """Ask how often a challenger is promoted that is as good as champion and reference release, all three by their own chance."""
    promoted = []
    for _ in range(study.repeats):
        fleet = draw_fleet(study.world, drives, generator, least=study.least)
        others = {name: fleet.score(generator) for name in (CHAMPION, REFERENCE)}
        promoted.append(judged(others, fleet.score(generator), study).decision == "promote")
    return [_cell("equal_networks", promoted, drives=drives)]


def by_loss(study: Study, generator: np.random.Generator, *, drives: int, points: float) -> list[Cell]:
    """Ask how often a challenger is promoted, and how often refused by name, that is so many points worse at night."""
    truth = population(study.world, "time_of_day=night", study.least / drives)
    (amount,) = logit_losses(truth, "time_of_day=night", [points / 100])
    decisions = []
    for _ in range(-(-study.repeats // 4)):
        fleet = draw_fleet(study.world, drives, generator, least=study.least)
        champion = fleet.score(generator)
        loss = fleet.loss("time_of_day=night", amount)
        decisions.append(judged({CHAMPION: champion}, fleet.score(generator, loss), study).decision)
    return [
        _cell("by_loss", [each == wanted for each in decisions], drives=drives, points=points, decision=wanted)
        for wanted in ("promote", "refuse")
    ]


def months(study: Study, generator: np.random.Generator, *, trend: float, year: int) -> list[Cell]:
    """Follow one year on one frozen test set: each night's challenger is the champion with a true change of its own.

    The share of the cell is 1 where the true loss since the reference release is within one margin at the end.
    """
    fleet = draw_fleet(study.world, study.frozen_drives, generator, least=study.least)
    truth = population(study.world, OVERALL, study.least / study.frozen_drives)
    margin = _margin(study, truth, OVERALL)
    points = np.linspace(-15.0, 15.0, 31)
    amounts = logit_losses(truth, OVERALL, list(-points / 100))
    reference = champion = fleet.score(generator)
    clauses = {name: clause for name, clause in study.clauses.items() if clause.required}
    level, levels = 0.0, []
    for _ in range(study.nights):
        tonight = level + generator.normal(trend, study.trend_sd)
        challenger = fleet.score(generator, float(np.interp(tonight, points, amounts)))
        if _promoted((champion, reference), challenger, clauses, study.contract):
            champion, level = challenger, tonight
        levels.append(level)
    within = level >= -100 * margin
    kept = [levels[k] for k in range(0, study.nights, max(1, study.nights // 12))] + [level]
    return [_cell("months", [within], trend=trend, year=year, levels=kept)]


def _promoted(
    others: tuple[SegmentationScore, ...],
    challenger: SegmentationScore,
    clauses: Mapping[str, Clause],
    contract: Contract,
) -> bool:
    """Return whether a challenger passes against each of the others; the first that holds it spares the rest."""
    return all(
        decide({"it": compare(other, challenger, CLASSES, clauses, RegressionRule())}, contract, NIGHT).decision
        == "promote"
        for other in others
    )


def interval_coverage(study: Study, generator: np.random.Generator, *, drives: int) -> list[Cell]:
    """Ask how often the 95 % intervals of mIoU and of each class's IoU hold the truth, of those that are printed."""

    def figures(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        values = iou_of_tallies(counts)
        return np.concatenate([mean_known(values)[..., None], values], axis=-1)

    fleet = tallies(draw_fleet(study.world, 5_000, generator).score(generator).counts)
    truth, covered, given = figures(fleet.sum(axis=0)), [], []
    for _ in range(2 * study.repeats):
        low, high = share_interval(figures, fleet[generator.integers(0, len(fleet), drives)], 0.95)
        covered.append((low <= truth) & (truth <= high))
        given.append(np.isfinite(low))
    names = ("mIoU", *CLASSES)
    return [
        _cell("interval_coverage", np.array(covered)[np.array(given)[:, k], k], drives=drives, figure=name)
        for k, name in enumerate(names)
    ]


def bound_coverage(
    study: Study, generator: np.random.Generator, *, drives: int, rate: float, correlation: float
) -> list[Cell]:
    """Ask how often the 95 % upper bound of rare failures holds, ten frames a drive that fail together."""
    rates = np.full((study.repeats, drives), rate)
    if correlation:
        both = 1.0 / correlation - 1.0
        rates = generator.beta(rate * both, (1.0 - rate) * both, rates.shape)
    failures = generator.binomial(10, rates)
    held = [drives_failure_upper(each, np.full(drives, 10), 0.95) >= rate for each in failures]
    return [_cell("bound_coverage", held, drives=drives, rate=rate, correlation=correlation)]
