"""Footage of which nothing is known but its drives, and nights on it without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.data.shards import write_shard
from pipelines.nightly import nightly
from pipelines.settings import load_settings

HEIGHT, WIDTH = 32, 64


def picture(number: int) -> bytes:
    """Return an image of noise, another for every number."""
    return encoded(np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def encoded(pixels: np.ndarray) -> bytes:
    """Return pixels as a PNG."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def arrive(folder: Path, tar: str, images: dict[str, bytes]) -> None:
    """Let frames arrive in one file: no time, no camera, no weather, no place; a frame's drive is its first letter."""
    told = (
        (name, {"png": image, "json": json.dumps({"drive_id": name[0]}).encode()}) for name, image in images.items()
    )
    write_shard(told, folder / f"{tar}.tar")


def night_settings(root: Path, name: str, date: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a night on the footage in root/footage and the label drops in root/drops."""
    real: dict[str, Any] = {"domain": "real"}
    fleet = {"format": "webdataset", "path": str(root / "footage"), "split": "pool", "labels": "none"} | real
    drops = {"format": "label_drop", "path": str(root / "drops"), "split": "train", "labels": "drop"} | real
    test = (
        "{format: scenes, rendering: street, domain: real, split: test, labels: given, drives: 1, frames_per_drive: 1}"
    )
    overrides = [
        f"sources.fleet={json.dumps(fleet)}",
        f"sources.drops={json.dumps(drops)}",
        f"sources.frozen_test={test}",
    ]
    overrides += ["sources.simulator.drives=1", "batches=1", f"common.height_px={HEIGHT}", f"common.width_px={WIDTH}"]
    overrides += ["select.budget_frames=4", "select.fresh_share=0.25", *more]
    return load_settings(nightly(), "smoke", overrides, run=name, date=date)
