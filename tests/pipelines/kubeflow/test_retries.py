"""The compiled night, run step by step on this machine: what a person must mend ends it, and nothing behind it runs.

kfp.local walks the DAG with its own retries; only where it would start a container, the step's command runs in this process.
"""

import io
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import docker
import pytest
from kfp import components, local
from kfp.local import docker_task_handler
from kfp.local.orchestrator import task_executor

from components.stage import __main__ as stage
from components.stage.records import all_records
from perception.versioning.nights import read_nights
from pipelines.kubeflow.compile import compile_pipeline
from tests.pipelines.kfp_local import conditions_on_values

pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, str]]]:
    """Each step that kfp.local ran: stage, exit code, what it said."""
    ran: list[tuple[str, int, str]] = []

    def run(client: Any, image: str, command: Sequence[str], volumes: Mapping[str, Any], **_: Any) -> int:  # noqa: ARG001
        assert list(command[:3]) == ["python", "-m", "components.stage"]
        said = io.StringIO()
        # Here, because a process of its own would load its libraries anew for each of some fifteen steps.
        with patch.dict(os.environ), redirect_stdout(said), redirect_stderr(said):
            try:
                code = stage.run(command[3:])
            except Exception:
                traceback.print_exc()
                code = 1
        ran.append((command[3], code, said.getvalue()))
        return code

    client = SimpleNamespace(info=lambda: {}, close=lambda: None)
    monkeypatch.setattr(docker, "from_env", lambda: client)
    monkeypatch.setattr(docker_task_handler, "run_docker_container", run)
    monkeypatch.setattr(task_executor.time, "sleep", lambda _: None)  # KFP waits half a minute between tries
    yield ran
    local.config.LocalExecutionConfig.instance = None


FEW = [
    "fleet.drives=3", "fleet.frames_per_drive=1", "fleet.initial_labelled_frames=1", "simulator.drives=2",
    "frozen_test.drives=1", "frozen_test.frames_per_drive=1",
]  # fmt: skip


def run_night(root: Path, *overrides: str, store: str = "") -> str:
    places = [f"registry={root / 'data.git'}", f"remote={root / 'remote'}", f"store={store or root / 'store'}"]
    # kfp.local tries a step again that ended by itself, which the backend never does.
    once = [f"cluster.stages.{stage}.retries=0" for stage in ("resolve", "ingest", "gather", "gate", "report")]
    wanted = [*once, *(f"sources.{item}" for item in FEW), *(f"common.{place}" for place in places), *overrides]
    compile_pipeline("smoke", root / "night.yaml", wanted)
    local.init(runner=local.DockerRunner(), pipeline_root=str(root / "artifacts"), raise_on_error=True)
    with conditions_on_values(), pytest.raises(RuntimeError) as failed:
        components.load_component_from_file(str(root / "night.yaml"))()
    return str(failed.value)


def test_a_night_with_news_goes_on_behind_its_condition(
    steps: list[tuple[str, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = docker_task_handler.run_docker_container

    def until_ensemble(client: Any, image: str, command: Sequence[str], *rest: Any, **options: Any) -> int:
        if command[3] != "ensemble":
            return int(run(client, image, command, *rest, **options))
        steps.append(("ensemble", 1, ""))
        return 1

    monkeypatch.setattr(docker_task_handler, "run_docker_container", until_ensemble)
    run_night(tmp_path, "cluster.stages.ensemble.retries=0")
    assert [stage for stage, _, _ in steps] == ["resolve", "ingest", "gather", "gate", "ensemble", "report"]


def test_bad_input_ends_the_night_with_its_own_words(
    steps: list[tuple[str, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTDRIVE_S3_ENDPOINT", raising=False)
    run_night(tmp_path, store="s3://nightdrive/store")
    assert [(stage, code) for stage, code, _ in steps] == [("resolve", 2), ("report", 0)]
    assert "NIGHTDRIVE_S3_ENDPOINT" in steps[0][2] and "Traceback" not in steps[0][2]


def test_a_server_that_does_not_answer_fails_the_step(
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
    failed = [(stage, code, said) for stage, code, said in steps if code]
    assert {(stage, code) for stage, code, _ in failed} == {(failed[0][0], 1)}
    assert all(
        "cannot be reached" in said and "trying again in 0 s" in said and "Traceback" not in said for *_, said in failed
    )
    assert not [stage for stage, *_ in steps if stage == "gate"], "nothing was refused: the night may be tried again"


def test_a_refused_gate_ends_with_its_own_code_what_it_guards_never_runs_and_the_farewell_says_why(
    steps: list[tuple[str, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No artifact reaches an exit handler, and the error that it is told is always empty: the night's records say it."""
    monkeypatch.setenv("NIGHTDRIVE_NIGHT", "run-1")  # as the pod's label would
    run_night(tmp_path, "gate_ingest.bounds={min_frames: 100}")
    codes = {stage: code for stage, code, _ in steps}
    assert codes.pop("gate") == 3
    assert codes == {"resolve": 0, "ingest": 0, "gather": 0, "report": 0}
    (said,) = (said for stage, _, said in steps if stage == "gate")
    assert "frames" in said
    assert "Traceback" not in said
    records = {record["name"]: record for record in all_records(tmp_path / "store" / "nights" / "run-1")}
    (rule,) = (each for each in records["gate_ingest"]["failed"] if each["bound"] == {"min_value": 100})
    values = records["farewell"]["values"]
    assert (values["status"], values["base"], values["new"]) == ("refused", None, 12)
    (row,) = read_nights(tmp_path / "data.git")
    assert (row.night, row.status, row.figures.new_frames, row.used.arrivals) == ("run-1", "refused", 12, 0)
    (summary,) = (tmp_path / "artifacts").rglob("farewell/report/summary.json")
    assert json.loads(summary.read_text())["seconds"] > 0
    page = summary.with_name("report.html").read_text()
    for told in ("gate_ingest", rule["id"], "100", rule["observed"], "gate_ingest.bounds", "min_frames"):
        assert told in page, f"the farewell does not say {told}"
