"""A season of nights with tiny frames, without training: does a night cost what is new, and what does the registry grow to?

Every night a tar file of new frames arrives and the labels of the night before come back; the stages that take in, choose (by scores
that are drawn), curate and publish run as they are, and the version is released. The last line is JSON.
"""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from components.report.recorded import record_row
from components.stage.declaration import Paths
from components.stage.learning import open_pool
from components.stage.parameters import build_parameters
from components.stage.registry import all_stages
from perception.reporting.summary import NightSummary
from pipelines.graph import NEWS, NOTHING_NEW

# Stage: what it takes of which task's folder; `*`: every batch.
_TAKES: dict[str, dict[str, str]] = {
    "resolve": {},
    "ingest": {"arrivals": "arrivals/*"},
    "gather": {"arrived": "arrived/*", "base": "base"},
    "select": {"frames": "frames", "base": "base", "scores": "scores"},
    "curate": {"frames": "frames", "base": "base", "selection": "selection"},
    "publish": {"frames": "frames", "base": "base", "curated": "curated"},
}
FOLDER = click.Path(path_type=Path)


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
            for batch in range(settings["batches"]) if name == "ingest" else (None,):
                told |= run_stage(name, folder, settings[name], batch)
        report = build_parameters(all_stages()["report"].parameters, settings["report"], where="report")
        status = "nothing_new" if told[NEWS] == NOTHING_NEW else "done"
        summary = NightSummary(run=folder.name, status=status, profile=settings["profile"])
        record_row(Paths({"base": (folder / "base",)}), report, summary, told)
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
