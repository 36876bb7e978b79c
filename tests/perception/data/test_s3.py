"""The S3 store: what is wrong is said in one line, and a real server keeps blobs as the folder store does."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from minio import Minio

from perception.data import s3
from perception.data.blobs import Blob
from perception.data.s3 import S3Store
from perception.data.store import open_store
from perception.errors import InputError

if TYPE_CHECKING:
    from tests.conftest import S3Server

DATA = b"one frame" * 1000
SHA = hashlib.sha256(DATA).hexdigest()
URI = f"sha256/{SHA[:2]}/{SHA}.jpg"
SECRET = "do-not-print-me"
GOOD = {
    "NIGHTDRIVE_S3_ENDPOINT": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
}


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in (*GOOD, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def refusal(url: str = "s3://nightdrive/frames") -> str:
    with pytest.raises(InputError) as caught:
        open_store(url)
    message = str(caught.value)
    assert message.startswith(f"store {url}: ") and "\n" not in message and SECRET not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NIGHTDRIVE_S3_ENDPOINT": ""}, "NIGHTDRIVE_S3_ENDPOINT is '', must be http://host:port or https://host:port"),
        ({"NIGHTDRIVE_S3_ENDPOINT": "127.0.0.1:9000"}, "NIGHTDRIVE_S3_ENDPOINT is '127.0.0.1:9000', must be http"),
        ({"NIGHTDRIVE_S3_ENDPOINT": "ftp://x"}, "NIGHTDRIVE_S3_ENDPOINT is 'ftp://x', must be http"),
        ({"NIGHTDRIVE_S3_ENDPOINT": "http://x/path"}, "NIGHTDRIVE_S3_ENDPOINT is 'http://x/path', must be http"),
        ({"NIGHTDRIVE_S3_ENDPOINT": f"http://me:{SECRET}@x"}, "NIGHTDRIVE_S3_ENDPOINT holds user information"),
        ({"AWS_ACCESS_KEY_ID": ""}, "the environment variable AWS_ACCESS_KEY_ID is not set; set both"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "the environment variable AWS_SECRET_ACCESS_KEY is not set; set both"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str) -> None:
    use(monkeypatch, **{**GOOD, **changes})
    assert message in refusal()


def test_missing_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert "NIGHTDRIVE_S3_ENDPOINT is ''" in refusal()
    use(monkeypatch, NIGHTDRIVE_S3_ENDPOINT="http://127.0.0.1:1")
    assert "AWS_ACCESS_KEY_ID is not set" in refusal()


def test_no_bucket_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **GOOD)
    assert "'' is no bucket name (3 to 63 of a-z 0-9 . -); write s3://bucket/prefix" in refusal("s3:///frames")
    assert "'A_b!' is no bucket name" in refusal("s3://A_b!/frames")


def test_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        use(monkeypatch, **{**GOOD, "NIGHTDRIVE_S3_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"})
        assert "the endpoint cannot be reached (NewConnectionError); check NIGHTDRIVE_S3_ENDPOINT" in refusal()


@pytest.fixture
def other_server() -> Iterator[str]:
    """Serve what is no S3: a page with status 200, once well-formed and then not."""

    pages = [b"hello", b"<html>hello</html>"]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            pages.reverse()
            self.wfile.write(pages[0])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_that_is_no_s3_server(monkeypatch: pytest.MonkeyPatch, other_server: str) -> None:
    use(monkeypatch, **{**GOOD, "NIGHTDRIVE_S3_ENDPOINT": other_server})
    for _ in range(2):
        assert "the server gave no S3 answer" in refusal()


def test_secret_is_not_in_the_text_of_a_store() -> None:
    store = S3Store(s3.open_bucket("s3://bucket", GOOD))
    assert SECRET not in repr(store) + str(vars(store)) + str(vars(store.bucket))


# --- against a real server


def client_of(server: S3Server) -> Minio:
    return s3.connect(server.environment(), "test")


@pytest.mark.s3
def test_put_get_exists(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    store = open_store(f"s3://{s3_server.bucket}/put/frames")
    assert not store.exists(URI)
    with pytest.raises(InputError, match=f"has no blob {URI}; ingest its source again"):
        store.get(URI)
    assert store.put(DATA, "jpg") == Blob(URI, SHA, len(DATA))
    assert store.exists(URI) and store.get(URI) == DATA
    names = [each.object_name for each in client_of(s3_server).list_objects(s3_server.bucket, "put/", recursive=True)]
    assert names == [f"put/frames/{URI}"]
    assert store.get(store.put(b"", "json").uri) == b""


@pytest.mark.s3
def test_no_prefix(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    store = open_store(f"s3://{s3_server.bucket}")
    store.put(DATA, "jpg")
    assert client_of(s3_server).stat_object(s3_server.bucket, URI).size == len(DATA)


@pytest.mark.s3
def test_putting_again_uploads_nothing(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    store = open_store(f"s3://{s3_server.bucket}/again")
    store.put(DATA, "jpg")
    monkeypatch.setattr(s3.Bucket, "write", lambda *_: pytest.fail("uploaded a blob that is there"))
    store.put(DATA, "jpg")


@pytest.mark.s3
def test_corrupt_object(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    store = open_store(f"s3://{s3_server.bucket}/corrupt")
    client_of(s3_server).put_object(s3_server.bucket, f"corrupt/{URI}", io.BytesIO(b"other"), 5)
    with pytest.raises(InputError, match=f"blob {URI} is corrupt"):
        store.get(URI)
    store.put(DATA, "jpg")
    assert store.get(URI) == DATA


@pytest.mark.s3
@pytest.mark.parametrize("uri", ["../secret", f"{URI}\n", "sha256/../../x"])
def test_a_uri_cannot_lead_out_of_the_prefix(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    use(monkeypatch, **s3_server.environment())
    store = open_store(f"s3://{s3_server.bucket}/escape")
    for ask in (store.get, store.exists):
        with pytest.raises(InputError, match="blob uri"):
            ask(uri)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "the access key is not known to the server; correct AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_keys(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, message: str) -> None:
    use(monkeypatch, **{**s3_server.environment(), variable: SECRET})
    assert message in refusal(f"s3://{s3_server.bucket}/frames")


@pytest.mark.s3
def test_missing_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    assert "bucket nothing-here does not exist; create it or correct the name" in refusal("s3://nothing-here/frames")


@pytest.mark.s3
def test_keys_that_may_only_read(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **s3_server.environment())
    url = f"s3://{s3_server.bucket}/readers"
    open_store(url).put(DATA, "jpg")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader_secret_key)
    reader = open_store(url)
    assert reader.get(URI) == DATA
    with pytest.raises(
        InputError, match=f"the keys may not do this in bucket {s3_server.bucket}; grant read, list and write"
    ):
        reader.put(b"new", "jpg")
