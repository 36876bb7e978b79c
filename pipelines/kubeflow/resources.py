"""What a stage needs, said in Kubeflow's words."""

import json
from collections.abc import Mapping
from typing import Any

from components.stage.declaration import Needs
from components.stage.kfp_step import (
    CHECKPOINTS_VARIABLE,
    INDEXED_JOB_VARIABLE,
    OUTSIDE_FOLDER,
    S3_FOLDER,
    TRAIN_JOB_VARIABLE,
)
from components.stage.kubernetes_api import QUEUE_LABEL
from components.stage.learning import IMAGE_VARIABLE
from pipelines.cluster import Cluster

# Kubeflow compiles a longest duration of an hour into every retry. Argo counts it from the first try's beginning, tries nothing again
# after it, and ends the next try with it.
RETRIED_MINUTES = 60
USER_ID = 10001  # of the images; a namespace that enforces `restricted` wants the pod to say that it is not root's
CHECKPOINTS_FOLDER, SHARED_FOLDER, GIT_FOLDER = "/checkpoints", "/shared", "/secrets/git"
SIGNING_FOLDER = "/secrets/signing"
# Git takes configuration from the environment: the mounted file has one line, https://USER:TOKEN@HOST. The operation that git appends
# stands behind a #: asked to store what worked, the helper would wait a second for a lock in a folder that it cannot write.
CREDENTIALS = ("credential.helper", f"!git credential-store --file={GIT_FOLDER}/credentials get #")
_KEY = ("user.signingKey", f"{SIGNING_FOLDER}/key")


def image_of(needs: Needs, images: Mapping[str, str]) -> str:
    """Return the image of a step: with a GPU the CUDA build of its dependency set, where there is one."""
    accelerated = f"{needs.image}_cuda"
    return images[accelerated if needs.gpu_count and accelerated in images else needs.image]


def with_resources(
    step: Any,
    stage: str,
    image: str,
    cluster: Cluster,
    shares: int = 0,
    claims: Mapping[str, str] | None = None,
    *,
    registry: bool = False,
    signs: bool = False,
    outside: bool = False,
) -> Any:
    """Return the step with its resources, nodes, secrets, retries and time-out.

    image: of the stage. shares: how many the step has, each run by an index of a job; 0: it is a single task. claims: the
    folders, by volume claim, that these indices read. registry: whether it is given the key of the data registry;
    signs: the key that signs what it writes there; outside: the addresses of whoever else is told of a night.
    """
    from kfp import kubernetes

    needs = cluster.step_needs(stage, shares)
    step.set_cpu_request(f"{needs.cpu_cores:g}")
    step.set_memory_request(f"{needs.memory_gib:g}Gi").set_memory_limit(f"{needs.memory_gib:g}Gi")
    if needs.gpu_count:
        step.set_accelerator_type(cluster.accelerator).set_accelerator_limit(needs.gpu_count)
    if needs.timeout_minutes <= RETRIED_MINUTES:  # a pod that vanishes; the watch sees to the others
        step.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0)
    kubernetes.set_security_context(step, run_as_user=USER_ID, run_as_non_root=True)
    if needs.distributed:
        step.set_env_variable(IMAGE_VARIABLE, image)  # a network says which image it came from
    _place(step, stage, needs, cluster)
    _mount(step, needs, cluster)
    _give_git(step, cluster.git_secret if registry else "", cluster.signing_secret if signs else "")
    if outside and cluster.outside_secret:
        kubernetes.use_secret_as_volume(step, cluster.outside_secret, str(OUTSIDE_FOLDER))
    if stage in cluster.nodes:
        _give_nodes(step, stage, image, cluster)
    if shares:
        _give_indices(step, stage, image, cluster, {"deadline_seconds": needs.timeout_minutes * 60, "claims": claims})
    return step


