"""A whole night: it ends, says so in every key, does nothing twice, survives kills, and never peeks at hidden labels."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image

from components.stage.command import main
from perception.reporting.summary import SUMMARY_KEYS
from tests.end_to_end.nights import ROOT, Night, figures, night_command, run_night, small

pytestmark = pytest.mark.xdist_group("night")


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
    assert main(["gate", "--params", "params.yaml", *judged]) == 3
    first = table.frame_id[broken]
    assert first in capsys.readouterr().err
    told = ["--frames", "frames", "--base", "base", "--verdicts", str(tmp_path / "verdict")]
    assert main(["report", "--params", "params.yaml", *told, "--report", str(tmp_path / "report")]) == 0
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
