"""The benchmark of many nights on one registry runs through, and judges what it measured."""

import json
from pathlib import Path

import pytest

from benchmarks.scale import pool_nights
from benchmarks.scale.pool_nights import judged, page
from components.stage.program import run_program


def test_a_few_small_nights_run_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--nights",
        "3",
        "--frames",
        "200",
        "--waiting",
        "300",
        "--out",
        str(tmp_path),
        "--folder",
        str(tmp_path),
    ]
    code = run_program(pool_nights.run, options, "pool_nights")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if report["pass"] else 1)
    nights = json.loads((tmp_path / "pool_nights.json").read_text())["nights"]
    assert [(night["new"], night["repeated"]) for night in nights] == [(200, 2)] * 3
    # The first night's are all handed out; of those, what came back labelled waits no more, what did not is still out.
    assert [night["waiting"] for night in nights] == [200, 200, 200]
    assert "3 nights on one registry" in (tmp_path / "pool_nights.md").read_text()


def test_the_last_nights_are_held_to_the_first() -> None:
    def report(last: float, megabytes: float = 1.0, kilobytes: float = 5.0) -> bool:
        figures = [{"cpu_seconds": 1.0, "seconds": 1.0, "git_kb": 5.0, "waiting": 1}] * 9
        later = [{"cpu_seconds": last, "seconds": 1.0, "git_kb": kilobytes, "waiting": 1}] * 9
        found = judged(figures, later, megabytes)
        assert f"took {last:.2f} times" in page(found | {"command": "c", "hardware": "h", "date": "d"})
        return bool(found["pass"])

    assert report(1.19) and not report(1.21)
    assert not report(1.0, megabytes=51.0) and not report(1.0, kilobytes=21.0)
