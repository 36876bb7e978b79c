"""How a network learns in a few hundred steps: which one, from which weights, at which rates, from what.

The demo's streets in memory, at its size: a pool of drives of which some frames have labels, the simulator's frames, and a
test set of other drives. Each row is a training from its start; a table for the choice of profiles, not of a paper.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.results import markdown_table
from benchmarks.tables import segmenters
from benchmarks.tables.batches import SegmentationStream, Variation
from benchmarks.tables.data import Labelled
from benchmarks.tables.frames import SIMULATOR_DRIVES, STREET_DRIVES, STREET_TEST_DRIVES, taxonomy_of
from benchmarks.tables.plans import plans_of
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.statistics import count_of_seeds, mean_and_spread
from perception.errors import InputError
from perception.models.registry import choose_network, start_from
from perception.models.settings import NetworkChoice
from perception.simulator.render import render_drive
from perception.simulator.world import Rendering, World
from perception.training.loop import fit
from perception.training.setup import seeded

WORLD_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """Say how one row learns; rates and optimiser are the training loop's."""

    about: str
    network: NetworkChoice
    frames: str  # that it learns from: labelled, both (half of each batch the simulator's) or all
    steps: int
    simulator_steps: int = 0  # before them, on the simulator's frames alone
    learning_rate: float = 0.002
    optimiser: str = "adamw"
    encoder_rate_share: float = 0.5
    channels_last: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    height_px: int
    width_px: int
    drives: int  # of the pool
    frames_per_drive: int
    labelled_frames: int  # of the pool, at random
    simulator_frames: int
    test_drives: int  # with two frames each
    batch_frames: int
    rows: dict[str, Row]


PLANS = plans_of("recipe", Plan)
TABLE_SIZES = tuple(PLANS)
VARIATION = Variation(zoom=(0.9, 1.3), color=0.15, tint=0.03, gamma=0.1, noise=0.0, blur_share=0.0)


@dataclass(frozen=True)
class Work(segmenters.Kept):
    """What is kept of this table, and its plan."""

    plan: Plan

    def frames(self, name: str) -> Labelled:
        """Return pool, simulator or test, on the device."""
        return _kept(self.folder / "frames.npz", name).on(self.device)


@cache
def _kept(path: Path, name: str) -> Labelled:
    with np.load(path, allow_pickle=False) as file:
        return Labelled(torch.from_numpy(file[f"{name}_images"]), torch.from_numpy(file[f"{name}_labels"]))


def cells(request: Request) -> list[Cell]:
    """Return the frames, then every row for each seed."""
    if request.data is not None:
        raise InputError("table recipe: learns from procedural streets; leave DATA out")
    work = Work(request, PLANS[request.size])
    size = {name: value for name, value in asdict(work.plan).items() if name != "rows"}
    frames = Cell(name="frames", compute=partial(_render, work), settings=size)
    rows = {name: (partial(_learn, row=name), ()) for name in work.plan.rows}
    settings = {f"{name}": size | asdict(row) for name, row in work.plan.rows.items()}
    return segmenters.network_cells(work, frames, rows, lambda name: settings[name])


def _render(work: Work, _before: Mapping[str, Found]) -> Found:
    plan = work.plan
    pool = _drives(plan, "street", STREET_DRIVES, plan.drives, plan.frames_per_drive)
    simulator = _drives(plan, "simulator", SIMULATOR_DRIVES, plan.simulator_frames, 1)
    test = _drives(plan, "street", STREET_TEST_DRIVES, plan.test_drives, 2)
    parts = {"pool": pool, "simulator": simulator, "test": test}
    arrays = {f"{name}_{kind}": part[kind] for name, part in parts.items() for kind in part}
    np.savez(work.folder / "frames.npz", **arrays)
    return {name: len(part["images"]) for name, part in parts.items()}


def _drives(plan: Plan, rendering: Rendering, first: int, drives: int, frames: int) -> dict[str, np.ndarray]:
    size = (plan.height_px, plan.width_px)
    scenes = [
        scene
        for drive in range(first, first + drives)
        for scene in render_drive(World(), rendering, WORLD_SEED, drive, frames, *size)
    ]
    images = np.stack([scene.image for scene in scenes]).transpose(0, 3, 1, 2)
    return {"images": np.ascontiguousarray(images), "labels": np.stack([scene.label for scene in scenes])}


def _learn(work: Work, seed: int, _before: Mapping[str, Found], *, row: str) -> Found:
    plan, how = work.plan, work.plan.rows[row]
    torch.set_num_threads(1)
    network = seeded(partial(_network, how), seed)
    simulator, pool = work.frames("simulator"), work.frames("pool")
    order = np.random.default_rng(seed).permutation(len(pool))
    labelled = pool.take(order[: plan.labelled_frames]) if how.frames != "all" else pool
    if how.simulator_steps:
        _fit(work, network, [simulator], how.simulator_steps, how, seed)
    _fit(work, network, [labelled, simulator] if how.frames == "both" else [labelled], how.steps, how, seed)
    test = work.frames("test")
    classes, _ = segmenters.predictions(network.to(work.device), test.images)
    return segmenters.judged(test.labels.cpu().numpy(), classes.cpu().numpy(), len(taxonomy_of("scenes").classes))


def _network(how: Row) -> nn.Module:
    network = choose_network(how.network, len(taxonomy_of("scenes").classes))
    if how.network.weights:
        start_from(network, how.network.weights)
    return network


def _fit(work: Work, network: nn.Module, sources: list[Labelled], steps: int, how: Row, seed: int) -> None:
    """Train for so many steps, every source an equal part of a batch."""
    batch = work.plan.batch_frames
    settings = segmenters.training_settings(
        work.request, batch, how.learning_rate, seed, optimiser=how.optimiser,
        encoder_rate_share=how.encoder_rate_share, channels_last=how.channels_last,
    )  # fmt: skip
    fit(
        network,
        lambda _: SegmentationStream(
            sources, [batch // len(sources)] * len(sources), steps, VARIATION, 1000 * seed + steps
        ),
        settings,
        class_weights=segmenters.weights_of(sources, len(taxonomy_of("scenes").classes)),
        iterations_per_epoch=steps,
    )


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what each row reached."""
    plan = PLANS[request.size]
    lines, figures = [], {}
    for name, row in plan.rows.items():
        found = [results[key] for key in (f"{name}-seed{seed}" for seed in range(request.seeds)) if key in results]
        if not found:
            continue
        mious = [each["miou"] for each in found]
        steps = f"{row.simulator_steps} + {row.steps}" if row.simulator_steps else f"{row.steps}"
        rate = f"{row.optimiser} {row.learning_rate:g}, {row.encoder_rate_share:g} of it on the encoder"
        lines.append([row.about, steps, rate, mean_and_spread(mious)])
        figures[name] = {"miou": mious}
    body = (
        f"{plan.drives * plan.frames_per_drive} street frames of {plan.drives} drives at {plan.width_px}x{plan.height_px}, "
        f"{plan.labelled_frames} of them labelled at random where a row does not say otherwise, {plan.simulator_frames} of "
        f"the simulator, judged on {2 * plan.test_drives} frames of other drives, 19 classes; {plan.batch_frames} frames a "
        f"step, {count_of_seeds(request.seeds)}.\n\n" + markdown_table(["row", "steps", "rate", "mIoU, %"], lines)
    )
    return Report(title="How a night's networks learn", body=body, figures=figures)
