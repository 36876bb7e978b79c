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
        self.garbage: list[tuple[int, bytes]] = []
        self.token = "secret-token"
        self.on_create: Any = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        _, _, name = path.partition("/namespaces/nights/")[2].partition("/")
        self.calls.append(f"{method} {name}".strip())
        if self.failures:
            return self.failures.pop(0), {"message": "away"}
        if self.garbage:
            return self.garbage.pop(0)
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
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Cluster]]:
    state = Api()
    token = tmp_path_factory.mktemp("account") / "token"
    token.write_text(state.token)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.headers["Authorization"] == f"Bearer {state.token}"
            status, content = (
                state.answer(self.command, self.path, body) if known else (401, {"message": "Unauthorized"})
            )
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield (
        state,
        Cluster(url=f"http://127.0.0.1:{server.server_port}", namespace="nights", token_file=token, authority=None),
    )
    server.shutdown()
    server.server_close()
