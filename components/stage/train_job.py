"""Training over several nodes: one TrainJob of Kubeflow Trainer v2, created, awaited, and deleted when the step ends or dies.

The one place that knows the TrainJob's fields, which still change from release to release: written for trainer.kubeflow.org/
v1alpha1 with `runtimePatches` (Trainer 2.2 and later). Kubernetes' API is spoken plainly, with the pod's own service account,
so that no image needs a client for it.

The job's processes run the same stage on a volume that all nodes mount (TrainJobSettings.claim): they see the folders of the
step's inputs there and leave its outputs there.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from components.stage.execution import Call, Outcome, option_name
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, STATUS_OF_EXIT
from components.stage.records import RECORDS_VARIABLE, log
from perception.errors import InputError, Unreachable
from perception.parameters import Count, CountOrZero, checked, matching

API_VERSION = "trainer.kubeflow.org/v1alpha1"
ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MANAGER = "nightdrive.io/step"  # of the patches that we make, as the API asks for
POLL_SECONDS = 15.0
PATIENCE_SECONDS = 900.0  # for an API that does not answer: the job goes on meanwhile
S3_KEYS = {
    "endpoint": "NIGHTDRIVE_S3_ENDPOINT",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
}
CONTAINER = "node"  # of the runtime's pods


@checked
class TrainJobSettings:
    """Say where and how large the job is."""

    image: str  # of the job's pods
    nodes: Count  # that the training is spread over
    gpus_per_node: CountOrZero  # one process a GPU
    claim: str  # volume claim that every node mounts
    folder: Annotated[str, matching("/.*", "must be an absolute path")]  # where it is mounted
    accelerator: str = "nvidia.com/gpu"  # resource name of a GPU
    runtime: str = "torch-distributed"  # Kubeflow Trainer's runtime
    s3_secret: str = "nightdrive-s3"  # named, not held: its keys become the processes' environment
    queue: str = ""  # Kueue's local queue: admits the job as a whole
    deadline_seconds: Count = 8 * 3600  # after which Kubernetes ends the job, whoever still watches
    node_selector: dict[str, str] = Field(default_factory=dict)  # labels of the nodes
    tolerations: tuple[dict[str, object], ...] = ()  # of the nodes' taints


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hold what Kubernetes' API is asked through."""

    url: str
    namespace: str
    token: str = field(repr=False)
    authority: str | None  # file of the certificate authority; None over plain HTTP

    @classmethod
    def of_this_pod(cls) -> "Cluster":
        """Return the cluster that this process runs in; raises InputError outside one."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (ACCOUNT_FOLDER / "token").is_file():
            raise InputError(
                "TrainJob: this is no pod of a cluster; train on one node, with torchrun, or submit the night"
            )
        return cls(
            url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            namespace=(ACCOUNT_FOLDER / "namespace").read_text().strip(),
            token=(ACCOUNT_FOLDER / "token").read_text().strip(),
            authority=str(ACCOUNT_FOLDER / "ca.crt"),
        )


def run_on_nodes(call: Call, settings: TrainJobSettings, cluster: Cluster, **options: Any) -> Outcome:
    """Run a call of a stage as a TrainJob over several nodes, and place its outputs; bad input in it is bad input here."""
    paths = "\n".join(sorted(str(path) for path in call.outputs.values()))
    name = f"nightdrive-{call.task}".lower().replace("_", "-").replace("@", "-")[:50]
    name = f"{name}-{hashlib.sha256(paths.encode()).hexdigest()[:10]}"  # the same when KFP retries the step
    work = Path(settings.folder) / name
    shutil.rmtree(work, ignore_errors=True)
    command = _lay_out(call, work)
    job = manifest(name, settings, command, {RECORDS_VARIABLE: str(work / "records")})
    try:
        run(cluster, job, log, **options)
    except RuntimeError as error:
        record = work / "records" / f"{call.task}.json"
        told = json.loads(record.read_text()) if record.is_file() else {}
        bad = told.get("status") == STATUS_OF_EXIT[EXIT_BAD_INPUT]
        return Outcome(code=EXIT_BAD_INPUT if bad else EXIT_FAILED, message=told.get("message") or str(error))
    for port, target in call.outputs.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work / "outputs" / port, target, dirs_exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(code=EXIT_DONE)


def _lay_out(call: Call, work: Path) -> list[str]:
    """Copy the inputs to where every node sees them; return the stage's command line there."""
    import yaml

    command = ["-m", "components.stage", call.stage.name, "--task", call.task, "--params", str(work / "params.yaml")]
    for port, folders in call.inputs.items():
        copies = [work / "inputs" / port / str(number) for number in range(len(folders))]
        for source, copy in zip(folders, copies, strict=True):
            shutil.copytree(source, copy)
        command += [word for copy in copies for word in (option_name(port), str(copy))]
    for port in call.outputs:
        command += [option_name(port), str(work / "outputs" / port)]
    work.mkdir(parents=True, exist_ok=True)
    (work / "params.yaml").write_text(yaml.safe_dump({call.task.partition("@")[0]: dict(call.parameters)}))
    return command


