"""Execution: outputs appear whole, exit codes mean what they say, a command line knows its stage."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from components.stage.command import main, stage_command
from components.stage.declaration import Needs, Paths, Port, Refused, Stage
from components.stage.program import run_program
from components.stage.registry import stage_names
from perception.errors import InputError
from perception.parameters import checked

ROOT = Path(__file__).parents[3]


@checked
class CopyParameters:
    text: str = "hello"
    fail: str = ""


def copy_run(inputs: Paths, outputs: Paths, parameters: CopyParameters) -> dict[str, str]:
    (outputs.one("copied") / "first").write_text(parameters.text)
    if parameters.fail == "input":
        raise InputError("the thing: its value, the rule, what to do")
    if parameters.fail == "bug":
        raise ZeroDivisionError("a bug")
    if parameters.fail == "refused":
        raise Refused("not good enough")
    sources = [folder.name for folder in inputs.many("sources")]
    (outputs.one("copied") / "second").write_text(json.dumps(sources))
    return {"sources": str(len(sources))}


COPY = Stage(
    name="copy",
    summary="Copy what it is told.",
    inputs=(
        Port(name="sources", about="sources", many=True),
        Port(name="extra", about="extra", optional=True),
    ),
    outputs=(Port(name="copied", about="copy"),),
    value="sources",
    parameters=CopyParameters,
    needs=Needs(image="torch"),
    run=copy_run,
)


def run_stage(stage: Stage, words: Sequence[str]) -> int:
    """Run a stage by its command line, as `python -m components.stage` does."""
    return run_program(stage_command(stage), words, stage.name)


def copy_words(tmp_path: Path, *more: str) -> list[str]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
    return [
        "--sources",
        str(tmp_path / "a"),
        "--sources",
        str(tmp_path / "b"),
        "--copied",
        str(tmp_path / "out"),
        *more,
    ]


def call(tmp_path: Path, *more: str) -> int:
    return run_stage(COPY, copy_words(tmp_path, *more))


def test_outputs_appear_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    assert call(tmp_path) == 0
    assert json.loads((tmp_path / "out" / "second").read_text()) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


@pytest.mark.parametrize(("fail", "code"), [("input", 2), ("bug", 1)])
def test_a_failed_stage_leaves_nothing_behind(
    tmp_path: Path, fail: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, "--set", f"fail={fail}") == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert ("Traceback" in capsys.readouterr().err) == (fail == "bug")


def test_a_stage_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path) == 0
    assert call(tmp_path, "--set", "text=other") == 2
    assert "overwrites nothing" in capsys.readouterr().err
    assert (tmp_path / "out" / "first").read_text() == "hello"
    (tmp_path / "file").write_text("precious")
    assert run_stage(COPY, ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "file")]) == 2
    assert (tmp_path / "file").read_text() == "precious"


def test_a_refusal_keeps_what_explains_it(tmp_path: Path) -> None:
    assert call(tmp_path, "--set", "fail=refused") == 3
    assert (tmp_path / "out" / "first").read_text() == "hello"


def test_bad_usage_and_bad_parameters_end_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--set", "txet=x") == 2
    assert "did you mean 'text'" in capsys.readouterr().err
    assert call(tmp_path, "--set", "text=3") == 2
    assert "copy.text = 3: must be text" in capsys.readouterr().err
    assert run_stage(COPY, ["--sources", str(tmp_path / "none"), "--copied", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("")
    code = run_stage(COPY, ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "file" / "out")])
    assert code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_records_tell_status_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTDRIVE_RECORDS", str(tmp_path / "records"))
    assert call(tmp_path, "--set", "fail=input") == 2
    record = json.loads((tmp_path / "records" / "copy.json").read_text())
    assert record["status"] == "bad_input"
    assert "the rule" in record["message"]
    assert record["seconds"] >= 0
    assert record["peak_rss_mib"] > 1
    assert record["launched"] <= record["started"]


def test_records_tell_what_the_work_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        (outputs.one("copied") / "file").write_bytes(bytes(3_000_000))
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass

    monkeypatch.setenv("NIGHTDRIVE_RECORDS", str(tmp_path / "records"))
    (tmp_path / "a").mkdir()
    words = ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "out")]
    assert run_stage(replace(COPY, run=run), words) == 0
    record = json.loads((tmp_path / "records" / "copy.json").read_text())
    assert 0.1 <= record["cpu_seconds"] < 5 and record["start_cpu_seconds"] > 0
    assert 3_000_000 <= record["written_bytes"] < 3_500_000


def test_every_folder_of_a_fan_out_is_taken_by_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0", "10", ".half-written"):
        (tmp_path / "parts" / name).mkdir(parents=True)
    assert run_stage(COPY, ["--sources", str(tmp_path / "parts" / "*"), "--copied", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "second").read_text()) == ["0", "10"]
    assert run_stage(COPY, ["--sources", str(tmp_path / "none" / "*"), "--copied", str(tmp_path / "other")]) == 2
    assert "holds no folder" in capsys.readouterr().err


def test_a_folder_of_shares_is_sealed_share_by_share(tmp_path: Path) -> None:
    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        for share in ("0", "1"):
            (outputs.one("copied") / share).mkdir()
            (outputs.one("copied") / share / "listing").write_text(share)

    outputs = (Port(name="copied", about="shares", shares="batch"),)
    assert run_stage(replace(COPY, run=run, outputs=outputs), copy_words(tmp_path)) == 0
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("seal.json")) == ["0", "1"]


def test_the_program_lists_every_stage_and_runs_none_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert [name for name in stage_names() if f"  {name} " not in listed] == []
    assert main(["resolves"]) == 2
    assert "No such command 'resolves'" in capsys.readouterr().err


@pytest.mark.parametrize("name", stage_names())
def test_a_command_imports_its_own_stage_alone(name: str) -> None:
    program = (
        f"import sys; from components.stage.command import main; main([{name!r}, '--help'])\n"
        "print('LOADED', *(each for each in sys.modules if each.startswith('components.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {module.split(".")[1] for module in done.stdout.rpartition("LOADED")[2].split()}
    assert name in loaded
    assert loaded & set(stage_names()) <= {name, "ingest"}  # what a source is stands in components/ingest


def test_the_peak_of_memory_is_this_programs_own() -> None:
    program = "from components.stage.usage import peak_rss_mib; print(peak_rss_mib())"
    held = b"x" * (400 << 20)  # what a child has before it becomes another program, by getrusage's count
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(held) and 1 < float(done.stdout) < 300


def test_a_killed_stage_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        from dataclasses import replace
        from tests.components.stage.test_execution import COPY, run_stage
        def run(inputs, outputs, parameters):
            (outputs.one("copied") / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(run_stage(replace(COPY, run=run), ["--sources", {str(tmp_path)!r}, "--copied", {str(tmp_path / "out")!r}]))
        """
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
