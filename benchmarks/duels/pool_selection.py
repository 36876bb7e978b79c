"""Choose 2,000 of 1,000,000 scored frames from Parquet on disk: k-centre over the 20,000 of highest score.

The score tables (64-dimensional embeddings, ten shards) are written first and do not count. The selection runs in a
process of its own, so that its peak memory is its own; a tenth of the pool is run before, for the growth. The limit is
reading and decoding the tables. Bars: under 60 s and 2 GiB; ten times the frames take at most 11 times the time and no
more memory, to a tenth. The last line is JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.duels.duel import finish, result
from benchmarks.results import ROOT
from components.stage.usage import peak_rss_mib
from perception.selection.budget import choose_frames
from perception.selection.settings import SelectionSettings
from perception.selection.shortlist import BATCH_ROWS, shortlist_files

SHARDS, DIMENSION, LABELLED_FRAMES = 10, 64, 5_000
BAR_SECONDS, BAR_MIB, BAR_GROWTH, BAR_MEMORY_GROWTH = 60.0, 2048.0, 11.0, 1.1


@click.command()
@click.option("--frames", default=1000000)
@click.option("--budget", default=2000)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to put the score tables; else a temporary folder."
)
@click.option("--select", is_flag=True, help="Only choose from the folder's tables.")
def duel(frames: int, budget: int, folder: Path | None, select: bool) -> int:
    """Choose from a million scored frames on disk, against the bar."""
    if select and folder:
        return _select(folder, budget)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        tenth = _run(Path(made) / "tenth", frames // 10, budget)
        whole = _run(Path(made) / "whole", frames, budget)
    growth = whole["seconds"] / tenth["seconds"]
    memory_growth = whole["peak_mib"] / tenth["peak_mib"]
    passed = whole["seconds"] < BAR_SECONDS and whole["peak_mib"] < BAR_MIB
    passed = passed and growth <= BAR_GROWTH and memory_growth <= BAR_MEMORY_GROWTH
    report = result(
        "pool_selection",
        ours=whole["seconds"],
        peer=BAR_SECONDS,
        limit_share=whole["read_seconds"] / whole["seconds"],
        passed=passed,
        frames=frames,
        budget_frames=budget,
        peak_mib=whole["peak_mib"],
        tenth_seconds=tenth["seconds"],
        tenth_peak_mib=tenth["peak_mib"],
        growth=growth,
    )
    return finish(report)


def _run(folder: Path, frames: int, budget: int) -> dict:
    _write_pool(folder, frames)
    words = ["benchmarks.duels", "pool_selection", "--select", "--folder", str(folder), "--budget", str(budget)]
    finished = subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(finished.stdout.splitlines()[-1])


def _write_pool(folder: Path, frames: int) -> None:
    """Write redundant footage: drives of 100 frames around a common look, few of them uncertain."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for shard in range(SHARDS):
        count = frames // SHARDS
        drive = np.arange(count) // 100
        looks = generator.normal(size=(drive[-1] + 1, DIMENSION))
        embeddings = (looks[drive] + 0.2 * generator.normal(size=(count, DIMENSION))).astype(np.float32)
        offsets = pa.array(np.arange(0, count * DIMENSION + 1, DIMENSION, dtype=np.int32))
        table = pa.table(
            {
                "frame_id": [f"car{shard:02d}-{index:08d}" for index in range(count)],
                "score": generator.gamma(2.0, 0.1, count),
                "embedding": pa.ListArray.from_arrays(offsets, pa.array(embeddings.ravel())),
                "drive_id": [f"car{shard:02d}-drive{number:05d}" for number in drive],
                "measure": pa.array(["mutual_information"] * count),
            }
        )
        pq.write_table(table, folder / f"scores_{shard:02d}.parquet", row_group_size=BATCH_ROWS)


def _select(folder: Path, budget: int) -> int:
    paths = sorted(folder.glob("scores_*.parquet"))
    settings = SelectionSettings(budget_frames=budget, strategy="k_centre", shortlist_frames=20_000)
    labelled = _labelled()
    start = time.perf_counter()
    chosen = choose_frames(shortlist_files(paths, settings, labelled["frame_id"]), settings, labelled)
    seconds = time.perf_counter() - start
    assert chosen["frame_id"].nunique() == budget
    peak_mib = int(peak_rss_mib())
    read_seconds = _read_seconds(paths)
    print(json.dumps({"seconds": round(seconds, 2), "read_seconds": round(read_seconds, 2), "peak_mib": peak_mib}))
    return 0


def _read_seconds(paths: list[Path]) -> float:
    """Time the reading and decoding of every column: the limit."""
    start = time.perf_counter()
    for path in paths:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches():
                pass
    return time.perf_counter() - start


def _labelled() -> pd.DataFrame:
    points = np.random.default_rng(1).normal(size=(LABELLED_FRAMES, DIMENSION)).astype(np.float32)
    return pd.DataFrame({"frame_id": [f"old-{index}" for index in range(LABELLED_FRAMES)], "embedding": list(points)})
