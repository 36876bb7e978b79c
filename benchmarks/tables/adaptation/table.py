"""Learning from the simulator without a real label: table 2 of "Effective Use of Synthetic Data", on streets of ours.

Saleh, Aliakbarian, Salzmann, Petersson, Alvarez, ECCV 2018 (arXiv 1807.06132). A segmentation network and a foreground
detector learn from the simulator; both are fused on unlabelled target frames; one network learns from what they say.
Rows are judged on target frames that nothing has learnt from; only `fully supervised` ever sees a target label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables import frames as data
from benchmarks.tables import segmenters
from benchmarks.tables.adaptation.plan import DEPENDS, FRAMES, PLANS, WORLD_SEED, Plan, settings_of
from benchmarks.tables.adaptation.report import page, plot
from benchmarks.tables.batches import DetectionStream, SegmentationStream
from benchmarks.tables.data import SEGMENTATION, Labelled, camvid
from benchmarks.tables.results import Report
from benchmarks.tables.runner import Cell, Found, Request
from perception.adaptation.detector import DETECTOR_NETWORKS, DetectSettings, ForegroundDetector, detect
from perception.adaptation.detector_quality import labelled_objects
from perception.adaptation.detector_training import TargetSettings, detection_loss
from perception.adaptation.fusion import FusionSettings, Instances, fuse, pseudo_ground_truth
from perception.adaptation.pseudo import pseudo_quality
from perception.adaptation.statistics import adapt_statistics
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix, iou
from perception.metrics.detection import Objects, average_precision
from perception.models.checkpoint import load_network, save_network
from perception.models.erfnet import ERFNet
from perception.simulator.world import World, world_from_dict
from perception.training.loop import TrainSettings, fit
from perception.training.setup import seeded

TABLE_SIZES = tuple(PLANS)
MOST_INSTANCES = 24  # that the detector learns in a frame, the largest
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(19))  # of the detector's score


def cells(request: Request) -> list[Cell]:
    """Return the frames, then for each seed the networks, each with what it reaches."""
    if request.data_kind not in SEGMENTATION:
        raise InputError(
            f"table adaptation: DATA holds {request.data_kind}; give CamVid, or nothing for rendered streets"
        )
    plan = PLANS[request.size]
    work = Work(request, plan)
    frames = Cell(name="frames", compute=lambda _: frames_of(work), settings=settings_of(plan, FRAMES))
    computes = {name: (partial(_timed, compute), needs) for name, (compute, needs) in NETWORKS.items()}
    return segmenters.network_cells(
        work, frames, computes, lambda name: settings_of(plan, FRAMES + DEPENDS.get(name, ()))
    )


def report(request: Request, results: Mapping[str, Found]) -> Report:
    """Say what each row reached, and how much of the gap to full supervision it closes."""
    taxonomy = data.taxonomy_of(request.data_kind)
    body, figures = page(PLANS[request.size], request, taxonomy, results)
    return Report(title="Learning from the simulator", body=body, figures=figures, plot=plot(figures, request))


@dataclass(frozen=True)
class Work(segmenters.Kept):
    """What is kept of this table, and its plan."""

    plan: Plan

    def detector(self, name: str, seed: int) -> nn.Module:
        """Load a detector that an earlier cell kept."""
        return segmenters.placed(load_network(self.network_path(name, seed), DETECTOR_NETWORKS), self.device)


def _timed(compute: Any, work: Work, seed: int, _before: Mapping[str, Found]) -> Found:
    torch.set_num_threads(1)  # what this costs a network this small is less than what a second thread takes from others
    found: Found = compute(work, seed)
    return found


# ---------------------------------------------------------------- frames


def frames_of(work: Work) -> Found:
    """Render what is to be learnt from and judged on, and keep it; say how many frames there are."""
    plan, kind, workers = work.plan, work.request.data_kind, work.request.workers
    size = plan.camvid_px if kind == "camvid" else plan.street_px
    world = world_from_dict(plan.camvid_world) if kind == "camvid" else World()
    taxonomy = data.taxonomy_of(kind)
    wanted = {  # the share of foreground in random textures, the first drive, how many
        "simulator": (world.foreground_texture_randomization, data.SIMULATOR_DRIVES, plan.simulator_frames),
        "textured": (plan.texture_share, data.SIMULATOR_DRIVES, plan.simulator_frames),
        "foreground": (1.0, data.FOREGROUND_DRIVES, plan.foreground_frames),
        "held_out": (1.0, data.HELD_OUT_DRIVES, plan.held_out_frames),
    }
    made = {}
    for name, (share, first, count) in wanted.items():
        drawn, drives = replace(world, foreground_texture_randomization=share), range(first, first + count)
        made[name] = data.rendered(drawn, "simulator", taxonomy, WORLD_SEED, drives, size, workers)
        data.keep(work.folder / f"{name}.npz", made[name])
    targets = TargetSettings(most_instances=MOST_INSTANCES)
    learnt = {"detector": data.joined([made["textured"], made["foreground"]]), "untextured": made["simulator"]}
    for name, part in learnt.items():
        data.keep_targets(work.folder / f"{name}_targets.npz", data.detector_frames(part, taxonomy, targets, workers))
    if kind != "camvid":
        streets = {
            "train": (data.STREET_DRIVES, plan.street_frames),
            "test": (data.STREET_TEST_DRIVES, plan.street_test_frames),
        }
        for name, (first, count) in streets.items():
            drives = range(first, first + count)
            part = data.rendered(world, "street", taxonomy, WORLD_SEED, drives, size, workers)
            data.keep(work.folder / f"{name}.npz", part)
    return {name: len(part.images) for name, part in made.items()}


def target(work: Work) -> tuple[Labelled, Labelled]:
    """Return the target's frames, to adapt to and to judge on; labels of the first teach full supervision alone."""
    if work.request.data_kind == "camvid":
        assert work.request.data is not None
        return camvid(work.request.data, *work.plan.camvid_px)[:2]
    train, test = (data.kept(work.folder / f"{name}.npz") for name in ("train", "test"))
    return Labelled(train.images, train.labels.long()), Labelled(test.images, test.labels.long())


