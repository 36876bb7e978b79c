"""What lies on a volume claim: a pod of a minute mounts it as the steps will, for reading, counts, and says so as its last words.

`python -m pipelines.kubeflow.claims FOLDER ...` is what runs in the pod.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.stage.kubernetes_api import restricted_pod
from pipelines.kubeflow.kubernetes_api import TIMEOUT_SECONDS, answer, namespace

LAST_WORDS = Path("/dev/termination-log")  # Kubernetes keeps up to 4 KiB of it with the pod's state
MOUNTED = "/data/claim"
MOST_OBJECTS = 100_000  # are counted of a source
DEADLINE_SECONDS = 300  # of the pod, with what pulling its image takes
_PROGRAM = "pipelines.kubeflow.claims"
_POLL_SECONDS = 2.0
_ENDED = ("Succeeded", "Failed")
_RIGHTS = "create, get and delete pods"
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Looker:
    """Say what the pod is like: as the steps that read footage are."""

    image: str
    service_account: str
    user_id: int
    node_selector: Mapping[str, str]
    tolerations: Sequence[Mapping[str, Any]]


def look_into(api: Any, claim: str, folders: Sequence[str], looker: Looker) -> tuple[Json, str]:
    """Return by folder of the claim how many files it holds and what is wrong with it, or nothing and why nobody could look.

    api: the client's CoreV1Api. The pod is deleted whatever happens.
    """
    options = {"_request_timeout": TIMEOUT_SECONDS}
    made, status, reason = answer(
        partial(api.create_namespaced_pod, namespace(), pod(claim, folders, looker), **options)
    )
    if status == 403:
        return {}, f"this user may not {_RIGHTS} in {namespace()}: nobody looked into it; ask for that right"
    if made is None:
        return {}, reason
    name = made.metadata.name
    try:
        return _said(partial(api.read_namespaced_pod, name, namespace(), **options))
    finally:
        answer(partial(api.delete_namespaced_pod, name, namespace(), grace_period_seconds=0, **options))


def _said(read: Callable[[], Any]) -> tuple[Json, str]:
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        found, _, reason = answer(read)
        if found is None:
            return {}, reason
        if found.status.phase in _ENDED or time.monotonic() > until:
            break
        time.sleep(_POLL_SECONDS)
    states = [each.state for each in found.status.container_statuses or []]
    words = [state.terminated.message for state in states if state.terminated and state.terminated.message]
    if found.status.phase == "Succeeded" and words:
        return dict(json.loads(words[0])), ""
    waits = [state.waiting.reason for state in states if state.waiting]
    conditions = [each.message for each in found.status.conditions or [] if each.status == "False" and each.message]
    why = " ".join([found.status.phase, *waits, *filter(None, [found.status.reason]), *words, *conditions])
    return {}, f"its pod did not look into it within {DEADLINE_SECONDS} s: {why}"


def pod(claim: str, folders: Sequence[str], looker: Looker) -> Json:
    """Return the pod that looks into folders of a claim."""
    resources = {"cpu": "100m", "memory": "256Mi"}
    container = {
        "name": "look",
        "image": looker.image,
        "command": ["python", "-m", _PROGRAM, *(f"{MOUNTED}/{folder}" for folder in folders)],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "claim", "mountPath": MOUNTED, "readOnly": True}],
    }
    spec = restricted_pod(
        container,
        [{"name": "claim", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        account=looker.service_account,  # images are pulled in its name
        user_id=looker.user_id,
        timeout_seconds=DEADLINE_SECONDS,
        node_selector=looker.node_selector,
        tolerations=looker.tolerations,
    )
    labelled = {"generateName": "nightdrive-preflight-", "labels": {"nightdrive.io/job": "preflight"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": labelled, "spec": spec}


def count(folder: Path) -> tuple[int, str]:
    """Return how many files lie below a folder, at most MOST_OBJECTS, and why it or its first file cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    objects = 0
    try:
        for place, _, names in os.walk(folder, onerror=refuse, followlinks=True):
            if names and not objects:
                with (Path(place) / names[0]).open("rb") as file:
                    file.read(1)
            objects += len(names)
            if objects >= MOST_OBJECTS:
                return MOST_OBJECTS, ""
    except OSError as error:
        return objects, f"cannot be read by user {os.getuid()} ({error.strerror})"
    return objects, ""


def main(folders: Sequence[str], last_words: Path = LAST_WORDS) -> None:
    """Say as the pod's last words what each folder holds."""
    last_words.write_text(
        json.dumps({str(Path(folder).relative_to(MOUNTED)): count(Path(folder)) for folder in folders})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
