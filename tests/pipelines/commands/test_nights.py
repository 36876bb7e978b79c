"""`make nights`: a table, and the page of the trend."""

from datetime import date
from pathlib import Path

import pytest

from perception.versioning.nights import Night, NightFigures, Used, record_night
from perception.versioning.registry import create_registry
from pipelines.commands.program import main


@pytest.fixture
def registry(tmp_path: Path) -> str:
    registry = str(tmp_path / "data.git")
    create_registry(registry, str(tmp_path / "remote"))
    figures = NightFigures(
        new_frames=9, chosen_frames=4, miou=0.5, worst_condition="weather=fog", verdict="promote", seconds=5400.0,
        cost=3.5, currency="EUR",
    )  # fmt: skip
    used = Used(arrivals=0, labels=0, erasures=0, parameters="p", code="c")
    more = {"profile": "smoke", "used": used, "base": None}
    record_night(registry, Night(night="run-1", date=date(2026, 11, 30), status="failed", **more))
    done = {"version": "data/x-01234567", "status": "done", "figures": figures}
    record_night(registry, Night(night="2026-12-01", date=date(2026, 12, 1), **done, **more))
    return registry


def test_the_table_has_a_line_a_night_and_the_page_is_written(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "nights.html"
    assert main(["nights", "--registry", registry, "--out", str(out)]) == 0
    head, failed, done, where = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert head == "date night status base new chosen mIoU worst condition verdict decision hours cost"
    assert failed == "2026-11-30 run-1 failed - - - - - - - - -"
    assert done == "2026-12-01 2026-12-01 done - 9 4 0.500 weather=fog promote proposed 1.50 3.50 EUR"
    assert where == f"the trend: {out}"
    assert "data/x-01234567</code> waits for a decision" in out.read_text()


def test_a_page_that_cannot_be_written_is_told(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["nights", "--registry", registry, "--out", str(tmp_path / "file" / "nights.html")]) == 2
    assert "choose another file" in capsys.readouterr().err
