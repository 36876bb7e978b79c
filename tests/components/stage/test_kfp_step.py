"""The container step: what Kubeflow describes becomes a call; a server that does not answer is waited for, all else ends at once."""

import contextlib
import errno
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.stage import kfp_step
from components.stage.declaration import Needs, Paths, Port, Refused, Stage
from components.stage.execution import Outcome
from components.stage.kfp_step import Step, local_path, run_step, step_from_executor_input, write_settings
from components.stage.night import FAREWELL_SECONDS
from components.stage.registry import find_stage
from perception.errors import InputError, Unreachable
from perception.parameters import checked
from tests.components.stage.test_execution import COPY


def executor_input(
    root: Path, beside: Mapping[str, object] | None = None, step: Mapping[str, object] | None = None, **settings: object
) -> dict[str, Any]:
    """What Kubeflow says of the step `copy`, which takes what the tasks a and b gave."""
    about = {"task": "copy", "takes": {"sources": ["a.out", "b.out"]}, **(step or {})}
    return {
        "inputs": {"parameterValues": {"settings": write_settings({"step": about, **settings}), **(beside or {})}},
        "outputs": {
            "artifacts": {"copied": {"artifacts": [{"name": "copied", "uri": str(root / "deep" / "copied")}]}},
            "outputFile": str(root / "deep" / "executor_output.json"),
        },
    }


@pytest.fixture
def run_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the stage `copy`, or another one in its place, as a step with these settings; return the exit code."""

    def run(stage: Stage = COPY, root: Path = tmp_path, **settings: object) -> int:
        monkeypatch.setattr(kfp_step, "find_stage", lambda _: stage)
        for name in ("a", "b"):
            (root / name / "out").mkdir(parents=True, exist_ok=True)
        return run_step(["copy", "--executor-input", json.dumps(executor_input(root, **settings))])

    return run


def output(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "deep" / "executor_output.json").read_text()))


def test_a_step_runs_the_stage_and_writes_its_output_file(run_copy: Any, tmp_path: Path) -> None:
    assert run_copy(text="from KFP") == 0
    written = output(tmp_path)
    assert written["artifacts"]["copied"]["artifacts"][0]["uri"] == str(tmp_path / "copy" / "copied")
    assert written["parameterValues"] == {"sources": "2"}
    assert (tmp_path / "copy" / "copied" / "first").read_text() == "from KFP"


@checked
class CountParameters:
    number: int
    batch: int = 0


def counted(tmp_path: Path, beside: Mapping[str, object] | None = None, **settings: object) -> Step:
    return step_from_executor_input(
        replace(COPY, parameters=CountParameters), executor_input(tmp_path, beside, **settings)
    )


@pytest.mark.parametrize(
    "value",
    [2**53 + 1, 2**63 - 1, -(2**53) - 1, 1e-7, 0.1, 1e300, True, None, "", "yes", "1e3", "2026-11-30", "a: b", "{x}", "it's", '"', "ü\n",
     {"a": [1.0, {"b": "null"}]}, []],
)  # fmt: skip
def test_settings_are_exact_where_a_double_or_a_careless_reader_would_not_be(tmp_path: Path, value: object) -> None:
    step = counted(tmp_path, number=value)
    assert step.parameters == {"number": value}
    assert type(step.parameters["number"]) is type(value)


def test_settings_need_no_quotation_mark_for_what_is_plain() -> None:
    """Within the texts that Kubeflow keeps of a run, each takes 8 bytes, 12 times over."""
    assert '"' not in write_settings({"rate": 1e-7, "name": "store/s3", "on": "yes", "list": ["a", 2], "empty": ""})


def test_an_exit_handler_is_given_how_the_run_ended(tmp_path: Path) -> None:
    step = counted(tmp_path, {"final_status": {"state": "FAILED"}}, number=1)
    assert (step.task, step.parameters) == ("copy", {"number": 1, "final_status": {"state": "FAILED"}})


def test_a_step_finds_what_tasks_gave_beside_its_own_folder(tmp_path: Path) -> None:
    call = counted(tmp_path, step={"takes": {"sources": ["many.out/2", "b.out"]}}, number=1).call
    assert call.inputs == {"sources": (tmp_path / "many/out/0", tmp_path / "many/out/1", tmp_path / "b/out")}
    assert call.outputs == {"copied": tmp_path / "copy" / "copied"}


# ---------------------------------------------------------------- a fan-out

SHARED = replace(
    COPY,
    inputs=(Port(name="sources", about="all of it", many=True), Port(name="mine", about="a share", shares="batch")),
)


@checked
class ShareParameters:
    batch: int
    batch_count: int
    fail_at: int = -1


def share_run(inputs: Paths, outputs: Paths, parameters: ShareParameters) -> None:
    if parameters.batch == parameters.fail_at:
        raise InputError("the share: broken, mend it")
    (outputs.one("copied") / "said").write_text(f"{parameters.batch} {inputs.one('mine').name}")


@pytest.fixture
def fan_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a step of three shares; return its exit code."""
    stage = replace(SHARED, parameters=ShareParameters, run=share_run)
    for name in ("a/out", "many/out/0", "many/out/1", "many/out/2"):
        (tmp_path / name).mkdir(parents=True)
    about = {"over": "batch", "takes": {"sources": ["a.out"], "mine": ["many.out"]}}

    def run(**settings: object) -> int:
        monkeypatch.setattr(kfp_step, "find_stage", lambda _: stage)
        given = executor_input(tmp_path, step=about, batch_count=3, **settings)
        return run_step(["copy", "--executor-input", json.dumps(given)])

    return run


