"""A season of nights with tiny frames, without training: does a night cost what is new, and what does the registry grow to?

Every night a tar file of new frames arrives and the labels of the night before come back; the stages that take in, choose (by scores
that are drawn), curate and publish run as they are, and the version is released. The last line is JSON.
"""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import click
import cv2
import numpy as np
import pandas as pd

from benchmarks.machine import hardware
from benchmarks.results import markdown_table, write_figures, write_page
from benchmarks.scale.pool_nights import clone_mb, cpu_seconds
from components.report.recorded import record_row
from components.stage.declaration import Paths
from components.stage.learning import class_names, open_pool
from components.stage.parameters import build_parameters
from components.stage.registry import all_stages
from perception.data.shards import write_shard
from perception.models.erfnet import ERFNet
from perception.reporting.summary import NightSummary
from perception.uncertainty.ensemble import make_ensemble, save_ensemble
from perception.versioning.decisions import promote
from pipelines.graph import NEWS, NOTHING_NEW
from pipelines.local.annotator import send
from pipelines.nightly import nightly
from pipelines.settings import load_settings

# Stage: what it takes of which task's folder; `*`: every batch.
_TAKES: dict[str, dict[str, str]] = {
    "resolve": {},
    "ingest": {"arrivals": "arrivals/*"},
    "gather": {"arrived": "arrived/*", "base": "base"},
    "select": {"frames": "frames", "base": "base", "ensemble": "ensemble", "scores": "scores"},
    "curate": {"frames": "frames", "base": "base", "selection": "selection"},
    "publish": {"frames": "frames", "base": "base", "curated": "curated"},
}
FOLDER = click.Path(path_type=Path)
HEIGHT, WIDTH = 32, 64
TIME_BAR, CLONE_BAR_MB, SIDE_NIGHTS = 1.2, 50.0, 5
FULL_FROM = 3  # the night, from 0, on which the pool is full for the first time
FIRST, DRIVE_FRAMES, REGISTRY = date(2026, 1, 1), 200, "runs/registry/smoke.git"


