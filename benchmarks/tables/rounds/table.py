"""Active learning of a detector by rounds: few labelled frames, and what an ensemble is unsure of, against chance.

The loop of Deep Probabilistic Ensembles (Chitta, Alvarez and Lesnikowski, arXiv 1811.03575): an ensemble of detectors learns
from scratch what is labelled, chooses what is labelled next, and the labelled set doubles until the schedule is done. A
frame's score is the entropy of the members' mean heat maps, averaged over the most uncertain places. Every seed draws its
first frames and weights, the same for every row, so that differences between rows are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.results import markdown_table
from benchmarks.tables.batches import DetectionStream, Variation
from benchmarks.tables.frames import Instances
from benchmarks.tables.plans import plans_of
from benchmarks.tables.results import Report, plot_by_share
from benchmarks.tables.rounds.frames import READERS, Frames, open_frames, targets
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.segmenters import numbered, training_settings
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from perception.adaptation.detector import Detections, DetectSettings, ForegroundDetector, detect
from perception.adaptation.detector_training import DetectionBatch, detection_loss
from perception.data.detection import DetectionFrame, DetectionSet, write_kitti_detections
from perception.data.detection.kitti import KITTI_CLASSES
from perception.errors import InputError
from perception.metrics.detection import Objects, average_precision
from perception.metrics.differences import paired_difference
from perception.metrics.kitti import KittiDetections, kitti_ap
from perception.selection.budget import choose_frames
from perception.selection.schedule import exponential_sizes, next_budget
from perception.selection.settings import SelectionSettings
from perception.training.loop import fit
from perception.training.setup import seeded
from perception.uncertainty.dpe import kl_penalty
from perception.uncertainty.ensemble import Ensemble
from perception.uncertainty.priors import Prior
from perception.uncertainty.scores import ScoreSettings, score_frames

TABLE_SIZES = ("small", "full")
STRATEGIES = {"random": "at random", "k_centre": "uncertain and apart"}
VARIATION = Variation(color=0.15, tint=0.03, gamma=0.1, noise=0.0, blur_share=0.0)  # besides mirrored frames
DETECT = DetectSettings(lowest_score=0.05, most_instances=32)
MOST_ROWS = 20  # of the table by class
NO_FIGURE = ("labelled", "frames", "objects")  # what a cell found beside AP
SCORE = ScoreSettings(outputs="sigmoid", reduction="top_share")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    size_px: tuple[int, int]  # height and width, multiples of 8
    pool_frames: int
    test_frames: int
    first_frames: int  # labelled at random before the first round
    rounds: int  # each doubles the labelled frames
    members: int
    width: float  # of the detector
    steps: int  # of every round
    batch_frames: int = 8
    learning_rate: float = 6e-3
    beta: float = 1e-6  # of the penalty that keeps the members' spread close to the prior

    @property
    def sizes(self) -> list[int]:
        """Return how many frames are labelled in each round."""
        return exponential_sizes(self.first_frames, self.rounds)


PLANS = plans_of("rounds", Plan)


class HeatMaps(Ensemble):
    """Answer with the detectors' heat maps, as the scores of frames take them."""

    def member_logits(self, images: Tensor):  # type: ignore[no-untyped-def]
        """Yield one member's heat map after the other: (frame, class, height / 4, width / 4) logits."""
        for member in self.members:
            yield member(images).heat

    def embed(self, images: Tensor) -> Tensor:
        """Describe each image by where the members see what: their mean heat map on 2 x 4 cells, (frame, class * 8)."""
        mean = torch.stack([logits.sigmoid() for logits in self.member_logits(images)]).mean(0)
        return F.adaptive_max_pool2d(mean, (2, 4)).flatten(1)