def _give_indices(step: Any, stage: str, image: str, cluster: Cluster, more: Mapping[str, Any]) -> None:
    """Let the step run its shares as the indices of a job: each with what the stage needs, where the stage belongs."""
    needs, kind = cluster.needs(stage), _nodes(stage, cluster.needs(stage), cluster)
    settings = {
        "image": image,
        "at_once": cluster.parallel_steps,
        "cpu_cores": needs.cpu_cores,
        "memory_gib": needs.memory_gib,
        "accelerator": {cluster.accelerator: needs.gpu_count} if needs.gpu_count else {},
        "retries": needs.retries,
        "timeout_seconds": needs.timeout_minutes * 60,
        "user_id": USER_ID,
        "s3_secret": cluster.s3_secret,
        "queue": cluster.queue,
        "node_selector": getattr(cluster, f"{kind}_node_selector"),
        "tolerations": list(getattr(cluster, f"{kind}_tolerations")),
    }
    given = {name: value for name, value in {**settings, **more}.items() if value}
    step.set_env_variable(INDEXED_JOB_VARIABLE, json.dumps(given, sort_keys=True, separators=(",", ":")))


def _give_nodes(step: Any, stage: str, image: str, cluster: Cluster) -> None:
    """Let the step train as a TrainJob over several nodes, which share a volume with it."""
    from kfp import kubernetes

    needs = cluster.needs(stage)
    settings = {
        "image": image,
        "nodes": cluster.nodes[stage],
        "gpus_per_node": needs.gpu_count,
        "claim": cluster.shared_claim,
        "folder": SHARED_FOLDER,
        "accelerator": cluster.accelerator,
        "queue": cluster.queue,
        "deadline_seconds": needs.timeout_minutes * 60,
        "s3_secret": cluster.s3_secret,
        "node_selector": cluster.gpu_node_selector,
        "tolerations": list(cluster.gpu_tolerations),
    }
    kubernetes.mount_pvc(step, cluster.shared_claim, SHARED_FOLDER)
    step.set_env_variable(TRAIN_JOB_VARIABLE, json.dumps(settings, sort_keys=True))


def _place(step: Any, stage: str, needs: Needs, cluster: Cluster) -> None:
    """Say on which nodes and through which queue the step's pod runs, and for how long."""
    from kfp import kubernetes

    kind = _nodes(stage, needs, cluster)
    for label, value in getattr(cluster, f"{kind}_node_selector").items():
        kubernetes.add_node_selector(step, label, value)
    for toleration in getattr(cluster, f"{kind}_tolerations"):
        kubernetes.add_toleration_json(step, [toleration])
    if cluster.queue:
        kubernetes.add_pod_label(step, QUEUE_LABEL, cluster.queue)
    kubernetes.set_timeout(step, needs.timeout_minutes * 60)


def _nodes(stage: str, needs: Needs, cluster: Cluster) -> str:
    return "spot" if stage in cluster.spot else "gpu" if needs.gpu_count else "cpu"


def _give_git(step: Any, credentials: str, key: str) -> None:
    """Let git reach the registry with one secret and sign with another; empty: without."""
    from kfp import kubernetes

    settings = []
    for secret, folder, setting in ((credentials, GIT_FOLDER, CREDENTIALS), (key, SIGNING_FOLDER, _KEY)):
        if secret:
            kubernetes.use_secret_as_volume(step, secret, folder)
            settings.append(setting)
    if settings:
        step.set_env_variable("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (name, value) in enumerate(settings):
        step.set_env_variable(f"GIT_CONFIG_KEY_{number}", name)
        step.set_env_variable(f"GIT_CONFIG_VALUE_{number}", value)


def _mount(step: Any, needs: Needs, cluster: Cluster) -> None:
    """Give the pod its secrets by reference, its shared memory, a writable /tmp, and the claim that outlives it."""
    from kfp import kubernetes

    kubernetes.use_secret_as_volume(step, cluster.s3_secret, str(S3_FOLDER))
    kubernetes.empty_dir_mount(step, "tmp", "/tmp")
    if needs.shared_memory_gib:
        size = f"{needs.shared_memory_gib:g}Gi"
        kubernetes.empty_dir_mount(step, "shared-memory", "/dev/shm", medium="Memory", size_limit=size)
    if needs.distributed and cluster.checkpoints_claim:
        kubernetes.mount_pvc(step, cluster.checkpoints_claim, CHECKPOINTS_FOLDER)
        step.set_env_variable(CHECKPOINTS_VARIABLE, CHECKPOINTS_FOLDER)
