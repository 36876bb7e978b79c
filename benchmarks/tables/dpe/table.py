"""Table 2 of Deep Probabilistic Ensembles, and its table of 20 % against 100 % of the labels; CamVid for segmentation.

Chitta, Alvarez and Lesnikowski, arXiv 1811.03575. A committee is trained from scratch on 4 % of a pool, chooses what to
label up to 8, 16 and 32 %, and is trained again each time. Every seed draws its own pool, first 4 % and first weights,
the same for every row, so that differences between rows are paired. Beta and the direction of the KL divergence are
chosen on images that are neither in the pool nor in the test set; the whole sweep is shown.
"""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.tables.data import SEGMENTATION, Labelled, classification
from benchmarks.tables.dpe import report as dpe_report
from benchmarks.tables.dpe import segmentation as dpe_segmentation
from benchmarks.tables.dpe.committees import member_probabilities, standardised, train_committee
from benchmarks.tables.dpe.plan import PLANS, SWEEP_PERCENT, Arm, Plan, cell_name, sweep_points
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.statistics import area_under_rejection_curve, expected_calibration_error
from perception.errors import InputError
from perception.selection.budget import choose_frames
from perception.selection.settings import SelectionSettings
from perception.uncertainty.dpe import EnsembleLoss
from perception.uncertainty.ensemble import Committee
from perception.uncertainty.scores import uncertainty_from_probabilities

TABLE_SIZES = tuple(PLANS)


def cells(request: Request) -> list[Cell]:
    """Return the sweep's cells, then each arm's rounds; the sweep last where the loss does not hang on it."""
    if request.data_kind in SEGMENTATION:
        if request.size not in dpe_segmentation.PLANS:
            known = ", ".join(dpe_segmentation.PLANS)
            raise InputError(f"SIZE = {request.size}: table dpe on {request.data_kind} has {known}; take one of these")
        return dpe_segmentation.cells(request)
    work = Work(request, PLANS[request.size])
    sweep = [
        Cell(
            name=_sweep_name(direction, beta, seed),
            compute=partial(_sweep, work, beta, direction, seed),
            settings=_settings(work.plan, swept=False),
        )
        for direction, beta in sweep_points(work.plan)
        for seed in range(request.seeds)
    ]
    chains = [_rounds(work, arm, seed) for arm in work.plan.arms for seed in range(request.seeds)]
    # Round by round, not arm by arm: what is done when the minutes are spent can be compared.
    rounds = [cell for cells_of_a_round in itertools.zip_longest(*chains) for cell in cells_of_a_round if cell]
    return rounds + sweep if work.plan.loss else sweep + rounds


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what was measured, in as many seeds as two rows are begun in, or else one; rounds to come are dashes."""
    if request.data_kind in SEGMENTATION:
        return dpe_segmentation.report(request, results)
    plan = PLANS[request.size]
    for rows, seeds in itertools.product((2, 1), range(request.seeds, 0, -1)):
        arms = [arm for arm in plan.arms if _is_begun(arm, seeds, results)]
        if len(arms) >= rows:
            loss = chosen_loss(plan, request.seeds, results)
            return dpe_report.report(request, plan, results, arms, loss, seeds)
    raise InputError("table dpe: no row is done in any seed; run the command again")


def _is_begun(arm: Arm, seeds: int, results: Mapping[str, Found]) -> bool:
    """Return whether every seed has the first round whose labels the arm chose itself."""
    percent = arm[2][:2][-1]
    return all(cell_name(arm, seed, percent) in results for seed in range(seeds))


def _settings(plan: Plan, swept: bool) -> dict[str, Any]:
    """Return what a cell's result depends on; which betas were swept decides the loss of DPE alone."""
    left_out = {"arms"} if swept else {"arms", "betas"}
    return {name: value for name, value in asdict(plan).items() if name not in left_out}


def _sweep_name(direction: str, beta: float, seed: int) -> str:
    return f"sweep-{direction}-{beta:g}-seed{seed}"


def chosen_loss(plan: Plan, seeds: int, results: Mapping[str, Found]) -> EnsembleLoss:
    """Return the plan's DPE loss or, where it has none, the one of least mean log loss on the validation images."""
    if plan.loss is not None:
        return plan.loss

    def log_loss(point: tuple[str, float]) -> float:
        return float(np.mean([results[_sweep_name(*point, seed)]["log_loss"] for seed in range(seeds)]))

    points = [point for point in sweep_points(plan) if point[1] > 0]
    direction, beta = min(points, key=log_loss)
    return EnsembleLoss(penalty="dpe", beta=beta, direction=direction)


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Split:
    """One seed's images, standardised, and the order in which the pool's first ones are labelled."""

    pool: Labelled
    validation: Labelled
    test: Labelled


