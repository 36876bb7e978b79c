"""CamVid: 5 % of the train frames at random, 5 % more by each strategy, and the network that learns from the 10 %."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.results import markdown_table
from benchmarks.tables.data import Labelled, camvid
from benchmarks.tables.plans import plans_of
from benchmarks.tables.results import Report, draw_rows
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.segmenters import judged, numbered, predictions, weights_of
from benchmarks.tables.shrinking import mirrored_frames
from benchmarks.tables.statistics import mean_and_spread
from perception.data.loading import Batch
from perception.errors import InputError
from perception.metrics.differences import paired_difference
from perception.models.erfnet import ERFNet
from perception.selection.budget import choose_frames
from perception.selection.settings import Quota, SelectionSettings
from perception.training.loop import TrainSettings, fit
from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
from perception.uncertainty.ensemble import make_ensemble
from perception.uncertainty.scores import MEASURES, ScoreSettings, score_frames

CLASSES = 11


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Say how frames are chosen."""

    strategy: str
    measure: str = "ensemble_entropy"
    gap_frames: int = 0  # frames of a drive fewer places apart are near-duplicates, labelled ones included; 0: none
    drive_share: float | None = None  # of its share of the pool that every drive gets of the budget at least


APART = "k_centre information, apart"  # what the camvid night does
CHOICES = {
    "random": Choice(strategy="random"),
    "k_centre entropy": Choice(strategy="k_centre"),
    "top_n entropy": Choice(strategy="top_n"),
    "k_centre information": Choice(strategy="k_centre", measure="mutual_information"),
    APART: Choice(strategy="k_centre", measure="mutual_information", gap_frames=5, drive_share=0.9),
    "core_set": Choice(strategy="core_set"),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    height_px: int
    width_px: int
    width: float  # of ERFNet
    members: int
    beta: float
    first_percent: int
    percent: int
    ensemble_steps: int
    steps: int
    batch_frames: int = 8
    learning_rate: float = 0.004


PLANS = plans_of("dpe_segmentation", Plan)


def cells(request: Request) -> list[Cell]:
    """Return, for each seed, the choices of one ensemble and a training for each choice."""
    if request.data_kind != "camvid" or request.data is None:
        raise InputError(f"table dpe: DATA holds {request.data_kind}; give CIFAR-10, Fashion-MNIST or CamVid")
    plan = PLANS[request.size]
    data = partial(camvid_in_memory, request.data, plan.height_px, plan.width_px)
    settings = asdict(plan) | {"choices": {name: asdict(choice) for name, choice in CHOICES.items()}}
    computes = {
        f"choose-seed{seed}": partial(_choose, data, plan, seed, request.device) for seed in range(request.seeds)
    }
    for name in CHOICES:
        for seed in range(request.seeds):
            computes[_cell_name(name, seed)] = partial(_learn, data, plan, name, seed, request.device)
    return [Cell(name=name, compute=compute, settings=settings) for name, compute in computes.items()]


def _cell_name(choice: str, seed: int) -> str:
    return f"{choice.replace(' ', '-')}-seed{seed}"


@cache
def camvid_in_memory(path: Path, height_px: int, width_px: int) -> tuple[Labelled, Labelled, list[str]]:
    """Return what `camvid` returns, decoded once."""
    return camvid(path, height_px, width_px)


Data = Callable[[], tuple[Labelled, Labelled, list[str]]]


def _choose(data: Data, plan: Plan, seed: int, device: str, _before: Mapping[str, Found]) -> Found:
    return {"labelled": labelled_rows(data, plan, seed, device, CHOICES)}


def labelled_rows(
    data: Data, plan: Plan, seed: int, device: str, choices: Mapping[str, Choice]
) -> dict[str, list[int]]:
    """Train the ensemble on the first frames and let each strategy choose from the rest; return all labelled rows."""
    train, _, drives = data()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1000 + seed)).tolist()
    first = order[: math.ceil(len(train) * plan.first_percent / 100)]
    budget = math.ceil(len(train) * plan.percent / 100) - len(first)
    ensemble = make_ensemble(lambda _: _network(plan), plan.members, seed)
    loss = EnsembleLoss(penalty="dpe", beta=plan.beta)
    labelled = train.take(first)
    learnt = ensemble_loss(loss, _weights(labelled, device))
    train_network(ensemble, labelled, plan, plan.ensemble_steps, seed, device, learnt)
    scored = _scored(ensemble, train, drives, device)
    found = {}
    for name, choice in choices.items():
        table = scored.assign(score=scored[choice.measure], measure=choice.measure)
        settings = SelectionSettings(
            budget_frames=budget, strategy=choice.strategy, seed=seed, duplicate_gap_frames=choice.gap_frames,
            quotas=_quotas(drives, choice.drive_share),
        )  # fmt: skip
        known = table.iloc[first][["frame_id", "embedding", "drive_id", "drive_place"]]
        found[name] = first + [int(frame_id) for frame_id in choose_frames(table, settings, known)["frame_id"]]
    return found


