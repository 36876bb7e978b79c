"""The whole promise in one table: a tenth of the labels and the simulator, in a network a tenth of the size.

Each row adds one of the night's stages to the row before, and as in a night networks go on from the one before them: the
simulator first, then labels, then labels and pseudo-labels. Labels are what is scarce, not steps; so that the longer
training is not taken for the stages' worth, all labels and the chosen tenth are learnt once more for as many steps as
the last rows had in all. Rows are judged on CamVid's published val part, of which nothing is learnt; only those with all
labels see more than a tenth of the train part's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables import frames as frames_data
from benchmarks.tables import segmenters
from benchmarks.tables.batches import SegmentationStream
from benchmarks.tables.data import Labelled
from benchmarks.tables.dpe.segmentation import CHOICES, camvid_in_memory, labelled_rows
from benchmarks.tables.night.plan import PLANS, Plan
from benchmarks.tables.night.report import page, plot
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.shrinking import latency_ms_and_bytes
from perception.adaptation.pseudo import pseudo_quality
from perception.adaptation.statistics import adapt_statistics
from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.compression.cost import count_macs, count_parameters
from perception.compression.low_rank import factorise_by_latency
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix, iou
from perception.models.checkpoint import load_network, save_network
from perception.models.erfnet import ERFNet
from perception.simulator.world import world_from_dict
from perception.training.loop import fit
from perception.training.setup import seeded

TABLE_SIZES = tuple(PLANS)
WORLD_SEED = 7
CLIP_FRAMES = 10  # its test part is one drive: clips of it stand for conditions


@dataclass(frozen=True)
class Work(segmenters.Kept):
    """What is kept of this table, its plan, and what networks learn from."""

    plan: Plan

    def real(self) -> tuple[Labelled, Labelled, list[str]]:
        """Return CamVid's train and val frames, and the drive of each train frame."""
        assert self.request.data is not None
        return camvid_in_memory(self.request.data, self.plan.height_px, self.plan.width_px)

    def labels(self, rows: list[int]) -> Labelled:
        """Return train frames with their labels, on the device."""
        part = self.real()[0].take(rows)
        return Labelled(part.images, part.labels.to(torch.uint8)).on(self.device)

    def simulator(self) -> Labelled:
        """Return the simulator's frames, on the device."""
        kept = _kept_simulator(self.folder / "simulator.npz")
        return Labelled(kept.images, kept.labels).on(self.device)


@cache
def _kept_simulator(path: Path) -> frames_data.Simulated:
    return frames_data.kept(path)


