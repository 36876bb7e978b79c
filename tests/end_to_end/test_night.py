"""A whole night: it ends, says so in every key, survives kills, and never peeks at hidden labels. The nights after it start
from what was promoted, take in what has arrived since, and repeat nothing.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image

from components.stage.command import main as stage_main
from perception.reporting.summary import SUMMARY_KEYS
from pipelines.commands.program import main
from pipelines.local import run as engine
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, load_settings
from tests.end_to_end.nights import ROOT, Night, figures, night_command, run_night, small
from tests.footage import write_footage

ASKED_AGAIN = {task.name for task in nightly().tasks.values() if not task.reusable}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A finished night on eight drives of footage in a folder; the last tests here go on with it."""
    root = tmp_path_factory.mktemp("night")
    write_footage(root / "footage", 3, 8, 3, 32, 64)
    done = run_night(root / "runs", overrides=small(root / "footage"))
    run = root / "runs" / "smoke"
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Night(run, root / "footage", figures(run))


def test_the_summary_has_every_key_with_a_measured_figure(night: Night) -> None:
    summary = json.loads((night.run / "summary.json").read_text())
    assert list(summary) == list(SUMMARY_KEYS)
    assert summary["status"] == "done"
    for section in ("selection", "adaptation", "model", "evaluation"):
        assert set(summary[section]) == set(SUMMARY_KEYS[section])
        assert not [name for name, value in summary[section].items() if value is None], section
    assert {stage["status"] for stage in summary["stages"]} == {"done"}
    assert [gate["name"] for gate in summary["gates"]] == [
        "ingest", "select", "curate", "adapt", "train_prune", "compress", "evaluate",
    ]  # fmt: skip
    assert summary["data"]["added"] == summary["data"]["frames"] > 0


def test_the_report_needs_nothing_but_itself(night: Night) -> None:
    html = (night.run / "report.html").read_text()
    assert "data:image/" in html
    for outside in ('src="http', 'href="http', "url(http", "<link", "<script src"):
        assert outside not in html
    assert (night.run.parent / "latest").resolve() == night.run


def test_the_night_proposes_its_version_with_a_review(night: Night) -> None:
    review = json.loads((night.run / "review.json").read_text())
    summary = json.loads((night.run / "summary.json").read_text())
    assert review["head"]["manifest_sha256"] == summary["data"]["manifest_sha256"]
    assert review["head"]["splits"]["test"] == summary["evaluation"]["frames"], "the test set belongs to the version"
    assert len(review["evidence"]["gates"]) == 7
    assert review["evidence"]["labels"]["frames"] == summary["selection"]["selected_frames"]
    assert review["evidence"]["evaluation"]["miou"] == summary["evaluation"]["miou"]
    assert review["lineage"]["model_sha256"]
    assert review["cost"]["seconds"] > 0
    for name in ("review.html", "review.md"):
        assert summary["data"]["version"] in (night.run / name).read_text()


def test_a_refused_gate_shows_the_offending_frames(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "subject").mkdir()
    table = pd.read_parquet(night.run / "frames" / "gate.parquet")
    broken = table.index[table.label_uri.notna()][3]
    table.loc[broken, "unknown_label_px"] = 7
    table.to_parquet(tmp_path / "subject" / "gate.parquet", index=False)
    monkeypatch.chdir(night.run)
    judged = ["--task", "gate_ingest", "--subject", str(tmp_path / "subject"), "--verdict", str(tmp_path / "verdict")]
    assert stage_main(["gate", "--params", "params.yaml", *judged]) == 3
    first = table.frame_id[broken]
    assert first in capsys.readouterr().err
    told = ["--frames", "frames", "--base", "base", "--verdicts", str(tmp_path / "verdict")]
    assert stage_main(["report", "--params", "params.yaml", *told, "--report", str(tmp_path / "report")]) == 0
    html = (tmp_path / "report" / "report.html").read_text()
    panel = html[html.index('id="gate-ingest"') :]
    assert first in panel
    assert panel.index("data:image/jpeg") < panel.index(first) + 4000


