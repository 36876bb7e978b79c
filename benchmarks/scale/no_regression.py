"""How often does the no-regression rule refuse? Real networks that differ by their seed; and one made worse by night.

    python benchmarks/no_regression.py [--start shared] [--networks 2]
Small networks are trained on procedural scenes with different seeds and judged on one pool of test drives, two frames a
drive. With --start shared they go on from one network, as a night goes on from the champion; with --start scratch they
share nothing. A night draws its test drives from the pool with replacement and asks perception.metrics.comparison.
- seeds: challenger and champion differ by the seed alone. Bar: refused in at most 5 % of the nights.
- worse: a network's images of one condition are dimmed and made noisy until its mIoU there is 3 points below the
  champion's. Bar: refused in at least 95 % of the nights, that condition being named. The network is the champion itself,
  or with --spoil challenger the one of another seed, which may then be better or worse in all other conditions too.
With four networks or more the rule is asked twice: with its margins as they are, and with those widened to the spread
between seeds, which is measured on the networks that the pair at hand is not of; --wide-alone asks that alone.
Networks and counts are kept in --work, so that a second call asks the rule alone, and a training that was cut off goes
on. The last line is JSON.
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

from components.ingest.arrivals import arrivals, list_arrivals
from components.ingest.sources import Source
from components.stage.learning import (
    LearningParameters,
    augment_settings,
    class_names,
    new_network,
    open_frames,
    train_settings,
)
from components.stage.parameters import build_parameters
from perception.data.loading import shuffled_batches
from perception.data.store import open_store
from perception.data.taxonomies import load_taxonomy
from perception.metrics.comparison import APART, Comparison, RegressionRule, compare, seed_spread
from perception.metrics.confusion import mean_iou
from perception.metrics.contract import Clause, Contract
from perception.metrics.segmentation import SegmentationScore, evaluate_frames, torch_predictor
from perception.metrics.slices import CONDITIONS, column_slices
from perception.metrics.verdict import decide
from perception.models.checkpoint import load_network, save_network
from perception.quality.intake import IntakeSettings, admit_frames
from perception.training.loop import Resume, class_weights, fit
from perception.training.losses import pixel_counts
from perception.training.setup import best_device, seeded

DROP, SEED_BAR, WORSE_BAR = 0.03, 0.05, 0.95
LEAST_FOR_SPREAD = 4  # networks: two to judge and two to measure on
Nights = dict[str, list[Comparison]]


@click.command()
@click.option("--drives", default=400, help="Of a night's test set.")
@click.option("--pool", default=480, help="Test drives that nights draw from.")
@click.option("--networks", default=2)
@click.option("--nights", default=200)
@click.option("--epochs", default=24)
@click.option("--onward-epochs", default=4, help="Of networks that go on from one.")
@click.option("--train-frames", default=640)
@click.option("--epoch-frames", default=320)
@click.option("--batch-frames", default=8)
@click.option("--height-px", default=64)
@click.option("--network-width", default=0.5)
@click.option("--taxonomy", default="cityscapes19")
@click.option("--start", type=click.Choice(("shared", "scratch")), default="shared")
@click.option("--condition", default="time_of_day=night")
@click.option("--spoil", type=click.Choice(("champion", "challenger")), default="champion")
@click.option("--wide-alone", is_flag=True, help="Do not ask with the rule's own margins.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/no_regression"))
def run(**given: Any) -> int:
    """Measure how often the no-regression rule refuses networks that differ by their seed, and one made worse by night."""
    options = SimpleNamespace(**given)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    parameters = _parameters(options)
    networks = [_network(parameters, seed, options) for seed in range(options.networks)]
    test = _frames("test", "street", 20_000, options.pool, 2, options)
    scores = [
        _score(network, test, parameters, options.work / f"score_{_network_file(options, seed).stem}.npz")
        for seed, network in enumerate(networks)
    ]
    report = _ask(networks, scores, test, parameters, RegressionRule(), options)
    print(json.dumps(report))
    return 0 if report["pass"] else 1


def _parameters(options: SimpleNamespace) -> LearningParameters:
    given = {
        "store": str(options.work / "store"), "taxonomy": options.taxonomy, "height_px": options.height_px,
        "width_px": 2 * options.height_px, "seed": 0,
        "network": {"arguments": {"width": options.network_width, "dropout_quarter": 0.0, "dropout_eighth": 0.0}},
        "epochs": options.epochs, "epoch_frames": options.epoch_frames, "batch_frames": options.batch_frames,
        "learning_rate": 0.004,
    }  # fmt: skip
    return build_parameters(LearningParameters, given, where="no_regression")


def _frames(name: str, rendering: str, first: int, drives: int, frames: int, options: SimpleNamespace) -> pd.DataFrame:
    """Render drives once and return their manifest."""
    work, height = options.work, options.height_px
    path = work / f"{name}_{drives}_{height}.parquet"
    if not path.exists():
        store = open_store(str(work / "store"))
        source = build_parameters(Source, {
            "format": "scenes", "rendering": rendering, "domain": "real", "split": "test", "labels": "given",
            "drives": drives, "frames_per_drive": frames, "first_drive": first,
        }, where=name)  # fmt: skip
        listed = list_arrivals(name, source, 20, (height, 2 * height), night="2026-11-30")
        arriving = arrivals(source, listed, 20, (height, 2 * height))
        settings = IntakeSettings(source=name, split="test", domain="real", labels="given", taxonomy="cityscapes19")
        admit_frames(arriving, len(listed), store, settings).manifest.to_parquet(path)
    return pd.read_parquet(path)


# --- networks


def _network_file(options: SimpleNamespace, seed: int) -> Path:
    epochs = options.epochs if options.start == "scratch" else f"{options.epochs}+{options.onward_epochs}"
    name = f"network_{options.start}_{seed}_{epochs}_{options.network_width:g}_{options.train_frames}.safetensors"
    return options.work / name


def _network(parameters: LearningParameters, seed: int, options: SimpleNamespace) -> torch.nn.Module:
    """Train the network of a seed: from scratch, or for onward-epochs from what seed 0 made of scratch; averaged weights."""
    path = _network_file(options, seed)
    if options.start == "scratch":
        with_seed = replace(parameters, seed=1000 + seed)
        return _trained(path, with_seed, lambda: seeded(lambda: new_network(with_seed), with_seed.seed), options)
    scratch = SimpleNamespace(**{**vars(options), "start": "scratch"})
    start = _network_file(scratch, 0)
    first = replace(parameters, seed=1000)
    _trained(start, first, lambda: seeded(lambda: new_network(first), first.seed), options)
    onwards = replace(parameters, seed=2000 + seed, epochs=options.onward_epochs, learning_rate=0.002)
    return _trained(path, onwards, lambda: load_network(start), options)


def _trained(
    path: Path, parameters: LearningParameters, begin: Callable[[], torch.nn.Module], options: SimpleNamespace
) -> torch.nn.Module:
    if not path.exists():
        start = time.monotonic()
        train = open_frames(_frames("train", "street", 0, options.train_frames, 1, options), parameters)
        network = begin()
        average = copy.deepcopy(network)
        settings = train_settings(parameters, device=best_device())
        augment = augment_settings(parameters)
        fit(
            network,
            lambda epoch: shuffled_batches(
                train, settings.batch_frames, settings.seed, epoch, augment, parameters.epoch_frames, as_bytes=settings.captured
            ),
            settings, class_weights=class_weights(pixel_counts(train)), average=average,
            iterations_per_epoch=parameters.epoch_frames // settings.batch_frames,
            resume=Resume(path=path.with_suffix(".state"), every_minutes=1, identity=path.stem),
        )  # fmt: skip
        save_network(average.cpu(), path, {"trained_on": "scenes"})
        print(f"{path.stem}: trained in {time.monotonic() - start:.0f} s", flush=True)
    return load_network(path)


def _score(
    network: torch.nn.Module, test: pd.DataFrame, parameters: LearningParameters, path: Path, change=None
) -> SegmentationScore:
    classes = len(class_names(parameters.taxonomy))
    if path.exists():
        kept = np.load(path, allow_pickle=False)
        frames, groups = pd.read_parquet(path.with_suffix(".frames")), pd.read_parquet(path.with_suffix(".groups"))
        return SegmentationScore(groups=groups, counts=kept["counts"], frames=frames)
    score = evaluate_frames(open_frames(test, parameters), test, torch_predictor(network), classes, change=change)
    score.frames.to_parquet(path.with_suffix(".frames"))
    score.groups.to_parquet(path.with_suffix(".groups"))
    np.savez(path, counts=score.counts)
    return score


# --- a network made worse


def _worsened(
    network: torch.nn.Module, score: SegmentationScore, below: float, test: pd.DataFrame,
    parameters: LearningParameters, options: SimpleNamespace, name: str,
) -> SegmentationScore:  # fmt: skip
    """Spoil the images of one condition until the mIoU there has fallen to `below`; bisected."""
    column, value = options.condition.split("=")
    rows = (score.groups[column] == value).to_numpy(bool)
    before = _miou(score, rows)
    part = test[test[column] == value].reset_index(drop=True)
    low, high = 0.0, 0.6
    for step in range(9):
        middle = 0.5 * (low + high)
        path = options.work / f"worse_{name}_{column}_{value}_{step}.npz"
        spoiled = _score(network, part, parameters, path, change=lambda images, amount=middle: _spoil(images, amount))
        reached = mean_iou(spoiled.confusion)
        if abs(reached - below) < 0.0005:
            break
        low, high = (middle, high) if reached > below else (low, middle)
    order = _rows_of(score.groups, spoiled.groups)
    counts = score.counts.copy()
    counts[order] = spoiled.counts
    now = mean_iou(counts[rows].sum(axis=0))
    assert abs(now - below) < 0.002, f"{name}: mIoU {now:.4f} in {options.condition}, wanted {below:.4f}"
    print(f"  made worse: mIoU {before:.4f} -> {now:.4f} in {options.condition}", flush=True)
    return replace(score, counts=counts)


def _rows_of(groups: pd.DataFrame, part: pd.DataFrame) -> list[int]:
    columns = ["drive_id", *CONDITIONS]
    place = {key: index for index, key in enumerate(groups[columns].itertuples(index=False, name=None))}
    return [place[key] for key in part[columns].itertuples(index=False, name=None)]


def _spoil(images: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0.0, 0.25 * amount, images.shape).astype(np.float32)
    return np.clip(images * np.float32(1.0 - 0.5 * amount) + noise, 0.0, 1.0)


# --- nights


def _night(score: SegmentationScore, drawn: Sequence[np.ndarray]) -> SegmentationScore:
    """Return the score of a test set of drawn drives; a drive drawn twice is two drives."""
    rows = np.concatenate(drawn)
    copies = np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
    groups = score.groups.iloc[rows].reset_index(drop=True)
    groups["drive_id"] = [f"{drive}#{copy}" for drive, copy in zip(groups.drive_id, copies, strict=True)]
    return replace(score, groups=groups, counts=score.counts[rows])


def _verdicts(
    champion: SegmentationScore,
    challenger: SegmentationScore,
    nights: int,
    drives: int,
    clauses,
    classes,
    rule,
    seed: int,
) -> list[Comparison]:
    of_drive = [
        np.flatnonzero(champion.groups.drive_id.to_numpy() == drive) for drive in champion.groups.drive_id.unique()
    ]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(nights):
        drawn = [of_drive[index] for index in generator.integers(0, len(of_drive), drives)]
        found.append(compare(_night(champion, drawn), _night(challenger, drawn), classes, clauses, rule))
    return found


def _clauses(taxonomy: str) -> dict[str, Clause]:
    """Return what the default contract asks of a taxonomy."""
    known = load_taxonomy(taxonomy)
    return Contract().named({}, dict(zip(known.classes, known.foreground, strict=True)))


def _decision(found: Comparison) -> str:
    return decide({"the champion": found}, Contract(), date.min).decision


def _miou(score: SegmentationScore, rows: np.ndarray) -> float:
    return mean_iou(score.counts[rows].sum(axis=0))


def _pairs(networks: int) -> list[tuple[int, int]]:
    """Return (champion, challenger): each network against the next one, both ways."""
    around = [(number, (number + 1) % networks) for number in range(networks)]
    return list(dict.fromkeys([*around, *((challenger, champion) for champion, challenger in around)]))


def _ask(networks, scores, test, parameters: LearningParameters, rule: RegressionRule, options) -> dict:
    pairs, classes, clauses = _pairs(len(scores)), class_names(parameters.taxonomy), _clauses(parameters.taxonomy)
    each = -(-options.nights // len(pairs))
    column, value = options.condition.split("=")
    rows = (scores[0].groups[column] == value).to_numpy(bool)
    kinds = ("seeds", "worse") if len(scores) < LEAST_FOR_SPREAD else ("seeds", "worse", "seeds, wide", "worse, wide")
    kinds = kinds[2:] if options.wide_alone else kinds
    nights: Nights = {kind: [] for kind in kinds}
    for number, (champion, challenger) in enumerate(pairs):
        _print_pair(champion, challenger, scores)
        spoiled = champion if options.spoil == "champion" else challenger
        name = f"{_network_file(options, spoiled).stem}_below_{champion}"
        below = _miou(scores[champion], rows) - DROP
        worse = _worsened(networks[spoiled], scores[spoiled], below, test, parameters, options, name)
        others = [score for index, score in enumerate(scores) if index not in (champion, challenger)]
        wide = (
            replace(rule, seed_spread=seed_spread(others, classes, clauses))
            if len(scores) >= LEAST_FOR_SPREAD
            else rule
        )
        for kind in kinds:
            against = scores[challenger] if kind.startswith("seeds") else worse
            asked = wide if kind.endswith("wide") else rule
            found = _verdicts(scores[champion], against, each, options.drives, clauses, classes, asked, number)
            _print_refusals(kind, found)
            nights[kind] += found
    return _report(nights, scores, seed_spread(scores, classes, clauses), rule, options)


def _print_pair(champion: int, challenger: int, scores: Sequence[SegmentationScore]) -> None:
    differences = [
        f"{cut.name.split('=')[1]} {100 * (_miou(scores[challenger], cut.rows) - _miou(scores[champion], cut.rows)):+.1f}"
        for cut in column_slices(scores[0].groups, scores[0].columns)
    ]
    print(f"champion {champion}, challenger {challenger}, points over the whole pool: {', '.join(differences)}")


def _print_refusals(kind: str, found: Sequence[Comparison]) -> None:
    refused = [each for each in found if _decision(each) == "refuse"]
    named = [j.name for each in refused for j in each.judgements if j.outcome == "worse"]
    counted = {name: named.count(name) for name in sorted(set(named), key=named.count, reverse=True)}
    print(f"  {kind}: refused {len(refused)} of {len(found)}; named {counted}", flush=True)


def _shares(nights: Nights, suffix: str, condition: str) -> dict:
    seeds, worse = nights["seeds" + suffix], nights["worse" + suffix]
    named = [any(j.name == condition and j.outcome == "worse" for j in each.judgements) for each in worse]
    return {
        "seeds_refused": round(float(np.mean([_decision(each) == "refuse" for each in seeds])), 4),
        "seeds_promoted": round(float(np.mean([_decision(each) == "promote" for each in seeds])), 4),
        "worse_refused_and_named": round(float(np.mean(named)), 4),
    }


def _report(nights: Nights, scores, spread: dict[str, float], rule: RegressionRule, options) -> dict:
    shares = _shares(nights, "", options.condition) if "seeds" in nights else {}
    wide = _shares(nights, ", wide", options.condition) if "seeds, wide" in nights else None
    conditions = [spread[name] for name in spread if not name.startswith("class=") and not name.endswith(APART)]
    return {
        "benchmark": "no_regression", "start": options.start, "nights": len(next(iter(nights.values()))), "spoiled": options.spoil,
        "drives": options.drives,
        "condition": options.condition, "networks": len(scores), "network_width": options.network_width,
        "epochs": options.epochs, "confidence": rule.confidence,
        "miou": [round(score.miou(), 4) for score in scores], "seed_spread_of_conditions": round(max(conditions), 4),
        "seed_spread": {name: round(each, 4) for name, each in spread.items()},
        **shares, "wide": wide, "seeds_bar": SEED_BAR, "worse_bar": WORSE_BAR,
        "pass": (bool(shares) and _passes(shares)) or (wide is not None and _passes(wide)),
    }  # fmt: skip


def _passes(shares: dict) -> bool:
    return shares["seeds_refused"] <= SEED_BAR and shares["worse_refused_and_named"] >= WORSE_BAR
