"""The container step: what KFP may retry fails, what it must not retry is passed on to the next gate."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from components.stage import kfp_step
from components.stage.command import main
from components.stage.declaration import Needs, Paths, Stage
from components.stage.kfp_step import Problem, local_path, read_problem
from components.stage.registry import all_stages
from perception.errors import InputError, Unreachable
from tests.components.stage.test_execution import COPY


def executor_input(tmp_path: Path, **parameters: object) -> dict[str, object]:
    def artifact(name: str) -> dict[str, str]:
        return {"name": name, "uri": str(tmp_path / name)}

    return {
        "inputs": {
            "parameterValues": {"task": "copy", **parameters},
            "artifacts": {"sources": {"artifacts": [artifact("a"), artifact("b")]}},
        },
        "outputs": {
            "artifacts": {"copied": {"artifacts": [artifact("copied")]}},
            "outputFile": str(tmp_path / "deep" / "executor_output.json"),
        },
    }


def run_copy(tmp_path: Path, *flags: str, stage: Stage = COPY, **parameters: object) -> int:
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
    return main(
        {"copy": stage}, ["copy", *flags, "--executor-input", json.dumps(executor_input(tmp_path, **parameters))]
    )


def output(tmp_path: Path) -> dict[str, object]:
    return dict(json.loads((tmp_path / "deep" / "executor_output.json").read_text()))


def test_a_step_runs_the_stage_and_writes_its_output_file(tmp_path: Path) -> None:
    assert run_copy(tmp_path, text="from KFP") == 0
    written = output(tmp_path)
    assert written["artifacts"]["copied"]["artifacts"][0]["uri"] == str(tmp_path / "copied")  # type: ignore[index]
    assert written["parameterValues"] == {"decision": "pass"}
    assert (tmp_path / "copied" / "first").read_text() == "from KFP"


def test_parameters_that_only_resources_name_are_none_of_the_stages(tmp_path: Path) -> None:
    assert run_copy(tmp_path, "--never-retried", **{"pipelinechannel--copy_cpu": "2", "memory_limit": "1Gi"}) == 0


def test_a_crash_fails_so_that_kfp_tries_again_and_the_output_file_is_written(tmp_path: Path) -> None:
    assert run_copy(tmp_path, fail="bug") == 1
    assert output(tmp_path)["parameterValues"] == {}
    assert not (tmp_path / "copied").exists()


@pytest.mark.parametrize(("fail", "code", "said"), [("input", 2, "the rule"), ("refused", 3, "not good enough")])
def test_what_must_not_be_retried_ends_well_and_leaves_its_problem_in_place_of_results(
    tmp_path: Path, fail: str, code: int, said: str
) -> None:
    stage = replace(COPY, values_on_problem={"decision": "refuse"})
    assert run_copy(tmp_path, stage=stage, fail=fail) == 0
    problem = read_problem(tmp_path / "copied")
    assert problem is not None
    assert (problem.task, problem.code) == ("copy", code)
    assert said in problem.message
    assert output(tmp_path)["parameterValues"] == {"decision": "refuse"}


@pytest.mark.parametrize(("fail", "code"), [("input", 2), ("refused", 3)])
def test_a_step_that_is_never_retried_ends_with_the_exit_code_itself(tmp_path: Path, fail: str, code: int) -> None:
    assert run_copy(tmp_path, "--never-retried", fail=fail) == code


def leave_problem(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "problem.json").write_text(json.dumps({"task": "ingest@fleet", "code": 2, "message": "no such folder"}))


def test_a_later_step_passes_a_problem_on_without_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_problem(tmp_path / "b")
    assert run_copy(tmp_path) == 0
    assert read_problem(tmp_path / "copied") == Problem(task="ingest@fleet", code=2, message="no such folder")
    assert not (tmp_path / "copied" / "first").exists()
    assert "passes on to the next gate: ingest@fleet, bad input: no such folder" in capsys.readouterr().out


def test_what_follows_the_refusal_ends_with_the_problems_own_code_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_problem(tmp_path / "a")
    assert run_copy(tmp_path, "--never-retried") == 2
    assert "ingest@fleet: no such folder" in capsys.readouterr().err


def test_a_problem_in_an_optional_input_makes_it_absent_and_is_passed_on_beside_the_results(tmp_path: Path) -> None:
    leave_problem(tmp_path / "extra")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    given = executor_input(tmp_path)
    given["inputs"]["artifacts"]["extra"] = {"artifacts": [{"name": "extra", "uri": str(tmp_path / "extra")}]}  # type: ignore[index]
    stage = replace(COPY, values_on_problem={"decision": "broken"})
    assert main({"copy": stage}, ["copy", "--executor-input", json.dumps(given)]) == 0
    assert (tmp_path / "copied" / "first").exists()
    assert read_problem(tmp_path / "copied") is not None
    assert output(tmp_path)["parameterValues"] == {"decision": "broken"}


def test_the_gate_refuses_a_problem_and_the_report_tells_of_one() -> None:
    assert all_stages()["gate"].values_on_problem == {"decision": "refuse"}
    assert set(all_stages()["report"].values_on_problem) == set(all_stages()["report"].values)


def test_a_server_that_does_not_answer_is_tried_again_and_then_fails_so_that_kfp_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def run(inputs: Paths, outputs: Paths, parameters: object) -> None:  # noqa: ARG001
        tries.append(outputs)
        if len(tries) < answers_at:
            raise Unreachable("store s3://x: the endpoint cannot be reached")

    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "0.01,0.02")
    answers_at = 3
    assert run_copy(tmp_path, stage=replace(COPY, run=run)) == 0
    assert len(tries) == 3
    assert "trying again in 0.02 s" in capsys.readouterr().out
    answers_at = 99
    tries.clear()
    (tmp_path / "again").mkdir()
    assert run_copy(tmp_path / "again", stage=replace(COPY, run=run)) == 1
    assert len(tries) == 3
    monkeypatch.setenv("NIGHTDRIVE_RETRY_PAUSES", "soon")
    (tmp_path / "third").mkdir()
    assert run_copy(tmp_path / "third", stage=COPY) == 2


def test_a_retried_step_finds_the_state_of_the_attempt_before_and_a_finished_one_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(inputs: Paths, outputs: Paths, parameters: object) -> None:  # noqa: ARG001
        state = Path(os.environ["NIGHTDRIVE_TRAINING_STATE"]) / "epoch"
        if not state.exists():
            state.write_text("7")
            raise RuntimeError("the node is taken away")
        (outputs.one("copied") / "went_on_from").write_text(state.read_text())

    monkeypatch.setenv("NIGHTDRIVE_CHECKPOINTS", str(tmp_path / "claim"))
    monkeypatch.setenv("NIGHTDRIVE_TRAINING_STATE", "")
    assert run_copy(tmp_path, stage=replace(COPY, run=run)) == 1
    assert run_copy(tmp_path, stage=replace(COPY, run=run)) == 0
    assert (tmp_path / "copied" / "went_on_from").read_text() == "7"
    assert list((tmp_path / "claim").iterdir()) == []


def test_of_several_processes_only_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_copy(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_step_with_several_gpus_becomes_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BecameError(Exception):
        pass

    def become(program: str, words: list[str]) -> None:  # noqa: ARG001
        raise BecameError(" ".join(words[1:]))

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(kfp_step, "_gpu_count", lambda: 4)
    monkeypatch.setattr("os.execv", become)
    stage = replace(COPY, needs=Needs(image="torch", gpu_count=4, distributed=True))
    with pytest.raises(
        BecameError, match=r"^-m torch\.distributed\.run --standalone --nproc-per-node=4 -m components copy "
    ):
        run_copy(tmp_path, stage=stage)
    monkeypatch.setenv("RANK", "0")  # a process that torchrun started goes on
    assert run_copy(tmp_path, stage=stage) == 0


@pytest.mark.parametrize(
    "given", ["[]", "null", "5", "{}", '{"outputs": {}}', '{"outputs": {"outputFile": "x"}, "inputs": {}}', "{"]
)
def test_a_malformed_executor_input_is_named(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"copy": COPY}, ["copy", "--executor-input", given]) == 2
    assert "--executor-input" in capsys.readouterr().err


def test_artifact_uris_become_the_launchers_mounts() -> None:
    assert local_path({"uri": "s3://bucket/a/b"}) == Path("/s3/bucket/a/b")
    assert local_path({"uri": "gs://bucket/a"}) == Path("/gcs/bucket/a")
    assert local_path({"uri": "minio://bucket/a"}) == Path("/minio/bucket/a")
    assert local_path({"uri": "/plain/path"}) == Path("/plain/path")
    assert local_path({"uri": "s3://bucket/a", "customPath": "/mnt/x"}) == Path("/mnt/x")
    with pytest.raises(InputError, match="unknown scheme"):
        local_path({"uri": "ftp://host/a"})