def shares(tmp_path: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in (tmp_path / "copy" / "copied").glob("*/said")}


def test_outside_a_cluster_a_fan_out_runs_its_shares_one_after_the_other(fan_out: Any, tmp_path: Path) -> None:
    assert fan_out() == 0
    assert shares(tmp_path) == {"0": "0 0", "1": "1 1", "2": "2 2"}
    assert (tmp_path / "copy" / "copied" / "2" / "seal.json").is_file(), "each share is sealed by itself"


def test_a_share_that_is_done_is_not_run_again_when_its_step_is(fan_out: Any, tmp_path: Path) -> None:
    assert fan_out(fail_at=1) == 2
    assert shares(tmp_path) == {"0": "0 0"}, "it ends at the first share that fails"
    (tmp_path / "copy" / "copied" / "0" / "said").write_text("kept")
    assert fan_out() == 0
    assert shares(tmp_path) == {"0": "kept", "1": "1 1", "2": "2 2"}


def test_a_pod_of_an_indexed_job_runs_the_share_of_its_index(
    fan_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert fan_out() == 0
    assert shares(tmp_path) == {"2": "2 2"}
    assert not (tmp_path / "deep").exists(), "the step alone tells Kubeflow"


# ---------------------------------------------------------------- how a step ends


@pytest.mark.parametrize(("fail", "code"), [("bug", 1), ("input", 2), ("refused", 3)])
def test_a_step_ends_with_the_stages_own_exit_code_and_always_writes_its_output_file(
    run_copy: Any, tmp_path: Path, fail: str, code: int
) -> None:
    assert run_copy(fail=fail) == code
    assert output(tmp_path)["parameterValues"] == {}
    assert (tmp_path / "copy" / "copied").exists() == (fail == "refused"), "a refusal keeps what explains it"


def test_a_server_that_does_not_answer_is_tried_again_and_then_fails_the_step(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        tries.append(outputs)
        if len(tries) < answers_at:
            raise Unreachable("store s3://x: the endpoint cannot be reached")

    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "0.01,0.02")
    answers_at = 3
    assert run_copy(replace(COPY, run=run)) == 0
    assert len(tries) == 3
    assert "trying again in 0.02 s" in capsys.readouterr().out
    answers_at = 99
    tries.clear()
    assert run_copy(replace(COPY, run=run), tmp_path / "again") == 1
    assert len(tries) == 3
    monkeypatch.delenv("NIGHTDRIVE_RETRY_PAUSES")
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    assert run_copy(replace(COPY, run=run), tmp_path / "unsaid") == 1
    assert paused == [5.0, 20.0, 60.0], "nobody else tries a step again that exits by itself"
    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "soon")
    assert run_copy(COPY, tmp_path / "third") == 2
    assert "NIGHTDRIVE_RETRY_PAUSES=soon: must be seconds" in capsys.readouterr().err


def test_a_retried_step_finds_the_state_of_the_attempt_before_and_a_finished_one_leaves_none(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        state = Path(os.environ["NIGHTDRIVE_TRAINING_STATE"]) / "epoch"
        if not state.exists():
            state.write_text("7")
            raise RuntimeError("the node is taken away")
        (outputs.one("copied") / "went_on_from").write_text(state.read_text())

    monkeypatch.setenv("NIGHTDRIVE_CHECKPOINTS", str(tmp_path / "claim"))
    monkeypatch.setenv("NIGHTDRIVE_TRAINING_STATE", "")
    assert run_copy(replace(COPY, run=run)) == 1
    assert run_copy(replace(COPY, run=run)) == 0
    assert (tmp_path / "copy" / "copied" / "went_on_from").read_text() == "7"
    assert list((tmp_path / "claim").iterdir()) == []


# ---------------------------------------------------------------- the night's own records


@pytest.fixture
def in_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this a pod of the run `run-7`; return where its night's records lie."""
    monkeypatch.setenv("NIGHTDRIVE_RECORDS", "")  # and put back, whatever a step makes of it
    monkeypatch.setenv("NIGHTDRIVE_NIGHT", "run-7")
    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "0")
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path / "store" / "nights" / "run-7"


