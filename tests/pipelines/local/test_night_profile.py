"""Where a night's seconds went, from records that are written by hand."""

import json
from pathlib import Path

import pytest

from pipelines.commands.program import main
from pipelines.local.night_profile import night_profile, profile_text
from pipelines.local.run import ENGINE_FILE


def record(run: Path, name: str, launched: float, **more: float) -> None:
    plain = {"name": name, "launched": launched, "started": launched + 1.0, "seconds": 10.0, "cpu_seconds": 8.0,
             "start_cpu_seconds": 0.5, "read_bytes": 3_000_000, "written_bytes": 1_000_000}  # fmt: skip
    (run / "records").mkdir(exist_ok=True)
    (run / "records" / f"{name}.json").write_text(json.dumps(plain | more))


def night(run: Path) -> Path:
    run.mkdir()
    for folder, size in (("base", 400_000), ("arrivals/0", 100_000), ("arrived/0", 2_000_000), ("report", 0)):
        (run / folder).mkdir(parents=True)
        (run / folder / "file").write_bytes(bytes(size))
    record(run, "resolve", 100.0)
    record(run, "ingest@0", 115.0, seconds=30.0, forked=True)
    record(run, "report", 150.0, read_bytes=0)
    (run / ENGINE_FILE).write_text(json.dumps({"started": 98.0, "ended": 163.0, "cpu_seconds": 40.0}))
    return run


def test_seconds_of_tasks_starts_and_engine_add_up_to_the_night(tmp_path: Path) -> None:
    found = night_profile(night(tmp_path / "smoke"))
    assert found.tasks.name.tolist() == ["resolve", "ingest@0", "report"]
    assert (found.seconds, found.work_seconds, found.start_seconds, found.between_seconds) == (65.0, 50.0, 3.0, 12.0)
    assert found.engine_share == pytest.approx(0.3)
    assert found.engine_cpu_seconds == 40.0 - 2 * 8.0  # the fork is nobody's child
    assert found.tasks.output_mb.tolist() == [0.5, 2.0, 0.0]
    assert found.tasks.read_mb.tolist() == [3.0, 3.0, 0.0]


def test_tasks_of_an_earlier_call_do_not_count(tmp_path: Path) -> None:
    run = night(tmp_path / "smoke")
    record(run, "gather", 20.0)
    found = night_profile(run)
    assert found.earlier == ("gather",) and found.work_seconds == 50.0
    assert "done by an earlier call, not counted: gather" in profile_text(found)


def test_the_dearest_task_comes_first_and_the_bar_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    night(tmp_path / "smoke")
    assert main(["profile", "--runs", str(tmp_path), "--run", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["ingest@0", "30.0", "46.2%"]
    assert lines[-2] == "the local engine adds 30.0% to the tasks' own work (bar 10%: falls short)"
    assert lines[-1] == "in processor time: 24.0 s beside 24.0 s of the tasks, 100.0%"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / ENGINE_FILE).unlink(), "no such file"),
        (lambda run: (run / ENGINE_FILE).write_text("{"), "is no JSON"),
        (lambda run: record(run, "report", 150.0, read_bytes=None), "has no read_bytes"),
        (
            lambda run: (run / ENGINE_FILE).write_text('{"started": 900.0, "ended": 901.0, "cpu_seconds": 1.0}'),
            "everything done",
        ),
    ],
)
def test_a_folder_that_says_too_little_ends_with_code_2(
    tmp_path: Path, spoil: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(night(tmp_path / "smoke"))  # type: ignore[operator]
    assert main(["profile", "--runs", str(tmp_path), "--run", "smoke"]) == 2
    assert words in capsys.readouterr().err
