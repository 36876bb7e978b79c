"""The runner of the duels: what it publishes, what it refuses, and that one bad duel does not stop the others."""

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest

from benchmarks import machine, timing
from benchmarks.duels import catalogue, command, duel, page, runner
from components.stage.program import run_program
from perception.errors import InputError

ROOT = Path(__file__).parents[3]


def call(arguments: list[str]) -> int:
    return run_program(command.bench, arguments, "bench")


def report(**changes: object) -> dict[str, object]:
    found = duel.result(
        "scoring", ours=70.0, peer=20.0, ratio=3.5, limit_share=0.7, threads=2
    )  # fmt: skip
    return found | changes


def row(**changes: object) -> page.Row:
    plain = page.Row(
        name="scoring", verdict=page.HOLDS, report=report(), problem="", command="python -m benchmarks.duels scoring",
        date="2026-11-26 10:00", seconds=12.0, load_before=0.2, others_before=0.01, others_during=0.02,
        hardware="a processor, 2 cores", versions={"baal": "2.1.0"},
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_least_seconds_of_alternating_turns_count() -> None:
    turns: list[str] = []
    pauses = {"ours": iter([0.05, 0.0, 0.02]), "peer": iter([0.0, 0.03, 0.01])}

    def run(name: str) -> None:
        turns.append(name)
        time.sleep(next(pauses[name]))

    found = timing.least_seconds({name: lambda name=name: run(name) for name in pauses}, 2, warm_rounds=1)  # type: ignore[misc]
    assert turns == ["ours", "peer"] * 3
    assert found["ours"] < 0.02 and 0.01 <= found["peer"] < 0.03  # the warm turns do not count


def test_a_result_has_the_keys_that_all_duels_have() -> None:
    assert set(duel.REQUIRED) <= set(report()) and report()["threads"] == 2
    assert runner.checked_report(json.dumps(report()), 0)["ratio"] == 3.5


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("", 1, "no report"),
        ("Traceback", 1, "no report"),
        ("[1]", 0, "'duel'"),
        (json.dumps({key: 1 for key in duel.REQUIRED if key != "bar"}), 0, "'bar'"),
        (json.dumps(report()), 1, "does not fit"),
        (json.dumps(report(**{"pass": False})), 0, "does not fit"),
    ],
)
def test_what_is_no_report_is_told(line: str, code: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        runner.checked_report(line, code)


def test_processor_time_of_everybody_is_read_from_the_kernels_first_line() -> None:
    stat = "cpu  100 20 30 4000 500 6 7 8 900 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert duel.used_seconds(stat, 100) == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / 100)


def test_what_others_use_is_what_is_left_without_our_own() -> None:
    before, after = (
        duel.Moment(0.0, 10.0, 1.0),
        duel.Moment(2.0, 10.0 + 2.0 * machine.cores() * 0.75, 1.0 + 0.5 * machine.cores()),
    )
    assert after.others_share(before) == pytest.approx(0.75 - 0.25)
    assert duel.Moment(2.0, 11.0, 4.0).others_share(before) == 0.0


def test_a_busy_machine_is_told_by_load_and_by_what_others_use() -> None:
    assert runner.busy(0.5, 0.02) == ""
    assert "load average" in runner.busy(machine.cores() + 0.5, 0.0)
    assert "others use 50%" in runner.busy(0.5, 0.5)


def test_a_quiet_second_is_waited_for_but_not_for_ever() -> None:
    watched = iter([0.9, 0.5, 0.05, 0.9])
    assert runner.wait_for_quiet(lambda: next(watched), seconds=60) == 0.05
    assert runner.wait_for_quiet(lambda: 0.9, seconds=0) == 0.9


def test_a_missing_peer_is_told_with_the_extra() -> None:
    with pytest.raises(InputError, match=r"duel x: its peer no-such-peer .*benchmarks"):
        catalogue.peer_versions(catalogue.Duel(name="x", ours="", peers=("no-such-peer",), bar="", limit="", unit=""))


def test_an_unknown_name_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--only", "scorings"]) == 2
    assert "'scorings' is not one of 'scoring'" in capsys.readouterr().err


def test_a_busy_machine_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "wait_for_quiet", lambda: 0.8)
    monkeypatch.setattr(command, "peer_versions", lambda _: {})
    monkeypatch.setattr(runner, "fight", lambda *_: pytest.fail("a duel ran"))
    assert call(["--only", "scoring"]) == 3
    assert "busy" in capsys.readouterr().err


def test_figures_of_a_quiet_machine_are_published_and_later_rows_replace_earlier_ones(tmp_path: Path) -> None:
    assert command.conclude([row(), row(name="confusion")], tmp_path, to_publish=True) == 0
    slow = row(verdict=page.FALLS_SHORT, report=report(ratio=2.0, **{"pass": False}))
    assert command.conclude([slow], tmp_path, to_publish=True) == 1
    text = (tmp_path / "docs/results/duels.md").read_text()
    assert "1 of 2 hold" in text and "**falls short**" in text and "baal 2.1.0" in text and "threads 2" in text
    kept = json.loads((tmp_path / "docs/results/duels.json").read_text())
    assert [(each["name"], each["report"]["ratio"]) for each in kept] == [("scoring", 2.0), ("confusion", 3.5)]


@pytest.mark.parametrize("changes", [{"others_before": 0.5}, {"others_during": 0.5}])
def test_figures_of_a_busy_machine_are_not_published(
    tmp_path: Path, changes: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.conclude([row(), row(name="confusion", **changes)], tmp_path, to_publish=True) == 3
    assert list(tmp_path.iterdir()) == [] and "confusion" in capsys.readouterr().err
    assert command.conclude([row(**changes)], tmp_path, to_publish=False) == 0 and list(tmp_path.iterdir()) == []


def test_a_duel_that_fails_hangs_or_falls_short_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {
        "scoring": "raise SystemExit('it broke')",
        "k_centre": "import time; time.sleep(60)",
        "proximal": f"import json; print(json.dumps({report(**{'pass': False})!r})); raise SystemExit(1)",
        "confusion": f"import json; print('note'); print(json.dumps({report()!r}))",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(runner, "words", lambda each: [str(tmp_path / f"{each.name}.py")])
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "wait_for_quiet", lambda: 0.8)
    monkeypatch.setattr(command, "peer_versions", lambda _: {})
    monkeypatch.setattr(command, "DUELS", tuple(replace(each, timeout_s=3.0, options=()) for each in catalogue.DUELS))
    assert call(["--anyway", *(word for name in scripts for word in ("--only", name))]) == 1
    said = capsys.readouterr().out
    assert "FAILED: exit code 1 and no report: it broke" in said and "FAILED: did not end within 3 s" in said
    assert "falls short: ours 70" in said and "holds: ours 70" in said and "1 of 4 duels hold" in said
    assert not (tmp_path / "docs").exists()


def test_every_duel_has_its_script_and_its_peers_are_in_an_extra() -> None:
    named = (ROOT / "pyproject.toml").read_text() + (ROOT / "requirements.in").read_text()
    for each in catalogue.DUELS:
        assert isinstance(command.bench.commands[each.name], click.Command)
        assert [name for name in each.peers if name not in named] == []


def test_the_list_of_duels_needs_no_quiet_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(catalogue.DUELS)
