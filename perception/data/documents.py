"""Small documents by name, each whole or not at all: files of one folder, or objects below one prefix of a bucket."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import urlsplit

from perception.data.files import replace_file
from perception.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]*")


class Documents(Protocol):
    """Keep documents by name."""

    def read(self, name: str) -> bytes | None:
        """Return a document; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a document in place of an earlier one; raises InputError where it cannot be written."""

    def names(self) -> list[str]:
        """Return every name, sorted."""


def open_documents(url: str) -> Documents:
    """Return the documents in a folder, or below s3://bucket/prefix, for which the environment gives endpoint and keys.

    Nothing is read yet; a folder that does not exist is created by the first write.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return FolderDocuments(Path(url))
    client = _s3().connect(os.environ, url, _s3().CHECK_TIMEOUT)
    return S3Documents(url, parts.netloc, parts.path.strip("/"), client)


def _s3() -> ModuleType:
    import perception.data.s3  # here, since the client costs half a second that folders need not pay

    return perception.data.s3


@dataclass(frozen=True)
class FolderDocuments:
    """Keep documents as files."""

    root: Path

    def read(self, name: str) -> bytes | None:
        """Read the file."""
        try:
            return (self.root / _checked(name)).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file and move it into place."""
        target = self.root / _checked(name)
        try:
            replace_file(target, data)
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written ({error.strerror}); make room, or correct its folder"
            ) from None

    def names(self) -> list[str]:
        """List the files."""
        return sorted(path.name for path in self.root.glob("[!.]*") if path.is_file())


@dataclass(frozen=True)
class S3Documents:
    """Keep documents as objects; S3 itself makes an upload appear whole or not at all."""

    url: str
    bucket: str
    prefix: str
    client: Any = field(repr=False, compare=False)

    def read(self, name: str) -> bytes | None:
        """Download the object."""
        found: bytes | None = _s3().download(self.client, self.bucket, self._key(name), self.url)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Upload the object."""
        _s3().upload(self.client, self.bucket, self._key(name), data, self.url)

    def names(self) -> list[str]:
        """List the objects directly below the prefix."""
        prefix = f"{self.prefix}/" if self.prefix else ""
        listed = _s3().list_objects(self.client, self.bucket, prefix, self.url)
        below = (key.removeprefix(prefix) for key, _, _ in listed)
        return sorted(name for name in below if "/" not in name)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{_checked(name)}" if self.prefix else _checked(name)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"document {name!r}: must match {_NAME.pattern}; rename it")
    return name
