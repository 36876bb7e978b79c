"""Secrets in the environment of a night come out nowhere: no log, record, artifact, page, registry or compiled pipeline holds one."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.nights import ROOT, Task, clear, first_ingest, load_libraries, run_task, tasks_of, write_night
from tests.faults.servers import closed_url, failing_web_server

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED4711KEY",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+4711/abcdefghij",
    "AWS_SESSION_TOKEN": "planted-session-token-4711",
    "KFP_TOKEN": "planted-kfp-token-4711",
    "GIT_TOKEN": "planted-git-token-4711",
    "NIGHTDRIVE_API_PASSWORD": "planted-password-4711",
    "NIGHTDRIVE_WEBHOOK": "http://127.0.0.1:9/planted-hook-4711",
    "NIGHTDRIVE_METRICS": "http://127.0.0.1:9/planted-gateway-4711",
}
STAGES = ("resolve", "ingest", "gather", "ensemble", "score", "select", "curate", "publish", "report")


def plant() -> None:
    os.environ.update(PLANTED)


def leaks(*roots: Path) -> list[str]:
    """Name every file below the roots that holds a planted secret."""
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()]
    assert files
    return [
        f"{path} holds {name}"
        for path in files
        for name, secret in PLANTED.items()
        if secret.encode() in path.read_bytes()
    ]


def without_verdicts(task: Task) -> Task:
    """Return the task as it is in a night whose gates did not run."""
    stage, *words = task.words
    given = [pair for pair in zip(words[::2], words[1::2], strict=True) if not pair[1].startswith("gates/")]
    return replace(task, words=(stage, *(word for pair in given for word in pair)))


def test_no_log_record_or_artifact_of_a_night_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    load_libraries(("torch._dynamo", "pyarrow.dataset", "perception.training.loop", "perception.uncertainty.ensemble"))
    run = write_night(tmp_path)
    for task in (each for each in tasks_of(run) if each.name.partition("@")[0] in STAGES):
        ended = run_task(without_verdicts(task), run, before=plant)
        assert ended.code == 0, ended.said[-1000:]
    assert len(list(run.glob("*.log"))) == len(list((run / "records").glob("*.json"))) >= 11
    assert leaks(tmp_path) == []


def test_no_error_about_a_server_tells_the_keys(tmp_path: Path) -> None:
    run = write_night(tmp_path, overrides=["common.store=s3://nightdrive/store"])
    resolve, ingest = tasks_of(run)[0], first_ingest(run)
    with failing_web_server(403) as refusing, failing_web_server(500) as failing:
        for url in (refusing, failing, closed_url()):

            def point(at: str = url) -> None:
                os.environ.update(PLANTED | {"NIGHTDRIVE_S3_ENDPOINT": at})

            assert run_task(ingest, run, before=point).code == 2
            assert leaks(tmp_path) == []
            clear(ingest, run)
        clear(resolve, run)
        address = refusing.replace("http://", f"http://user:{PLANTED['GIT_TOKEN']}@")
        elsewhere = ["--set", f"registry={address}/data.git", "--set", f"store={tmp_path / 'store'}"]
        ended = run_task(resolve, run, before=plant, more=elsewhere)
    assert ended.code == 2
    assert "registry's address holds user information" in ended.said, "resolve stopped before it looked at the registry"
    assert leaks(tmp_path) == []


def test_the_compiled_pipeline_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.commands.program import main

    for name, secret in PLANTED.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.chdir(ROOT)
    out = tmp_path / "night.yaml"
    assert main(["pipeline-compile", "--profile", "smoke", "--out", str(out)]) == 0
    assert leaks(out, ROOT / "manifests", ROOT / "params.yaml", ROOT / "dvc.yaml") == []


def test_a_planted_secret_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0\1" + PLANTED["KFP_TOKEN"].encode() + b"\0")
    assert len(leaks(tmp_path)) == 1