def cells(request: Request) -> list[Cell]:
    """Return the simulator's frames, then for each seed the choice and every row, then the latency of all."""
    if request.data_kind != "camvid" or request.data is None:
        raise InputError(f"table night: DATA holds {request.data_kind}; give CamVid")
    work = Work(request, PLANS[request.size])
    settings = asdict(work.plan) | {"world_seed": WORLD_SEED}
    frames = Cell(name="simulator", compute=partial(_render, work), settings=settings)
    latency = Cell(
        name="latency", compute=partial(_latency, work), settings=settings, needs=("full-seed0", "compressed-seed0"),
        side_by_side=True,
    )  # fmt: skip
    return [*segmenters.network_cells(work, frames, CELLS, lambda _: settings), latency]


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what each row reached, and what of the promise holds."""
    body, figures = page(PLANS[request.size], request, results)
    return Report(title="What a night is worth", body=body, figures=figures, plot=plot(figures))


# ---------------------------------------------------------------- what is learnt from


def _render(work: Work, _before: Mapping[str, Found]) -> Found:
    plan = work.plan
    drives = range(frames_data.SIMULATOR_DRIVES, frames_data.SIMULATOR_DRIVES + plan.simulator_frames)
    frames = frames_data.rendered(
        world_from_dict(plan.world), "simulator", frames_data.taxonomy_of("camvid"), WORLD_SEED, drives,
        (plan.height_px, plan.width_px), work.request.workers,
    )  # fmt: skip
    frames_data.keep(work.folder / "simulator.npz", frames)
    return {"frames": len(frames.images)}


def _choose(work: Work, seed: int, _before: Mapping[str, Found]) -> Found:
    """Choose a tenth of the train frames: half of it at random, the rest by the ensemble that learnt from that half."""
    names = {name: CHOICES[name] for name in ("random", work.plan.chosen_by)}
    found = labelled_rows(work.real, work.plan.choice, seed, work.device, names)
    return {"random": found["random"], "chosen": found[work.plan.chosen_by]}


# ---------------------------------------------------------------- the rows


def _labelled(
    work: Work, seed: int, before: Mapping[str, Found], *, row: str, choice: str | None = "chosen", longer: bool = False,
    start: str | None = None,
) -> Found:  # fmt: skip
    """Learn from train frames with their labels alone, those of a choice or, for None, all.

    longer: for as many steps as the last rows in all; start: the row whose network learning goes on from.
    """
    plan = work.plan
    frames = list(range(len(work.real()[0]))) if choice is None else before[f"choose-seed{seed}"][choice]
    steps = plan.steps_in_all if longer else plan.steps
    network = _trained(work, seed, _Lesson([work.labels(frames)], [plan.batch_frames], steps, start))
    return _kept_and_judged(work, network, row, seed)


def _pretrained(work: Work, seed: int, _before: Mapping[str, Found]) -> Found:
    """Learn from the simulator alone; the normalisation layers end with the averages over the train frames."""
    plan = work.plan
    network = _trained(work, seed, _Lesson([work.simulator()], [plan.batch_frames], plan.simulator_steps))
    images = work.real()[0].images
    adapt_statistics(network, (part.to(work.device).float() / 255 for part in images.split(16)))
    return _kept_and_judged(work, network, "pretrained", seed)


def _pseudo(
    work: Work, seed: int, before: Mapping[str, Found], *, row: str, teacher: str, shrink: bool = False
) -> Found:
    """Go on from row `simulator`, with pseudo-labels by row `teacher`."""
    plan, chosen = work.plan, before[f"choose-seed{seed}"]["chosen"]
    train = work.real()[0]
    others = [number for number in range(len(train)) if number not in set(chosen)]
    unlabelled = work.labels(others)
    pseudo = _pseudo_labels(work.segmenter(teacher, seed), unlabelled.images, plan)
    quality = pseudo_quality(zip(unlabelled.labels.cpu().numpy(), pseudo.cpu().numpy(), strict=True), _classes())
    share = round(plan.batch_frames * plan.pseudo_share)
    sources, shares = [work.labels(chosen), Labelled(unlabelled.images, pseudo)], [plan.batch_frames - share, share]
    network = _trained(work, seed, _Lesson(sources, shares, plan.steps, "simulator", shrink))
    found = _kept_and_judged(work, network, row, seed)
    return found | {"coverage": 100 * quality.coverage, "precision": 100 * quality.precision}


def _compressed(work: Work, seed: int, _before: Mapping[str, Found]) -> Found:
    """Replace layers of the pruned network by low-rank pairs where onnxruntime is faster with them."""
    torch.set_num_threads(1)
    network = work.segmenter("pruned", seed).cpu().eval()
    example = torch.zeros(1, 3, work.plan.height_px, work.plan.width_px)
    made = factorise_by_latency(network, example, work.plan.energy)
    ranks = {row.layer: row.rank for row in made.layers if row.choice != "dense"}
    return _kept_and_judged(work, made.network.eval(), "compressed", seed) | {"ranks": ranks}


CELLS: dict[str, tuple[Callable[..., Found], tuple[str, ...]]] = {
    "full": (partial(_labelled, row="full", choice=None), ()),
    "full_longer": (partial(_labelled, row="full_longer", choice=None, longer=True), ()),
    "choose": (_choose, ()),
    "random": (partial(_labelled, row="random", choice="random"), ("choose",)),
    "chosen": (partial(_labelled, row="chosen"), ("choose",)),
    "chosen_longer": (partial(_labelled, row="chosen_longer", longer=True), ("choose",)),
    "pretrained": (_pretrained, ()),
    "simulator": (partial(_labelled, row="simulator", start="pretrained"), ("choose", "pretrained")),
    "pseudo": (partial(_pseudo, row="pseudo", teacher="simulator"), ("choose", "simulator")),
    "pruned": (partial(_pseudo, row="pruned", teacher="pseudo", shrink=True), ("choose", "simulator", "pseudo")),
    "compressed": (_compressed, ("pruned",)),
}


@dataclass(frozen=True)
class _Lesson:
    """What a network learns from, in which shares of a batch, for how many steps, and which network it starts from."""

    sources: list[Labelled]
    shares: list[int]
    steps: int
    start: str | None = None  # a row; None: new weights
    shrink: bool = False  # the network loses weight meanwhile


def _trained(work: Work, seed: int, lesson: _Lesson) -> nn.Module:
    torch.set_num_threads(1)  # what this costs a network this small is less than what a second thread takes from others
    plan, device, epoch_steps = work.plan, work.device, lesson.steps // work.plan.epochs
    if lesson.start is None:
        network = seeded(lambda: ERFNet(_classes(), width=plan.width, dropout_quarter=0.0, dropout_eighth=0.1), seed)
    else:
        network = load_network(work.network_path(lesson.start, seed))
    settings = segmenters.training_settings(
        work.request, plan.batch_frames, plan.learning_rate, seed, epochs=plan.epochs
    )
    fit(
        segmenters.placed(network, device),
        lambda epoch: SegmentationStream(lesson.sources, lesson.shares, epoch_steps, plan.variation, 1000 * seed + epoch),
        settings, class_weights=segmenters.weights_of(lesson.sources, _classes()), iterations_per_epoch=epoch_steps,
        after_epoch=_shrinking(network, plan).after_epoch if lesson.shrink else None,
    )  # fmt: skip
    return network


def _shrinking(network: nn.Module, plan: Plan) -> CompressionAwareTraining:
    settings = ShrinkSettings(
        strength_share=plan.press, reload_epochs=(plan.prune_epoch,), target_cost_share=plan.cost_share,
        importance="loss", lost=plan.lost, multiple_of=8, close_branches=plan.close_branches,
    )  # fmt: skip
    example = torch.zeros(1, 3, plan.height_px, plan.width_px)
    return CompressionAwareTraining(network, example, plan.learning_rate, settings)


def _classes() -> int:
    return len(frames_data.taxonomy_of("camvid").classes)


def _pseudo_labels(network: nn.Module, images: Tensor, plan: Plan) -> Tensor:
    return segmenters.sure_labels(network, images, _classes(), plan.kept_share, plan.highest_threshold)


def _kept_and_judged(work: Work, network: nn.Module, row: str, seed: int) -> Found:
    """Keep a network and say how good it is on the test frames, and how large it is."""
    save_network(network.cpu(), work.network_path(row, seed), {})
    test = work.real()[1]
    classes, _ = segmenters.predictions(network.to(work.device), test.images.to(work.device))
    labels, predicted = test.labels.numpy(), classes.cpu().numpy()
    clips = [
        confusion_matrix(labels[start : start + CLIP_FRAMES], predicted[start : start + CLIP_FRAMES], _classes())
        for start in range(0, len(labels) - CLIP_FRAMES + 1, CLIP_FRAMES)
    ]
    return segmenters.judged(labels, predicted, _classes()) | {
        "worst_clip_miou": 100 * min(float(np.nanmean(iou(clip))) for clip in clips),
        "parameters": count_parameters(network.cpu()),
        "macs": count_macs(network, (3, work.plan.height_px, work.plan.width_px)),
    }


def _latency(work: Work, before: Mapping[str, Found]) -> Found:
    """Measure the dense network and all shrunk ones side by side: milliseconds a frame, and the ONNX file's bytes."""
    names = [name for name in before if name.split("-")[0] in ("pruned", "compressed")]
    networks = {name: load_network(work.folder / f"{name}.safetensors") for name in ("full-seed0", *names)}
    shape = (3, work.plan.height_px, work.plan.width_px)
    milliseconds, sizes = latency_ms_and_bytes(shape, networks)
    return {"latency_ms": milliseconds, "bytes": sizes}
