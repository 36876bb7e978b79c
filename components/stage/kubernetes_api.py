"""A job that a step hands to Kubernetes: created, awaited, and deleted when the step ends or dies.

Kubernetes' API is spoken plainly, with the pod's own service account, so that no image needs a client for it.
"""

import base64
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.errors import InputError, Unreachable

HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"  # Kubernetes sets it in every pod
ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_SECONDS = 15.0
PATIENCE_SECONDS = 900.0  # for an API that does not answer: the job goes on meanwhile
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
S3_KEYS = {
    "endpoint": "NIGHTDRIVE_S3_ENDPOINT",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Name a kind of jobs as Kubernetes' API does."""

    name: str
    version: str
    plural: str
    remedy: str  # what to do where the API refuses one


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hold what Kubernetes' API is asked through."""

    url: str
    namespace: str
    token_file: Path  # Kubernetes puts another token there before this one expires, while a step waits for its job
    authority: str | None  # file of the certificate authority; None over plain HTTP
    account: str = "default"  # service account, which may be the one that images are pulled with

    @classmethod
    def of_this_pod(cls) -> "Cluster":
        """Return the cluster that this process runs in; raises InputError outside one."""
        host, port = os.environ.get(HOST_VARIABLE), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        token_file = ACCOUNT_FOLDER / "token"
        if not host or not token_file.is_file():
            raise InputError(
                "Kubernetes API: this is no pod of a cluster with a service account; submit the night to one"
            )
        claims = token_file.read_text().split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
        return cls(
            url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            namespace=(ACCOUNT_FOLDER / "namespace").read_text().strip(),
            token_file=token_file,
            authority=str(ACCOUNT_FOLDER / "ca.crt"),
            account=subject.rpartition(":")[2],  # system:serviceaccount:NAMESPACE:NAME
        )


def job_name(task: str, outputs: Iterable[Path]) -> str:
    """Return the name of a task's job, the same when Kubeflow tries its step again: its outputs then lie where they did."""
    paths = "\n".join(sorted(str(path) for path in outputs))
    name = f"nightdrive-{task}".lower().replace("_", "-").replace("@", "-")[:50]
    return f"{name}-{hashlib.sha256(paths.encode()).hexdigest()[:10]}"


def secret_environment(secret: str) -> list[dict[str, Any]]:
    """Return a container's environment from the keys of the S3 secret, which is named and not held."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key, name in S3_KEYS.items()
    ]


def restricted_pod(
    container: Mapping[str, Any],
    volumes: Iterable[Mapping[str, Any]],
    *,
    account: str,
    user_id: int,
    timeout_seconds: int,
    node_selector: Mapping[str, str],
    tolerations: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the spec of a pod with one container, run once, as a namespace that enforces `restricted` wants it.

    account: service account that the image is pulled with; the pod gets no token of it.
    """
    unprivileged = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "activeDeadlineSeconds": timeout_seconds,
        "securityContext": {
            "runAsUser": user_id,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(node_selector),
        "tolerations": [dict(each) for each in tolerations],
        "volumes": [dict(each) for each in volumes],
        "containers": [{**container, "securityContext": unprivileged}],
    }


def run_job(
    cluster: Cluster,
    kind: Kind,
    job: Mapping[str, Any],
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run a job to its end; raises RuntimeError with the job's own words when it fails.

    The job is deleted when this process ends: well, by an error, or by the signal with which Kubernetes ends a pod. One that
    an earlier attempt left behind is deleted first.
    """
    name = str(job["metadata"]["name"])
    _delete(cluster, kind, name)
    _until_gone(cluster, kind, name, sleep)
    with _deleted_at_the_end(cluster, kind, name, say):
        _ask(cluster, kind, "POST", "", job)
        say(f"{kind.name} {name}: created")
        _await(cluster, kind, name, say, sleep)


def _await(cluster: Cluster, kind: Kind, name: str, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    said, silent = "", 0.0
    while True:
        try:
            found, silent = _ask(cluster, kind, "GET", name), 0.0
        except Unreachable:
            silent += POLL_SECONDS
            if silent > PATIENCE_SECONDS:
                raise
            sleep(POLL_SECONDS)
            continue
        if found is None:
            raise RuntimeError(f"{kind.name} {name}: was deleted while it ran")
        status = found.get("status", {})
        conditions = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
        if "Complete" in conditions:
            say(f"{kind.name} {name}: complete")
            return
        if "Failed" in conditions:
            raise RuntimeError(f"{kind.name} {name}: failed: {conditions['Failed'].get('message', 'no reason given')}")
        counts = [f"{status[key]} {key}" for key in ("active", "succeeded", "failed") if status.get(key)]
        state = ", ".join([*sorted(conditions), *counts]) or "waits"
        if state != said:
            say(f"{kind.name} {name}: {state}")
            said = state
        sleep(POLL_SECONDS)


@contextmanager
def _deleted_at_the_end(cluster: Cluster, kind: Kind, name: str, say: Callable[[str], None]) -> Iterator[None]:
    def ended(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    kept = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)
        try:
            _delete(cluster, kind, name)
        except InputError as error:  # how the job ended does not depend on it; what stays ends at its own deadline
            say(f"{kind.name} {name}: stays: {error}")


def _until_gone(cluster: Cluster, kind: Kind, name: str, sleep: Callable[[float], None], tries: int = 40) -> None:
    for _ in range(tries):
        if _ask(cluster, kind, "GET", name) is None:
            return
        sleep(POLL_SECONDS / 5)
    raise RuntimeError(f"{kind.name} {name}: of an earlier attempt, is still being deleted; look at its finalizers")


def _delete(cluster: Cluster, kind: Kind, name: str) -> None:
    _ask(cluster, kind, "DELETE", name, {"propagationPolicy": "Foreground"})


def _ask(
    cluster: Cluster, kind: Kind, method: str, name: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Send one request about a job; None where there is none."""
    import urllib3

    path = f"/apis/{kind.version}/namespaces/{cluster.namespace}/{kind.plural}"
    headers = {"Authorization": f"Bearer {cluster.token_file.read_text().strip()}", "Content-Type": "application/json"}
    retries = urllib3.Retry(
        total=3, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504], raise_on_status=False
    )
    pool = urllib3.PoolManager(ca_certs=cluster.authority, timeout=20.0, retries=retries)
    try:
        url = f"{cluster.url}{path}{f'/{name}' if name else ''}"
        answer = pool.request(method, url, headers=headers, body=None if body is None else json.dumps(body))
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(
            f"Kubernetes API: cannot be reached ({type(error).__name__}) for {kind.name} {name}"
        ) from None
    if answer.status == 404 and name:
        return None
    if answer.status >= 500 or answer.status == 429:
        raise Unreachable(f"Kubernetes API: failed ({answer.status}) for {kind.name} {name}")
    try:
        found = dict(json.loads(answer.data or b"{}"))
    except (ValueError, TypeError):
        said = " ".join(answer.data[:200].decode(errors="replace").split())
        if answer.status < 400:
            raise Unreachable(f"Kubernetes API: gave no JSON for {kind.name} {name} but {said!r}") from None
        found = {"message": said}  # of a kind that it does not know Kubernetes says so in plain words
    if answer.status >= 400:
        raise InputError(
            f"{kind.name} {name or (body or {}).get('metadata', {}).get('name')}: refused ({answer.status}: "
            f"{found.get('message', 'no reason given')}); {kind.remedy}"
        )
    return found
