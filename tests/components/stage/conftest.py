"""A stand-in for Kubernetes' API, for whatever hands it a job."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.stage.kubernetes_api import Cluster


class Api:
    """Kubernetes' API as far as jobs go: a created job takes the next of `states` at every look."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.calls: list[str] = []
        self.states: list[list[dict[str, str]]] = []
        self.failures: list[int] = []
        self.on_create: Any = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        _, _, name = path.partition("/namespaces/nights/")[2].partition("/")
        self.calls.append(f"{method} {name}".strip())
        if self.failures:
            return self.failures.pop(0), {"message": "away"}
        if method == "POST":
            job = json.loads(body)
            assert path.startswith(f"/apis/{job['apiVersion']}/namespaces/nights/{job['kind'].lower()}s")
            self.jobs[job["metadata"]["name"]] = job
            if self.on_create:
                self.on_create(job)
            return 201, job
        if name not in self.jobs:
            return 404, {"message": "not found"}
        if method == "DELETE":
            return 200, self.jobs.pop(name)
        if self.states:
            self.jobs[name]["status"] = {"conditions": self.states.pop(0)}
        return 200, self.jobs[name]


@pytest.fixture
def api() -> Iterator[tuple[Api, Cluster]]:
    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            assert self.headers["Authorization"] == "Bearer secret-token"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = state.answer(self.command, self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield (
        state,
        Cluster(url=f"http://127.0.0.1:{server.server_port}", namespace="nights", token="secret-token", authority=None),
    )
    server.shutdown()
    server.server_close()
