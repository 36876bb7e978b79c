"""The benchmark of nights stage by stage runs through, and judges what it measured."""

import json
from pathlib import Path

import pytest

from benchmarks.scale import data_nights
from benchmarks.scale.data_nights import judged, page
from components.stage.program import run_program


def test_two_small_nights_run_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--nights", "2", "--frames", "20", "--out", str(tmp_path), "--folder", str(tmp_path)]
    run_program(data_nights.run, options, "data_nights")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clone_mb"] < 1
    nights = json.loads((tmp_path / "data_nights.json").read_text())["nights"]
    # The first night reads a frame of the simulator, of val and of the test set as well; the last two are in every version.
    assert [(night["new"], night["labels"], night["frames"]) for night in nights] == [(23, 0, 2), (20, 2, 3)]
    assert "2 nights of tiny frames" in (tmp_path / "data_nights.md").read_text()


def test_the_last_nights_are_held_to_the_first_with_a_full_pool() -> None:
    def report(last: float, megabytes: float = 1.0) -> bool:
        night = {"cpu_seconds": 1.0, "seconds": 1.0, "new": 5, "labels": 1, "frames": 1}
        nights = [night | {"cpu_seconds": seconds} for seconds in (*[0.1] * 3, *[1.0] * 5, *[last] * 5)]
        found = judged(nights, megabytes)
        assert f"took {last:.2f} times" in page(found | {"command": "c", "hardware": "h", "date": "d"})
        return bool(found["pass"])

    assert report(1.19) and not report(1.21) and not report(1.0, megabytes=51.0)
