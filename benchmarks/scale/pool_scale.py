"""A pool of a million frames, really: ingest, gather, gate, score, select and diff at two sizes, their time and memory.

The stages are the night's own, `python -m components.stage STAGE`, a process each, and so are their records of seconds, processor
time and peak memory. What is small are the images: 8x8 px JPEGs, a few thousand different ones shared by all frames, in tar
shards of about --part frames, which ingest takes in by batches (a million image files of their own would measure the file
system). The scorer is a committee of two ERFNets of an eighth of the width, too small to know anything. `diff` compares the
manifest with itself after 1 % of the frames are gone, 1 % relabelled and 1 % moved.

Linear: ten times the rows take at most 11 times the processor time, the stage's start taken off. Flat: a process of ingest
and of score, which gets a part of the pool, takes no more memory when there are ten times as many parts. gather, gate and
select hold tables of the whole pool; theirs may grow, and must stay below what the stage asks for on a cluster. The last
line is JSON.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import yaml

from benchmarks.machine import hardware
from benchmarks.results import ROOT, write_figures, write_page
from components.stage.program import EXIT_DONE, EXIT_REFUSED
from components.stage.registry import find_stage, stage_names

SIDE_PX, PICTURES, FRAMES_A_DRIVE = 8, 4_000, 200
LINEAR_BAR, FLAT_BAR = 1.1, 1.1  # times the growth of the rows; times the memory
PARTED = ("ingest", "score")  # stages that get a part of the pool each
GIB_IN_MIB = 1024.0
FOLDER = click.Path(path_type=Path)
BUDGET = 1000


@click.command()
@click.option("--rows", default=1_000_000)
@click.option("--small", default=100_000)
@click.option("--part", default=50_000, help="Frames of a batch, and about of a shard.")
@click.option("--processes", default=2, help="Parts that are worked on at once.")
@click.option("--folder", type=FOLDER, help="Where to work; else a temporary folder.")
@click.option("--out", type=FOLDER, help="Folder to write pool_scale.md and .json into; default: print only.")
def run(rows: int, small: int, part: int, processes: int, folder: Path | None, out: Path | None) -> int:
    """Take a pool of a million frames through the night's stages, and hold them to linear time and flat memory."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pool-", dir=folder) as made:
        few = measure(Path(made) / "small", small, part, processes)
        many = measure(Path(made) / "large", rows, part, processes)
    report = judged(few, many) | {
        "command": f"python -m benchmarks.scale pool_scale --rows {rows} --small {small} --part {part}",
        "hardware": hardware(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - started),
    }
    if out:
        write_figures(out / "pool_scale.json", report)
        write_page(out / "pool_scale.md", page(report))
    print(json.dumps(report))
    return 0 if report["pass"] else 1


# ---------------------------------------------------------------- one size


def measure(root: Path, rows: int, part: int, processes: int) -> dict[str, Any]:
    """Take a pool of `rows` frames through the stages; return every stage's figures."""
    root.mkdir()
    parts = max(1, round(rows / part))
    sources = write_sources(root / "tars", rows, parts)
    settings = night(sources, parts, rows, root)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    write_committee(root / "ensemble")
    run_stages(root, [("resolve", "resolve", ["--base", "base", "--arrivals", "arrivals"])], 1)
    names = [f"arrived/{k}" for k in range(parts)]
    batches = [
        ("ingest", f"ingest@{k}", ["--set", f"batch={k}", "--arrivals", f"arrivals/{k}", "--arrived", name])
        for k, name in enumerate(names)
    ]
    run_stages(root, batches, processes)
    arrived = [word for name in names for word in ("--arrived", name)]
    run_stages(root, [("gather", "gather", [*arrived, "--base", "base", "--frames", "frames"])], 1)
    run_stages(root, [("gate", "gate_ingest", ["--subject", "frames", "--verdict", "verdict"])], 1)
    known = ["--frames", "frames", "--base", "base"]
    shards = [
        ("score", f"score@{k}", ["--set", f"shard={k}", *known, "--ensemble", "ensemble", "--scores", f"scores/{k}"])
        for k in range(parts)
    ]
    run_stages(root, shards, processes)
    scores = [word for k in range(parts) for word in ("--scores", f"scores/{k}")]
    run_stages(root, [("select", "select", [*known, "--ensemble", "ensemble", *scores, "--selection", "selection"])], 1)
    stages = {stage: figures(root, stage) for stage in ("ingest", "gather", "gate", "score", "select")}
    found = {"rows": rows, "parts": parts, "stages": stages | {"diff": diff(root)}}
    print(f"{rows:,} frames in {parts} parts: {_in_words(found)}", flush=True)
    return found


