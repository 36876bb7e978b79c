"""Servers that fail on purpose, on loopback."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebServer:
    """Say how a web server answers, and what it was asked."""

    status: int  # of every answer; may be changed while the server runs
    url: str = ""
    asked: int = 0  # requests so far


@contextlib.contextmanager
def web_server(status: int) -> Iterator[WebServer]:
    """Answer every request with one HTTP status."""
    state = WebServer(status)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            state.asked += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(state.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 (the names that http.server asks for)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def failing_web_server(status: int) -> Iterator[str]:
    """Answer every request with one HTTP status; yield the server's URL."""
    with web_server(status) as state:
        yield state.url


def closed_url() -> str:
    """Give the URL of a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@dataclass
class Proxy:
    """Stand between a client and a server: slow, cut connections, or take them and say nothing."""

    target: tuple[str, int]
    delay_seconds: float = 0.0  # before each piece of an answer
    cut_after_bytes: int | None = None  # of answers, over all connections; then every connection is reset
    silent: bool = False  # take the connection and never answer
    passed_bytes: int = 0
    listener: socket.socket = field(default_factory=socket.socket)

    @property
    def url(self) -> str:
        """Give the URL that clients use."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.silent:
                client.recv(1 << 16)
                time.sleep(120)
                return
            with socket.create_connection(self.target) as server:
                back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
                back.start()
                self._pump(client, server, False)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers:
                    time.sleep(self.delay_seconds)
                    self.passed_bytes += len(data)
                    if self.cut_after_bytes is not None and self.passed_bytes > self.cut_after_bytes:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(target_url: str, **faults: object) -> Iterator[Proxy]:
    """Run a proxy before the server at `target_url` until the block ends."""
    host, _, port = target_url.removeprefix("http://").partition(":")
    between = Proxy((host, int(port)), **faults)  # type: ignore[arg-type]
    between.listener.bind(("127.0.0.1", 0))
    between.listener.listen(64)
    threading.Thread(target=between.serve, daemon=True).start()
    try:
        yield between
    finally:
        between.listener.close()
