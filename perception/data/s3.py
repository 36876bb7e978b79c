"""The store on any S3-compatible server, through the minio client; whatever goes wrong is said in one line."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, TypeVar
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
ENDPOINT_VARIABLE = "NIGHTDRIVE_S3_ENDPOINT"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ABSENT = {"NoSuchKey", "ResourceNotFound"}
_LARGEST_PUT_BYTES = 5 * 2**30  # by the protocol; an object that comes in one piece has the md5 of its bytes as ETag
_BLOCK_BYTES = 1 << 20
# What may be gone soon.
_TRANSIENT = {"InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "OperationAborted"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bucket:
    """Reach the objects below one prefix of a bucket.

    A request that goes wrong raises InputError, Unreachable where the same request may well succeed later.
    """

    url: str
    name: str
    prefix: str
    client: Minio = field(repr=False, compare=False)

    def check(self) -> None:
        """Raise InputError when the server cannot be reached, the keys are refused or the bucket is missing."""
        # A listing and not a HEAD: only a body says whether the key, the secret or the permission is wrong.
        self._ask(lambda: next(iter(self.client.list_objects(self.name, prefix=self._key("sha256/"))), None))

    def facts(self, key: str) -> tuple[int, str, float] | None:
        """Return size in bytes, ETag and time of the last change (seconds since the epoch); None when there is none."""
        found = self._ask(lambda: self.client.stat_object(self.name, self._key(key)))
        return None if found is None else (int(found.size or 0), str(found.etag or "").strip('"'), _changed(found))

    def write(self, key: str, stream: BinaryIO, size_bytes: int, part_bytes: int = _LARGEST_PUT_BYTES) -> None:
        """Write one object, whole or not at all; part_bytes: how much of it is in memory at once, by default all of it."""
        whole = partial(self.client.put_object, part_size=part_bytes)
        self._ask(lambda: whole(self.name, self._key(key), stream, size_bytes))

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes; None when there is none."""
        blocks: list[bytes] = []
        return b"".join(blocks) if self.read_blocks(key, blocks.append) else None

    def read_blocks(self, key: str, take: Callable[[bytes], Any]) -> bool:
        """Give an object's bytes block by block to `take`; False when there is none."""

        def read() -> bool:
            response = self.client.get_object(self.name, self._key(key))
            try:
                for block in response.stream(_BLOCK_BYTES):
                    take(block)
            finally:
                response.close()
                response.release_conn()
            return True

        return bool(self._ask(read))

    def read_range(self, key: str, start: int, take: Callable[[bytes], Any]) -> None:
        """Give an object's bytes from one on, block by block, until it or the connection ends; what is there is given."""
        response = self._ask(lambda: self.client.get_object(self.name, self._key(key), offset=start))
        if response is None:
            return
        try:
            for block in response.stream(_BLOCK_BYTES):
                take(block)
        except urllib3.exceptions.HTTPError:
            pass  # who asked sees how much came, and asks for the rest
        finally:
            response.close()
            response.release_conn()

    def entries(self, folder: str, *, recursive: bool) -> Iterator[tuple[str, Object]]:
        """Yield what lies below a folder by its key from there, page by page: objects, and prefixes that end in /."""
        start = self._key(folder) if folder else self.prefix and f"{self.prefix}/"
        found = iter(self.client.list_objects(self.name, prefix=start, recursive=recursive))
        while entry := self._ask(lambda: next(found, None)):
            yield str(entry.object_name).removeprefix(start), entry

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        """Return size in bytes and time of the last change of every object below a folder, by its key from there."""
        found = self.entries(folder, recursive=True)
        return {key: (int(entry.size or 0), _changed(entry)) for key, entry in found}

    def remove(self, key: str) -> None:
        """Remove one object."""
        self._ask(lambda: self.client.remove_object(self.name, self._key(key)))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _ask(self, request: Callable[[], Result]) -> Result | None:
        """Run a request; None for an object that is not there, InputError for everything else that goes wrong."""
        try:
            return request()
        except S3Error as error:
            if error.code in _ABSENT:
                return None
            kind = Unreachable if error.code in _TRANSIENT else InputError
            raise kind(f"store {self.url}: {_reason(error.code or 'unknown error', self.name)}") from None
        except (MinioException, ValueError, ParseError) as error:  # the client lets errors of its XML parser through
            kind = Unreachable if isinstance(error, ServerError) else InputError
            said = f"the server gave no S3 answer ({' '.join(str(error).split())})"
            raise kind(f"store {self.url}: {said}; check NIGHTDRIVE_S3_ENDPOINT") from None
        except urllib3.exceptions.HTTPError as error:
            said = f"the endpoint cannot be reached ({type(getattr(error, 'reason', None) or error).__name__})"
            raise Unreachable(f"store {self.url}: {said}; check NIGHTDRIVE_S3_ENDPOINT and that it runs") from None