def _in_words(found: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {each['cpu_seconds']:.1f} s, {each['peak_rss_mib']:.0f} MiB" for name, each in found["stages"].items()
    )


def write_sources(folder: Path, rows: int, parts: int) -> dict[str, dict[str, Any]]:
    """Write the pool's tar files, one a source, and a small labelled train and test source; return their settings."""
    plain = {"format": "webdataset", "domain": "real"}
    found: dict[str, dict[str, Any]] = {}
    edges = np.linspace(0, rows, parts + 1).astype(int)
    pictures = _pictures(0, PICTURES)
    for part in range(parts):
        name = f"car{part:04d}"
        _write_tar(folder / name / "frames.tar", _frames(f"p{part:04d}", int(edges[part + 1] - edges[part]), pictures))
        found[name] = plain | {"path": str(folder / name), "split": "pool", "labels": "none"}
    for number, split in enumerate(("train", "test")):
        frames = _frames(split, 2 * FRAMES_A_DRIVE, _pictures(1 + number, 2 * FRAMES_A_DRIVE), labelled=True)
        _write_tar(folder / split / "frames.tar", frames)
        found[split] = plain | {"path": str(folder / split), "split": split, "labels": "given"}
    return found


def _pictures(seed: int, count: int) -> list[bytes]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return [cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for each in noise]


def _frames(prefix: str, count: int, pictures: Sequence[bytes], labelled: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield the files of so many frames; a drive's facts stand in every frame's JSON."""
    label = cv2.imencode(".png", np.full((SIDE_PX, SIDE_PX), 1, np.uint8))[1].tobytes()
    conditions = {"time_of_day": "day", "weather": "clear", "scene": "urban"}
    facts = {"camera": "front", **conditions, "label_taxonomy": "cityscapes19"}
    for number in range(count):
        key, drive = f"{prefix}_{number:06d}", number // FRAMES_A_DRIVE
        yield f"{key}.jpg", pictures[number % len(pictures)]
        yield f"{key}.json", json.dumps(facts | {"drive_id": f"{prefix}_d{drive:04d}"}).encode()
        if labelled:
            yield f"{key}.label.png", label


def _write_tar(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def night(sources: Mapping[str, Any], parts: int, rows: int, root: Path) -> dict[str, Any]:
    """Give the parameters of the stages."""
    common = {
        "store": str(root / "store"), "taxonomy": "cityscapes19", "height_px": SIDE_PX, "width_px": SIDE_PX, "seed": 0,
    }  # fmt: skip
    batches = {"sources": dict(sources), "batch_count": parts}
    bounds = {"min_frames": rows, "min_pool_frames": rows}
    return {
        "resolve": batches | {"registry": str(root / "registry.git"), "remote": str(root / "remote"), "store": common["store"]},
        "ingest": common | batches,
        "gather": {name: common[name] for name in ("store", "taxonomy", "seed")} | {"sources": dict(sources)},
        "gate_ingest": {"suite": "ingest", "profile": "pool_scale", "bounds": bounds},
        "score": common | {"shard_count": parts, "batch_frames": 256},
        "select": common | {"budget_frames": BUDGET},
    }  # fmt: skip


def write_committee(folder: Path) -> None:
    """Write a committee of two networks that were never trained."""
    from perception.models.registry import build_network
    from perception.uncertainty.ensemble import make_ensemble, save_ensemble

    folder.mkdir()
    committee = make_ensemble(lambda seed: build_network("ERFNet", seed=seed, classes=19, width=0.125), 2, 0)
    save_ensemble(committee, folder, {})


def run_stages(root: Path, calls: Sequence[tuple[str, str, list[str]]], processes: int) -> None:
    """Run stages as the local engine does, so many at once; raise RuntimeError with what one says that fails."""
    own = {"PYTHONPATH": str(ROOT), "NIGHTDRIVE_RECORDS": str(root / "records"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | own

    def run(call: tuple[str, str, list[str]]) -> None:
        stage, task, more = call
        command = [sys.executable, "-m", "components.stage", stage, "--task", task, "--params", "params.yaml", *more]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        # The gate refuses frames that share their pictures, as these do; what it costs is the same.
        if done.returncode not in (EXIT_DONE, EXIT_REFUSED):
            raise RuntimeError(f"{task} ended with {done.returncode}: {done.stderr.strip()[-500:]}")

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, calls))


def figures(root: Path, stage: str) -> dict[str, float]:
    """Add up the records of a stage's tasks over the pool: seconds and processor time in all, the greatest memory."""
    pool = [json.loads(path.read_text()) for path in (root / "records").glob(f"{stage}*.json")]
    return {
        "seconds": round(sum(each["seconds"] for each in pool), 2),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in pool), 2),
        "peak_rss_mib": max(each["peak_rss_mib"] for each in pool),
    }