def night_settings(tmp_path: Path, **changes: object) -> dict[str, object]:
    return {"store": str(tmp_path / "store"), "profile": "smoke", "hours": 20.0, "watch_retries": 2, **changes}


def record_of(place: Path, task: str = "copy") -> dict[str, Any]:
    return dict(json.loads((place / f"{task}.json").read_text()))


def test_a_secret_of_addresses_becomes_the_environment_and_nothing_else_of_it_does(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NIGHTDRIVE_WEBHOOK", "MLFLOW_TRACKING_TOKEN", "LD_PRELOAD"):
        monkeypatch.setenv(name, "")  # and put back
        (tmp_path / "secret").mkdir(exist_ok=True)
        (tmp_path / "secret" / name).write_text(f"of {name}\n")
    monkeypatch.setattr(kfp_step, "OUTSIDE_FOLDER", tmp_path / "secret")
    run_copy()
    assert os.environ["NIGHTDRIVE_WEBHOOK"] == "of NIGHTDRIVE_WEBHOOK"
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "of MLFLOW_TRACKING_TOKEN"
    assert os.environ["LD_PRELOAD"] == ""


@pytest.mark.parametrize(
    ("fail", "status"), [("", "done"), ("bug", "failed"), ("input", "bad_input"), ("refused", "refused")]
)
def test_a_steps_last_act_is_the_record_of_how_it_ended(
    run_copy: Any, tmp_path: Path, in_night: Path, fail: str, status: str
) -> None:
    run_copy(fail=fail, _night=night_settings(tmp_path))
    record = record_of(in_night)
    assert (record["status"], record["night"], record["format"]) == (status, "run-7", 1), (
        "launcher and Argo say 1 of them all"
    )
    assert record["seconds"] >= 0 and record["peak_rss_mib"] > 1
    assert bool(record["message"]) == bool(fail)
    assert record["values"] == ({} if fail else {"sources": "2"})
    night = json.loads((in_night / "night.json").read_text())
    assert (night["night"], night["profile"], night["deadline"] - night["started"]) == ("run-7", "smoke", 20 * 3600)
    assert sorted(path.name for path in in_night.iterdir()) == ["copy.json", "night.json"], (
        "a step writes its own name only"
    )


def test_a_refusals_record_holds_the_rules_with_bound_and_observed(
    run_copy: Any, tmp_path: Path, in_night: Path
) -> None:
    broke = [{"id": "enough", "rule": "frames at least 100", "bound": {"min_value": 100}, "observed": "12"}]

    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise Refused("gate refused", broke)

    assert run_copy(replace(COPY, run=run), _night=night_settings(tmp_path)) == 3
    assert record_of(in_night)["failed"] == broke


def test_a_message_is_one_line_that_no_terminal_obeys(run_copy: Any, tmp_path: Path, in_night: Path) -> None:
    """Senders of footage name files and folders, and messages name these; status, watch and report show what a record says."""

    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise InputError("drive\x1b[2J\u202e\nä\udcff: has no image; remove it")

    run_copy(replace(COPY, run=run), _night=night_settings(tmp_path))
    assert record_of(in_night)["message"] == r"drive\x1b[2J\u202e\nä\udcff: has no image; remove it"


def test_a_killed_steps_record_says_that_it_ran_and_the_next_attempt_is_counted(
    run_copy: Any, tmp_path: Path, in_night: Path
) -> None:
    class Killed(BaseException):
        pass

    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_copy(replace(COPY, run=run), _night=night_settings(tmp_path))
    assert (record_of(in_night)["status"], record_of(in_night)["attempt"]) == ("running", 1)
    assert run_copy(_night=night_settings(tmp_path)) == 0
    assert (record_of(in_night)["status"], record_of(in_night)["attempt"]) == ("done", 2)


def test_a_step_that_fails_round_its_stage_has_failed_and_was_not_killed(
    run_copy: Any, tmp_path: Path, in_night: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk while outputs are packed, an object that is no archive: the watch would try the night again for nothing."""

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kfp_step, "_send", full)
    assert run_copy(_night=night_settings(tmp_path)) == 1
    record = record_of(in_night)
    assert record["status"] == "failed" and "the disk is full" in record["message"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["copy.json", "night.json"])
@pytest.mark.parametrize("content", [b'{"format": 1, "na', b"\xff", b"[]", b'{"format": 2}', b"[" * 100_000])
def test_a_document_of_the_night_that_cannot_be_read_is_named(
    run_copy: Any, tmp_path: Path, in_night: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    in_night.mkdir(parents=True)
    (in_night / name).write_bytes(content)
    assert run_copy(_night=night_settings(tmp_path)) == 2
    assert f"{in_night / name}: is no JSON of format 1" in capsys.readouterr().err


def test_a_server_that_never_answered_is_a_failure_and_no_bad_input(
    run_copy: Any, tmp_path: Path, in_night: Path
) -> None:
    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise Unreachable("store s3://x: the endpoint cannot be reached")

    assert run_copy(replace(COPY, run=run), _night=night_settings(tmp_path)) == 1
    assert record_of(in_night)["status"] == "failed"


def test_what_a_stage_tells_beside_its_declared_values_is_for_the_record_alone(
    run_copy: Any, tmp_path: Path, in_night: Path
) -> None:
    """KFP's launcher knows the type of declared outputs only."""

    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> dict[str, object]:
        return {"sources": "2", "chosen": 7}

    assert run_copy(replace(COPY, run=run), _night=night_settings(tmp_path)) == 0
    assert output(tmp_path)["parameterValues"] == {"sources": "2"}
    assert record_of(in_night)["values"] == {"sources": "2", "chosen": 7}


def test_a_step_ends_itself_before_the_backend_ends_the_night(run_copy: Any, tmp_path: Path, in_night: Path) -> None:
    """At its deadline the backend runs no farewell and tells no step."""
    last = (FAREWELL_SECONDS + 0.2) / 3600

    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        with contextlib.suppress(Exception):  # no library may take it for an error of its own
            time.sleep(30)
        raise AssertionError("the deadline passed by")

    assert run_copy(replace(COPY, run=run), _night=night_settings(tmp_path, hours=last)) == 1
    record = record_of(in_night)
    assert record["status"] == "failed" and record["seconds"] < 10
    assert record["message"].startswith("deadline: the night has ") and "cluster.night_hours" in record["message"]
    assert output(tmp_path)["parameterValues"] == {}
    assert run_copy(replace(COPY, run=run), tmp_path / "later", _night=night_settings(tmp_path, hours=20.0)) == 1
    assert "deadline" in record_of(in_night)["message"], "a retry, too, belongs to the night that began then"


def test_the_farewell_has_the_rest_of_the_night(tmp_path: Path, in_night: Path) -> None:
    stage = replace(COPY, parameters=FarewellParameters, run=lambda *_: None)
    beside = {"final_status": {"state": "FAILED"}}
    given = executor_input(tmp_path, beside, _night=night_settings(tmp_path, hours=0.001))
    for name in ("a", "b"):
        (tmp_path / name / "out").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kfp_step, "find_stage", lambda _: stage)
        assert run_step(["copy", "--executor-input", json.dumps(given)]) == 0
    assert record_of(in_night)["status"] == "done"


@checked
class FarewellParameters:
    final_status: dict[str, object]


def test_outside_a_run_of_kubeflows_a_step_keeps_no_record(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTDRIVE_NIGHT", raising=False)
    assert run_copy(_night=night_settings(tmp_path)) == 0
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("in_night")
@pytest.mark.parametrize("name", ["../other", "a/b", ".hidden"])
def test_a_night_cannot_lie_outside_its_folder(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_NIGHT", name)
    assert run_copy(_night=night_settings(tmp_path)) == 2
    assert not (tmp_path / "store").exists()


# ---------------------------------------------------------------- several processes

DISTRIBUTED = replace(COPY, needs=Needs(image="torch", gpu_count=4, distributed=True))


def test_of_several_processes_only_the_first_writes(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_copy() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "copy"]
    assert list((tmp_path / "copy").iterdir()) == []


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Four GPUs, and a torchrun that runs two processes one after the other; the commands that started it."""
    started: list[list[str]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> "subprocess.CompletedProcess[bytes]":  # noqa: ARG001
        started.append(command)
        for rank in ("1", "0"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NIGHTDRIVE_OUTCOME", env["NIGHTDRIVE_OUTCOME"])
                patch.setenv("RANK", rank)
                if run_step(command[command.index("components.stage") + 1 :]):
                    return subprocess.CompletedProcess(command, 1)  # it ends the others and has a code of its own
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(kfp_step, "_gpu_count", lambda: 4)
    monkeypatch.setattr("components.stage.kfp_step.subprocess.run", run)
    return started


def test_a_step_with_several_gpus_runs_under_torchrun(run_copy: Any, tmp_path: Path, torchrun: list[list[str]]) -> None:
    assert run_copy(DISTRIBUTED) == 0
    ((_, *words),) = torchrun
    assert words[:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m", "components.stage"]
    assert output(tmp_path)["parameterValues"] == {"sources": "2"}


@pytest.mark.parametrize(("fail", "code"), [("bug", 1), ("input", 2), ("refused", 3)])
def test_the_exit_code_of_a_process_survives_torchrun(
    run_copy: Any, tmp_path: Path, torchrun: list[list[str]], fail: str, code: int
) -> None:
    assert run_copy(DISTRIBUTED, fail=fail) == code
    assert len(torchrun) == 1
    assert output(tmp_path)["parameterValues"] == {}


def test_one_process_that_meets_a_silent_server_waits_for_none_and_all_are_started_again(
    run_copy: Any, torchrun: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = []

    def run(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        ranks.append(os.environ["RANK"])
        if len(ranks) < answers_at:
            raise Unreachable("store s3://x: the endpoint cannot be reached")
        (outputs.one("copied") / "file").write_text("whole")

    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "0,0")
    answers_at = 2
    assert run_copy(replace(DISTRIBUTED, run=run)) == 0
    assert ranks == ["1", "1", "0"]
    assert len(torchrun) == 2
    answers_at = 99
    ranks.clear()
    assert run_copy(replace(DISTRIBUTED, run=run), tmp_path / "again") == 1
    assert ranks == ["1"] * 3


def test_a_torchrun_that_says_nothing_fails_the_step(run_copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(kfp_step, "_gpu_count", lambda: 2)
    killed = subprocess.CompletedProcess([], -9)
    monkeypatch.setattr("components.stage.kfp_step.subprocess.run", lambda *_, **__: killed)
    assert run_copy(DISTRIBUTED) == 1


def test_a_step_over_several_nodes_hands_its_call_to_a_job(
    run_copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_TRAIN_JOB", "{}")
    monkeypatch.setattr(kfp_step, "_on_nodes", lambda call: Outcome(code=0, values={"sources": call.task}))
    assert run_copy(DISTRIBUTED) == 0
    assert output(tmp_path)["parameterValues"] == {"sources": "copy"}


# ---------------------------------------------------------------- what Kubeflow says


@pytest.mark.parametrize(
    "given",
    ["[]", "null", "5", "{}", '{"outputs": {}}', '{"outputs": {"outputFile": "x"}, "inputs": {}}', "{",
     '{"outputs": {"outputFile": "x"}, "inputs": {"parameterValues": {"settings": "{}"}}}',
     '{"outputs": {"outputFile": "/a/b/x"}, "inputs": {"parameterValues": {"settings": "{step: {task: x, takes: {a: [../b]}}}"}}}',
     '{"outputs": {"outputFile": "/a/b/x"}, "inputs": {"parameterValues": {"settings": "{step"}}}'],
)  # fmt: skip
def test_a_malformed_executor_input_is_named(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step(["resolve", "--executor-input", given]) == 2
    assert "--executor-input" in capsys.readouterr().err
    assert run_step(["resolve", "--executor-input"]) == 2
    assert "the JSON is missing" in capsys.readouterr().err


def test_a_step_of_no_stage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step(["resolves", "--executor-input", json.dumps(executor_input(tmp_path))]) == 2
    assert "there is no components/resolves.py" in capsys.readouterr().err
    with pytest.raises(InputError, match="use one of adapt"):
        find_stage("stage")


def test_artifact_uris_become_the_launchers_mounts() -> None:
    assert local_path({"uri": "s3://bucket/a/b"}) == Path("/s3/bucket/a/b")
    assert local_path({"uri": "gs://bucket/a"}) == Path("/gcs/bucket/a")
    assert local_path({"uri": "minio://bucket/a"}) == Path("/minio/bucket/a")
    assert local_path({"uri": "/plain/path"}) == Path("/plain/path")
    assert local_path({"uri": "s3://bucket/a", "customPath": "/mnt/x"}) == Path("/mnt/x")
    with pytest.raises(InputError, match="unknown scheme"):
        local_path({"uri": "ftp://host/a"})