# ---------------------------------------------------------------- cells


def _from_nothing(work: Work, seed: int, name: str, parts: tuple[str, ...] = ()) -> Found:
    """Train a new network on parts of the simulator's frames or, without any, on the target's own labels.

    `longer` learns for as many steps as the student in all, the others for the plan's.
    """
    plan, classes = work.plan, len(data.taxonomy_of(work.request.data_kind).classes)
    sources = [_labels(work, part) for part in parts]
    if not parts:
        train = target(work)[0]
        sources = [Labelled(train.images, train.labels.to(torch.uint8)).on(work.device)]
    made = seeded(lambda: ERFNet(classes, width=plan.width, dropout_quarter=0.0, dropout_eighth=0.1), seed)
    network = segmenters.placed(made, work.device)
    steps = plan.steps + (plan.rounds * plan.student_steps if name == "longer" else 0)
    shares = [plan.batch_frames // len(sources)] * len(sources)
    stream = SegmentationStream(sources, shares, steps, plan.variation, 100 * seed + 1)
    fit(
        network, lambda _: stream, _settings(work, plan.learning_rate, seed),
        class_weights=segmenters.weights_of(sources, classes), iterations_per_epoch=steps,
    )  # fmt: skip
    return _kept_and_judged(work, network, name, seed)


def _detector(work: Work, seed: int, textured: bool = True) -> Found:
    """Train the foreground detector; judge its boxes and masks where the target's instances are known."""
    plan, taxonomy = work.plan, data.taxonomy_of(work.request.data_kind)
    name = "detector" if textured else "untextured"
    kept = data.kept_targets(work.folder / f"{name}_targets.npz")
    frames = data.Instances(fields={field: value.to(work.device) for field, value in kept.fields.items()})
    class_ids = data.foreground_ids(taxonomy)
    network = segmenters.placed(
        seeded(lambda: ForegroundDetector(len(class_ids), plan.detector_width), seed), work.device
    )
    stream = DetectionStream(frames, plan.batch_frames, plan.detector_steps, plan.variation, 10 * seed + 1)
    settings = _settings(work, plan.detector_rate, seed, optimiser="adamw", max_grad_norm=10.0)
    records = fit(network, lambda _: stream, settings, loss=detection_loss, iterations_per_epoch=plan.detector_steps)
    save_network(network, work.network_path(name, seed), {}, DETECTOR_NETWORKS)
    return {"loss": records[-1].loss} | _precision(work, network)


def _precision(work: Work, network: nn.Module) -> Found:
    """Give box and mask AP on the held-out simulator frames and, where its instances are known, on the target."""
    found: Found = {}
    for name in ("held_out",) if work.request.data_kind == "camvid" else ("held_out", "test"):
        frames = data.kept(work.folder / f"{name}.npz")
        class_ids = data.foreground_ids(data.taxonomy_of(work.request.data_kind))
        smallest = TargetSettings().smallest_area_px
        truth = [labelled_objects(each, class_ids, smallest) for each in frames.instances[:100]]
        guessed = [
            Objects(
                boxes=each.boxes,
                class_ids=np.searchsorted(class_ids, each.instances.classes),
                scores=each.instances.scores,
                masks=each.instances.masks,
            )
            for each in _detections(work, network, frames.images[:100])
        ]
        for kind in ("box", "mask"):
            scored = average_precision(truth, guessed, len(class_ids), masks=kind == "mask")
            found |= {f"{kind}_ap50_{name}": 100 * scored.ap50, f"{kind}_ap_{name}": 100 * scored.ap}
    return found


def _fused(work: Work, seed: int) -> Found:
    """Fuse both networks on the target's test frames: by the paper's rule, and with a score threshold.

    The threshold is the one of best foreground IoU on held-out simulator frames in random textures: no target label.
    """
    source, detector = work.segmenter("source", seed), work.detector("detector", seed)
    held_out = data.kept(work.folder / "held_out.npz")
    threshold = _best_threshold(work, source, detector, held_out)
    test = target(work)[1]
    found = _judge_fused(work, source, detector, test.images, test.labels, (0.0, threshold))
    return {"iou": found[0], "iou_thresholded": found[1], "score_threshold": threshold}


def _student(work: Work, seed: int, fused: bool) -> Found:
    """Go on from the source network with pseudo-labels of the target's train frames beside the simulator's labels.

    A share of the simulator's frames has its foreground in random textures, without which foreground known by texture
    alone would be learnt again.
    """
    plan = work.plan
    network = work.segmenter("source", seed)
    detector = work.detector("detector", seed) if fused else None
    train = target(work)[0]
    images, truth = train.images.to(work.device), train.labels.to(torch.uint8).numpy()
    classes = len(data.taxonomy_of(work.request.data_kind).classes)
    sources = [_labels(work, "simulator"), _labels(work, "foreground")]
    found: Found = {}
    found_instances = [each.instances for each in _detections(work, detector, train.images)] if detector else None
    for round_ in range(plan.rounds):
        pseudo = _pseudo_labels(work, network, images, found_instances)
        quality = pseudo_quality(zip(truth, pseudo.cpu().numpy(), strict=True), classes)
        found |= {"coverage": 100 * quality.coverage, "precision": 100 * quality.precision}
        stream = SegmentationStream(
            [*sources, Labelled(images, pseudo)], _shares(plan),
            plan.student_steps, plan.variation, 100 * seed + 10 + round_,
        )  # fmt: skip
        weights = segmenters.weights_of(stream.sources, classes)
        settings = _settings(work, plan.student_rate, seed)
        fit(network, lambda _, s=stream: s, settings, class_weights=weights, iterations_per_epoch=plan.student_steps)  # type: ignore[misc]
        adapt_statistics(network, (part.float() / 255 for part in images.split(16)))
    return found | _kept_and_judged(work, network, "pseudo" if fused else "plain", seed)


def _shares(plan: Plan) -> list[int]:
    """Return how many frames of a batch are the simulator's, how many have textured foreground, how many are the target's."""
    simulator, foreground = (
        round(plan.batch_frames * share) for share in (plan.simulator_share, plan.foreground_share)
    )
    return [simulator, foreground, plan.batch_frames - simulator - foreground]


# ---------------------------------------------------------------- training


def _settings(work: Work, rate: float, seed: int, **changes: Any) -> TrainSettings:
    return segmenters.training_settings(work.request, work.plan.batch_frames, rate, seed, **changes)


def _labels(work: Work, name: str) -> Labelled:
    frames = data.kept(work.folder / f"{name}.npz")
    return Labelled(frames.images, frames.labels).on(work.device)


# ---------------------------------------------------------------- prediction


def _detections(work: Work, network: nn.Module, images: Tensor) -> list[Any]:
    """Detect in every frame. images: (frame, 3, height, width) uint8 on any device."""
    class_ids = data.foreground_ids(data.taxonomy_of(work.request.data_kind))
    settings = DetectSettings(lowest_score=work.plan.lowest_score, most_instances=work.plan.most_detections)
    found: list[Any] = []
    for part in images.split(16):
        found += detect(network, part.to(work.device).float() / 255, class_ids, settings)
    return found


def _pseudo_labels(work: Work, network: nn.Module, images: Tensor, instances: list[Instances] | None) -> Tensor:
    """Label frames by what the network is sure of and, where given, by instances: (frame, height, width) uint8."""
    taxonomy = data.taxonomy_of(work.request.data_kind)
    plan = work.plan
    labels = segmenters.sure_labels(network, images, len(taxonomy.classes), plan.kept_share, plan.highest_threshold)
    if instances is None:
        return labels
    fused = [
        pseudo_ground_truth(label, found, taxonomy.foreground)
        for label, found in zip(labels.cpu().numpy(), instances, strict=True)
    ]
    return torch.from_numpy(np.stack(fused)).to(images.device)


def _best_threshold(work: Work, source: nn.Module, detector: nn.Module, held_out: Any) -> float:
    scored = _judge_fused(work, source, detector, held_out.images, held_out.labels.long(), THRESHOLDS)
    flags = np.array(data.taxonomy_of(work.request.data_kind).foreground)
    means = [float(np.nanmean(np.array(each, float)[flags])) for each in scored]
    return THRESHOLDS[int(np.argmax(means))]


def _judge_fused(
    work: Work, source: nn.Module, detector: nn.Module, images: Tensor, labels: Tensor, thresholds: tuple[float, ...]
) -> list[list[float | None]]:
    """Give the IoU by class, in per cent, of the fused prediction for each score threshold."""
    classes, _ = segmenters.predictions(source, images.to(work.device))
    found = [each.instances for each in _detections(work, detector, images)]
    scored = []
    for threshold in thresholds:
        settings = FusionSettings(score_threshold=threshold)
        fused = [fuse(each, ours, settings) for each, ours in zip(classes.cpu().numpy(), found, strict=True)]
        scored.append(_iou(torch.from_numpy(np.stack(fused)), labels, work))
    return scored


def _kept_and_judged(work: Work, network: nn.Module, name: str, seed: int) -> Found:
    save_network(network.cpu(), work.network_path(name, seed), {})
    test = target(work)[1]
    classes, _ = segmenters.predictions(network.to(work.device), test.images.to(work.device))
    return {"iou": _iou(classes, test.labels, work)}


def _iou(classes: Tensor, labels: Tensor, work: Work) -> list[float | None]:
    """Give the IoU by class in per cent; None for a class that the labels do not hold."""
    count = len(data.taxonomy_of(work.request.data_kind).classes)
    confusion = confusion_matrix(labels.numpy(), classes.cpu().numpy(), count)
    held = confusion.sum(1) > 0
    return [100 * float(value) if there else None for value, there in zip(iou(confusion), held, strict=True)]


# Cell: what it computes, and the cells of its seed whose networks it takes.
NETWORKS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "source": (partial(_from_nothing, name="source", parts=("simulator",)), ()),
    "detector": (_detector, ()),
    "fused": (_fused, ("source", "detector")),
    "pseudo": (partial(_student, fused=True), ("source", "detector")),
    "full": (partial(_from_nothing, name="full"), ()),
    "longer": (partial(_from_nothing, name="longer"), ()),
    "plain": (partial(_student, fused=False), ("source",)),
    "joint": (partial(_from_nothing, name="joint", parts=("simulator", "foreground")), ()),
    "untextured": (partial(_detector, textured=False), ()),
}
