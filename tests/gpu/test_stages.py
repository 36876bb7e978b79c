"""Every stage's `run` on a processor and on a GPU that is none, which refuses to mix devices: both say the same."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from perception.data.loading import FrameSet, LoadSettings, image_batches
from perception.data.manifest import read_manifest
from perception.data.store import open_store
from perception.models.checkpoint import load_network
from perception.uncertainty.ensemble import load_ensemble
from tests.gpu.device import Graph, operations, pretended_gpu
from tests.gpu.night import TASKS, Night

# Trainings of a few steps: three one by one, the fourth recorded and replayed, the next ones replayed. Adam makes a step of
# the whole rate out of a gradient that is nothing but rounding, so a small rate keeps what rounds otherwise close together.
TINY = (
    "common.height_px=32", "common.width_px=64", "common.batch_frames=4", "common.mixed_precision=false",
    "common.learning_rate=1.0e-4", "adapt.detector_learning_rate=1.0e-4",
    "sources.fleet.drives=4", "sources.fleet.frames_per_drive=3", "sources.simulator.drives=8",
    "sources.frozen_test.drives=3", "sources.frozen_test.frames_per_drive=1",
    "sources.fleet.initial_labelled_frames=4", "select.budget_frames=4", "ensemble.epoch_frames=16", "ensemble.epochs=1",
    "compare.epoch_frames=16", "compare.epochs=1", "adapt.epochs=1", "adapt.student_epochs=1", "adapt.epoch_frames=20",
    "adapt.average_decay=0.9", "adapt.rare_class_temperature=0.05", "score.maps=true", "score.reduction=class_weighted",
    "score.class_weights={person: 5.0}", "adapt.pseudo_frames=4", "adapt.detector_epochs=2", "adapt.detector_width=0.25",
    "train_prune.epochs=2", "train_prune.epoch_frames=16", "train_prune.press_epochs=1", "compress.latency_repeats=3",
    "evaluate.shift_frames=1", "evaluate.latency_repeats=2", "evaluate.latency_batch_frames=[1]",
)  # fmt: skip
RECORDED = {"ensemble": 1, "compare": 2, "adapt": 3, "train_prune": 3}  # graphs: the pruned network's is recorded anew


class Nights(NamedTuple):
    """The night on the processor, what each stage gives on the pretended GPU from the same inputs, and its graphs."""

    cpu: Path
    gpu: Path
    graphs: dict[str, list[Graph]]
    operations: dict[str, int]  # that each stage did there

    def both(self, file: str) -> tuple[Any, Any]:
        """Return what a JSON file holds in either."""
        ours, theirs = (json.loads((folder / file).read_text()) for folder in self[:2])
        return ours, theirs


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    torch.set_num_threads(1)
    root, graphs, done = tmp_path_factory.mktemp("night"), {}, {}
    night = Night(root / "cpu", TINY)
    for name in TASKS:
        night.run(name)
    with pretended_gpu(pytest.MonkeyPatch()) as made:
        for name in TASKS:
            made.clear()
            before = operations[0]
            night.run(name, root / "gpu")
            graphs[name], done[name] = list(made), operations[0] - before
    return Nights(root / "cpu", root / "gpu", graphs, done)


def test_every_training_is_recorded_and_replayed(nights: Nights) -> None:
    assert {name: len(graphs) for name, graphs in nights.graphs.items() if graphs} == RECORDED
    assert all(graph.replays for graphs in nights.graphs.values() for graph in graphs)


def test_what_is_left_out_runs_without_torch(nights: Nights) -> None:
    graph = Night(nights.cpu).graph
    assert {task.stage.needs.image for name, task in graph.tasks.items() if name not in TASKS} == {
        "gates",
        "versioning",
    }


def test_what_looks_at_pixels_does_so_on_the_gpu(nights: Nights) -> None:
    """Hundreds of operations for every batch of four frames; onnxruntime runs what compress and evaluate judge, report asks for no GPU."""
    assert {name for name, count in nights.operations.items() if count > 500} == {
        *RECORDED,
        "score",
        "select",
    }


def outputs_differ(nights: Nights, ours: nn.Module, theirs: nn.Module) -> float:
    """Return the largest difference of two networks' logits on test frames as a share of the largest logit."""
    frames = read_manifest(nights.cpu / "frames" / "manifest.parquet", split="test")
    settings = LoadSettings(height_px=32, width_px=64, taxonomy="cityscapes19")
    ((_, images),) = image_batches(FrameSet(frames, open_store(str(nights.cpu / "store")), settings), len(frames))
    with torch.no_grad():
        first, second = ours.eval()(images), theirs.eval()(images)
    return float((first - second).abs().max() / first.abs().max())


@pytest.mark.parametrize("file", ["adaptation/source_only", "compressed/model"])
def test_trained_networks_say_the_same(nights: Nights, file: str) -> None:
    """Those that start anew: noise of 1e-7 in the weights of a trained one grows to a third of its logits in 12 steps."""
    ours, theirs = (load_network(folder / f"{file}.safetensors") for folder in nights[:2])
    assert outputs_differ(nights, ours, theirs) < 1e-3


def test_ensembles_say_the_same_and_score_alike(nights: Nights) -> None:
    ours, theirs = (load_ensemble(folder / "ensemble") for folder in nights[:2])
    assert outputs_differ(nights, ours, theirs) < 1e-3
    scores = [pd.read_parquet(folder / "scores" / "0" / "scores.parquet") for folder in nights[:2]]
    assert scores[0].frame_id.tolist() == scores[1].frame_id.tolist()
    np.testing.assert_allclose(scores[0].score, scores[1].score, rtol=1e-5)
    np.testing.assert_allclose(np.stack(scores[0].embedding), np.stack(scores[1].embedding), rtol=1e-4, atol=1e-6)


def test_losses_and_what_is_pruned_are_the_same(nights: Nights) -> None:
    ours, theirs = nights.both("network/network.json")
    assert ours["layers"] == theirs["layers"] and ours["parameters_pruned"] == theirs["parameters_pruned"]
    for name in ("dense", "pruned"):
        assert theirs["loss"][name] == pytest.approx(ours["loss"][name], rel=1e-3)
    ours, theirs = nights.both("adaptation/adaptation.json")
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
    assert theirs["detector"]["loss"] == pytest.approx(ours["detector"]["loss"], rel=1e-3)
    assert theirs["pseudo_frames"] == ours["pseudo_frames"]


def test_figures_are_the_same(nights: Nights) -> None:
    """An untrained network's classes are close to each other, so a rounding changes a pixel here and there."""
    for file, names in {
        "comparison/comparison.json": ("miou_selected", "miou_random"),
        "adaptation/adaptation.json": ("miou_source_only", "miou_fused", "miou_pseudo", "pseudo_coverage"),
        "network/network.json": ("miou_dense", "miou_pruned"),
        "compressed/card.json": ("miou", "parameters", "macs"),
        "evaluation/evaluation.json": ("miou", "frames", "failures", "onnxruntime_provider"),
    }.items():
        ours, theirs = nights.both(file)
        for name in names:
            counted = name.startswith(("miou", "pseudo"))
            assert theirs[name] == (pytest.approx(ours[name], abs=0.01) if counted else ours[name])
    for file in ("selection/selected.parquet", "curated/version/manifest.parquet", "frames/manifest.parquet"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(folder / file) for folder in nights[:2]))