def _quotas(drives: list[str], share: float | None) -> tuple[Quota, ...]:
    """Ask for every drive's share of the pool times `share`; for nothing without one."""
    if share is None:
        return ()
    counts = pd.Series(drives).value_counts()
    return tuple(
        Quota(column="drive_id", value=str(drive), minimum_share=share * count / len(drives))
        for drive, count in counts.items()
    )


def _scored(ensemble: nn.Module, train: Labelled, drives: list[str], device: str) -> pd.DataFrame:
    """Score every frame once: a column for each measure's mean over the image, and what strategies look at."""
    rows = list(score_frames(ensemble, numbered(train.images, 8), ScoreSettings(), device=device))
    facts = {
        "frame_id": [row.frame_id for row in rows],
        "embedding": [row.embedding for row in rows],
        "drive_id": drives,
        "drive_place": pd.Series(drives).groupby(drives).cumcount(),
    }
    return pd.DataFrame(facts | {measure: [row.means[measure] for row in rows] for measure in MEASURES})


def _learn(data: Data, plan: Plan, name: str, seed: int, device: str, results: Mapping[str, Found]) -> Found:
    train, test, _ = data()
    labelled = train.take(results[f"choose-seed{seed}"]["labelled"][name])
    ensemble = make_ensemble(lambda _: _network(plan), 1, 5000 + seed)
    loss = ensemble_loss(EnsembleLoss(penalty="none"), _weights(labelled, device))
    train_network(ensemble, labelled, plan, plan.steps, seed, device, loss)
    predicted, _ = predictions(ensemble.members[0], test.images.to(device))
    return judged(test.labels.numpy(), predicted.cpu().numpy(), CLASSES)


def _network(plan: Plan) -> nn.Module:
    return ERFNet(CLASSES, width=plan.width, dropout_quarter=0.0, dropout_eighth=0.0)


def _weights(labelled: Labelled, device: str) -> Tensor:
    return torch.from_numpy(weights_of([labelled], CLASSES)).float().to(device)


def train_network(network: nn.Module, labelled: Labelled, plan: Plan, steps: int, seed: int, device: str, loss) -> None:  # type: ignore[no-untyped-def]
    """Train in place, so many gradient steps on mirrored and cropped frames."""
    settings = TrainSettings(
        epochs=1,
        batch_frames=plan.batch_frames,
        learning_rate=plan.learning_rate,
        weight_decay=1e-4,
        schedule="poly",
        seed=seed,
        max_grad_norm=10.0,
        device=device,
    )
    fit(network, lambda _: _batches(labelled, plan, steps, seed), settings, loss=loss, iterations_per_epoch=steps)


def _batches(labelled: Labelled, plan: Plan, steps: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < plan.batch_frames:
            order = torch.cat([order, torch.randperm(len(labelled), generator=generator)])
        rows, order = order[: plan.batch_frames], order[plan.batch_frames :]
        frames = mirrored_frames(labelled.take(rows), torch.rand(len(rows), generator=generator) < 0.5)
        yield Batch(frames.images.float() / 255, frames.labels)


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what each choice reached, and by how much it differs from random choice."""
    plan, seeds = PLANS[request.size], range(request.seeds)
    done = [name for name in CHOICES if all(_cell_name(name, seed) in results for seed in seeds)]
    if not done:
        raise InputError("table dpe: no row is done in every seed; run the command again")
    miou = {name: [results[_cell_name(name, seed)]["miou"] for seed in seeds] for name in done}
    rows = [
        [name, mean_and_spread(values), "" if name == "random" else paired_difference(values, miou["random"]).words()]
        for name, values in miou.items()
    ]
    body = (
        f"ERFNet at width {plan.width:g} on {plan.width_px}x{plan.height_px} pixels; {plan.first_percent} % of the "
        f"train frames at random, a Deep Probabilistic Ensemble of {plan.members} (beta {plan.beta:g}) learns from "
        f"them, the rest of the {plan.percent} % by its choice; a new network learns from all of them "
        f"({plan.steps} steps of {plan.batch_frames} frames). mIoU on the published val part in per cent, mean ± "
        f"standard deviation over {request.seeds} seeds; *apart*: frames within 5 places of a labelled or chosen one are left "
        "out, and every drive gets 0.9 of its share of the pool; differences are paired by seed, with the 95 % interval.\n\n"
        + markdown_table(["choice", "mIoU", "against random"], rows)
    )
    return Report(
        title="Selection by disagreement against random selection", body=body, figures={"miou": miou}, plot=_plot(miou)
    )


def _plot(miou: Mapping[str, list[float]]) -> Figure:
    figure = Figure(figsize=(6, 2.4))
    axes = figure.subplots()
    draw_rows(axes, miou, baselines=("random",))
    axes.set_xlabel("mIoU on CamVid val, %; dots are seeds")
    return figure
