"""The compiled night, run step by step on this machine: what may pass is tried again, what a person must mend never is.

kfp.local walks the DAG with its own retries; only where it would start a container, the step's command runs here instead.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from kfp import components, local
from kfp.local import docker_task_handler
from kfp.local.orchestrator import task_executor

from pipelines.kubeflow.compile import compile_pipeline

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.xdist_group("kfp-local"),  # its settings are global
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner"),
]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, str]]]:
    """Each step that kfp.local ran: stage, exit code, what it said."""
    ran: list[tuple[str, int, str]] = []

    def run(client: Any, image: str, command: Sequence[str], volumes: Mapping[str, Any], **_: Any) -> int:  # noqa: ARG001
        done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        name = f"{command[3]} last" if "--never-retried" in command else command[3]
        ran.append((name, done.returncode, done.stdout + done.stderr))
        return done.returncode

    client = SimpleNamespace(info=lambda: {}, close=lambda: None)
    monkeypatch.setattr(docker, "from_env", lambda: client)
    monkeypatch.setattr(docker_task_handler, "run_docker_container", run)
    monkeypatch.setattr(task_executor.time, "sleep", lambda _: None)  # KFP waits half a minute between tries
    yield ran
    local.config.LocalExecutionConfig.instance = None


def run_night(root: Path, overrides: Sequence[str] = (), **parameters: str) -> str:
    compile_pipeline("smoke", root / "night.yaml", overrides)
    local.init(runner=local.DockerRunner(), pipeline_root=str(root / "artifacts"), raise_on_error=True)
    given = {"registry": str(root / "data.git"), "remote": str(root / "remote")} | parameters
    with pytest.raises(RuntimeError) as failed:
        components.load_component_from_file(str(root / "night.yaml"))(**given)
    return str(failed.value)


def test_bad_input_is_never_tried_again_and_ends_behind_the_next_gate(
    steps: list[tuple[str, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTDRIVE_S3_ENDPOINT", raising=False)
    run_night(tmp_path, store="s3://nightdrive/store")
    codes = [(stage, code) for stage, code, _ in steps]
    sources = codes.count(("ingest", 0))
    assert sources >= 2, "each source has a step of its own, which is green and leaves its problem"
    assert [code for stage, code in codes if stage == "gate last"] == [2]
    assert codes.count(("gather", 0)) == codes.count(("gate", 0)) == codes.count(("resolve", 0)) == 1
    assert {stage for stage, _ in codes} == {"resolve", "ingest", "gather", "gate", "gate last", "report last"}
    (said,) = (said for stage, _, said in steps if stage == "gate last")
    assert "NIGHTDRIVE_S3_ENDPOINT" in said
    assert "Traceback" not in said


def test_a_server_that_does_not_answer_fails_the_step_and_is_tried_as_often_as_the_stage_declares(
    steps: list[tuple[str, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "NIGHTDRIVE_S3_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "NIGHTDRIVE_RETRY_PAUSES": "0",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    run_night(tmp_path, store="s3://nightdrive/store")
    worked = [(stage, code) for stage, code, _ in steps if not stage.endswith("last")]
    first = worked[0][0]
    tries = [code for stage, code in worked if stage == first]
    assert tries
    assert set(tries) == {1}
    assert len(tries) % 3 == 0, "a first try and two more for each step"
    assert all("cannot be reached" in said and "Traceback" not in said for stage, _, said in steps if stage == first)
    assert not [stage for stage, *_ in steps if stage.startswith("gate")], (
        "nothing was refused: the night may be tried again"
    )


def test_a_refused_gate_is_never_tried_again_and_ends_with_its_own_code(
    steps: list[tuple[str, int, str]], tmp_path: Path
) -> None:
    few = ["fleet.drives=3", "fleet.frames_per_drive=1", "fleet.initial_labelled_frames=1", "simulator.drives=2"]
    few += ["frozen_test.drives=1", "frozen_test.frames_per_drive=1"]
    overrides = [*(f"sources.{item}" for item in few), "gate_ingest.bounds={min_frames: 100}"]
    run_night(tmp_path, overrides, store=str(tmp_path / "store"))
    codes = [(stage, code) for stage, code, _ in steps]
    assert codes.count(("gate", 0)) == 1
    assert [code for stage, code in codes if stage == "gate last"] == [3]
    assert {stage for stage, _ in codes} == {"resolve", "ingest", "gather", "gate", "gate last", "report last"}
    (said,) = (said for stage, _, said in steps if stage == "gate last")
    assert "frames" in said
    assert "Traceback" not in said
