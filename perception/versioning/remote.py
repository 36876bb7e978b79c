"""The data of a registry on its remote, in the layout of DVC 3, written and read here without starting DVC.

    files/md5/ab/cdef...        an object: the bytes of a file, named by their md5
    files/md5/ab/cdef....dir    a folder object: JSON list of {"md5", "relpath"}, named by the md5 of that list plus .dir

A pointer (X.dvc) names a folder object.  The formats are stable since DVC 3.0 and a test holds that a stock `dvc pull`
reads what is written here.  What is done differently: an object's bytes are checked after they were written, a damaged
object is replaced instead of being taken for present, and every file that is fetched is checked by a hash of ours:
BLAKE3 (https://github.com/BLAKE3-team/BLAKE3-specs), as safe as SHA-256 and about four times as fast on one core.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from perception.data.files import replacement
from perception.errors import InputError
from perception.versioning.processes import RegistryError

if TYPE_CHECKING:
    from perception.data.s3 import Bucket

_BLOCK_BYTES = 1 << 18  # small enough to stay in a core's cache between reading, hashing and writing
_FILES_AT_ONCE = max(2, min(8, os.cpu_count() or 1))  # large files: hashing and copying keep a core busy each
_REQUESTS_AT_ONCE = 16  # a server answers many small questions at once
_OBJECT_RULE = re.compile(r"[0-9a-f]{32}(\.dir)?")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file's bytes."""

    md5: str  # DVC's name for them
    sha256: str  # what vouches for them
    size_bytes: int
    blake3: str | None = None  # vouches for them too, and is checked sooner; None where the publisher did not record it


@dataclass(frozen=True)
class Proof:
    """The hash that the bytes of a fetched file must have."""

    algorithm: Literal["sha256", "blake3"]
    hexdigest: str

    def digest(self) -> Any:
        """Start a hash of this kind: an object of hashlib's interface."""
        from blake3 import blake3  # a night without a registry's data goes without it

        return blake3() if self.algorithm == "blake3" else hashlib.sha256()


@dataclass(frozen=True)
class Stored:
    """What a remote says of an object without reading it."""

    size_bytes: int
    changed: float  # seconds since the epoch
    md5: str | None = None  # of the bytes as they lie there, where the server computed it


def _object_path(name: str) -> str:
    if not _OBJECT_RULE.fullmatch(name):
        raise InputError(f"object {name!r} on the remote is no md5; the registry's pointer was edited: restore it")
    return f"files/md5/{name[:2]}/{name[2:]}"


