"""A server on loopback that speaks as much of three APIs as we use: Kubeflow Pipelines v2beta1, Kubernetes, an image registry.

It keeps its objects in memory. Every call to KFP is held against the operations of the installed kfp_server_api.
"""

import functools
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import kfp_server_api
import yaml

from pipelines.kubeflow.cron import parse_cron
from tests.pipelines.kubeflow.plays import Play

Answer = tuple[int, Any]


@functools.cache
def operations() -> set[tuple[str, str]]:
    """Return (method, path) of every operation that the installed client's generated code has."""
    found: set[tuple[str, str]] = set()
    for file in (Path(kfp_server_api.__file__).parent / "api").glob("*.py"):
        pairs = re.findall(r"'(/apis/v2beta1/[^']*)',\s*'([A-Z]+)'", file.read_text())
        found |= {(method, path) for path, method in pairs}
    return found


@functools.cache
def operation_of(method: str, path: str) -> tuple[str, str] | None:
    """Return the operation that a request is, or None."""
    for known_method, template in sorted(operations(), key=lambda item: item[1].count("{")):
        pattern = re.sub(r"\\\{[^}]*\\\}", r"[^/:]+", re.escape(template))
        if known_method == method and re.fullmatch(pattern, path):
            return known_method, template
    return None


@dataclass
class Stub:
    """Hold what the server has and what it was asked."""

    token: str = ""
    url: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)  # operations, as templates
    unknown: list[str] = field(default_factory=list)  # requests that are no operation of kfp_server_api
    bodies: list[Any] = field(default_factory=list)
    failures: dict[tuple[str, str], list[int]] = field(
        default_factory=dict
    )  # operation: status codes to answer with first
    failure_message: str = "the database is away"
    fail_after_doing: bool = False  # the failing request has its effect all the same
    objects: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {"pipelines": {}, "versions": {}, "experiments": {}, "runs": {}, "recurringruns": {}}
    )
    next_states: list[dict[str, Any]] = field(default_factory=list)  # what a run becomes, one at every look at it
    kubernetes: dict[str, Any] = field(default_factory=dict)  # path: object, or the status to answer with
    denied: set[tuple[str, str, str]] = field(default_factory=set)  # verb, resource, name that an access review denies
    pods: list[dict[str, Any]] = field(default_factory=list)  # that were made
    deleted: list[str] = field(default_factory=list)  # pods
    # of the pods that are made, or the status with which they are refused; by default its program's last words
    pod_status: dict[str, Any] | int = field(default_factory=dict)
    manifests: dict[str, int] = field(default_factory=dict)  # registry path: status
    multi_user: bool = False  # every object belongs to a namespace then
    playing: bool = False  # runs go on by themselves, a step at every look
    plays: dict[str, Play] = field(default_factory=dict)  # by run
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, kind: str, id_field: str, body: Mapping[str, Any]) -> dict[str, Any]:
        number = next(self.numbers) if self.playing else len(self.objects[kind]) + 1
        made = {**body, id_field: f"{kind[:-1]}-{number}", "created_at": f"2026-01-01T00:00:{number:02d}Z"}
        self.objects[kind][made[id_field]] = made
        return made

    def add_run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        run = self.add("runs", "run_id", body)
        if self.playing:
            version = self.objects["versions"][run["pipeline_version_reference"]["pipeline_version_id"]]
            self.plays[run["run_id"]] = Play.of(run["run_id"], version["pipeline_spec"]["pipeline_spec"])
        return run

    def start_due(self) -> None:
        """Start every enabled recurring run that has not started yet, at its next time in the server's zone, which is now."""
        started = {run.get("recurring_run_id") for run in self.objects["runs"].values()}
        config = self.kubernetes["/api/v1/namespaces/kubeflow/configmaps/pipeline-install-config"]
        zone = ZoneInfo(config["data"]["cronScheduleTimezone"])
        for key, recurring in list(self.objects["recurringruns"].items()):
            if key not in started and recurring["mode"] == "ENABLE":
                (due,) = parse_cron(recurring["trigger"]["cron_schedule"]["cron"]).first(1, datetime.now(zone))
                after = due.astimezone(UTC) + timedelta(seconds=20)
                self.start_recurring(key)["created_at"] = f"{after:%Y-%m-%dT%H:%M:%SZ}"

    def start_recurring(self, recurring_run_id: str) -> dict[str, Any]:
        """Start a run of a recurring run, as its scheduler does: of the version that it names, else of the latest uploaded."""
        recurring = self.objects["recurringruns"][recurring_run_id]
        reference = dict(recurring["pipeline_version_reference"])
        if not reference.get("pipeline_version_id"):
            own = [
                item for item in self.objects["versions"].values() if item["pipeline_id"] == reference["pipeline_id"]
            ]
            reference["pipeline_version_id"] = max(own, key=lambda item: item["created_at"])["pipeline_version_id"]
        facts = {name: recurring[name] for name in ("recurring_run_id", "experiment_id")}
        made = {
            "display_name": f"{recurring['display_name']}-1",
            "state": "PENDING",
            "pipeline_version_reference": reference,
        }
        return self.add_run(made | facts)

    def count(self, method: str, path: str) -> int:
        return self.calls.count((method, path))