def diff(root: Path) -> dict[str, float]:
    """Compare the pool's manifest with a changed one, both read from their files, in a process of its own."""
    manifest, changed = root / "frames" / "manifest.parquet", root / "changed.parquet"
    subprocess.run([sys.executable, "-c", _CHANGE, str(manifest), str(changed)], cwd=ROOT, check=True)
    command = [sys.executable, "-c", _DIFF, str(manifest), str(changed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


_CHANGE = """
import sys
from pathlib import Path
from perception.data.manifest import read_manifest, write_manifest
base = read_manifest(Path(sys.argv[1]))
part = len(base) // 100
head = base.iloc[part:].reset_index(drop=True)
hashes = head.loc[: part - 1, "image_sha256"].str[::-1]
head.loc[: part - 1, "image_sha256"] = hashes
head.loc[: part - 1, "image_uri"] = "sha256/" + hashes.str[:2] + "/" + hashes + ".jpg"
head.loc[part : 2 * part - 1, "split"] = "val"
write_manifest(head, Path(sys.argv[2]))
"""
_DIFF = """
import json, sys, time
from pathlib import Path
from components.stage.usage import peak_rss_mib
from perception.versioning.diff import diff_files
start, start_cpu = time.perf_counter(), time.process_time()
diff = diff_files(Path(sys.argv[1]), Path(sys.argv[2]))
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
part, found = diff.base_frames // 100, diff.counts()
assert (found["removed"], found["changed_image"], found["moved"]) == (part, part, part), found
peak = peak_rss_mib()
print(json.dumps({"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_rss_mib": round(peak, 1)}))
"""


# ---------------------------------------------------------------- what it says


def judged(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Hold every stage to its bars."""
    growth, more_rows = large["rows"] / small["rows"], large["rows"] - small["rows"]
    stages = {}
    for name, after in large["stages"].items():
        before = small["stages"][name]
        linear = after["cpu_seconds"] / before["cpu_seconds"] / growth
        memory = after["peak_rss_mib"] / before["peak_rss_mib"]
        asked = find_stage(name).needs.memory_gib * GIB_IN_MIB if name in stage_names() else None
        flat = memory <= FLAT_BAR if name in PARTED else asked is None or after["peak_rss_mib"] <= asked
        stages[name] = {
            "of_linear": round(linear, 3),
            "memory_growth": round(memory, 2),
            "bytes_a_row": round((after["peak_rss_mib"] - before["peak_rss_mib"]) * 2**20 / more_rows),
            "asked_mib": asked,
            "linear": linear <= LINEAR_BAR,
            "flat": bool(flat),
        }
    passed = all(each["linear"] and each["flat"] for each in stages.values())
    return {"benchmark": "pool_scale", "small": dict(small), "large": dict(large), "judged": stages, "pass": passed}


def page(report: Mapping[str, Any]) -> str:
    """Write the page: every stage's time and memory at both sizes, and whether they are linear and flat."""
    small, large = report["small"], report["large"]
    lines = [
        f"# A pool of {large['rows']:,} frames", "", f"    {report['command']}", "",
        f"{report['hardware']}; {report['date']}; {report['seconds']} s in all. What is measured and why the images are tiny stands in",
        "[scale](../scale.md). Seconds are the processor's; memory is that of a stage's largest process.", "",
        f"| stage | {small['rows']:,} rows, s | {large['rows']:,} rows, s | of linear | MiB | MiB | bytes a row | linear | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]  # fmt: skip
    for name, each in report["judged"].items():
        before, after = small["stages"][name], large["stages"][name]
        below = f"below the {each['asked_mib']:,.0f} MiB asked for" if each["asked_mib"] else "–"
        kept = "flat" if name in PARTED else below
        lines.append(
            f"| {name} | {before['cpu_seconds']:.1f} | {after['cpu_seconds']:.1f} | {each['of_linear']:.2f} "
            f"| {before['peak_rss_mib']:.0f} | {after['peak_rss_mib']:.0f} | {each['bytes_a_row']:,} "
            f"| {'yes' if each['linear'] else '**no**'} | {kept if each['flat'] else '**no**: not ' + kept} |"
        )
    return "\n".join(lines) + "\n"
