"""Night after night: the second starts from what was promoted, takes in what has arrived since, and repeats nothing."""

import csv
import json
import os
from pathlib import Path

import cv2
import pandas as pd
import pytest

from components.stage.registry import all_stages
from perception.versioning.registry import fetch, resolve
from pipelines.commands.program import main
from pipelines.local import run as engine
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, load_settings
from tests.end_to_end.nights import Night, run_night, small

pytestmark = pytest.mark.xdist_group("night")
ASKED_AGAIN = {task.name for task in nightly().tasks.values() if not task.reusable}


def moments(run: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (run / "records").glob("*.json")}


def ran_since(run: Path, before: dict[str, int]) -> set[str]:
    return {name for name, moment in moments(run).items() if moment != before.get(name)}


def add_frame(footage: Path) -> str:
    """Let one more frame of a known drive arrive; return its name."""
    with (footage / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    new = last | {"frame_id": f"{last['drive_id']}_f900"}
    for part, suffix in (("images", ".jpg"), ("labels", ".png"), ("instances", ".png")):
        pixels = cv2.imread(str(footage / part / f"{last['frame_id']}{suffix}"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(footage / part / f"{new['frame_id']}{suffix}"), pixels[:, ::-1])
    with (footage / "frames.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(last))
        table.writeheader()
        table.writerows([*rows, new])
    return new["frame_id"]


@pytest.fixture(scope="module")
def promoted(night: Night) -> str:
    """The tag of the night's version, which people promoted."""
    version = json.loads((night.run / "summary.json").read_text())["data"]["version"]
    registry = str(night.run.parent / "registry" / "data.git")
    words = ["--version", version, "--manifest", version.rpartition("-")[2], "--by", "Ada", "--reason", "looked at it"]
    assert main(["promote", "--registry", registry, *words]) == 0
    return str(version)


def test_after_a_promotion_the_night_starts_from_it_and_ingests_nothing_again(night: Night, promoted: str) -> None:
    """As far as gather: what follows is a night like the first."""
    run, graph = night.run, nightly()
    before = moments(run)
    assert not (run / "base" / "run.json").exists(), "the first night starts from no version"
    engine.prepare(graph, run, load_settings(graph, "smoke", small(night.footage)))
    assert engine._reproduce(run, engine._environment(run), "gather") == 0
    assert json.loads((run / "base" / "run.json").read_text())["tag"] == promoted
    assert ran_since(run, before) == {"resolve", "gather"}


def test_a_new_file_is_taken_in_by_its_batch_alone_and_a_third_run_repeats_nothing(night: Night, promoted: str) -> None:
    run, before = night.run, moments(night.run)
    frame_id = add_frame(night.footage)
    done = night.again()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["data"]["parent"]) == ("done", promoted)
    (row,) = [
        each for each in pd.read_parquet(run / "frames" / "manifest.parquet").itertuples() if each.frame_id == frame_id
    ]
    (batch,) = [
        folder.name
        for folder in (run / "arrivals").iterdir()
        if row.drive_id in set(pd.read_parquet(folder / "listing.parquet").drive_id)
    ]
    assert {name for name in ran_since(run, before) if name.startswith("ingest")} == {f"ingest@{batch}"}

    before = moments(run)
    assert night.again().returncode == 0
    assert ran_since(run, before) == ASKED_AGAIN


def test_a_pool_in_which_nothing_is_new_is_a_good_night(night: Night, promoted: str, tmp_path: Path) -> None:
    """Its footage is what the promoted version holds already."""
    runs, known = night.run.parent, tmp_path / "known"
    registry = str(runs / "registry" / "data.git")
    version = resolve(registry, promoted)
    assert version is not None
    fetch(registry, version, tmp_path / "held", files=["manifest.parquet"])
    held = set(pd.read_parquet(tmp_path / "held" / "manifest.parquet", columns=["frame_id"]).frame_id)
    known.mkdir()
    rows = (night.footage / "frames.csv").read_text().splitlines()
    (known / "frames.csv").write_text("\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[0] in held), ""]))
    for part in ("images", "labels", "instances"):
        (known / part).mkdir()
        for path in (night.footage / part).iterdir():
            if path.stem in held:
                os.link(path, known / part / path.name)
    overrides = small(known, labels="none", labelled=0)
    done = run_night(runs, "--run", "quiet", overrides=overrides)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = runs / "quiet"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "nothing_new"
    assert (summary["data"]["version"], summary["gates"]) == (None, [])
    batches = load_settings(nightly(), "smoke", overrides)[COUNTS["batch"]]
    assert set(moments(run)) == {"resolve", "gather", "report", *(f"ingest@{number}" for number in range(batches))}
    assert not (run / "ensemble").exists() and not (run / "version").exists()
    assert promoted in done.stdout + (run / "report.html").read_text()
    assert "gather" in all_stages()
