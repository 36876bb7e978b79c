"""The runner of the duels: what it publishes, what it refuses, and that one bad duel does not stop the others."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import duel, duels
from perception.errors import InputError

ROOT = Path(__file__).parents[2]


def report(**changes: object) -> dict[str, object]:
    found = duel.result(
        "scoring", ours=70.0, peer=20.0, unit="images per second", ratio=3.5, bar=3.0, limit_share=0.7, passed=True, threads=2
    )  # fmt: skip
    return found | changes


def row(**changes: object) -> duels.Row:
    plain = duels.Row(
        name="scoring", verdict=duels.HOLDS, report=report(), problem="", command="python benchmarks/scoring.py",
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

    found = duel.least_seconds({name: lambda name=name: run(name) for name in pauses}, 2, warm_rounds=1)  # type: ignore[misc]
    assert turns == ["ours", "peer"] * 3
    assert found["ours"] < 0.02 and 0.01 <= found["peer"] < 0.03  # the warm turns do not count


def test_a_result_has_the_keys_that_all_duels_have() -> None:
    assert set(duel.REQUIRED) <= set(report()) and report()["threads"] == 2
    assert duels.checked_report(json.dumps(report()), 0)["ratio"] == 3.5


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
        duels.checked_report(line, code)


def test_processor_time_of_everybody_is_read_from_the_kernels_first_line() -> None:
    stat = "cpu  100 20 30 4000 500 6 7 8 900 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert duel.used_seconds(stat, 100) == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / 100)


def test_what_others_use_is_what_is_left_without_our_own() -> None:
    before, after = (
        duel.Moment(0.0, 10.0, 1.0),
        duel.Moment(2.0, 10.0 + 2.0 * duel.cores() * 0.75, 1.0 + 0.5 * duel.cores()),
    )
    assert after.others_share(before) == pytest.approx(0.75 - 0.25)
    assert duel.Moment(2.0, 11.0, 4.0).others_share(before) == 0.0


def test_a_busy_machine_is_told_by_load_and_by_what_others_use() -> None:
    assert duels.busy(0.5, 0.02) == ""
    assert "load average" in duels.busy(duel.cores() + 0.5, 0.0)
    assert "others use 50%" in duels.busy(0.5, 0.5)


def test_a_quiet_second_is_waited_for_but_not_for_ever() -> None:
    watched = iter([0.9, 0.5, 0.05, 0.9])
    assert duels.wait_for_quiet(lambda: next(watched), seconds=60) == 0.05
    assert duels.wait_for_quiet(lambda: 0.9, seconds=0) == 0.9


def test_a_missing_peer_is_told_with_the_extra() -> None:
    with pytest.raises(InputError, match=r"duel x: its peer no-such-peer .*benchmarks"):
        duels.peer_versions(duels.Duel(name="x", ours="", peers=("no-such-peer",), bar="", limit=""))


def test_an_unknown_name_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert duels.main(["--only", "scorings"]) == 2
    assert "ONLY=scorings: no such duel" in capsys.readouterr().err


def test_a_busy_machine_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(duels, "wait_for_quiet", lambda: 0.8)
    monkeypatch.setattr(duels, "peer_versions", lambda _: {})
    monkeypatch.setattr(duels, "fight", lambda *_: pytest.fail("a duel ran"))
    assert duels.main(["--only", "scoring"]) == 3
    assert "busy" in capsys.readouterr().err


def test_figures_of_a_quiet_machine_are_published_and_later_rows_replace_earlier_ones(tmp_path: Path) -> None:
    assert duels.conclude([row(), row(name="confusion")], tmp_path, publish=True) == 0
    slow = row(verdict=duels.FALLS_SHORT, report=report(ratio=2.0, **{"pass": False}))
    assert duels.conclude([slow], tmp_path, publish=True) == 1
    page = (tmp_path / duels.PAGE).read_text()
    assert "1 of 2 hold" in page and "**falls short**" in page and "baal 2.1.0" in page and "threads 2" in page
    kept = json.loads((tmp_path / duels.STORE).read_text())
    assert [(each["name"], each["report"]["ratio"]) for each in kept] == [("scoring", 2.0), ("confusion", 3.5)]


@pytest.mark.parametrize("changes", [{"others_before": 0.5}, {"others_during": 0.5}])
def test_figures_of_a_busy_machine_are_not_published(
    tmp_path: Path, changes: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert duels.conclude([row(), row(name="confusion", **changes)], tmp_path, publish=True) == 3
    assert list(tmp_path.iterdir()) == [] and "confusion" in capsys.readouterr().err
    assert duels.conclude([row(**changes)], tmp_path, publish=False) == 0 and list(tmp_path.iterdir()) == []


def test_a_duel_that_fails_hangs_or_falls_short_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {
        "scoring": "raise SystemExit('it broke')",
        "k_centre": "import time; time.sleep(60)",
        "proximal": f"import json; print(json.dumps({report(**{'pass': False})!r})); raise SystemExit(1)",
        "confusion": f"import json; print('note'); print(json.dumps({report()!r}))",
    }
    (tmp_path / "benchmarks").mkdir()
    for name, text in scripts.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(text)
    monkeypatch.setattr(duels, "ROOT", tmp_path)
    monkeypatch.setattr(duels, "wait_for_quiet", lambda: 0.8)
    monkeypatch.setattr(duels, "peer_versions", lambda _: {})
    monkeypatch.setattr(duels, "DUELS", tuple(replace(each, timeout_s=3.0, options=()) for each in duels.DUELS))
    assert duels.main(["--anyway", "--only", *scripts]) == 1
    said = capsys.readouterr().out
    assert "FAILED: exit code 1 and no report: it broke" in said and "FAILED: did not end within 3 s" in said
    assert "falls short: ours 70" in said and "holds: ours 70" in said and "1 of 4 duels hold" in said
    assert not (tmp_path / "docs").exists()


def test_every_duel_has_its_script_and_its_peers_are_in_an_extra() -> None:
    named = (ROOT / "pyproject.toml").read_text() + (ROOT / "requirements.in").read_text()
    for each in duels.DUELS:
        assert (ROOT / "benchmarks" / f"{each.name}.py").is_file(), each.name
        assert [name for name in each.peers if name not in named] == []


def test_the_list_of_duels_needs_no_quiet_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert duels.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(duels.DUELS)
