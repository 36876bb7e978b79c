"""A server on loopback that takes what is posted to it, as a chat's webhook and a push gateway do."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest


@dataclass
class Channel:
    """Hold what was posted; its address is a secret."""

    address: str = ""
    posted: list[Any] = field(default_factory=list)  # JSON
    pushed: list[tuple[str, str]] = field(default_factory=list)  # path, text


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Run the server; a path that ends in `broken` is answered with 500."""
    held = Channel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            held.posted.append(json.loads(self._body()))
            self._end()

        def do_PUT(self) -> None:
            held.pushed.append((self.path, self._body().decode()))
            self._end()

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _end(self) -> None:
            self.send_response(500 if self.path.endswith("broken") else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    held.address = f"http://127.0.0.1:{server.server_address[1]}/hooks/s3cret"
    yield held
    server.shutdown()
    server.server_close()
    thread.join()
