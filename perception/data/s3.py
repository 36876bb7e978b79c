"""The store on any S3-compatible server, through the minio client; whatever goes wrong is said in one line."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException, S3Error, ServerError

from perception.data.blobs import Blob, checked_uri, describe_blob, verified
from perception.errors import InputError, Unreachable

# A night must notice within seconds that its store is not there; a slow answer to a large blob is another matter.
CHECK_TIMEOUT = urllib3.Timeout(connect=3.0, read=5.0)
TRANSFER_TIMEOUT = urllib3.Timeout(connect=3.0, read=60.0)
_RETRIES = urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], raise_on_status=False)
_BUCKET = re.compile("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ABSENT = {"NoSuchKey", "ResourceNotFound"}
_LARGEST_PUT_BYTES = 5 * 2**30  # by the protocol; an object that comes in one piece has the md5 of its bytes as ETag
_BLOCK_BYTES = 1 << 20
_TRANSIENT = {
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "OperationAborted",
}  # may be gone soon

Result = TypeVar("Result")


@dataclass(frozen=True)
class S3Store:
    """Keep blobs as objects below one prefix of a bucket; S3 itself makes an upload appear whole or not at all."""

    url: str
    bucket: str
    prefix: str
    client: Minio = field(repr=False, compare=False)

    def put(self, data: bytes, suffix: str) -> Blob:
        """Upload a blob that is not there yet."""
        blob = describe_blob(data, suffix)
        if size_bytes(self.client, self.bucket, self._key(blob.uri), self.url) != blob.size_bytes:
            upload(self.client, self.bucket, self._key(blob.uri), data, self.url)
        return blob

    def get(self, uri: str) -> bytes:
        """Download a blob and check its sha256."""
        data = download(self.client, self.bucket, self._key(checked_uri(uri)), self.url)
        if data is None:
            raise InputError(f"store {self.url}: has no blob {uri}; ingest its source again")
        return verified(data, uri, self.url)

    def exists(self, uri: str) -> bool:
        """Ask the server for the object's head."""
        return size_bytes(self.client, self.bucket, self._key(checked_uri(uri)), self.url) is not None

    def _key(self, uri: str) -> str:
        return f"{self.prefix}/{uri}" if self.prefix else uri


def open_s3_store(url: str, bucket: str, prefix: str, environment: Mapping[str, str]) -> S3Store:
    """Open the store at s3://bucket/prefix once its bucket has answered; raises InputError when it does not."""
    if not _BUCKET.fullmatch(bucket):
        reason = f"{bucket!r} is no bucket name (3 to 63 of a-z 0-9 . -); write s3://bucket/prefix"
        raise InputError(f"store {url}: {reason}")
    prefix_key = f"{prefix}/sha256/" if prefix else "sha256/"
    check_bucket(connect(environment, url, CHECK_TIMEOUT), bucket, prefix_key, url)
    return S3Store(url, bucket, prefix, connect(environment, url))


def connect(environment: Mapping[str, str], where: str, timeout: urllib3.Timeout = TRANSFER_TIMEOUT) -> Minio:
    """Make a client from NIGHTDRIVE_S3_ENDPOINT and the AWS_* variables; nothing is sent yet.

    Raises InputError naming the variable that is missing or wrong, never its value where that is secret.
    """
    endpoint = environment.get("NIGHTDRIVE_S3_ENDPOINT", "")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/") or "@" in parts.netloc:
        shown = "holds user information" if "@" in endpoint else f"is {endpoint!r}"
        reason = f"NIGHTDRIVE_S3_ENDPOINT {shown}, must be http://host:port or https://host:port; set it"
        raise InputError(f"store {where}: {reason}")
    try:
        parts.port  # noqa: B018 (reading it checks it)
    except ValueError:
        reason = f"NIGHTDRIVE_S3_ENDPOINT is {endpoint!r}, its port is no number; set it"
        raise InputError(f"store {where}: {reason}") from None
    unset = [name for name in _KEYS if not environment.get(name)]
    if unset:
        reason = f"the environment variable {unset[0]} is not set; set both {' and '.join(_KEYS)}"
        raise InputError(f"store {where}: {reason}")
    return Minio(
        parts.netloc,
        access_key=environment[_KEYS[0]],
        secret_key=environment[_KEYS[1]],
        session_token=environment.get("AWS_SESSION_TOKEN") or None,
        secure=parts.scheme == "https",
        # Given, the client need not ask for it, which costs a request and a permission.
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
        http_client=urllib3.PoolManager(timeout=timeout, retries=_RETRIES, maxsize=16),
    )


