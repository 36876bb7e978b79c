"""Measure what this project's own code costs a frame, for `make simulate`: docs/results/fleet_rates.json.

Costs are in seconds of processor time, which other programs on the machine disturb little. Frames are procedural street
scenes of 2048x1024 px, encoded as JPEG. Costs a row of the pool come from the runs of benchmarks/scale/pool_scale.py
(docs/results/pool_scale.json), where its two sizes give a slope. The last line is JSON, as the file is.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.machine import hardware
from benchmarks.results import RESULTS, ROOT, write_figures
from benchmarks.scale.simulate import RATES_FILE
from benchmarks.timing import least_seconds
from perception.data.shards import write_shard
from perception.data.store import FolderStore
from perception.errors import InputError
from perception.quality.intake import Arrival, IntakeSettings, admit_frames
from perception.selection.k_centre import k_centre
from perception.simulator.folder import encode_scene, scene_frames
from perception.simulator.world import World

POOL = ROOT / RESULTS / "pool_scale.json"
HEIGHT_PX, WIDTH_PX = 1024, 2048
SHORTLIST, CHOSEN, DIMENSION = 20_000, 500, 64
ROUNDS = 3


@click.command()
@click.option("--frames", default=24)
@click.option("--out", type=click.Path(path_type=Path), default=RATES_FILE, help="The file that is written.")
def run(frames: int, out: Path) -> None:
    """Measure what this project's own code costs a frame, for `make simulate`."""
    cv2.setNumThreads(1)
    rates = row_costs(POOL) | frame_costs(frames)
    found = {
        "command": "python -m benchmarks.scale pool_scale && python -m benchmarks.scale fleet_rates",
        "hardware": hardware(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rates": rates,
    }
    write_figures(out, found)
    print(json.dumps(found))


def row_costs(file: Path) -> dict[str, float]:
    """Return the costs a row of the stages that hold the whole pool, by the slope between the two sizes of pool_scale."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run `python -m benchmarks.scale pool_scale` first") from None
    small, large = found["small"], found["large"]
    rows = large["rows"] - small["rows"]

    def slope(stage: str, key: str) -> float:
        return float((large["stages"][stage][key] - small["stages"][stage][key]) / rows)

    costs = {f"{stage}_row_s": slope(stage, "cpu_seconds") for stage in ("gather", "gate", "select", "diff")}
    costs |= {
        f"{stage}_row_bytes": slope(stage, "peak_rss_mib") * 2**20 for stage in ("gather", "gate", "score", "select")
    }
    gate = small["stages"]["gate"]["cpu_seconds"] - costs["gate_row_s"] * small["rows"]
    return {name: max(cost, 1e-9) for name, cost in (costs | {"gate_start_s": gate}).items()}


def frame_costs(count: int) -> dict[str, float]:
    """Return seconds of processor time a frame: of taking it in, of packing it, and of a pair in k-centre."""
    scenes = scene_frames(World(), "street", 0, count, 1, HEIGHT_PX, WIDTH_PX)
    frames = [(facts, encode_scene(scene).image_jpg) for facts, scene in scenes]
    images = [image for _, image in frames]
    settings = IntakeSettings(source="fleet", split="pool", domain="real", labels="none", taxonomy="cityscapes19")
    points = np.random.default_rng(0).normal(size=(SHORTLIST, DIMENSION)).astype(np.float32)

    def arrivals() -> Iterator[Arrival]:
        for facts, image in frames:
            yield Arrival(
                facts=facts, image=image, image_path=f"{facts.frame_id}.jpg", label=None, label_path="",
                label_taxonomy="cityscapes19",
            )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        numbers = iter(range(10**6))
        runs = {
            "take_in": lambda: admit_frames(arrivals(), count, FolderStore(root / str(next(numbers))), settings),
            "pack": lambda: write_shard(
                ((f"f{k:04d}", {"jpg": image}) for k, image in enumerate(images)), root / "shard.tar"
            ),
            "choose": lambda: k_centre(points, CHOSEN, first=0),
        }
        seconds = least_seconds(runs, ROUNDS, clock=time.process_time)
    return {
        "frame_bytes": sum(map(len, images)) / count,
        "ingest_core_s": seconds["take_in"] / count,
        "curate_core_s": seconds["pack"] / count,
        "select_pair_s": seconds["choose"] / (SHORTLIST * CHOSEN),
    }