@dataclass(frozen=True)
class S3Store:
    """Keep blobs as objects below one prefix of a bucket; S3 itself makes an upload appear whole or not at all."""

    bucket: Bucket

    def put(self, data: bytes, suffix: str) -> Blob:
        """Upload a blob that is not there yet."""
        blob = describe_blob(data, suffix)
        facts = self.bucket.facts(blob.uri)
        if facts is None or facts[0] != blob.size_bytes:
            self.bucket.write(blob.uri, io.BytesIO(data), len(data))
        return blob

    def get(self, uri: str) -> bytes:
        """Download a blob and check its sha256."""
        data = self.bucket.read(checked_uri(uri))
        if data is None:
            raise InputError(f"store {self.bucket.url}: has no blob {uri}; ingest its source again")
        return verified(data, uri, self.bucket.url)

    def exists(self, uri: str) -> bool:
        """Ask the server for the object's head."""
        return self.bucket.facts(checked_uri(uri)) is not None


def open_s3_store(url: str, environment: Mapping[str, str]) -> S3Store:
    """Open the store at s3://bucket/prefix once its bucket has answered; raises InputError when it does not."""
    open_bucket(url, environment, CHECK_TIMEOUT).check()
    return S3Store(open_bucket(url, environment))


def open_bucket(url: str, environment: Mapping[str, str], timeout: urllib3.Timeout = TRANSFER_TIMEOUT) -> Bucket:
    """Return the bucket and prefix of s3://bucket/prefix; nothing is sent yet. Raises InputError as connect does."""
    parts = urlsplit(url)
    if not _BUCKET.fullmatch(parts.netloc):
        reason = f"{parts.netloc!r} is no bucket name (3 to 63 of a-z 0-9 . -); write s3://bucket/prefix"
        raise InputError(f"store {url}: {reason}")
    return Bucket(url, parts.netloc, parts.path.strip("/"), connect(environment, url, timeout))


def connect(environment: Mapping[str, str], where: str, timeout: urllib3.Timeout = TRANSFER_TIMEOUT) -> Minio:
    """Make a client from NIGHTDRIVE_S3_ENDPOINT and the AWS_* variables; nothing is sent yet.

    Raises InputError naming the variable that is missing or wrong, never its value where that is secret.
    """
    endpoint = environment.get(ENDPOINT_VARIABLE, "")
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


def _changed(found: Object) -> float:
    return found.last_modified.timestamp() if found.last_modified else 0.0


def _reason(code: str, bucket: str) -> str:
    reasons = {
        "NoSuchBucket": f"bucket {bucket} does not exist; create it or correct the name",
        "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY",
        "InvalidAccessKeyId": "the access key is not known to the server; correct AWS_ACCESS_KEY_ID",
        "AccessDenied": f"the keys may not do this in bucket {bucket}; grant read, list and write, or use other keys",
        "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    }
    return reasons.get(code, f"the server refused with {code}; see its log")
