"""TrainJobs: what is asked of Kubernetes, awaited, and deleted whatever happens."""

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from components.stage import kubernetes_api
from components.stage.execution import Call
from components.stage.kubernetes_api import Cluster, run_job
from components.stage.train_job import TRAIN_JOB, TrainJobSettings, manifest, run_on_nodes
from perception.errors import InputError, Unreachable
from tests.components.stage.conftest import Api
from tests.components.stage.test_execution import COPY

SCHEMA = json.loads((Path(__file__).parent / "train_job_schema.json").read_text())
SETTINGS = TrainJobSettings(
    image="host/torch@sha256:1", nodes=2, gpus_per_node=4, claim="shared", folder="/shared", queue="night",
    node_selector={"pool": "gpu"}, tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
)  # fmt: skip


def condition(kind: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", "message": message}


JOB = manifest("job", SETTINGS, ["-m", "components.stage", "copy"], {"A": "b"})


def no_pause(_: float) -> None:
    pass


def test_the_job_is_what_the_api_knows_and_names_secrets_only() -> None:
    jsonschema.validate(JOB, SCHEMA)
    trainer = JOB["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "4"}}
    assert trainer["command"][:3] == ["torchrun", "-m", "components.stage"]
    assert JOB["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "night"}
    assert JOB["spec"]["activeDeadlineSeconds"] == 8 * 3600
    by_reference = [item for item in trainer["env"] if item["name"].startswith(("AWS_", "NIGHTDRIVE_S3"))]
    assert len(by_reference) == 3
    assert all("valueFrom" in item for item in by_reference)


def test_a_job_is_created_awaited_and_deleted(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    state.states = [[], [condition("Created")], [condition("Complete")]]
    said: list[str] = []
    run_job(cluster, TRAIN_JOB, JOB, said.append, no_pause)
    assert state.calls == ["DELETE job", "GET job", "POST", "GET job", "GET job", "GET job", "DELETE job"]
    assert said[-1] == "TrainJob job: complete"
    assert not state.jobs


def test_what_an_earlier_attempt_left_behind_goes_first(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    state.jobs["job"] = {"metadata": {"name": "job"}, "old": True}
    state.states = [[condition("Complete")]]
    run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    assert state.calls[:3] == ["DELETE job", "GET job", "POST"]


def test_a_failed_job_is_deleted_and_says_why(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    state.states = [[condition("Failed", "node-1 was lost")]]
    with pytest.raises(RuntimeError, match="TrainJob job: failed: node-1 was lost"):
        run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    assert not state.jobs


def test_a_refused_job_says_what_to_install_and_never_the_token(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    state.failures = [404, 404, 422]
    with pytest.raises(InputError, match=r"refused \(422: away\); install Kubeflow Trainer") as caught:
        run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    assert "secret-token" not in str(caught.value) + repr(cluster)


def test_a_kind_that_the_cluster_lacks_says_what_to_install(api: tuple[Api, Cluster]) -> None:
    """Of an unknown kind Kubernetes says 404 in plain words, whatever was asked."""
    state, cluster = api
    state.garbage = [(404, b"404 page not found\n")] * 3
    with pytest.raises(InputError, match=r"refused \(404: 404 page not found\); install Kubeflow Trainer"):
        run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)


def test_an_answer_that_is_no_json_is_waited_out(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    state.on_create = lambda _: state.garbage.append((200, b"<html>a proxy is starting</html>"))
    state.states = [[condition("Complete")]]
    run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    assert not state.jobs


def test_the_token_may_change_while_a_job_runs(api: tuple[Api, Cluster]) -> None:
    """Kubernetes gives a pod's token an hour or so, and writes the next one into the same file."""
    state, cluster = api

    def rotate(_: object) -> None:
        state.token = "the next one"
        cluster.token_file.write_text(state.token)

    state.on_create, state.states = rotate, [[condition("Complete")]]
    run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    assert not state.jobs


@pytest.mark.parametrize("status", [403, 500])
def test_a_job_that_ended_well_has_done_so_though_it_cannot_be_deleted(
    api: tuple[Api, Cluster], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("time.sleep", no_pause)
    state, cluster = api
    state.states = [[condition("Complete")]]
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "complete" in line:
            state.failures = [status] * 4

    run_job(cluster, TRAIN_JOB, JOB, say, no_pause)
    assert said[-1].startswith("TrainJob job: stays: ")


def test_an_api_that_does_not_answer_is_waited_for(api: tuple[Api, Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", no_pause)
    state, cluster = api
    state.on_create = lambda _: state.failures.extend([503] * 4)
    state.states = [[condition("Complete")]]
    run_job(cluster, TRAIN_JOB, JOB, lambda _: None, no_pause)
    nowhere = replace(cluster, url="http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="cannot be reached"):
        run_job(nowhere, TRAIN_JOB, JOB, lambda _: None, no_pause)


def test_a_step_that_kubernetes_ends_leaves_no_job_behind(api: tuple[Api, Cluster]) -> None:
    state, cluster = api
    program = textwrap.dedent(
        f"""
        import json
        from pathlib import Path
        from components.stage.kubernetes_api import Cluster, run_job
        from components.stage.train_job import TRAIN_JOB
        cluster = Cluster(url={cluster.url!r}, namespace="nights", token_file=Path({str(cluster.token_file)!r}), authority=None)
        run_job(cluster, TRAIN_JOB, json.loads({json.dumps(JOB)!r}), lambda line: print(line, flush=True))
        """
    )
    step = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    )
    assert step.stdout is not None
    assert step.stdout.readline() == "TrainJob job: created\n"
    step.send_signal(signal.SIGTERM)
    assert step.wait(timeout=20) == 128 + signal.SIGTERM
    step.stdout.close()
    assert not state.jobs


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("bad_input", 2), ("failed", 1)])
def test_a_stage_on_several_nodes_finds_its_inputs_and_its_outputs_come_back(
    api: tuple[Api, Cluster], tmp_path: Path, status: str, code: int
) -> None:
    state, cluster = api

    def work(job: dict[str, Any]) -> None:
        words = job["spec"]["trainer"]["command"]
        sources = [folder for option, folder in pairwise(words) if option == "--sources"]
        assert [(Path(source) / "x").read_text() for source in sources] == ["1", "2"]
        assert "text: from KFP" in Path(words[words.index("--params") + 1]).read_text()
        copied = Path(words[words.index("--copied") + 1])
        copied.mkdir(parents=True)
        (copied / "result").write_text("trained")
        records = Path(
            next(item["value"] for item in job["spec"]["trainer"]["env"] if item["name"] == "NIGHTDRIVE_RECORDS")
        )
        records.mkdir()
        (records / "copy.json").write_text(json.dumps({"status": status, "message": "why"}))

    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x").write_text(str(number))
    call = Call(
        stage=COPY,
        task="copy",
        inputs={"sources": (tmp_path / "1", tmp_path / "2")},
        outputs={"copied": tmp_path / "copied"},
        parameters={"text": "from KFP"},
    )
    state.on_create = work
    state.states = [[condition("Complete" if code == 0 else "Failed")]]
    settings = TrainJobSettings(image="i", nodes=2, gpus_per_node=1, claim="c", folder=str(tmp_path / "shared"))
    outcome = run_on_nodes(call, settings, cluster, sleep=no_pause)
    assert outcome.code == code
    assert (tmp_path / "copied" / "result").exists() == (code == 0)
    assert outcome.message == ("" if code == 0 else "why")


def test_a_pod_knows_its_cluster_and_its_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "system:serviceaccount:nights:nightdrive-runner"}).encode())
    (tmp_path / "token").write_text(f"header.{claims.decode().rstrip('=')}.signature\n")
    (tmp_path / "namespace").write_text("nights")
    monkeypatch.setattr(kubernetes_api, "ACCOUNT_FOLDER", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    cluster = Cluster.of_this_pod()
    assert (cluster.url, cluster.namespace, cluster.account) == ("https://[fd00::1]:443", "nights", "nightdrive-runner")


def test_outside_a_cluster_it_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="this is no pod of a cluster"):
        Cluster.of_this_pod()
    assert os.environ.get("KUBERNETES_SERVICE_HOST") is None