def check_bucket(client: Minio, bucket: str, prefix: str, where: str) -> None:
    """Raise InputError when the server cannot be reached, the keys are refused or the bucket is missing."""

    def first_key() -> bool:
        # A listing and not a HEAD: only a body says whether the key, the secret or the permission is wrong.
        next(iter(client.list_objects(bucket, prefix=prefix, recursive=False)), None)
        return True

    _ask(first_key, bucket, where)


def size_bytes(client: Minio, bucket: str, key: str, where: str) -> int | None:
    """Return the size of an object, None when there is none."""
    return _ask(lambda: client.stat_object(bucket, key).size, bucket, where)


def upload(client: Minio, bucket: str, key: str, data: bytes, where: str) -> None:
    """Write one object."""
    _ask(lambda: client.put_object(bucket, key, io.BytesIO(data), len(data)), bucket, where)


@contextmanager
def _opened(client: Minio, bucket: str, key: str) -> Iterator[urllib3.BaseHTTPResponse]:
    response = client.get_object(bucket, key)
    try:
        yield response
    finally:
        response.close()
        response.release_conn()


def download(client: Minio, bucket: str, key: str, where: str) -> bytes | None:
    """Read one object whole; None when there is none."""

    def read() -> bytes:
        with _opened(client, bucket, key) as response:
            return bytes(response.read())

    return _ask(read, bucket, where)


def upload_file(
    client: Minio, bucket: str, key: str, path: Path, where: str, part_bytes: int = _LARGEST_PUT_BYTES
) -> None:
    """Write one object from a file; part_bytes: of the file that are in memory at once, by default all of it."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        _ask(lambda: client.put_object(bucket, key, stream, size, part_size=part_bytes), bucket, where)


def download_blocks(client: Minio, bucket: str, key: str, take: Callable[[bytes], Any], where: str) -> bool:
    """Give an object's bytes block by block to `take`; False when there is none."""

    def read() -> bool:
        with _opened(client, bucket, key) as response:
            for block in response.stream(_BLOCK_BYTES):
                take(block)
        return True

    return bool(_ask(read, bucket, where))


def object_facts(client: Minio, bucket: str, key: str, where: str) -> tuple[int, str, float] | None:
    """Return size in bytes, ETag and time of the last change (seconds since the epoch); None when there is none."""

    def ask() -> tuple[int, str, float]:
        found = client.stat_object(bucket, key)
        return int(found.size or 0), str(found.etag or "").strip('"'), _changed(found)

    return _ask(ask, bucket, where)


def list_objects(client: Minio, bucket: str, prefix: str, where: str) -> list[tuple[str, int, float]]:
    """Return key, size in bytes and time of the last change of every object below a prefix."""

    def ask() -> list[tuple[str, int, float]]:
        listed = client.list_objects(bucket, prefix=prefix, recursive=True)
        return [(str(each.object_name), int(each.size or 0), _changed(each)) for each in listed]

    return _ask(ask, bucket, where) or []


def _changed(found: Object) -> float:
    return found.last_modified.timestamp() if found.last_modified else 0.0


def remove(client: Minio, bucket: str, key: str, where: str) -> None:
    """Remove one object."""
    _ask(lambda: client.remove_object(bucket, key), bucket, where)


def _ask(request: Callable[[], Result], bucket: str, where: str) -> Result | None:
    """Run a request; None for an object that is not there, InputError for everything else that goes wrong."""
    try:
        return request()
    except S3Error as error:
        if error.code in _ABSENT:
            return None
        kind = Unreachable if error.code in _TRANSIENT else InputError
        raise kind(f"store {where}: {_reason(error.code or 'unknown error', bucket)}") from None
    except (MinioException, ValueError, ParseError) as error:  # the client lets errors of its XML parser through
        reason = " ".join(str(error).split())
        kind = Unreachable if isinstance(error, ServerError) else InputError
        raise kind(f"store {where}: the server gave no S3 answer ({reason}); check NIGHTDRIVE_S3_ENDPOINT") from None
    except urllib3.exceptions.HTTPError as error:
        reason = type(getattr(error, "reason", None) or error).__name__
        raise Unreachable(
            f"store {where}: the endpoint cannot be reached ({reason}); check NIGHTDRIVE_S3_ENDPOINT and that it runs"
        ) from None


def _reason(code: str, bucket: str) -> str:
    reasons = {
        "NoSuchBucket": f"bucket {bucket} does not exist; create it or correct the name",
        "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY",
        "InvalidAccessKeyId": "the access key is not known to the server; correct AWS_ACCESS_KEY_ID",
        "AccessDenied": f"the keys may not do this in bucket {bucket}; grant read, list and write, or use other keys",
        "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    }
    return reasons.get(code, f"the server refused with {code}; see its log")