@dataclass(frozen=True)
class FolderRemote:
    """Keep objects as files below a folder."""

    url: str

    def _path(self, name: str) -> Path:
        return Path(self.url) / _object_path(name)

    @contextmanager
    def _unless_absent(self, name: str) -> Iterator[None]:
        """Leave the block where there is no such file; raise InputError for one that may not be read."""
        path = self._path(name)
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); let this user read the remote") from None

    def stat(self, name: str) -> Stored | None:
        """Return what the file system knows of an object; None where there is none."""
        with self._unless_absent(name):
            facts = self._path(name).stat()
            return Stored(facts.st_size, facts.st_mtime)
        return None

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object; None where there is none."""
        with self._unless_absent(name):
            return self._path(name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small object under a temporary name and move it into place."""
        self._place(name, lambda temporary: temporary.write_bytes(content))

    def upload(self, name: str, source: Path) -> None:
        """Copy a file to a temporary name and move it into place."""
        self._place(name, lambda temporary: shutil.copyfile(source, temporary))

    def _place(self, name: str, fill: Callable[[Path], Any]) -> None:
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacement(path, mode=0o444) as temporary:  # as DVC leaves it: an edit in place needs an effort
                fill(temporary)
        except OSError as error:
            raise RegistryError(
                f"remote {self.url} cannot be written ({error.strerror}); give it space and the right to write"
            ) from None

    def download(self, name: str, target: Path, digest: Any) -> bool:
        """Copy an object to a new file block by block, hashing what was written; False where there is no object."""
        source = None
        with self._unless_absent(name):
            source = self._path(name).open("rb", buffering=0)
        if source is None:
            return False
        with source, target.open("xb") as copy:
            for block in _blocks(source):
                copy.write(block)
                digest.update(block)
        return True

    def hash(self, name: str) -> str | None:
        """Return the md5 of an object's bytes, read back; None where there is none."""
        with self._unless_absent(name), self._path(name).open("rb") as stream:
            return hashlib.file_digest(stream, _md5).hexdigest()
        return None

    def objects(self) -> dict[str, Stored]:
        """Return every object by name; files of a kill (.new-*) are left to whoever cleans up."""
        found = {}
        for path in (Path(self.url) / "files" / "md5").glob("??/*"):
            if _OBJECT_RULE.fullmatch(path.parent.name + path.name):
                facts = path.stat()
                found[path.parent.name + path.name] = Stored(facts.st_size, facts.st_mtime)
        return found

    def remove(self, name: str) -> None:
        """Remove an object that is there."""
        self._path(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class S3Remote:
    """Keep objects below a prefix of a bucket."""

    bucket: "Bucket"

    @property
    def url(self) -> str:
        """Say where."""
        return self.bucket.url

    def stat(self, name: str) -> Stored | None:
        """Return what the object's head says; None where there is none."""
        facts = self.bucket.facts(_object_path(name))
        if facts is None:
            return None
        size_bytes, etag, changed = facts  # the md5 of the bytes, unless they came in parts or are encrypted
        return Stored(size_bytes, changed, etag if re.fullmatch("[0-9a-f]{32}", etag) else None)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object; None where there is none."""
        return self.bucket.read(_object_path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        self.bucket.write(_object_path(name), io.BytesIO(content), len(content))

    def upload(self, name: str, source: Path) -> None:
        """Write an object from a file, whole or not at all."""
        with source.open("rb") as stream:
            self.bucket.write(_object_path(name), stream, source.stat().st_size)

    def download(self, name: str, target: Path, digest: Any) -> bool:
        """Download an object to a new file, hashing what arrives; False where there is no object."""
        with target.open("xb") as copy:

            def take(block: bytes) -> None:
                copy.write(block)
                digest.update(block)

            found = self.bucket.read_blocks(_object_path(name), take)
        if not found:
            target.unlink()
        return found

    def hash(self, name: str) -> str | None:
        """Return the md5 of an object's bytes, downloaded; None where there is none."""
        digest = _md5()
        return digest.hexdigest() if self.bucket.read_blocks(_object_path(name), digest.update) else None

    def objects(self) -> dict[str, Stored]:
        """Return every object by name."""
        listed = {key.replace("/", ""): Stored(*facts) for key, facts in self.bucket.list("files/md5/").items()}
        return {name: facts for name, facts in listed.items() if _OBJECT_RULE.fullmatch(name)}

    def remove(self, name: str) -> None:
        """Remove an object that is there."""
        self.bucket.remove(_object_path(name))


Remote = FolderRemote | S3Remote


def open_remote(url: str) -> Remote:
    """Open a registry's remote: a folder, or s3://bucket/prefix (endpoint and keys come from the environment)."""
    if not url.startswith("s3://"):
        return FolderRemote(url)
    from perception.data.s3 import open_bucket  # here, since the client costs half a second that folders need not pay

    return S3Remote(open_bucket(url, os.environ))


# ---------------------------------------------------------------- files and folders


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _blocks(stream: Any) -> Iterator[memoryview]:
    """Read an unbuffered file block by block into one buffer; a block is good until the next is asked for."""
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    while size := stream.readinto(buffer):
        yield buffer[:size]


def file_facts(path: Path) -> FileFacts:
    """Hash a file's bytes in every way that a registry records, reading them once."""
    from blake3 import blake3

    md5, sha256, fast, size = _md5(), hashlib.sha256(), blake3(), 0
    with path.open("rb", buffering=0) as stream:
        for block in _blocks(stream):
            md5.update(block)
            sha256.update(block)
            fast.update(block)
            size += len(block)
    return FileFacts(md5.hexdigest(), sha256.hexdigest(), size, fast.hexdigest())


def has_proof(path: Path, proof: Proof) -> bool:
    """Hash a file's bytes and say whether they are the ones that the proof is of."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, proof.digest).hexdigest() == proof.hexdigest


def each_file(function: Callable[[Any], Answer], items: Iterable[Any]) -> list[Answer]:
    """Apply a function that reads or writes large files to each item, a few at once; results in order."""
    return _in_threads(_FILES_AT_ONCE, function, items)


def ask_each(function: Callable[[Any], Answer], items: Iterable[Any]) -> list[Answer]:
    """Apply a function that asks the remote for little to each item, many at once; results in order."""
    return _in_threads(_REQUESTS_AT_ONCE, function, items)


def _in_threads(threads: int, function: Callable[[Any], Answer], items: Iterable[Any]) -> list[Answer]:
    waiting = list(items)
    if len(waiting) < 2:
        return [function(item) for item in waiting]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, waiting))


def folder_object(objects: Mapping[str, str]) -> tuple[str, bytes]:
    """Return name and content of the folder object that lists these files: {path: object}."""
    listed = [{"md5": objects[path], "relpath": path} for path in sorted(objects)]
    content = json.dumps(listed, sort_keys=True).encode()
    return _md5(content).hexdigest() + ".dir", content


def read_folder(remote: Remote, name: str) -> dict[str, str] | None:
    """Return which object holds each file of a folder object; None where it is missing or damaged."""
    content = remote.read(name)
    if content is None or _md5(content).hexdigest() + ".dir" != name:
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def pointer_text(folder: str, name: str, objects: int, size_bytes: int) -> bytes:
    """Write the .dvc file of a folder, as `dvc add` does."""
    return f"outs:\n- md5: {name}\n  size: {size_bytes}\n  nfiles: {objects}\n  hash: md5\n  path: {folder}\n".encode()


def pointed_at(pointer: bytes) -> str:
    """Return the name of the folder object that a .dvc file points at."""
    import yaml

    return str(yaml.safe_load(pointer)["outs"][0]["md5"])


def put_files(remote: Remote, files: Mapping[Path, FileFacts]) -> None:
    """Bring files to the remote and check them there; objects that lie there whole are left alone.

    Raises InputError for a file that changed since it was hashed, RegistryError when the remote did not keep it whole.
    """
    each_file(lambda item: _put_file(remote, *item), files.items())


def _put_file(remote: Remote, source: Path, facts: FileFacts) -> None:
    if is_whole(remote, facts.md5, facts.size_bytes):
        return
    remote.upload(facts.md5, source)
    if is_whole(remote, facts.md5, facts.size_bytes):
        return
    if file_facts(source) != facts:
        with suppress(OSError):  # its bytes lie under a name that is not theirs
            remote.remove(facts.md5)
        raise InputError(f"{source} changed while it was being published; publish again when it is finished")
    raise RegistryError(f"remote {remote.url} did not keep {source.name} whole; check the server and its disk")


def is_whole(remote: Remote, name: str, size_bytes: int) -> bool:
    """Say whether an object lies on the remote with exactly the bytes of its name; reads them where need be."""
    stored, digest = remote.stat(name), name.removesuffix(".dir")
    if stored is None or stored.size_bytes != size_bytes:
        return False
    return stored.md5 == digest or remote.hash(name) == digest


def copy_objects(source: Remote, target: Remote, names: Collection[str]) -> list[str]:
    """Copy objects from remote to remote, each checked by its name; return those that are missing or damaged at their source.

    Objects that lie there whole are left alone. Raises RegistryError when the target did not keep one whole.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def copy(name: str) -> bool:
            path, digest = Path(scratch) / name, _md5()
            if not source.download(name, path, digest) or digest.hexdigest() != name.removesuffix(".dir"):
                return False
            size_bytes = path.stat().st_size
            if not is_whole(target, name, size_bytes):
                target.upload(name, path)
                if not is_whole(target, name, size_bytes):
                    raise RegistryError(f"remote {target.url} did not keep {name} whole; check the server and its disk")
            path.unlink()
            return True

        wanted = sorted(names)
        return [name for name, good in zip(wanted, each_file(copy, wanted), strict=True) if not good]


def put_folder(remote: Remote, objects: Mapping[str, str]) -> str:
    """Bring the folder object of these files to the remote; return its name."""
    name, content = folder_object(objects)
    if remote.read(name) != content:
        remote.write(name, content)
        if remote.read(name) != content:
            raise RegistryError(f"remote {remote.url} did not keep a list of files whole; check the server")
    return name


def get_files(
    remote: Remote, objects: Mapping[str, str], expected: Mapping[str, Proof], destination: Path
) -> list[str]:
    """Fetch files into a folder, each checked while it is written; return those that are missing or hold other bytes.

    objects, expected: {path: object} and {path: proof} of the files that are wanted.
    """

    for name in expected:
        if any(part in ("", ".", "..") for part in name.split("/")) or name.startswith("/") or "\0" in name:
            raise InputError(
                f"file {name!r} of the registry would lie outside its folder; restore the registry's history"
            )

    def fetch(path: str) -> bool:
        target, digest = destination / path, expected[path].digest()
        target.parent.mkdir(parents=True, exist_ok=True)
        found = path in objects and remote.download(objects[path], target, digest)
        return found and digest.hexdigest() == expected[path].hexdigest

    wanted: Sequence[str] = sorted(expected)
    return [path for path, good in zip(wanted, each_file(fetch, wanted), strict=True) if not good]
