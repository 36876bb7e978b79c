"""The store of blobs, addressed by their sha256: a folder on one machine, a bucket on any S3-compatible server."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perception.data.blobs import Blob, checked_uri, describe_blob, is_uri, verified
from perception.data.files import replace_file
from perception.errors import InputError


class Store(Protocol):
    """Keep blobs under their sha256. There is no delete: data versions refer to blobs for as long as they exist."""

    def put(self, data: bytes, suffix: str) -> Blob:
        """Store data whole or not at all; what is there already stays. `suffix` is without its dot: jpg, png.

        Raises InputError when the store cannot be written.
        """

    def get(self, uri: str) -> bytes:
        """Return a blob whose bytes were checked against its sha256; raise InputError when missing or corrupt."""

    def exists(self, uri: str) -> bool:
        """Say whether the store holds the blob; its bytes are not read."""


def holds(store: Store, text: str) -> bool:
    """Say whether a text is the address of a blob that the store holds: what others write need be no address."""
    return is_uri(text) and store.exists(text)


def open_store(url: str) -> Store:
    """Open a store: the path of a folder, or s3://bucket/prefix.

    For S3 the environment gives the endpoint (NIGHTDRIVE_S3_ENDPOINT, http:// or https://), the keys
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where there is one, AWS_SESSION_TOKEN) and the region (AWS_REGION,
    us-east-1 by default). Raises InputError for a store that cannot be opened; a folder that does not exist yet is
    created by the first put.
    """
    if url.startswith("s3://"):
        from perception.data.s3 import open_s3_store  # the client costs half a second that folders need not pay

        return open_s3_store(url, os.environ)
    if "://" in url or not url:
        raise InputError(f"store {url!r}: not a folder and not an s3:// address; give one of these")
    root = Path(url)
    if root.exists() and not root.is_dir():
        raise InputError(f"store {url}: is a file, must be a folder; give another path")
    return FolderStore(root)


@dataclass(frozen=True)
class FolderStore:
    """Keep blobs as files below one folder."""

    root: Path

    def put(self, data: bytes, suffix: str) -> Blob:
        """Write a blob to a temporary name, flush it to disk and move it into place."""
        blob = describe_blob(data, suffix)
        path = self.root / blob.uri
        try:
            # A file with other bytes was damaged by something outside this program; writing it again mends it.
            if not _holds(path, data):
                replace_file(path, data)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise InputError(f"store {self.root}: {reason}; give a folder with space that you may write to") from None
        return blob

    def get(self, uri: str) -> bytes:
        """Read a blob and check its sha256."""
        try:
            with (self.root / checked_uri(uri)).open("rb", buffering=0) as file:  # two thirds of read_bytes' time
                data = file.read()
        except FileNotFoundError:
            raise InputError(f"store {self.root}: has no blob {uri}; ingest its source again") from None
        except OSError as error:
            raise InputError(f"store {self.root}: blob {uri} cannot be read ({error.strerror}); correct this") from None
        return verified(data, uri, str(self.root))

    def exists(self, uri: str) -> bool:
        """Look for the file."""
        return (self.root / checked_uri(uri)).is_file()


def _holds(path: Path, data: bytes) -> bool:
    """Say whether the file is there with exactly these bytes; reading costs less than making the data did."""
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
