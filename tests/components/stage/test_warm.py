"""Warm processes: a fork is the caller in every respect, and neither outlives the other."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.stage import command, registry, warm
from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.warm import WARM_VARIABLE
from perception.parameters import checked

ROOT = Path(__file__).parents[3]


@checked
class ProbeParameters:
    sleep_seconds: float = 0.0


def probe_run(_: Paths, outputs: Paths, parameters: ProbeParameters) -> None:
    print("out", Path.cwd(), os.environ["PROBE"], flush=True)
    print("err", file=sys.stderr, flush=True)
    Path("pid").write_text(str(os.getpid()))
    time.sleep(parameters.sleep_seconds)
    (outputs.one("made") / "file").write_text("whole")


PROBE = Stage(
    name="probe",
    summary="Say where it runs.",
    outputs=(Port(name="made", about="a file"),),
    parameters=ProbeParameters,
    needs=Needs(image="torch", loads="json"),
    run=probe_run,
)
CALLER = """
import sys
from tests.components.stage.test_warm import PROBE, known
from components.stage.warm import run_warm
known()
sys.exit(run_warm(sys.argv[1:]))
"""


def known() -> None:
    """Let this process know the probe as a stage."""
    probe = types.ModuleType("components.probe")
    probe.STAGE = PROBE  # type: ignore[attr-defined]
    sys.modules["components.probe"] = probe
    registry.stage_names = command.stage_names = warm.stage_names = lambda: ["probe"]


def serve_uncaptured(listener: socket.socket) -> None:
    known()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # pytest's own do not write to file descriptors 1 and 2
    warm.serve("json", listener)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a caller, with a server that knows the probe."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "json"))
        listener.listen()
        server = multiprocessing.get_context("fork").Process(target=serve_uncaptured, args=(listener,), daemon=True)
        server.start()
        yield {**os.environ, WARM_VARIABLE: str(tmp_path), "PROBE": "seen", "PYTHONPATH": str(ROOT)}
        server.kill()
        server.join()


def caller(folder: Path, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", CALLER, "probe", "--made", "made", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def forked(folder: Path) -> int:
    for _ in range(400):
        if (folder / "pid").exists() and (folder / "pid").read_text():
            return int((folder / "pid").read_text())
        time.sleep(0.05)
    raise AssertionError("the fork never began")


def ends(pid: int) -> bool:
    for _ in range(400):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_a_fork_has_its_callers_streams_folder_environment_and_exit_code(
    tmp_path: Path, served: dict[str, str]
) -> None:
    process = caller(tmp_path, served)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.split(), err.split()) == (0, ["out", str(tmp_path), "seen"], ["err"])
    assert (tmp_path / "made" / "file").read_text() == "whole"
    assert int((tmp_path / "pid").read_text()) != process.pid


@pytest.mark.parametrize(
    ("more", "said"), [(["--set", "nonsense=1"], "nonsense"), (["--no-such-option"], "No such option")]
)
def test_bad_use_of_a_fork_ends_with_2(tmp_path: Path, served: dict[str, str], more: list[str], said: str) -> None:
    process = caller(tmp_path, served, *more)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said in err
    assert "Traceback" not in err


def test_a_killed_caller_takes_its_fork_along(tmp_path: Path, served: dict[str, str]) -> None:
    process = caller(tmp_path, served, "--set", "sleep_seconds=60.0")
    pid = forked(tmp_path)
    process.kill()
    process.communicate()
    assert ends(pid)
    assert not (tmp_path / "made").exists()


def test_a_killed_fork_fails_its_caller(tmp_path: Path, served: dict[str, str]) -> None:
    process = caller(tmp_path, served, "--set", "sleep_seconds=60.0")
    os.kill(forked(tmp_path), signal.SIGKILL)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "killed" in err


def test_warm_processes_live_as_long_as_their_block(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with warm.warm_processes(["pandas"], environment) as given:
        folder = Path(given[WARM_VARIABLE])
        assert [path.name for path in folder.iterdir()] == ["pandas"]
        assert folder.stat().st_mode & 0o077 == 0
        words = [sys.executable, "-m", "components.stage", "resolve", "--help"]
        done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.split()[0]) == (0, "Usage:")
    assert not folder.exists()


def test_without_a_warm_process_nothing_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WARM_VARIABLE, str(tmp_path))
    assert warm.run_warm(["resolve"]) is None
    assert warm.run_warm(["no_stage"]) is None
    monkeypatch.delenv(WARM_VARIABLE)
    assert warm.run_warm(["resolve"]) is None
