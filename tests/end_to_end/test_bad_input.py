"""Bad input: exit code 2, one line that names file, rule and remedy, no traceback; a few broken files stop nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.stage.command import main
from tests.end_to_end.nights import run_night

DRIVES = ("0001TP", "0006R0")


def write_camvid(root: Path, frames: int = 12) -> Path:
    """Write a tiny data set in CamVid's layout: two drives to train on, a third to test on."""
    generator = np.random.default_rng(0)
    for part, drives, count in (("train", DRIVES, frames), ("val", ("0016E5",), 4)):
        for folder in (part, f"{part}annot"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            stem = f"{drives[number % len(drives)]}_{number:06d}"
            pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{stem}.png")
            label = np.repeat(np.arange(12, dtype=np.uint8), 4)[:, None].repeat(64, 1)
            Image.fromarray(label).save(root / f"{part}annot" / f"{stem}.png")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_camvid(tmp_path / "data")


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def take_in(data: Path, tmp_path: Path, **changes: object) -> int:
    """List, take in and gather the fleet and the test set as the night does; return the first exit code that is not 0."""
    described = {"format": "camvid", "path": str(data), "domain": "real"} | changes
    pool = {"part": "train", "split": "pool", "labels": "oracle", "initial_labelled_frames": 2}
    sources = {"fleet": described | pool, "test": described | {"part": "val", "split": "test", "labels": "given"}}
    places = {
        name: str(tmp_path / name) for name in ("registry", "remote", "store", "base", "arrivals", "arrived", "frames")
    }
    common = {"sources": sources, "store": places["store"]}
    counted = common | {"taxonomy": "camvid11", "seed": 0}
    size = {"height_px": 48, "width_px": 64, "batch": 0, "batch_count": 1}
    given = {"registry": places["registry"], "remote": places["remote"], "batch_count": 1, "run": "night", "seed": 0}
    given |= {"height_px": 48, "width_px": 64}
    calls: list[tuple[str, dict[str, Any], list[str]]] = [
        ("resolve", common | given, ["--base", places["base"], "--arrivals", places["arrivals"]]),
        ("ingest", counted | size, ["--arrivals", f"{places['arrivals']}/0", "--arrived", places["arrived"]]),
        (
            "gather",
            counted | {"registry": places["registry"]},
            ["--arrived", places["arrived"], "--base", places["base"], "--frames", places["frames"]],
        ),
    ]
    codes = (main([stage, *settings(values), *words]) for stage, values, words in calls)
    return next((code for code in codes if code), 0)


def settings(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path: Path) -> None:
    Image.open(path).resize((32, 32), Image.Resampling.NEAREST).save(path)


def paint(path: Path) -> None:
    label = np.asarray(Image.open(path)).copy()
    label[0, 0] = 77
    Image.fromarray(label).save(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: shutil.rmtree(data), ("data",)),
        (lambda data: [shutil.rmtree(path) or path.mkdir() for path in data.iterdir()], ("folder is empty",)),
        (lambda data: truncate(first(data / "val")), ("0016E5_000000.png",)),
        (lambda data: grow(first(data / "valannot")), ("0016E5_000000.png", "32")),
        (lambda data: paint(first(data / "valannot")), ("0016E5_000000.png", "77")),
        (lambda data: first(data / "val").unlink(), ("0016E5_000000.png",)),
        (lambda data: first(data / "valannot").unlink(), ("0016E5_000000.png",)),
    ],
    ids=["missing folder", "empty folder", "truncated PNG", "label of another size", "label value outside the taxonomy",
         "label without image", "image without label"],
)  # fmt: skip
def test_a_broken_data_set_ends_with_code_2_and_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, words: tuple[str, ...]
) -> None:
    spoil(data)  # type: ignore[operator]
    assert take_in(data, tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert all(word in error for word in words), error
    assert not (tmp_path / "frames").exists()


def test_many_broken_frames_of_a_pool_are_an_error_too(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((data / "train").iterdir())[:3]:
        truncate(path)
    assert take_in(data, tmp_path) == 2
    assert "3 of 12 files" in capsys.readouterr().err


def test_a_pool_with_a_few_broken_files_goes_on_and_lists_them(tmp_path: Path) -> None:
    data = write_camvid(tmp_path / "data", frames=40)
    broken = sorted((data / "train").iterdir())[4:6]
    for path in broken:
        truncate(path)
    assert take_in(data, tmp_path) == 0
    rejected = pd.read_parquet(tmp_path / "frames" / "rejected.parquet")
    assert sorted(Path(path).name for path in rejected.path) == [path.name for path in broken]
    assert rejected.remedy.str.len().min() > 5
    manifest = pd.read_parquet(tmp_path / "frames" / "manifest.parquet")
    assert (manifest.source == "fleet").sum() == 38


def test_a_frame_that_comes_twice_is_one_and_a_manifest_with_a_missing_column_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take_in(data, tmp_path) == 0
    arrived, twice, empty = tmp_path / "arrived", tmp_path / "twice", {"taxonomy": "camvid11", "seed": 0, "sources": {}}
    places = {name: str(tmp_path / name) for name in ("store", "registry")}
    gather = ["gather", *settings(empty | places), "--base", str(tmp_path / "base")]
    gather += ["--frames", str(tmp_path / "again"), "--arrived", str(arrived)]
    shutil.copytree(arrived, twice)
    assert main([*gather, "--arrived", str(twice)]) == 0
    once, again = (pd.read_parquet(tmp_path / name / "manifest.parquet").frame_id for name in ("frames", "again"))
    assert set(once) == set(again) and again.is_unique
    shutil.rmtree(tmp_path / "again")
    manifest = pd.read_parquet(arrived / "manifest.parquet")
    (
        arrived / "seal.json"
    ).unlink()  # a table that somebody changes by hand; with its seal it would be refused as changed
    manifest.drop(columns=["drive_id"]).to_parquet(arrived / "manifest.parquet")
    assert main(gather) == 2
    assert "drive_id" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    assert take_in(data, tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert "store" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile", "smok"), "did you mean 'smoke'"),
        (("--set", "select.budget=3"), "did you mean 'budget_frames'"),
        (("--set", "select.budget_frames=-1"), "must be at least 1"),
        (("--profile", "camvid"), "DATA=DIR"),
        (("--profile", "camvid", "--data", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_make_run_names_what_is_wrong_with_its_arguments(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run_night(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_runs_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = run_night(tmp_path / "runs")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
