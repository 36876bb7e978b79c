"""A night as it could have been, for the page to show."""

import dataclasses

import numpy as np
import pytest

from perception.data.taxonomies import load_taxonomy
from perception.quality.gate import FailedExpectation, Verdict
from perception.reporting import charts, page
from perception.reporting import summary as figures
from perception.reporting.records import Adaptation, Detector, Evaluation, Fusion, LayerNeurons

TAXONOMY = load_taxonomy("cityscapes19")
CLASSES, COLORS = TAXONOMY.classes, TAXONOMY.colors
HEIGHT, WIDTH = 128, 256


def street(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint a small street: image (128, 256, 3) uint8 and label (128, 256) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    label = np.full((HEIGHT, WIDTH), 10, dtype=np.uint8)
    for left in range(0, WIDTH, 32):
        label[int(rng.integers(15, 50)) : 64, left : left + 32] = 2 if rng.random() < 0.7 else 8
    label[58:] = 1
    label[np.abs(columns - 128) < (rows - 52) * 1.6] = 0
    label[:58][label[:58] == 0] = 10
    for _ in range(4):
        size, left, bottom = rng.integers(10, 30), rng.integers(0, WIDTH - 30), rng.integers(72, 120)
        label[bottom - size : bottom, left : left + 2 * size] = 13
    label[70:96, 200:208] = 11
    label[124:] = 255
    tones = np.vstack([COLORS.astype(float) * 0.35 + 80, np.full((237, 3), 40.0)])
    image = tones[label] * (0.6 + 0.4 * rows[..., None] / HEIGHT) + rng.normal(0, 9, (HEIGHT, WIDTH, 1))
    return np.clip(image, 0, 255).astype(np.uint8), label


def spoiled(label: np.ndarray, seed: int) -> np.ndarray:
    """Shift a label by some pixels and lose a class, as a network would."""
    rng = np.random.default_rng(seed)
    wrong = np.roll(label, (int(rng.integers(-4, 5)), int(rng.integers(-9, 10))), axis=(0, 1))
    wrong[wrong == 11] = 2
    wrong[wrong == 255] = 0
    return wrong


def example_summary() -> figures.NightSummary:
    rng = np.random.default_rng(4)
    iou = {name: float(value) for name, value in zip(CLASSES, rng.beta(4, 3, 19), strict=True)}
    iou["train"] = float("nan")
    stages = [
        "ingest",
        "gate_ingest",
        "ensemble",
        "score",
        "select",
        "curate",
        "compare",
        "adapt",
        "train_prune",
        "compress",
        "evaluate",
    ]
    return figures.NightSummary(
        run="2026-11-22T01-30-00Z",
        status="done",
        profile="demo",
        seconds=521.4,
        stages=tuple(
            figures.StageFigures(name=name, status="done", seconds=3.0 + 11.0 * index, peak_rss_mib=310.0 + 40 * index)
            for index, name in enumerate(stages)
        ),
        selection=figures.SelectionFigures(
            strategy="entropy_top_n", budget_frames=24, selected_frames=24, pool_frames=600,
            miou_selected=0.471, miou_random=0.438,
            miou_selected_by_seed=(0.465, 0.470, 0.478), miou_random_by_seed=(0.430, 0.441, 0.443),
        ),
        data=figures.DataFigures(
            version="v2026.11.22-1", manifest_sha256="3f" * 32, parent="v2026.11.21-1", frames=144, added=24, removed=0
        ),
        adaptation=figures.AdaptationFigures(
            miou_source_only=0.312, miou_fused=0.381, miou_pseudo=0.424, pseudo_coverage=0.83, pseudo_precision=0.912,
            foreground_miou_source_only=0.192, foreground_miou_fused=0.312, foreground_miou_pseudo=0.373,
            background_miou_source_only=0.448, background_miou_fused=0.455, background_miou_pseudo=0.483,
            iou_by_class={
                way: {name: float(value) for name, value in zip(CLASSES, rng.beta(2, 3, 19), strict=True)}
                for way in ("source_only", "fused", "pseudo")
            },
        ),
        model=figures.ModelFigures(
            started_from="champion", miou_start=0.487, parameters_dense=532_211, parameters_pruned=201_440, parameters_compressed=118_302,
            macs_dense=1_210_000_000, macs_compressed=298_000_000, latency_ms_dense=24.2, latency_ms_compressed=9.71,
            miou_dense=0.561, miou_pruned=0.558, miou_compressed=0.552,
        ),
        evaluation=figures.EvaluationFigures(
            miou=0.552, iou_by_class=iou, frames=120, failures=3, failure_rate_upper_95=0.0631,
            miou_by_condition={
                "time_of_day=day": 0.601, "time_of_day=night": 0.412, "time_of_day=backlit": None,
                "weather=clear": 0.58,
                "weather=rain": 0.47, "weather=fog": 0.451, "scene=urban": 0.56, "scene=freeway": 0.533,
            },
        ),
        gates=(
            figures.GateFigures(name="ingest", verdict="passed"),
            figures.GateFigures(name="curate", verdict="waived", failed_expectations=("split_by_drive",)),
        ),
        promotion=figures.PromotionFigures(
            decision="promote", reason="no worse than the champion in each of 8 conditions (allowed loss 1.0 points)"
        ),
    )  # fmt: skip


def example_adaptation() -> Adaptation:
    rng = np.random.default_rng(5)
    figures_shown = dataclasses.asdict(example_summary().adaptation)
    return Adaptation(
        **figures_shown,
        coverage_by_class={name: float(rng.uniform(0.4, 1)) for name in CLASSES},
        pseudo_precision_interval=[0.88, 0.94],
        precision_by_class={name: None if name == "train" else float(rng.uniform(0.5, 1)) for name in CLASSES},
        threshold_by_class=dict.fromkeys(CLASSES, 0.9),
        collapsed_classes=("train", "traffic_light"),
        fusion_verdict="Fusion is better than the simulator's segmentation in the foreground: mean IoU 31.2% against 19.2%.",
        started_from="scratch",
        fusion=Fusion(score_threshold=0.1, class_score_thresholds={}),
        detector=Detector(instances={"car": 920, "person": 159}, judged_frames=96, ap50_boxes=0.081, ap50_masks=0.064),
        trust=(
            {
                "class": "car",
                "trusted": True,
                "reason": "71.0% of its mask pixels are right, of the segmentation's 64.0%",
            },
            {"class": "train", "trusted": False, "reason": "the detector found none, so nothing speaks for it"},
        ),
    )


def example_evaluation() -> Evaluation:
    shown = dataclasses.asdict(example_summary().evaluation)
    shown["iou_by_class"] = {name: None if value != value else value for name, value in shown["iou_by_class"].items()}
    evidence = {"supports": ["few fail"], "does_not_support": ["none fails"], "cells": [], "upper": 0.06}
    return {
        **shown,
        "miou_interval": [0.53, 0.57],
        "iou_interval_by_class": dict.fromkeys(CLASSES),
        "iou_by_category": {"flat": 0.9},
        "frames_by_condition": dict.fromkeys(shown["miou_by_condition"], 24),
        "found": 96, "judged": 96, "left_out": [],
        "drives": 12, "confidence": 0.95, "frequency_weighted_iou": 0.7, "pixel_accuracy": 0.8,
        "boundary_iou": None, "calibration": None, "failure_rule": "a frame fails when its mIoU is below 25 %",
        "objects": {"objects": 40, "missed": 7, "missed_rate_upper_95": 0.31, "by_class": {"traffic_light": [7, 40]},
                    "least_share": 0.001, "found_share": 0.5},
        "failure_clusters": [], "miou_champion": 0.549, "comparison": None,
        "fresh": {"frames": 4, "accuracy": 0.8, "accuracy_champion": 0.75},
        "promotion": {"decision": "promote", "reason": "no worse", "reasons": ["no worse"]},
        "slices": [], "domain": [], "evidence": evidence, "shift": [], "latency": [], "queries": [],
        "test_set_sha256": "5e" * 32,
    }  # fmt: skip


def verdict(suite: str, decision: str, checked: int, *failed: FailedExpectation) -> Verdict:
    return Verdict(
        suite=suite,
        suite_sha256="0" * 64,
        decision=decision,
        rows=9,
        failed=failed,
        checked=checked,
        not_checked=(),
        parameters={},
    )


def example_night() -> page.NightReport:
    rng = np.random.default_rng(7)
    chosen = []
    for rank in range(1, 13):
        image, label = street(rank)
        edges = np.abs(np.gradient(label.astype(float), axis=1)) > 0
        chosen.append(
            page.ChosenFrame(
                frame_id=f"drive03_{rank:05d}", rank=rank, score=1.9 - 0.07 * rank, reason="high entropy, rare: rider",
                image=image, uncertainty=edges * 1.2 + rng.random(label.shape) * 0.6, conditions="night, rain",
            )
        )  # fmt: skip
    scenes = [street(seed) for seed in (31, 32, 33)]
    tested = tuple(
        page.TestedFrame(
            frame_id=f"drive09_{index:05d}", note=note, image=image, label=label, prediction=spoiled(label, index),
            miou=0.25 + 0.25 * index, conditions="day, clear, urban",
        )
        for index, (note, (image, label)) in enumerate(zip(("worst", "median", "best"), scenes, strict=True))
    )  # fmt: skip
    image, label = scenes[0]
    pseudo = np.where(rng.random(label.shape) < 0.15, 255, label).astype(np.uint8)
    leak = FailedExpectation(
        id="split_by_drive", rule="every drive lies in one split", why="", bound={"most": 0}, observed="1 drive",
        severity="critical", frames=({"frame_id": "0016E5_00390", "split": "train and val"},) * 3, count=305, remedy="",
        waived_by="M. Example, 2026-01-01 to 2026-12-31, for camvid: one drive in train and in val", waiver_note=None,
    )  # fmt: skip
    return page.NightReport(
        summary=example_summary(),
        taxonomy=TAXONOMY,
        at_annotators=29,
        overdue=2,
        selection=page.SelectionPanel(
            frames=tuple(chosen), seeds=3,
            comparison="mIoU 47.1 ± 0.7 % against 43.8 ± 0.7 %; difference +3.3 (+2.0 to +4.6) points", model_sha256="9ab0" * 16
        ),
        adaptation=page.AdaptationPanel(
            frames=(
                page.AdaptedFrame(
                    frame_id="drive05_00012", image=image, source_only=spoiled(label, 5), fused=spoiled(label, 6),
                    pseudo=pseudo, student=spoiled(label, 8), label=label,
                ),
            ),
            record=example_adaptation(),
        ),
        model=page.ModelPanel(
            start_reason="it is released",
            variants=(
                page.ModelVariant(
                    name="dense", parameters=532_211, macs=1_210_000_000, size_bytes=2_190_000,
                    latency_ms=24.2, miou=0.561,
                ),
                page.ModelVariant(name="pruned", parameters=201_440, macs=510_000_000, size_bytes=850_000, miou=0.558),
                page.ModelVariant(
                    name="compressed", parameters=118_302, macs=298_000_000, size_bytes=512_000,
                    latency_ms=9.71, miou=0.552,
                ),
            ),
            loss_curves=(
                charts.Series(name="dense", points=tuple((e, 2.4 * 0.93**e + 0.4) for e in range(1, 31))),
                charts.Series(name="pruned", points=tuple((e, 2.6 * 0.94**e + 0.45) for e in range(1, 31))),
            ),
            layers=tuple(
                LayerNeurons(
                    layer=f"encoder.{i}.conv1x3", before=64 if i < 6 else 128, after=int(rng.integers(9, 60))
                )
                for i in range(14)
            ),
        ),
        evaluation=page.EvaluationPanel(figures=example_evaluation(), frames=tested),
        reproduce_command="dvc get file:///registry runs/2026-11-22 --rev v2026.11.22-1",
        gates=(
            page.GatePanel(name="ingest", verdict=verdict("ingest", "pass", 14)),
            page.GatePanel(name="curate", verdict=verdict("curate", "warn", 9, leak), images={"0016E5_00390": image}),
        ),
        rejected=(
            page.RejectedFrame(
                path="footage/drive03_00044.png", rule="an image decodes whole: 1204 bytes are missing at its end",
                remedy="copy the file again from the source",
            ),
        ),
        parameters={"selection.budget_frames": 24, "ensemble.members": 4, "train_prune.epochs": 30},
        lineage={"code commit": "0fa72c0", "parameters sha256": "77" * 32, "torch": "2.13.0", "image digest": None},
    )  # fmt: skip


@pytest.fixture
def night() -> page.NightReport:
    return example_night()


@pytest.fixture
def summary() -> figures.NightSummary:
    return example_summary()


@pytest.fixture
def refused_night() -> page.NightReport:
    """A night that a gate stopped before anything was chosen."""
    short = figures.NightSummary(run="n2", status="refused", profile="demo")
    return dataclasses.replace(
        page.NightReport(summary=short, taxonomy=TAXONOMY, refused_gate="ingest"),
        gates=(page.GatePanel(name="ingest", verdict=verdict("ingest", "refuse", 14)),),
    )