def cells(request: Request) -> list[Cell]:
    """Return the first round of every seed, then each strategy's rounds, round by round."""
    if request.data is not None and request.data_kind not in READERS:
        raise InputError(
            f"table rounds: DATA holds {request.data_kind}; give a folder of {', '.join(READERS)}, or nothing for streets"
        )
    plan, seeds = PLANS[request.size], range(request.seeds)
    made = []
    for size in plan.sizes:
        for seed in seeds:
            for strategy in STRATEGIES if size > plan.first_frames else ("first",):
                before = None if strategy == "first" else _name(plan, strategy, seed, size // 2)
                compute = partial(_round, request, plan, strategy, seed, size, before)
                needs = () if before is None else (before,)
                made.append(
                    Cell(name=_name(plan, strategy, seed, size), compute=compute, settings=asdict(plan), needs=needs)
                )
    return made


def _name(plan: Plan, strategy: str, seed: int, size: int) -> str:
    return f"{strategy if size > plan.first_frames else 'first'}-seed{seed}-{size}"


def _round(
    request: Request, plan: Plan, strategy: str, seed: int, size: int, before: str | None, results: Mapping[str, Found]
) -> Found:
    """Train on what is labelled, judge, and choose what the next round adds; the first round chooses by every strategy."""
    torch.set_num_threads(1)  # what this costs a network this small is less than what a second thread takes from others
    pool, test = open_frames(
        request.data, request.data_kind, plan.size_px, plan.pool_frames, plan.test_frames, request.workers
    )
    if (count := len(pool.images)) < plan.sizes[-1]:
        raise InputError(f"table rounds: a pool of {count} frames; {plan.sizes[-1]} are to be labelled in the end")
    if before is None:
        labelled = np.random.default_rng(1000 + seed).permutation(len(pool.images))[:size].tolist()
    else:
        labelled = results[before]["labelled"][strategy]
    ensemble = _trained(request, plan, targets(pool.take(labelled)), len(pool.classes), 100 * seed + size)
    found = _judged(ensemble, test, request.device, request.folder / "detections" / f"{strategy}-seed{seed}-{size}")
    budget = next_budget(plan.sizes, len(labelled))
    strategies = (STRATEGIES if before is None else (strategy,)) if budget else ()
    scored = _scored(ensemble, pool.images, request.device) if budget else pd.DataFrame()
    if before is None:
        used = {"pool": len(pool.images), "test": len(test.images), "found": test.found_frames}
        found |= {"frames": used, "objects": dict(test.counts)}
    return found | {"labelled": {each: labelled + _chosen(scored, labelled, budget, each, seed) for each in strategies}}


def _trained(request: Request, plan: Plan, frames: Instances, classes: int, seed: int) -> HeatMaps:
    members = [
        seeded(lambda: ForegroundDetector(classes, plan.width), 10 * seed + number) for number in range(plan.members)
    ]
    # Centres are rare, which the heat map's bias says from the start: its prior does not pull it to 0.
    priors = {"heat.out.bias": Prior(-4.0, 0.01)}
    ensemble = HeatMaps(members).to(request.device)
    on_device = Instances(fields={name: value.to(request.device) for name, value in frames.fields.items()})
    stream = DetectionStream(on_device, plan.batch_frames, plan.steps, VARIATION, seed)
    settings = training_settings(
        request, plan.batch_frames, plan.learning_rate, seed, optimiser="adamw", max_grad_norm=10.0
    )

    def loss(network: nn.Module, batch: DetectionBatch) -> Tensor:
        fitted = torch.stack([detection_loss(member, batch) for member in network.members]).sum()  # type: ignore[union-attr]
        penalty = kl_penalty(list(network.members), direction="qp", priors=priors)  # type: ignore[arg-type]
        return fitted + 2 * plan.beta * penalty

    fit(ensemble, lambda _: stream, settings, loss=loss, iterations_per_epoch=plan.steps)
    return ensemble


def _scored(ensemble: HeatMaps, images: Tensor, device: str) -> pd.DataFrame:
    rows = list(score_frames(ensemble, numbered(images, 16), SCORE, device=device))
    columns = {name: [getattr(row, name) for row in rows] for name in ("frame_id", "score", "embedding")}
    return pd.DataFrame(columns | {"measure": SCORE.measure})


def _chosen(scored: pd.DataFrame, labelled: list[int], budget: int, strategy: str, seed: int) -> list[int]:
    settings = SelectionSettings(budget_frames=budget, strategy=strategy, seed=seed)
    known = scored.iloc[labelled][["frame_id", "embedding"]]
    return [int(frame_id) for frame_id in choose_frames(scored, settings, known)["frame_id"]]


# ---------------------------------------------------------------- judging


def _judged(ensemble: HeatMaps, test: Frames, device: str, folder: Path) -> Found:
    """Give the members' mean AP in per cent: COCO's, by class as well, and on KITTI's labels that of its rules; None: no object.

    folder: where the last member's detections are written on KITTI's labels, for the evaluation of its own kit.
    """
    found: list[dict[str, float]] = []
    for member in ensemble.members:
        seen = [
            each for part in test.images.split(16) for each in _detected(member, part.to(device), len(test.classes))
        ]
        guessed = [
            Objects(boxes=each.boxes, class_ids=each.instances.classes, scores=each.instances.scores) for each in seen
        ]
        scored = average_precision(test.objects, guessed, len(test.classes))
        by_class = zip(test.classes, scored.by_class[0], strict=True)
        found.append({"ap50": scored.ap50, "ap": scored.ap} | dict(by_class) | _by_kitti(test, seen, folder))
    means = {name: 100 * float(np.mean([each[name] for each in found])) for name in found[0]}
    return {name: None if np.isnan(mean) else mean for name, mean in means.items()}


def _detected(member: nn.Module, images: Tensor, classes: int) -> list[Detections]:
    return list(detect(member, images.float() / 255, range(classes), DETECT))


def _by_kitti(test: Frames, seen: Sequence[Detections], folder: Path) -> dict[str, float]:
    """Give AP by KITTI's rules, class and difficulty, and write the detections as its kit reads them."""
    if not test.kitti or test.scales is None:
        return {}
    places = np.array([[name.lower() for name in KITTI_CLASSES].index(name) for name in test.classes])
    found, frames = [], []
    for each, scale, name in zip(seen, test.scales, test.drives, strict=True):
        boxes, kinds = each.boxes * scale, each.instances.classes
        scores, unknown = each.instances.scores.astype(np.float64), np.full(len(boxes), -1)
        found.append(KittiDetections(kinds=[test.classes[kind] for kind in kinds], boxes=boxes, scores=scores))
        frames.append(
            DetectionFrame(
                frame_id=name, image_path=Path(f"{name}.png"), boxes=boxes, labels=places[kinds], scores=scores,
                ignored=np.zeros(len(boxes), bool), truncated=unknown, occluded=unknown,
            )
        )  # fmt: skip
    write_kitti_detections(DetectionSet(KITTI_CLASSES, tuple(frames)), folder)
    by_kind = {kind: kitti_ap(test.kitti, found, kind) for kind in test.classes}
    return {f"{kind} {level}": value for kind, levels in by_kind.items() for level, value in levels.items()}


# ---------------------------------------------------------------- what it says


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what AP every strategy reached in every round, and by how much it differs from random choice."""
    plan, seeds = PLANS[request.size], range(request.seeds)
    by_strategy: dict[str, dict[int, list[Found]]] = {}
    for strategy in STRATEGIES:
        found = {size: [results.get(_name(plan, strategy, seed, size)) for seed in seeds] for size in plan.sizes}
        by_strategy[strategy] = {size: each for size, each in found.items() if None not in each}
    if not all(by_strategy.values()):
        raise InputError("table rounds: the first round is not done in every seed; run the command again")
    names = [name for name in by_strategy["random"][plan.first_frames][0] if name not in NO_FIGURE]
    figures = {
        strategy: {name: {size: [each[name] for each in found] for size, found in rounds.items()} for name in names}
        for strategy, rounds in by_strategy.items()
    }
    first = results[_name(plan, "random", 0, plan.first_frames)]
    parts = [_setting(request, plan), _left_out(first), "### AP at an overlap of 0.5, %\n\n" + _means(plan, figures)]
    parts += ["### Against random choice\n\n" + _differences(plan, figures)]
    if len(names) <= MOST_ROWS:
        parts.append("### By class, last round, %\n\n" + _last_round(figures, names))
    curves = {STRATEGIES[strategy]: found["ap50"] for strategy, found in figures.items()}
    plot = plot_by_share(curves, [100 * size / plan.pool_frames for size in plan.sizes], plan.sizes, "AP50, %")
    return Report(title="A detector, labelled by rounds", body="\n\n".join(parts), figures=figures, plot=plot)


def _setting(request: Request, plan: Plan) -> str:
    where = "Procedural streets" if request.data is None else request.data_kind
    return (
        f"{where} at {plan.size_px[1]}x{plan.size_px[0]} pixels: a pool of {plan.pool_frames} frames, judged on "
        f"{plan.test_frames} of other drives. Deep Probabilistic Ensembles of {plan.members} detectors at width {plan.width:g} "
        f"(beta {plan.beta:g}), from scratch in every round, {plan.steps} steps of {plan.batch_frames} frames; "
        f"{count_of_seeds(request.seeds)}. A frame's score: the "
        f"entropy of the mean heat map over its {SCORE.top_share:.0%} most uncertain places. AP is the members' mean; mean ± "
        "standard deviation over seeds; differences are paired by seed, with the 95 % interval."
    )


def _left_out(first: Found) -> str:
    """Say what was found, what of it is judged, and what is left out and why."""
    frames, objects = first["frames"], dict(first["objects"])
    judged = objects.pop("judged", 0)
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in objects.items())
    return (
        f"Found: {frames['found']:,} frames, of which {frames['pool']:,} are the pool and {frames['test']:,} the test part; in "
        f"these {judged + sum(objects.values()):,} objects. Learnt and judged: {judged:,}. Left out: {reasons or 'none'}; what is "
        "found where a left-out object lies counts neither for nor against a detector, but for those of classes that are not learnt."
    )


Figures = Mapping[str, Mapping[str, Mapping[int, list[float]]]]


def _means(plan: Plan, figures: Figures) -> str:
    rows = [
        [STRATEGIES[strategy], *(mean_and_spread(found["ap50"][size], 1) if size in found["ap50"] else "–" for size in plan.sizes)]
        for strategy, found in figures.items()
    ]  # fmt: skip
    return markdown_table(["chosen", *(f"{size} frames" for size in plan.sizes)], rows)


def _differences(plan: Plan, figures: Figures) -> str:
    def difference(strategy: str, name: str, size: int) -> str:
        both = [figures[each][name].get(size) for each in (strategy, "random")]
        return "–" if None in both else paired_difference(*both).words(1)

    rows = [
        [f"{STRATEGIES[strategy]}, {name}", *(difference(strategy, name, size) for size in plan.sizes[1:])]
        for strategy in figures
        if strategy != "random"
        for name in ("ap50", "ap")
    ]
    return markdown_table(["points", *(f"{size} frames" for size in plan.sizes[1:])], rows)


def _last_round(figures: Figures, names: Sequence[str]) -> str:
    """Write AP50 by class and, of KITTI, by its own overlaps and difficulties."""
    lasts = [{name: found[name][max(found[name])] for name in names} for found in figures.values()]
    rows = [
        [name, *("–" if None in last[name] else mean_and_spread(last[name], 1) for last in lasts)]
        for name in names
        if name not in ("ap50", "ap")
    ]
    return markdown_table(["class", *STRATEGIES.values()], rows)