def test_the_evaluation_agrees_with_an_independent_count(night: Night) -> None:
    """Run the exported network on the test frames and count with plain numpy."""
    manifest = pd.read_parquet(night.run / "frames" / "manifest.parquet")
    test, store = manifest[manifest.split == "test"], night.run.parent / "store"
    session = onnxruntime.InferenceSession(
        str(night.run / "compressed" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    confusion = np.zeros((19, 19), dtype=np.int64)
    for row in test.itertuples():
        label = np.asarray(Image.open(store / row.label_uri))
        shown = np.asarray(Image.open(night.run / "evaluation" / "predictions" / f"{row.frame_id}.png"))
        image = np.asarray(Image.open(store / row.image_uri).convert("RGB"), dtype=np.float32) / 255
        logits = session.run(None, {session.get_inputs()[0].name: image.transpose(2, 0, 1)[None]})[0]
        assert (logits[0].argmax(0) == shown).mean() > 0.999  # ties aside, the prediction that was kept
        known = label != 255
        np.add.at(confusion, (label[known], shown[known]), 1)
    truth, guess, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    union = truth + guess - right
    miou = (right[union > 0] / union[union > 0]).mean()
    assert abs(json.loads((night.run / "summary.json").read_text())["evaluation"]["miou"] - miou) < 1e-9


def test_the_shipped_network_is_what_its_weights_say(night: Night) -> None:
    import torch

    from perception.models.checkpoint import load_network

    network = load_network(night.run / "compressed" / "model.safetensors")
    session = onnxruntime.InferenceSession(
        str(night.run / "compressed" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(0).random((2, 3, 32, 64), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    got = session.run(None, {session.get_inputs()[0].name: images})[0]
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_pruned_channels_are_really_gone(night: Night) -> None:
    model = json.loads((night.run / "summary.json").read_text())["model"]
    assert model["parameters_pruned"] < model["parameters_dense"]
    assert (night.run / "network" / "pruned.safetensors").stat().st_size < (
        night.run / "network" / "dense.safetensors"
    ).stat().st_size


def test_labels_of_unselected_frames_change_nothing(night: Night, tmp_path: Path) -> None:
    """Delete every hidden label that was not selected, run the night again from its ingest, and compare."""
    runs = tmp_path / "runs"
    shutil.copytree(night.run.parent, runs, symlinks=True, ignore=shutil.ignore_patterns("latest"))
    run = runs / "smoke"
    oracle = pd.read_parquet(run / "frames" / "oracle.parquet")
    selected = pd.read_parquet(run / "selection" / "selected.parquet", columns=["frame_id"])
    used = set(pd.read_parquet(run / "frames" / "manifest.parquet").label_uri.dropna())
    hidden = oracle[~oracle.frame_id.isin(selected.frame_id) & ~oracle.label_uri.isin(used)]
    assert len(hidden) > 10
    for uri in hidden.label_uri:
        (runs / "store" / uri).unlink(missing_ok=True)
    before = figures(run)
    shutil.rmtree(runs / "registry")  # it holds absolute paths; the copy of the night makes its own
    (run / "dvc.lock").write_text(only_done(run, ("resolve", "ingest", "gather", "gate_ingest")))
    done = run_night(runs, overrides=small(night.footage))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = figures(run)
    assert before["selection"].pop("miou_random") is not None
    assert after["selection"].pop("miou_random") is None  # the control group has no labels: not measured
    assert len(before["selection"].pop("miou_random_by_seed")) == 1
    assert after["selection"].pop("miou_random_by_seed") is None
    assert after == before


def only_done(run: Path, tasks: tuple[str, ...]) -> str:
    """Return dvc.lock with the given tasks alone, so that every other one runs again."""
    import yaml

    lock = yaml.safe_load((run / "dvc.lock").read_text())
    kept = {name: stage for name, stage in lock["stages"].items() if name.partition("@")[0] in tasks}
    return str(yaml.safe_dump(lock | {"stages": kept}))


def test_a_night_killed_again_and_again_ends_with_the_same_figures(night: Night, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    command = night_command(tmp_path, overrides=small(night.footage))
    for kill in range(4):
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)
        time.sleep(float(generator.uniform(2, 6)))
        if process.poll() is not None:
            break
        if kill % 2:
            os.killpg(process.pid, signal.SIGKILL)  # everything at once
        else:
            process.kill()  # the head alone: its children must not go on writing
        process.wait()
    done = run_night(tmp_path, overrides=small(night.footage))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert figures(tmp_path / "smoke") == night.figures
    hidden = {path.name for path in (tmp_path / "smoke").iterdir() if path.name.startswith(".")}
    assert hidden <= {".dvc", ".lock", ".dvcignore"}


# --- the nights after it


def test_a_night_repeated_is_equal_to_the_digit_and_leaves_no_trace(night: Night) -> None:
    registry = night.run.parent / "registry"
    before = {path: path.stat().st_mtime_ns for path in registry.rglob("*")}
    command = [
        sys.executable,
        "-m",
        "pipelines.commands",
        "replay",
        "--night",
        "smoke",
        "--runs",
        str(night.run.parent),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"(\d+) of \1 figures are equal to the digit", done.stdout), done.stdout[-3000:]
    assert {path: path.stat().st_mtime_ns for path in registry.rglob("*")} == before
    assert (night.run.parent / "latest").resolve() == night.run
    assert "model.miou_dense" in (night.run.parent / "smoke-replay" / "replay.html").read_text()


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
    registry = str(night.run.parent / "registry" / "smoke.git")
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


def test_a_second_night_reads_what_is_new_and_keeps_what_waits_and_run_again_repeats_nothing(
    night: Night, promoted: str
) -> None:
    frame_id, run = add_frame(night.footage), night.run.parent / "second"
    done = night.next("second")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["data"]["parent"]) == ("done", promoted)
    assert summary["model"]["started_from"] == "champion"
    assert summary["model"]["miou_start"] == night.figures["model"]["miou_dense"]
    for name in ("source_only", "detector"):
        mine, before = (place / "adaptation" / f"{name}.safetensors" for place in (run, night.run))
        assert mine.read_bytes() == before.read_bytes()
    read = pd.concat([pd.read_parquet(path) for path in (run / "arrivals").glob("*/listing.parquet")])
    assert read.object.tolist() == [frame_id]
    frames = pd.read_parquet(run / "frames" / "manifest.parquet")
    first = pd.read_parquet(night.run / "frames" / "manifest.parquet")
    chosen = pd.read_parquet(night.run / "selection" / "selected.parquet").frame_id
    waited = set(first.frame_id[first.split == "pool"]) - set(chosen)
    assert set(frames.frame_id[frames.split == "pool"]) == waited | {frame_id}
    assert set(frames.frame_id[frames.split == "test"]) == set(first.frame_id[first.split == "test"])
    before = moments(run)
    assert night.next("second").returncode == 0
    assert ran_since(run, before) == ASKED_AGAIN


def test_a_night_in_which_nothing_is_new_is_a_good_night(
    night: Night, promoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = night.next("quiet")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = night.run.parent / "quiet"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "nothing_new"
    assert (summary["data"]["version"], summary["gates"]) == (None, [])
    assert summary["pool"]["labelled"] > 0 and summary["pool"]["open_at_annotators"] is not None
    batches = load_settings(nightly(), "smoke", small(night.footage))[COUNTS["batch"]]
    assert set(moments(run)) == {"resolve", "gather", "report", *(f"ingest@{number}" for number in range(batches))}
    assert not (run / "ensemble").exists() and not (run / "version").exists()
    assert promoted in done.stdout + (run / "report.html").read_text()
    registry, page = night.run.parent / "registry" / "smoke.git", night.run.parent / "nights.html"
    assert main(["nights", "--registry", str(registry), "--out", str(page)]) == 0
    listed = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert [(name, status) for _, name, status in listed] == [
        ("quiet", "nothing_new"), ("second", "done"), ("smoke", "done"),
    ]  # fmt: skip