@contextmanager
def serve(stub: Stub) -> Iterator[Stub]:
    """Run the server while the context lasts."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        split = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(split.query).items()}
        if split.path.startswith("/apis/v2beta1/"):
            status, body = self._kfp(split.path, query, raw)
        elif split.path.startswith("/v2/"):
            status, body = self.stub.manifests.get(split.path, 404), {}
        else:
            status, body = self._kubernetes(split.path, raw)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer  # noqa: N815

    def _kubernetes(self, path: str, raw: bytes) -> Answer:
        found = self.stub.kubernetes.get(path)
        if isinstance(found, int):
            return found, {}
        if path.endswith("/localsubjectaccessreviews"):
            review = json.loads(raw)
            asked = review["spec"]["resourceAttributes"]
            denied = (asked["verb"], asked["resource"], asked["name"]) in self.stub.denied
            return 201, review | {"status": {"allowed": not denied}}
        if re.fullmatch(r"/api/v1/namespaces/[^/]+/pods(/.*)?", path):
            return self._pods(path, raw)
        return (200, found) if found else (404, {"message": "no"})

    def _pods(self, path: str, raw: bytes) -> Answer:
        """List the pods of the runs that go on, or delete the one of a running step, with notice; make and look at others."""
        if self.command == "POST" or "/nightdrive-preflight-" in path:
            return self._own_pod(path, raw)
        pods = {f"{key}-system-container-impl-1": play for key, play in self.stub.plays.items() if play.running}
        if self.command == "DELETE":
            pods[path.rsplit("/", 1)[1]].lose_pod()
            return 200, {}
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        run_id = query["labelSelector"][0].removeprefix("pipeline/runid=")
        names = [f"{run_id}-system-container-driver-1", *(name for name, play in pods.items() if play.run_id == run_id)]
        return 200, {"items": [{"metadata": {"name": name}, "status": {"phase": "Running"}} for name in names]}

    def _own_pod(self, path: str, raw: bytes) -> Answer:
        stub = self.stub
        if isinstance(stub.pod_status, int):
            return stub.pod_status, {"message": "pods is forbidden"}
        if self.command == "POST":
            pod = json.loads(raw)
            pod["metadata"]["name"] = f"{pod['metadata']['generateName']}{len(stub.pods)}"
            stub.pods.append(pod)
            return 201, pod
        name = path.rsplit("/", 1)[1]
        (pod,) = (each for each in stub.pods if each["metadata"]["name"] == name)
        if self.command == "DELETE":
            stub.deleted.append(name)
            return 200, {}
        return 200, pod | {"status": stub.pod_status}

    def _kfp(self, path: str, query: dict[str, str], raw: bytes) -> Answer:
        stub = self.stub
        operation = operation_of(self.command, path)
        if operation is None:
            stub.unknown.append(f"{self.command} {path}")
            return 404, {"error": "no such operation"}
        stub.calls.append(operation)
        if stub.token and self.headers.get("Authorization") != f"Bearer {stub.token}":
            return 401, {"error": "unauthenticated"}
        failing = stub.failures.get(operation)
        if failing:
            status = failing.pop(0)
            if stub.fail_after_doing:
                self._do(operation, path, query, raw)
            return status, {"error_message": stub.failure_message, "error_details": "..."}
        return self._do(operation, path, query, raw)

    def _do(self, operation: tuple[str, str], path: str, query: dict[str, str], raw: bytes) -> Answer:
        stub, (method, template) = self.stub, operation
        short = template.removeprefix("/apis/v2beta1/")
        last = re.sub(r":\w+$", "", path).rsplit("/", 1)[-1]
        if short == "healthz":
            return 200, {"multi_user": stub.multi_user}
        if short == "pipelines/upload_version":
            body = {"pipeline_id": query["pipelineid"], "display_name": query["name"], "size": len(raw)}
            assert b"pipelineInfo" in raw
            text = raw.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
            spec, platform = yaml.load_all(text, Loader=yaml.CSafeLoader)
            body["pipeline_spec"] = {"pipeline_spec": spec, "platform_spec": platform}
            return 200, stub.add("versions", "pipeline_version_id", body)
        if short == "pipelines/{pipeline_id}/versions/{pipeline_version_id}":
            return 200, stub.objects["versions"][last]
        if short == "pipelines/{pipeline_id}/versions":
            listed = _filtered(stub.objects["versions"], query)
            return 200, {"pipeline_versions": [each for each in listed if each["pipeline_id"] == path.split("/")[-2]]}
        kind = short.split("/")[0].split(":")[0]
        id_field = {"pipelines": "pipeline_id", "experiments": "experiment_id", "runs": "run_id"}.get(
            kind, "recurring_run_id"
        )
        if stub.playing and kind == "runs" and method == "GET" and short == kind:
            stub.start_due()
        if method == "GET" and short == kind:
            field_name = {"recurringruns": "recurringRuns"}.get(kind, kind)
            return 200, {field_name: _filtered(stub.objects[kind], query)}
        if method == "POST" and short == kind:
            body = json.loads(raw)
            stub.bodies.append(body)
            if problem := _invalid(kind, body, stub.multi_user):
                return 400, {"code": 3, "error": problem, "message": problem}
            if kind == "runs":
                return 200, stub.add_run(body)
            return 200, stub.add(kind, id_field, body)
        item = stub.objects[kind].get(last)
        if item is None:
            return 404, {"error_message": f"{last} not found"}
        if method == "DELETE":
            own = [
                key
                for key, each in stub.objects["versions"].items()
                if kind == "pipelines" and each["pipeline_id"] == last
            ]
            if own and query.get("cascade") not in ("true", "True"):
                return 400, {"message": f"Failed to delete pipeline {last}: it has versions"}
            for key in own:
                del stub.objects["versions"][key]
            del stub.objects[kind][last]
            return 200, {}
        if template.endswith((":enable", ":disable")):
            item["mode"] = template.rsplit(":", 1)[1].upper()
            return 200, {}
        if kind == "runs" and last in stub.plays:
            return self._play(stub.plays[last], item, template)
        if template.endswith(":terminate"):
            item["state"] = "CANCELING"
            return 200, {}
        if template.endswith(":retry"):
            item["state"] = "RUNNING"
            return 200, {}
        if kind == "runs" and stub.next_states:
            item |= stub.next_states.pop(0)
        return 200, item

    def _play(self, play: Play, run: dict[str, Any], template: str) -> Answer:
        if template.endswith(":terminate"):
            play.cancel()
            return 200, {}
        if template.endswith(":retry"):
            status, said = play.retry()
            return status, {"message": said}
        run |= play.look()
        return 200, run


def _invalid(kind: str, body: Mapping[str, Any], multi_user: bool) -> str:
    """Return why the server refuses to create an object, in its words."""
    if multi_user and kind == "experiments" and not body.get("namespace"):
        return "Invalid input error: An experiment cannot have an empty namespace in multi-user mode"
    cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
    if kind == "recurringruns" and not 5 <= len(cron.split()) <= 6:
        reason = f"Expected 5 to 6 fields, found {len(cron.split())}: {cron}"
        return f"Invalid input error: Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {reason}"
    return ""


def _filtered(items: Mapping[str, dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    found = list(items.values())
    for predicate in json.loads(query.get("filter", '{"predicates": []}'))["predicates"]:
        assert predicate["operation"] == "EQUALS"
        found = [item for item in found if item.get(predicate["key"]) == predicate["stringValue"]]
    if query.get("experiment_id"):
        found = [item for item in found if item.get("experiment_id") == query["experiment_id"]]
    return sorted(found, key=lambda item: item["created_at"], reverse="desc" in query.get("sort_by", ""))
