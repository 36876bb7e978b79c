"""Where footage lies: a folder, such as a volume claim's, or the objects below a prefix of a bucket."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from perception.data.decoding import BadFrame
from perception.data.files import file_sha256
from perception.errors import InputError

if TYPE_CHECKING:
    from perception.data.s3 import Bucket

_ATTEMPTS = 5  # to go on with a download that was cut off


@dataclass(frozen=True)
class Folder:
    """Hold what lies in one folder: a signature for each file, which is another once the file has changed."""

    files: Mapping[str, str]  # by name
    folders: tuple[str, ...]  # names, sorted


class Location(Protocol):
    """Give the files below one place by their names from there, with / between folders."""

    @property
    def name(self) -> str:
        """Return the place as messages name it."""

    def folder(self, prefix: str) -> Folder:
        """List one folder, "" or "a/b/", empty where there is none; links and what is no plain file are left out."""

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a small file's bytes; raises BadFrame for one that is larger, or cannot be read."""

    def local(self, name: str, limit_bytes: int) -> AbstractContextManager[tuple[Path, str]]:
        """Give a file as one on this machine, for as long as the block lasts, and the sha256 of its bytes; raises BadFrame."""


def open_location(path: str) -> Location:
    """Return the location at a folder or s3://bucket/prefix; raises InputError for what is neither."""
    if path.startswith("s3://"):
        from perception.data.s3 import open_bucket  # the client costs half a second that folders need not pay

        return BucketLocation(open_bucket(path, os.environ))
    root = Path(path)
    if not root.is_dir():
        kind = "is a file, must be a folder" if root.exists() else "folder is missing"
        raise InputError(f"{path}: {kind}; give the folder of the footage, or s3://bucket/prefix")
    return FolderLocation(root)


@dataclass(frozen=True)
class FolderLocation:
    """Give the files below a folder."""

    root: Path

    @property
    def name(self) -> str:
        """Return the folder's path."""
        return str(self.root)

    def folder(self, prefix: str) -> Folder:
        """List one folder."""
        files, folders = {}, []
        try:
            with os.scandir(self.root / prefix) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_file(follow_symlinks=False):
                        stat = entry.stat(follow_symlinks=False)
                        files[entry.name] = f"{stat.st_size}:{stat.st_mtime_ns}"
        except FileNotFoundError:
            pass  # a night's folder that nothing has arrived in, or one that was taken back
        except OSError as error:
            raise InputError(f"{self.root / prefix}: cannot be listed ({error.strerror}); correct this") from None
        return Folder(files, tuple(sorted(folders)))

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a small file's bytes."""
        with self.local(name, limit_bytes, hashed=False) as (path, _), _readable(f"{self.root}/{name}"):
            return path.read_bytes()

    @contextmanager
    def local(self, name: str, limit_bytes: int, *, hashed: bool = True) -> Iterator[tuple[Path, str]]:
        """Give the file itself."""
        path = self.root / name
        with _readable(f"{self.root}/{name}"):
            _check_size(f"{self.root}/{name}", path.stat(follow_symlinks=False).st_size, limit_bytes)
            sha256 = file_sha256(path) if hashed else ""
        yield path, sha256


@dataclass(frozen=True)
class BucketLocation:
    """Give the objects below a prefix of a bucket; those that are read from many places come as temporary files."""

    bucket: "Bucket"

    @property
    def name(self) -> str:
        """Return the bucket's address."""
        return self.bucket.url.rstrip("/")

    def folder(self, prefix: str) -> Folder:
        """List the objects of one prefix, page by page."""
        files, folders = {}, []
        for key, entry in self.bucket.entries(prefix, recursive=False):
            if key.endswith("/"):
                folders.append(key.rstrip("/"))
            elif key:
                files[key] = f"{entry.size}:{str(entry.etag).strip(chr(34))}"
        return Folder(files, tuple(sorted(each for each in folders if each)))

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a small object's bytes."""
        with self.local(name, limit_bytes) as (path, _):
            return path.read_bytes()

    @contextmanager
    def local(self, name: str, limit_bytes: int) -> Iterator[tuple[Path, str]]:
        """Download the object into a temporary file; a download that is cut off goes on where it was."""
        where = f"{self.name}/{name}"
        facts = self.bucket.facts(name)
        if facts is None:
            raise BadFrame(where, "is not there any more", "list the footage again")
        _check_size(where, facts[0], limit_bytes)
        with tempfile.NamedTemporaryFile(prefix="nightdrive-", suffix=Path(name).suffix) as file:
            digest = hashlib.sha256()

            def take(block: bytes) -> None:
                file.write(block)
                digest.update(block)

            for _ in range(_ATTEMPTS):
                if file.tell() < facts[0]:
                    self.bucket.read_range(name, file.tell(), take)
            file.flush()
            if file.tell() != facts[0]:
                raise BadFrame(where, f"gave {file.tell()} of {facts[0]} bytes", "upload it again")
            yield Path(file.name), digest.hexdigest()


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadFrame(
            where, f"cannot be read ({error.strerror})", "correct its permissions or copy it again"
        ) from None


def _check_size(where: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise BadFrame(where, f"has {size_bytes} bytes, more than {limit_bytes}", "raise max_object_mib or cut it")
