"""A fan-out as on a cluster: a step, the pods of its job, and who gathers, each with a disk of its own and one store between them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.stage import indexed_job, kfp_step
from components.stage.declaration import Paths, Port, Stage
from components.stage.exchange import Given, open_exchange
from components.stage.kfp_step import run_step, write_settings
from components.stage.kubernetes_api import Cluster
from components.stage.records import read_records
from perception.errors import InputError
from perception.parameters import checked
from tests.components.stage.test_execution import COPY
from tests.conftest import S3Server

pytestmark = pytest.mark.s3

SHARES = 3
SETTINGS = {
    "image": "i", "cpu_cores": 1.0, "memory_gib": 1.0, "timeout_seconds": 60, "deadline_seconds": 60, "user_id": 10001, "s3_secret": "s",
}  # fmt: skip
Run = Callable[..., int]


@checked
class ShareParameters:
    batch: int
    batch_count: int
    broken: int = -1


def score(inputs: Paths, outputs: Paths, parameters: ShareParameters) -> dict[str, int]:
    if parameters.batch == parameters.broken:
        raise InputError("share: broken, mend it")
    said = f"{(inputs.one('whole') / 'file').read_text()} {(inputs.one('mine') / 'file').read_text()}"
    (outputs.one("scores") / "file").write_text(said)
    return {"frames": 1}


def gather(inputs: Paths, outputs: Paths, _: object) -> None:
    (outputs.one("copied") / "file").write_text(
        " ".join(str(len(list(each.iterdir()))) for each in inputs.many("sources"))
    )


SCORE = replace(
    COPY, name="score", run=score, parameters=ShareParameters, value="",
    inputs=(Port(name="whole", about="whole"), Port(name="mine", about="a share", shares="batch")),
    outputs=(Port(name="scores", about="scores"),),
)  # fmt: skip


@pytest.fixture
def pod(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a step in a pod of its own; one with an index runs as a pod of a job."""
    for name, value in {**s3_server.environment(), "NIGHTDRIVE_RECORDS": "", "NIGHTDRIVE_NIGHT": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("NIGHTDRIVE_INDEXED_JOB", json.dumps(SETTINGS))
    monkeypatch.setattr(
        Cluster, "of_this_pod", lambda: Cluster(url="", namespace="", token_file=Path(), authority=None)
    )
    night = {"store": f"s3://{s3_server.bucket}/{tmp_path.name}", "profile": "smoke", "hours": 20.0, "watch_retries": 0}
    disks = iter(range(99))

    def run(stage: Stage, about: Mapping[str, object], index: str = "", **parameters: object) -> int:
        disk = tmp_path / f"disk{next(disks)}"
        disk.mkdir()
        place = disk / "s3/bucket/run-7" / str(about["task"]) / "uuid"
        given = write_settings({"step": about, "_night": night, **parameters})
        told = {
            "inputs": {"parameterValues": {"settings": given}},
            "outputs": {"outputFile": str(place / "output.json")},
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.gettempdir", lambda: str(disk))
            patch.setattr(kfp_step, "find_stage", lambda _: stage)
            if index:
                patch.setenv("JOB_COMPLETION_INDEX", index)
            return run_step([stage.name, "--executor-input", json.dumps(told)])

    return run


ABOUT = {"task": "score", "over": "batch", "takes": {"whole": ["first.whole"], "mine": ["first.mine"]}}


@pytest.fixture
def fan_out(pod: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[int]]:
    """Run the fan-out on what an earlier task gave; the indices that its job ran so far."""

    def first(_inputs: Paths, outputs: Paths, _parameters: object) -> None:
        for folder in ("whole", *(f"mine/{number}" for number in range(SHARES))):
            port, _, share = folder.partition("/")
            (outputs.one(port) / share).mkdir(exist_ok=True)
            (outputs.one(port) / share / "file").write_text(folder)

    given = (Port(name="whole", about="whole"), Port(name="mine", about="shares", shares="batch"))
    assert pod(replace(COPY, name="first", inputs=(), outputs=given, run=first), {"task": "first"}) == 0
    ran: list[int] = []

    def run(**parameters: object) -> int:
        def run_job(_cluster: Any, _kind: Any, job: Mapping[str, Any], *_: Any, **__: Any) -> None:
            for index in range(job["spec"]["completions"]):
                ran.append(index)
                if pod(SCORE, ABOUT, index=str(index), batch_count=SHARES, **parameters):
                    raise RuntimeError("Job has exceeded the specified maximal number of failed indexes")

        monkeypatch.setattr(indexed_job, "run_job", run_job)
        return pod(SCORE, ABOUT, batch_count=SHARES, **parameters)

    return run, ran


def test_shares_reach_who_gathers_them(fan_out: tuple[Run, list[int]], pod: Run, tmp_path: Path) -> None:
    run, ran = fan_out
    assert run() == 0
    assert ran == [0, 1, 2]
    assert {record["name"]: record["status"] for record in read_records()} == dict.fromkeys(
        ("first", "score", "score@0", "score@1", "score@2"), "done"
    )
    about = {"task": "copy", "takes": {"sources": [f"score.scores/{SHARES}"]}}
    assert pod(replace(COPY, run=gather), about) == 0
    (written,) = tmp_path.glob("disk*/given/run-7/copy/copied/file")
    assert written.read_text() == "2 2 2", "of each share the file and its seal"


def test_a_broken_share_ends_the_step_as_its_record_says_and_what_is_done_stays(
    fan_out: tuple[Run, list[int]], tmp_path: Path, s3_server: S3Server
) -> None:
    run, ran = fan_out
    assert run(broken=1) == 2, "Kubernetes says no more of an index than that it failed"
    (record,) = [each for each in read_records() if each["name"] == "score"]
    assert (record["status"], record["message"]) == ("bad_input", "score@1: share: broken, mend it")
    exchange = open_exchange(
        f"s3://{s3_server.bucket}/{tmp_path.name}", Path("/s3/bucket/run-7/score/uuid/output.json")
    )
    assert [exchange.holds(Given("score", "scores", str(number))) for number in range(SHARES)] == [True, False, False]
    (told,) = [each for each in read_records() if each["name"] == "score@0"]
    first = next(iter(tmp_path.glob("disk*/given/run-7/score/scores/0/file"))).stat().st_mtime_ns
    assert run() == 0
    assert ran == [0, 1, 0, 1, 2]
    written = list(tmp_path.glob("disk*/given/run-7/score/scores/0/file"))
    assert [path.stat().st_mtime_ns for path in written] == [first], "a share that is done is not run again"
    assert told in read_records(), "and what it counted and took stays in the night's report"


def test_a_share_that_was_killed_before_its_last_act_is_run_again(
    fan_out: tuple[Run, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = fan_out
    with monkeypatch.context() as patch:
        sent = kfp_step._send

        def killed(step: kfp_step.Step) -> None:
            sent(step)
            raise SystemExit(143)

        patch.setattr(kfp_step, "_send", killed)
        with pytest.raises(SystemExit):
            run()
    assert {each["name"]: each["status"] for each in read_records()}["score@0"] == "running"
    assert run() == 0
    assert {each["name"]: each["status"] for each in read_records()}["score@0"] == "done"
    assert len(list(tmp_path.glob("disk*/given/run-7/score/scores/0/file"))) == 2
