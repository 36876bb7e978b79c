"""The shares of a step as one Indexed Job of Kubernetes: each index runs the step's own program, and starts again by itself.

A pod that is evicted, preempted or lost with its node counts for nothing and comes again; bad input and a refusal fail their
index at once, and one failed index ends the job. The step itself only waits.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from components.stage.execution import Call, Outcome
from components.stage.kubernetes_api import (
    QUEUE_LABEL,
    Cluster,
    Kind,
    job_name,
    restricted_pod,
    run_job,
    secret_environment,
)
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_OF_STATUS, EXIT_REFUSED
from components.stage.records import PAUSES_VARIABLE, log, read_records
from perception.parameters import Count, CountOrZero, Positive, checked

INDEXED_JOB = Kind(
    name="Job",
    version="batch/v1",
    plural="jobs",
    remedy="apply an overlay of manifests/, whose role nightdrive-runner may create jobs",
)
HANDED_ON = (PAUSES_VARIABLE,)  # of the step's own environment
CONTAINER = "share"
SHARE_LABEL = "nightdrive.io/share"  # of the pods: network policies know them by it
KEPT_SECONDS = 3600  # of a finished job, as of a finished run's pods; the step deletes it before


@checked
class IndexedJobSettings:
    """Say what the pods of the job are like."""

    image: str
    cpu_cores: Positive  # of a pod
    memory_gib: Positive  # of a pod
    timeout_seconds: Count  # after which a pod is ended
    deadline_seconds: Count  # after which Kubernetes ends the job, whoever still watches
    user_id: Count  # that the pods run as
    s3_secret: str  # named, not held: its keys become the environment
    at_once: CountOrZero = 0  # how many run side by side; 0: all
    accelerator: dict[str, int] = Field(default_factory=dict)  # how many of which resource; none: no GPU
    retries: CountOrZero = 0  # of a share whose pod ends by itself, other than by bad input or a refusal
    queue: str = ""  # Kueue's local queue: admits the job, with fewer pods at once where the quota is short
    node_selector: dict[str, str] = Field(default_factory=dict)  # labels of the nodes
    tolerations: tuple[dict[str, object], ...] = ()  # of the nodes' taints
    claims: dict[str, str] = Field(
        default_factory=dict
    )  # by volume claim: the folder at which it is mounted for reading


def run_indices(
    call: Call, count: int, command: Sequence[str], settings: IndexedJobSettings, cluster: Cluster, **options: Any
) -> Outcome:
    """Run `count` shares of a call to their end and return how they ended together: well, or as the first that did not."""
    job = manifest(job_name(call.task, call.outputs.values()), count, command, settings, cluster.account)
    try:
        run_job(cluster, INDEXED_JOB, job, log, **options)
    except RuntimeError as error:
        for record in read_records():
            code = EXIT_OF_STATUS.get(record["status"], EXIT_DONE)
            if code != EXIT_DONE and record["name"].startswith(f"{call.task}@"):
                return Outcome(code=code, message=f"{record['name']}: {record['message']}")
        return Outcome(code=EXIT_FAILED, message=str(error))
    return Outcome(code=EXIT_DONE)


def manifest(
    name: str, count: int, command: Sequence[str], settings: IndexedJobSettings, account: str
) -> dict[str, Any]:
    """Return the Indexed Job that runs `command` once an index; account: of the step, with which its pods pull their image."""
    at_once = min(count, settings.at_once or count)
    queued = {
        "labels": {QUEUE_LABEL: settings.queue},
        "annotations": {"kueue.x-k8s.io/job-min-parallelism": "1"},
    }
    return {
        "apiVersion": INDEXED_JOB.version,
        "kind": INDEXED_JOB.name,
        "metadata": {"name": name, **(queued if settings.queue else {})},
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": at_once,
            "backoffLimitPerIndex": settings.retries,
            "maxFailedIndexes": 0,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailIndex",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": [EXIT_BAD_INPUT, EXIT_REFUSED],
                        },
                    },
                ]
            },
            "activeDeadlineSeconds": settings.deadline_seconds,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": {SHARE_LABEL: name}}, "spec": _pod(command, settings, account)},
        },
    }


def _pod(command: Sequence[str], settings: IndexedJobSettings, account: str) -> dict[str, Any]:
    """Return the pod of a share."""
    volumes = {
        f"claim-{number}": (folder, {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        for number, (claim, folder) in enumerate(sorted(settings.claims.items()))
    } | {"tmp": ("/tmp", {"emptyDir": {}})}
    container = {
        "name": CONTAINER,
        "image": settings.image,
        "command": list(command),
        "env": [
            *({"name": name, "value": os.environ[name]} for name in HANDED_ON if name in os.environ),
            *secret_environment(settings.s3_secret),
        ],
        "resources": _resources(settings),
        "volumeMounts": [{"name": name, "mountPath": folder} for name, (folder, _) in volumes.items()],
    }
    return restricted_pod(
        container,
        ({"name": name, **source} for name, (_, source) in volumes.items()),
        account=account,
        user_id=settings.user_id,
        timeout_seconds=settings.timeout_seconds,
        node_selector=settings.node_selector,
        tolerations=settings.tolerations,
    )


def _resources(settings: IndexedJobSettings) -> dict[str, Mapping[str, str]]:
    memory, gpus = f"{settings.memory_gib:g}Gi", {name: str(count) for name, count in settings.accelerator.items()}
    return {
        "requests": {"cpu": f"{settings.cpu_cores:g}", "memory": memory, **gpus},
        "limits": {"memory": memory, **gpus},
    }
