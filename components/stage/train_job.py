"""Training over several nodes: one TrainJob of Kubeflow Trainer v2.

The one place that knows the TrainJob's fields, which still change from release to release: written for trainer.kubeflow.org/
v1alpha1 with `runtimePatches` (Trainer 2.2 and later).

The job's processes run the same stage on a volume that all nodes mount (TrainJobSettings.claim): they see the folders of the
step's inputs there and leave its outputs there.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from components.stage.execution import Call, Outcome, option_name
from components.stage.kubernetes_api import QUEUE_LABEL, Cluster, Kind, job_name, run_job, secret_environment
from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, STATUS_OF_EXIT
from components.stage.records import RECORDS_VARIABLE, log
from perception.parameters import Count, CountOrZero, checked, matching

TRAIN_JOB = Kind(
    name="TrainJob",
    version="trainer.kubeflow.org/v1alpha1",
    plural="trainjobs",
    remedy="install Kubeflow Trainer 2.2 or later and apply an overlay of manifests/",
)
MANAGER = "nightdrive.io/step"  # of the patches that we make, as the API asks for
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


def run_on_nodes(call: Call, settings: TrainJobSettings, cluster: Cluster, **options: Any) -> Outcome:
    """Run a call of a stage as a TrainJob over several nodes, and place its outputs; bad input in it is bad input here."""
    name = job_name(call.task, call.outputs.values())
    work = Path(settings.folder) / name
    shutil.rmtree(work, ignore_errors=True)
    command = _lay_out(call, work)
    job = manifest(name, settings, command, {RECORDS_VARIABLE: str(work / "records")})
    try:
        run_job(cluster, TRAIN_JOB, job, log, **options)
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
        "apiVersion": TRAIN_JOB.version,
        "kind": TRAIN_JOB.name,
        "metadata": {"name": name, "labels": {QUEUE_LABEL: queue} if queue else {}},
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
                    *secret_environment(settings.s3_secret),
                ],
            },
            "runtimePatches": [
                {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}}}
            ],
        },
    }
