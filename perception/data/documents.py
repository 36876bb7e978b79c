"""Small documents by name, each whole or not at all: files of one folder, or objects below one prefix of a bucket."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from perception.data.files import replace_file
from perception.errors import InputError

if TYPE_CHECKING:
    from perception.data.s3 import Bucket

_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]*")


class Documents(Protocol):
    """Keep documents by name."""

    def read(self, name: str) -> bytes | None:
        """Return a document; None where there is none; raises InputError where it cannot be read."""

    def write(self, name: str, data: bytes) -> None:
        """Write a document in place of an earlier one; raises InputError where it cannot be written."""

    def names(self) -> list[str]:
        """Return every name, sorted."""


def open_documents(url: str) -> Documents:
    """Return the documents in a folder, or below s3://bucket/prefix, for which the environment gives endpoint and keys.

    Nothing is read yet; a folder that does not exist is created by the first write.
    """
    if not url.startswith("s3://"):
        return FolderDocuments(Path(url))
    from perception.data.s3 import (  # the client costs half a second that folders need not pay
        CHECK_TIMEOUT,
        open_bucket,
    )

    return S3Documents(open_bucket(url, os.environ, CHECK_TIMEOUT))


@dataclass(frozen=True)
class FolderDocuments:
    """Keep documents as files."""

    root: Path

    def read(self, name: str) -> bytes | None:
        """Read the file."""
        path = self.root / _checked(name)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); correct its rights") from None

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

    bucket: "Bucket"

    def read(self, name: str) -> bytes | None:
        """Download the object."""
        return self.bucket.read(_checked(name))

    def write(self, name: str, data: bytes) -> None:
        """Upload the object."""
        self.bucket.write(_checked(name), io.BytesIO(data), len(data))

    def names(self) -> list[str]:
        """List the objects directly below the prefix."""
        return sorted(name for name in self.bucket.list("") if "/" not in name)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"document {name!r}: must match {_NAME.pattern}; rename it")
    return name
