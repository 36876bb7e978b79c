"""How many bytes a run takes, at the end of a good night, in the one object that Argo keeps it in.

Above 1 MiB Argo packs the nodes of a run, and Kubeflow 2.17 then shows nothing more of it and cannot try it again. Counted is
what Kubeflow's compiler and driver (backend/src/v2) and Argo's controller write: the spec, and of every step a driver, a DAG and
an executor, each twice, as Argo's Retry node and as the node itself. A text within a text within a text costs: the patch of a
pod, which lies in six of these nodes, quotes what a step is given three times.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perception.errors import InputError

LARGEST_BYTES = 996_147  # 0.95 MiB: what is counted here is right to some per cent, and a name may be longer than ours
# What Argo and Kubeflow write round what is ours.
WORKFLOW_BYTES = 9_000  # metadata, and the templates of drivers and executors
NODE_BYTES = 800  # of a node without its inputs and outputs: names, times, state, children
VALUE_BYTES = 30  # of one input or output without its value
ARGUMENT_BYTES = 90  # likewise in the spec, named by a hash
STEP_TEMPLATE_BYTES = 1_300  # of a step in the template of its DAG, without the task
DAG_TEMPLATE_BYTES = 700  # of a DAG
# An artifact's address and what Kubeflow writes beside it, with names as long as they are.
_UUID = "0" * 36
_ROOT = f"s3://mlpipeline/v2/artifacts/nightdrive/{_UUID}"
_SESSION = {
    "Provider": "minio",
    "Params": {
        "accessKeyKey": "accesskey",
        "disableSSL": "true",
        "endpoint": "seaweedfs.kubeflow:9000",
        "fromEnv": "false",
        "region": "minio",
        "secretKeyKey": "secretkey",
        "secretName": "mlpipeline-minio-artifact",
    },
}
_LAUNCHER = (
    "/kfp-launcher/launch --executor_type container --pipeline_name nightdrive --execution_id 1234 --pod_name $(KFP_POD_NAME) "
    "--pod_uid $(KFP_POD_UID) --ml_pipeline_server_address ml-pipeline.kubeflow --ml_pipeline_server_port 8887 "
    "--mlmd_server_address metadata-grpc-service.kubeflow --mlmd_server_port 8080 --publish_logs true "
    "--ml_pipeline_tls_enabled=false --metadata_tls_enabled=false --ca_cert_path= --cache_disabled=false --log_level 1 --"
)
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """Hold a run's size in bytes."""

    spec: int  # what is to be done
    nodes: int  # what was done, of all steps and DAGs
    steps: Mapping[str, int]  # likewise, of each step

    @property
    def total(self) -> int:
        """Return the size of the whole."""
        return self.spec + self.nodes


def check_size(pipeline: Json, platform: Json) -> None:
    """Raise InputError for a compiled night whose run would outgrow what Kubeflow can show."""
    size = run_size(pipeline, platform)
    if size.total > LARGEST_BYTES:
        largest = sorted(size.steps, key=lambda name: -size.steps[name])[:3]
        named = ", ".join(f"{name} {size.steps[name]:,}" for name in largest)
        raise InputError(
            f"the night: its run would grow to {size.total:,} bytes, and Kubeflow shows nothing of one above 1 MiB (at most "
            f"{LARGEST_BYTES:,}); largest are {named}: give these shorter settings, or the night fewer steps"
        )


def run_size(pipeline: Json, platform: Json) -> RunSize:
    """Return the size of the run of a compiled pipeline, its two documents, each of whose steps ran once and well."""
    counted = _Count(pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])
    root = pipeline["root"]
    steps: dict[str, int] = {}
    dags = []
    for name, task, component in [("root", {}, root), *_tasks(pipeline, root)]:
        if "dag" in component:
            dags.append(counted.dag(task, component))
        else:
            steps[name] = steps.get(name, 0) + counted.step(name, task, component)
    arguments = {each["componentRef"]["name"]: component for _, each, component in _tasks(pipeline, root)}
    spec = counted.spec({"root": root} | arguments, [task for _, task, _ in _tasks(pipeline, root)])
    return RunSize(spec=spec, nodes=sum(steps.values()) + sum(dags), steps=steps)


def _tasks(pipeline: Json, component: Json) -> Iterator[tuple[str, Json, Json]]:
    """Yield (key, task, component) of everything below a component's DAG."""
    for key, task in component["dag"]["tasks"].items():
        inner = pipeline["components"][task["componentRef"]["name"]]
        yield key, task, inner
        if "dag" in inner:
            yield from _tasks(pipeline, inner)