@dataclass(frozen=True)
class Work:
    """What is asked for, and how large it is."""

    request: Request
    plan: Plan

    def split(self, seed: int) -> Split:
        """Return a seed's images on the device; they stay there for the seed's next cells."""
        assert self.request.data is not None
        return _split(self.request.data, self.request.data_kind, self.request.device, self.plan, seed)

    def trained(self, kind: str, labelled: Labelled, seed: int, loss: EnsembleLoss) -> Committee:
        """Train a committee on labelled images."""
        return train_committee(
            kind, labelled, self.plan.recipe, seed=seed, device=self.request.device, loss=loss, eager=self.request.eager
        )


@cache
def _raw(path: Path, kind: str) -> tuple[Labelled, Labelled]:
    return classification(path, kind)


@lru_cache(maxsize=1)
def _split(path: Path, kind: str, device: str, plan: Plan, seed: int) -> Split:
    train, test = _raw(path, kind)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1000 + seed))
    # Where the loss is fixed and the pool is everything, the last images that the sweep does not learn from.
    start = min(plan.pool_frames, len(train) - plan.validation_frames)
    validation = train.take(order[start : start + plan.validation_frames])
    parts = [part.on(device) for part in (train.take(order[: plan.pool_frames]), validation, test)]
    return Split(*(Labelled(standardised(part.images, parts[0].images), part.labels) for part in parts))


# ---------------------------------------------------------------- cells


def _sweep(work: Work, beta: float, direction: str, seed: int, _before: Mapping[str, Found]) -> Found:
    split = work.split(seed)
    first = list(range(round(work.plan.pool_frames * SWEEP_PERCENT / 100)))
    loss = replace(work.plan.loss or EnsembleLoss(penalty="dpe"), beta=beta, direction=direction)
    committee = work.trained("dpe" if beta else "ensemble", split.pool.take(first), seed, loss)
    return _quality(committee, split.validation, work.request.device)


def _rounds(work: Work, arm: Arm, seed: int) -> list[Cell]:
    """Return one cell a round: train on what is labelled, measure, choose what the next round adds."""
    points = () if work.plan.loss else itertools.product(sweep_points(work.plan), range(work.request.seeds))
    first, percents = tuple(_sweep_name(*point, other) for point, other in points), arm[2]
    found = []
    for index, percent in enumerate(percents):
        following = percents[index + 1] if index + 1 < len(percents) else None
        before = cell_name(arm, seed, percents[index - 1]) if index else None
        found.append(
            Cell(
                name=cell_name(arm, seed, percent),
                compute=partial(_round, work, arm, seed, percent, following, before),
                needs=(before,) if before else first,
                settings=_settings(work.plan, swept=arm[0] == "dpe"),
            )
        )
    return found


def _round(
    work: Work,
    arm: Arm,
    seed: int,
    percent: int,
    following: int | None,
    before: str | None,
    results: Mapping[str, Found],
) -> Found:
    (kind, strategy, _), plan, device = arm, work.plan, work.request.device
    split = work.split(seed)
    labelled = results[before]["labelled"] if before else list(range(round(plan.pool_frames * percent / 100)))
    loss = chosen_loss(plan, work.request.seeds, results)
    committee = work.trained(kind, split.pool.take(labelled), 100 * seed + percent, loss)
    found = _quality(committee, split.test, device)
    if following is not None:
        budget = round(plan.pool_frames * following / 100) - len(labelled)
        added = choose(committee, split.pool.images, labelled, budget, strategy, seed, device)
        found["labelled"] = labelled + added
    return found


def choose(
    committee: Committee, images: Tensor, labelled: list[int], budget: int, strategy: str, seed: int, device: str
) -> list[int]:
    """Return the pool's rows to label next, by ensemble entropy; distances are between the members' answers."""
    probabilities = member_probabilities(committee, images, device)
    scores = uncertainty_from_probabilities(probabilities).maps["ensemble_entropy"]
    table = pd.DataFrame(
        {
            "frame_id": [f"{row:06d}" for row in range(len(images))],
            "score": scores.clamp_min(0).double().numpy(),
            "embedding": list(probabilities.permute(1, 0, 2).flatten(1).numpy()),
            "measure": "ensemble_entropy",
        }
    )
    known = table.iloc[labelled][["frame_id", "embedding"]]
    settings = SelectionSettings(
        budget_frames=budget, strategy=strategy, seed=seed, shortlist_frames=max(20_000, budget)
    )
    return [int(frame_id) for frame_id in choose_frames(table, settings, known)["frame_id"]]


def _quality(committee: Committee, images: Labelled, device: str) -> Found:
    """Measure accuracy and calibration error in per cent, log loss in nats, and the area under the rejection curve."""
    mean, labels = member_probabilities(committee, images.images, device).mean(0), images.labels.cpu()
    predicted, right = mean.argmax(1), mean.argmax(1) == labels
    own = mean[torch.arange(len(mean)), labels].clamp_min(1e-12)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum(1)
    return {
        "accuracy": 100 * float(right.float().mean()),
        "ece": 100 * expected_calibration_error(mean[torch.arange(len(mean)), predicted].numpy(), right.numpy()),
        "aurc": 100 * area_under_rejection_curve(entropy.numpy(), right.numpy()),
        "log_loss": float(-own.log().mean()),
    }
