"""The smallest whole night: every stage does real work, in seconds; its figures mean nothing."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TINY = (
    "common.height_px=32",
    "common.width_px=64",
    "common.batch_frames=4",
    "sources.fleet.drives=8",
    "sources.fleet.frames_per_drive=3",
    "sources.fleet.initial_labelled_frames=6",
    "sources.simulator.drives=8",
    "sources.frozen_test.drives=6",
    "sources.frozen_test.frames_per_drive=1",
    "ensemble.epochs=1",
    "ensemble.epoch_frames=8",
    "select.budget_frames=4",
    "compare.epochs=1",
    "compare.epoch_frames=8",
    "adapt.epochs=1",
    "adapt.epoch_frames=8",
    "adapt.pseudo_frames=4",
    "adapt.student_epochs=1",
    "adapt.detector_epochs=1",
    "train_prune.epochs=2",
    "train_prune.epoch_frames=8",
    "train_prune.press_epochs=1",
    "train_prune.latency_share=1.0",
    "compress.latency_repeats=3",
    "evaluate.resamples=100",
    "evaluate.shift_frames=2",
)


def night_command(runs: Path, *arguments: str) -> list[str]:
    """Give the command of a tiny night in a folder of runs of its own."""
    sets = [word for override in TINY for word in ("--set", override)]
    return [sys.executable, "-m", "pipelines.local", "--runs", str(runs), "--profile", "smoke", *sets, *arguments]