def manifest(
    name: str, settings: TrainJobSettings, command: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the TrainJob that runs `command`, once a process, under torchrun on every node."""
    gpus, queue = settings.gpus_per_node, settings.queue
    resources = {"limits": {settings.accelerator: str(gpus)}} if gpus else {}
    pod: dict[str, Any] = {
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": settings.claim}}],
        "containers": [{"name": CONTAINER, "volumeMounts": [{"name": "shared", "mountPath": settings.folder}]}],
    }
    pod |= {"nodeSelector": dict(settings.node_selector)} if settings.node_selector else {}
    pod |= {"tolerations": [dict(item) for item in settings.tolerations]} if settings.tolerations else {}
    replicated = {"name": CONTAINER, "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {}},
        "spec": {
            "runtimeRef": {"name": settings.runtime},
            "activeDeadlineSeconds": settings.deadline_seconds,
            "trainer": {
                "image": settings.image,
                "command": ["torchrun", *command],
                "numNodes": settings.nodes,
                "numProcPerNode": max(1, gpus),
                "resourcesPerNode": resources,
                "env": [
                    *({"name": name, "value": value} for name, value in sorted(environment.items())),
                    *(_from_secret(settings.s3_secret, key, name) for key, name in S3_KEYS.items()),
                ],
            },
            "runtimePatches": [
                {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}}}
            ],
        },
    }


def _from_secret(secret: str, key: str, name: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def run(
    cluster: Cluster, job: Mapping[str, Any], say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Run a TrainJob to its end; raises RuntimeError with the job's own words when it fails.

    The job is deleted when this process ends: well, by an error, or by the signal with which Kubernetes ends a pod. One that
    an earlier attempt left behind is deleted first.
    """
    name = str(job["metadata"]["name"])
    _delete(cluster, name)
    _until_gone(cluster, name, sleep)
    with _deleted_at_the_end(cluster, name):
        _ask(cluster, "POST", "", job)
        say(f"TrainJob {name}: created")
        _await(cluster, name, say, sleep)


def _await(cluster: Cluster, name: str, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    said, silent = "", 0.0
    while True:
        try:
            found, silent = _ask(cluster, "GET", name), 0.0
        except Unreachable:
            silent += POLL_SECONDS
            if silent > PATIENCE_SECONDS:
                raise
            sleep(POLL_SECONDS)
            continue
        if found is None:
            raise RuntimeError(f"TrainJob {name}: was deleted while it ran")
        conditions = {
            item["type"]: item for item in found.get("status", {}).get("conditions", []) if item["status"] == "True"
        }
        if "Complete" in conditions:
            say(f"TrainJob {name}: complete")
            return
        if "Failed" in conditions:
            raise RuntimeError(f"TrainJob {name}: failed: {conditions['Failed'].get('message', 'no reason given')}")
        state = ", ".join(sorted(conditions)) or "waits"
        if state != said:
            say(f"TrainJob {name}: {state}")
            said = state
        sleep(POLL_SECONDS)


@contextmanager
def _deleted_at_the_end(cluster: Cluster, name: str) -> Iterator[None]:
    def ended(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    kept = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)
        _delete(cluster, name)


def _until_gone(cluster: Cluster, name: str, sleep: Callable[[float], None], tries: int = 40) -> None:
    for _ in range(tries):
        if _ask(cluster, "GET", name) is None:
            return
        sleep(POLL_SECONDS / 5)
    raise RuntimeError(f"TrainJob {name}: of an earlier attempt, is still being deleted; look at its finalizers")


def _delete(cluster: Cluster, name: str) -> None:
    _ask(cluster, "DELETE", name, {"propagationPolicy": "Foreground"})


def _ask(cluster: Cluster, method: str, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Send one request about a TrainJob; None where there is none."""
    import urllib3

    path = f"/apis/{API_VERSION}/namespaces/{cluster.namespace}/trainjobs"
    headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"}
    retries = urllib3.Retry(
        total=3, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504], raise_on_status=False
    )
    pool = urllib3.PoolManager(ca_certs=cluster.authority, timeout=20.0, retries=retries)
    try:
        url = f"{cluster.url}{path}{f'/{name}' if name else ''}"
        answer = pool.request(method, url, headers=headers, body=None if body is None else json.dumps(body))
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"Kubernetes API: cannot be reached ({type(error).__name__}) for TrainJob {name}") from None
    if answer.status == 404 and name:
        return None
    if answer.status >= 500 or answer.status == 429:
        raise Unreachable(f"Kubernetes API: failed ({answer.status}) for TrainJob {name}")
    found = json.loads(answer.data or b"{}")
    if answer.status >= 400:
        raise InputError(
            f"TrainJob {name or (body or {}).get('metadata', {}).get('name')}: refused ({answer.status}: "
            f"{found.get('message', 'no reason given')}); install Kubeflow Trainer 2.2 or later and apply an overlay of manifests/"
        )
    return dict(found)
