"""Seconds and memory of the ingest gate on a large manifest.

Prints one line of JSON last; the bar is 15 s and 2.5 GiB for 1,000,000 rows, reading the table and importing the
library included. The table is made in a process of its own, so that making it does not count.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.results import ROOT
from perception.data.taxonomies import load_taxonomy

BAR_SECONDS, BAR_MIB = 15.0, 2.5 * 1024
FRAMES_A_DRIVE = 200
CLASSES = load_taxonomy("cityscapes19").classes
SPLITS = ("pool", "train", "val", "test")


def write_table(path: Path, rows: int) -> None:
    """Write a manifest of `rows` frames joined with its profile: 90 % pool, 5 % train, 2 % val, 3 % test, all sound."""
    import hashlib

    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    drive = np.arange(rows) // FRAMES_A_DRIVE
    split = rng.choice(4, int(drive[-1]) + 1, p=[0.9, 0.05, 0.02, 0.03])
    split[:4] = range(4)
    names = np.array(SPLITS)[split[drive]]
    labelled = names != "pool"
    frame_ids = [f"drive{d:06d}_{k % FRAMES_A_DRIVE:06d}" for k, d in enumerate(drive)]
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in frame_ids]
    width, height = 2048, 1024
    counts = rng.multinomial(width * height, rng.dirichlet(np.full(len(CLASSES) + 1, 2.0)), size=rows)
    # frames of a drive look alike: its first hash with a few bits flipped
    scene = rng.integers(0, 2**64, len(split), dtype=np.uint64)[drive]
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (3, rows), dtype=np.uint64), axis=0)

    def where(values: object) -> object:
        return pd.Series(values).where(labelled)

    table = pd.DataFrame(
        {
            "frame_id": frame_ids,
            "drive_id": [f"drive{d:06d}" for d in drive],
            "timestamp_utc": pd.Timestamp("2026-11-22T00:00:00Z") + pd.to_timedelta(np.arange(rows), unit="ms"),
            "camera": "front",
            "domain": "real",
            "split": names,
            "time_of_day": rng.choice(["day", "twilight", "night"], rows),
            "weather": rng.choice(["clear", "cloudy", "rain"], rows),
            "scene": "urban",
            "width_px": np.int32(width),
            "height_px": np.int32(height),
            "image_uri": [f"sha256/{text[:2]}/{text}.jpg" for text in hashes],
            "image_sha256": hashes,
            "label_uri": where([f"sha256/{text[:2]}/{text[::-1]}.png" for text in hashes]),
            "label_sha256": where([text[::-1] for text in hashes]),
            "label_source": np.where(labelled, "human", "none"),
            "label_taxonomy": where(["cityscapes19"] * rows),
            "instances_uri": pd.Series([None] * rows, dtype="str"),
            "source": "fleet",
            "image_sha256_actual": hashes,
            "decode_ok": True,
            "brightness_mean": rng.uniform(40, 200, rows),
            "contrast_std": rng.uniform(10, 80, rows),
            "sharpness": rng.uniform(50, 900, rows),
            "dhash": [f"{value:016x}" for value in scene ^ flips],
            "label_min": where(np.zeros(rows)),
            "label_max": where(np.full(rows, 18.0)),
            "unknown_label_px": where(np.zeros(rows)),
            "void_fraction": where(counts[:, -1] / (width * height)),
            **{f"px_{name}": where(counts[:, k].astype(float)) for k, name in enumerate(CLASSES)},
        }
    )
    share = counts[:, :-1].sum(axis=0) / counts[:, :-1].sum()
    parameters = {
        "reference_class_share": dict(zip(CLASSES, share.tolist(), strict=True)),
        "real_widths_px": [width],
        "real_heights_px": [height],
        "newest_after_utc": "2026-11-22T00:00:00Z",
        "test_times_of_day": ["day", "night"],
        "test_weathers": ["clear", "rain"],
        "min_frames": rows,
        "usual_min_frames": rows // 2,
        "usual_max_frames": rows * 2,
    }
    table.to_parquet(path / "gate.parquet", index=False)
    (path / "gate_parameters.json").write_text(json.dumps(parameters))


def judge_table(path: Path) -> dict[str, object]:
    """Judge the table in this process; return what it took."""
    start = time.perf_counter()
    from perception.quality.gate import judge_folders

    verdict = judge_folders([path], "ingest", {}, today="2026-11-23")
    return {
        "decision": verdict.decision,
        "failed": [failure.id for failure in verdict.failed],
        "checked": verdict.checked,
        "rows": verdict.rows,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


@click.command()
@click.option("--rows", default=1_000_000)
@click.option("--step", type=click.Choice(("write", "judge")), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), hidden=True)
def run(rows: int, step: str | None, folder: Path) -> int:
    """Judge a large manifest by the ingest gate, and hold it to 15 s and 2.5 GiB."""
    if step == "write":
        write_table(folder, rows)
        return 0
    if step == "judge":
        print(json.dumps(judge_table(folder)))
        return 0
    with tempfile.TemporaryDirectory() as made:
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale",
            "gate_rows",
            "--folder",
            made,
            "--rows",
            str(rows),
            "--step",
        ]
        subprocess.run([*command, "write"], cwd=ROOT, check=True)
        judged = subprocess.run([*command, "judge"], cwd=ROOT, check=True, capture_output=True)
    measured = json.loads(judged.stdout.splitlines()[-1])
    within = measured["seconds"] < BAR_SECONDS and measured["peak_rss_mib"] < BAR_MIB
    print(json.dumps(measured | {"bar_seconds": BAR_SECONDS, "bar_mib": BAR_MIB, "pass": within}))
    return 0 if within else 1
