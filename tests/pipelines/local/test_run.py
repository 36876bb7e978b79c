"""The engine of one machine: what runs when a night ends early, and which name a run may have."""

import json
import shutil
from pathlib import Path

import pytest

from perception.errors import InputError
from pipelines.local import run as engine
from pipelines.local.run import run_folder
from pipelines.nightly import nightly


def record(run: Path, name: str, status: str, **values: str) -> None:
    (run / "records").mkdir(parents=True, exist_ok=True)
    told = {"format": 1, "name": name, "status": status, "started": 0.0, "values": values}
    (run / "records" / f"{name}.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("failed", "stale", "fresh"),
    [
        ("score@1", {"score", "select", "publish", "evaluate", "gate_evaluate"}, {"gather", "ensemble", "gate_ingest"}),
        ("gate_adapt", {"train_prune", "compress", "gate_evaluate"}, {"adapt", "gate_adapt", "publish", "compare"}),
        ("propose", {"propose"}, {"publish", "evaluate", "gate_evaluate"}),
    ],
)
def test_what_comes_after_a_failure_is_an_earlier_nights(
    tmp_path: Path, failed: str, stale: set[str], fresh: set[str]
) -> None:
    record(tmp_path, "gather", "done")
    record(tmp_path, failed, "failed")
    found = engine._left_behind(nightly(), tmp_path)
    assert found >= stale
    assert not found & fresh


def test_a_night_that_ends_early_is_told_with_what_it_wrote_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: dict[str, dict[str, list[str]]] = {}
    monkeypatch.setattr(
        engine, "_run_task", lambda _night, _run, task, given, _environment: ran.update({task.name: dict(given)})
    )
    for folder in ("frames", "base", "selection", "version", "report", "review", "gates/ingest", "gates/evaluate"):
        (tmp_path / folder).mkdir(parents=True)
    night = nightly()
    engine._tell_without_engine(night, tmp_path, night.downstream({"select"}) | {"select"}, {})
    assert list(ran) == ["report"], "there is no version to propose"
    assert ran["report"]["frames"] == ["frames"]
    assert ran["report"]["selection"] == ran["report"]["version"] == []
    assert ran["report"]["verdicts"] == ["gates/ingest"], "the others are an earlier night's"
    assert not (tmp_path / "report").exists() and not (tmp_path / "review").exists()


def test_a_night_without_news_is_done_and_nothing_else_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(engine, "_reproduce", lambda _run, _environment, *what: asked.append(what) or 0)
    monkeypatch.setattr(engine, "_run_task", lambda *_: None)
    record(tmp_path, "gather", "done", news="nothing")
    shutil.rmtree(tmp_path / "gates", ignore_errors=True)
    assert engine._engine(nightly(), tmp_path) == 0
    assert asked == [("gather",)]
    record(tmp_path, "gather", "done", news="some")
    assert engine._engine(nightly(), tmp_path) == 0
    assert asked[1:] == [("gather",), ("--downstream", "gather")]


@pytest.mark.parametrize("name", ["latest", "registry", "store", "../x", "", ".x", "a b", "-x"])
def test_a_run_has_a_name_that_nothing_else_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="must be letters, digits, _ and -"):
        run_folder(name, tmp_path)