@dataclass(frozen=True)
class _Count:
    """Count in bytes what is written of the parts of a pipeline."""

    pipeline: Json
    platform: Json  # Kubernetes' settings by executor

    def dag(self, task: Json, component: Json) -> int:
        """Return the size of a DAG's nodes: its driver, given component and task, and itself."""
        return 2 * _node(_text(component), _text(task)) + 2 * _node()

    def step(self, name: str, task: Json, component: Json) -> int:
        """Return the size of a step's nodes: its driver, which gives out the patch of its pod, and twice who is given it."""
        container, patch = _text(self._container(component)), self._patch(name, task, component)
        settings = _text(self.platform[component["executorLabel"]])
        driver = _node(_text(component), _text(task), container, settings, patch)
        return 2 * driver + 4 * _node(patch)

    def spec(self, components: Mapping[str, Json], tasks: list[Json]) -> int:
        """Return the size of the spec: components, containers and Kubernetes' settings once each, every task in its template."""
        size = WORKFLOW_BYTES
        containers = {}
        for name, component in components.items():
            if "dag" in component:
                size += DAG_TEMPLATE_BYTES + ARGUMENT_BYTES + _quoted(_text(component))
            else:
                containers[_text(self._container(component))] = _text(component)  # Kubeflow knows components by these
                size += ARGUMENT_BYTES + _quoted(_text(self.platform[component["executorLabel"]])) - len(name)
        size += sum(2 * ARGUMENT_BYTES + _quoted(text) + _quoted(its) for text, its in containers.items())
        return size + sum(STEP_TEMPLATE_BYTES + _quoted(_text(task)) for task in tasks)

    def _container(self, component: Json) -> Json:
        container: Json = self.pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        return container

    def _patch(self, name: str, task: Json, component: Json) -> str:
        """Return the patch of a step's pod, as Kubeflow's driver writes it."""
        container, settings = self._container(component), self.platform[component["executorLabel"]]
        given = {"--run_id": _UUID, "--executor_input": _text(_executor_input(name, task, component))}
        given["--component_spec"] = _text(component)
        volumes = list(_volumes(settings))
        main = {
            "name": "main",
            "image": container["image"],
            "command": [*_LAUNCHER.split(" "), *(word for pair in given.items() for word in pair)],
            "args": [*container["command"], *container["args"]],
            "env": [*container.get("env", []), *_environment(settings)],
            "resources": container.get("resources", {}),
            "volumeMounts": [{"name": name, "mountPath": path} for name, path, _ in volumes],
            "securityContext": settings.get("securityContext", {}),
        }
        pod = {"containers": [main], "volumes": [{"name": name, **source} for name, _, source in volumes]}
        kept = ("activeDeadlineSeconds", "nodeSelector", "tolerations")
        return _text(pod | {name: settings[name] for name in kept if name in settings})


def _executor_input(name: str, task: Json, component: Json) -> Json:
    inputs, outputs = task.get("inputs", {}), component.get("outputDefinitions", {})
    place = f"{_ROOT}/{name}/{_UUID}"
    parameters = {key: _constant(source) for key, source in inputs.get("parameters", {}).items()}
    artifacts = {key: {"artifacts": [_artifact(key, place) | _METADATA]} for key in inputs.get("artifacts", {})}
    given = {key: {"artifacts": [_artifact(key, place)]} for key in (*outputs.get("artifacts", {}), "executor-logs")}
    values = {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", {})}
    return {
        "inputs": {"parameterValues": parameters, "artifacts": artifacts},
        "outputs": {
            "artifacts": given,
            "parameters": values,
            "outputFile": f"/s3{place.removeprefix('s3:/')}/output_metadata.json",
        },
    }


def _constant(source: Json) -> Any:
    """Return a parameter's value where the pipeline gives it, and a word in place of one that a step gives."""
    return source.get("runtimeValue", {}).get("constant", "something")


def _artifact(name: str, place: str) -> dict[str, Any]:
    kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    return {"name": name, "type": kind, "uri": f"{place}/{name}"}


_METADATA = {
    "artifactId": "1234",
    "customPath": "",
    "metadata": {"display_name": "something", "store_session_info": json.dumps(_SESSION, separators=(",", ":"))},
}


def _environment(settings: Json) -> Iterator[Json]:
    for secret in settings.get("secretAsEnv", []):
        for item in secret["keyToEnv"]:
            reference = {"name": secret["secretName"], "key": item["secretKey"], "optional": False}
            yield {"name": item["envVar"], "valueFrom": {"secretKeyRef": reference}}


def _volumes(settings: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield (name, mount path, source) of every volume."""
    for mount in settings.get("emptyDirMounts", []):
        yield mount["volumeName"], mount["mountPath"], {"emptyDir": {"medium": mount.get("medium", "")}}
    for mount in settings.get("secretAsVolume", []):
        secret = mount["secretName"]
        yield secret, mount["mountPath"], {"secret": {"secretName": secret, "optional": False}}
    for mount in settings.get("pvcMount", []):
        claim = mount["constant"]
        yield claim, mount["mountPath"], {"persistentVolumeClaim": {"claimName": claim}}


def _node(*values: str) -> int:
    return NODE_BYTES + sum(VALUE_BYTES + _quoted(value) for value in values)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _quoted(text: str) -> int:
    """Return the bytes of a text within JSON."""
    return len(json.dumps(text))