def data_night(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run the stages of a night in this process up to its publication, with scores that are drawn, and record the night.

    settings: as pipelines.settings gives them. Returns what the stages told. A night without news ends with gather; one that is run
    again writes its folders anew.
    """
    told: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        for name in _TAKES:
            if name == "select":
                if told[NEWS] == NOTHING_NEW:
                    break
                _draw_scores(folder)
                _untrained_ensemble(folder / "ensemble", settings["select"]["taxonomy"])
            for batch in range(settings["batches"]) if name == "ingest" else (None,):
                told |= run_stage(name, folder, settings[name], batch)
        report = build_parameters(all_stages()["report"].parameters, settings["report"], where="report")
        status = "nothing_new" if told[NEWS] == NOTHING_NEW else "done"
        summary = NightSummary(run=folder.name, status=status, profile=settings["profile"])
        record_row(report, summary, [{"values": told}])
    return told


def run_stage(name: str, folder: Path, section: Mapping[str, Any], batch: int | None) -> dict[str, Any]:
    """Run one stage of a night in its folder, anew; batch: of ingest. Returns what it told."""
    stage = all_stages()[name]
    given = dict(section) | ({} if batch is None else {"batch": batch})
    place = "*" if batch is None else str(batch)
    taken = {port: tuple(sorted(folder.glob(path.replace("*", place)))) for port, path in _TAKES[name].items()}
    outputs = {port.name: folder / port.name / ("" if batch is None else place) for port in stage.outputs}
    for path in outputs.values():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    parameters = build_parameters(stage.parameters, given, where=name)
    return stage.run(Paths(taken), Paths({port: (path,) for port, path in outputs.items()}), parameters) or {}


def _draw_scores(folder: Path) -> None:
    pool = open_pool(Paths({"frames": (folder / "frames",), "base": (folder / "base",)}))
    generator = np.random.default_rng(0)
    scores = pd.DataFrame({"frame_id": pool.frame_id, "score": generator.random(len(pool))})
    scores["embedding"] = list(generator.normal(size=(len(pool), 4)).astype(np.float32))
    scores["class_share"] = list(generator.dirichlet(np.ones(19), len(pool)).astype(np.float32))
    (folder / "scores").mkdir(exist_ok=True)
    scores.assign(model_sha256="0" * 64, measure="ensemble_entropy", reduction="mean").to_parquet(
        folder / "scores" / "scores.parquet", index=False
    )


def _untrained_ensemble(folder: Path, taxonomy: str) -> None:
    classes = len(class_names(taxonomy))
    save_ensemble(make_ensemble(lambda _seed: ERFNet(classes, width=0.25), 2, seed=0), folder, {"kind": "dpe"})


# ---------------------------------------------------------------- footage


def picture(number: int) -> bytes:
    """Return an image of noise as a PNG, another for every number."""
    return encoded(np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def encoded(pixels: "np.ndarray[Any, Any]") -> bytes:
    """Return pixels as a PNG."""
    data: bytes = cv2.imencode(".png", pixels)[1].tobytes()
    return data


def label() -> bytes:
    """Return a label of two classes as a PNG."""
    return encoded(np.repeat(np.array([0, 10], np.uint8), HEIGHT * WIDTH // 2).reshape(HEIGHT, WIDTH))


def arrive(folder: Path, tar: str, images: Mapping[str, bytes]) -> None:
    """Let frames arrive in one file: no time, no camera, no weather, no place; the name up to its last digits is the drive."""
    told = ((name, {"png": image, "json": _about(name)}) for name, image in images.items())
    write_shard(told, folder / f"{tar}.tar")


def _about(name: str) -> bytes:
    return json.dumps({"drive_id": name.rstrip("0123456789")}).encode()


def night_settings(root: Path, name: str, day: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a night on the footage in root/footage and the label drops in root/drops."""
    fleet = {"format": "webdataset", "path": str(root / "footage"), "domain": "real", "split": "pool", "labels": "none"}
    drops = {"format": "label_drop", "path": str(root / "drops"), "domain": "real", "split": "train", "labels": "drop"}
    given = [f"sources.fleet={json.dumps(fleet)}", f"sources.drops={json.dumps(drops)}", "sources.simulator.drives=1"]
    given += ["sources.frozen_test.drives=1", "sources.frozen_test.frames_per_drive=1", "sources.val.drives=1", "batches=1"]
    given += [f"common.height_px={HEIGHT}", f"common.width_px={WIDTH}"]
    return load_settings(nightly(), "smoke", [*given, *more], run=name, date=day)


# ---------------------------------------------------------------- the benchmark


@click.command()
@click.option("--nights", default=30, show_default=True)
@click.option("--frames", default=2_000, show_default=True, help="New frames of a night.")
@click.option("--folder", type=FOLDER, help="Where to work; else a temporary folder.")
@click.option("--out", type=FOLDER, help="Folder to write data_nights.md and .json into; default: print only.")
def run(nights: int, frames: int, folder: Path | None, out: Path | None) -> int:
    """Take a registry through thirty nights of tiny frames, stage by stage, and hold the last to the time of the first."""
    with tempfile.TemporaryDirectory(prefix="nights-", dir=folder) as made:
        (Path(made) / "drops").mkdir()
        measured = [one_night(Path(made), number, frames) for number in range(nights)]
        report = judged(measured, clone_mb(Path(made) / REGISTRY))
    report |= {"command": f"python -m benchmarks.scale data_nights --nights {nights} --frames {frames}"}
    report |= {"hardware": hardware(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    if out:
        write_figures(out / "data_nights.json", report)
        write_page(out / "data_nights.md", page(report))
    print(json.dumps({name: value for name, value in report.items() if name != "nights"}))
    return 0 if report["pass"] else 1


def one_night(root: Path, number: int, frames: int) -> dict[str, float]:
    """Let frames and the labels of the night before arrive, run the night and release its version; return what it cost."""
    name, day = f"night-{number + 1}", FIRST + timedelta(days=number)
    drives = [f"n{number}_d{place // DRIVE_FRAMES}_f{place:05d}" for place in range(frames)]
    arrive(root / "footage", name, {frame: picture(number * frames + place) for place, frame in enumerate(drives)})
    if number:
        batch = root / "runs" / f"night-{number}" / "selection" / "annotation"
        asked = pd.read_csv(batch / "frames.csv").frame_id
        send(batch, dict.fromkeys(asked, label()), day, root / "drops" / name)
    more = [f"select.budget_frames={frames // 10}", f"gather.max_pool_frames={2 * frames}"]
    settings = night_settings(root, name, day.isoformat(), more)
    started, cpu = time.perf_counter(), cpu_seconds()
    told = data_night(root / "runs" / name, settings)
    cost = {"cpu_seconds": round(cpu_seconds() - cpu, 2), "seconds": round(time.perf_counter() - started, 2)}
    version = json.loads((root / "runs" / name / "version" / "version.json").read_text())
    sha256 = version["manifest_sha256"]
    promote(root / REGISTRY, version["tag"], manifest_sha256=sha256, names=["Benchmark"], reason="one of many")
    shutil.rmtree(root / "runs" / f"night-{number}", ignore_errors=True)
    found = cost | {"new": told["new"], "labels": told["labels"], "frames": version["frames"]}
    print(f"{name}: {found}", flush=True)
    return found


def judged(nights: Sequence[Mapping[str, float]], megabytes: float) -> dict[str, Any]:
    """Hold the last nights against the first with a full pool, and the registry's clone to its size."""
    full = nights[FULL_FROM:] or nights
    sides = (full[:SIDE_NIGHTS], full[-SIDE_NIGHTS:])
    first, last = (median(night["cpu_seconds"] for night in side) for side in sides)
    passed = last <= TIME_BAR * first and megabytes < CLONE_BAR_MB
    figures = {"first_cpu_seconds": first, "last_cpu_seconds": last, "ratio": round(last / first, 3)}
    return {"benchmark": "data_nights", **figures, "clone_mb": round(megabytes, 2), "pass": passed, "nights": nights}


def page(report: Mapping[str, Any]) -> str:
    """Write the page: what nights cost along the way, and the figures that are held to bars."""
    nights = report["nights"]
    shown = sorted({*range(0, len(nights), max(1, len(nights) // 10)), len(nights) - 1})
    rows = [
        [str(at + 1), *(f"{nights[at][name]:,}" for name in ("cpu_seconds", "seconds", "new", "labels", "frames"))]
        for at in shown
    ]
    columns = ["night", "processor, s", "by the clock, s", "new frames", "labels back", "frames of the version"]
    return (
        f"# {len(nights)} nights of tiny frames\n\n    {report['command']}\n\n{report['hardware']}; {report['date']}. "
        f"What is measured stands in [scale](../scale.md).\n\n{markdown_table(columns, rows)}\n\n"
        f"The last {SIDE_NIGHTS} nights took {report['ratio']:.2f} times the processor time of the first with a full pool (at most "
        f"{TIME_BAR}); a clone of the registry has {report['clone_mb']} MB (below {CLONE_BAR_MB:.0f}).\n"
    )
