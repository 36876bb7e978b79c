"""Where a source's files lie: a folder, or the objects below s3://bucket/prefix, which look like one.

Of a bucket every object is there as a file of its size and time of change without its bytes; what is no image (tables, JSON) has its
bytes from the beginning, since layouts are told by it, and an image or a tar file has them only while it is read. Senders of footage choose
the keys: one that would lie outside its folder, or under the name of another, is left out and told.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perception.errors import InputError, Unreachable

if TYPE_CHECKING:
    from perception.data.s3 import Bucket

S3 = "s3://"
_SHOWN_KEYS = 3


@dataclass(frozen=True)
class SourceFiles:
    """Hold a source's files while they are read."""

    path: str  # as the source names it
    root: Path  # where readers find them
    bucket: "Bucket | None" = None

    @contextmanager
    def whole(self, files: Iterable[Path | None]) -> Iterator[None]:
        """Give files their bytes in this block; of a folder they have them anyway. One that has gone is not there."""
        fetched = [file for file in files if self.bucket and file is not None and _is_large(file.name)]
        try:
            for file in fetched:
                self._fetch(file)
            yield
        finally:
            for file in fetched:
                file.write_bytes(b"")

    def name(self, file: str) -> str:
        """Return how messages call a file: by its place at the source."""
        return file.replace(str(self.root), self.path.rstrip("/"), 1)

    def _fetch(self, file: Path) -> bool:
        """Give a file its bytes; take away one that has gone since it was listed and return False: it costs its own frame only."""
        assert self.bucket is not None
        with file.open("wb") as stream:
            found = self.bucket.read_blocks(file.relative_to(self.root).as_posix(), stream.write)
        if not found:
            file.unlink()
        return found


@contextmanager
def open_source_files(path: str) -> Iterator[SourceFiles]:
    """Give a source's files for this block; raises InputError where its bucket cannot be listed, or holds nothing there."""
    if not path.startswith(S3):
        yield SourceFiles(path, Path(path))
        return
    from perception.data.s3 import open_bucket

    with tempfile.TemporaryDirectory() as folder:
        bucket = open_bucket(path, os.environ)
        files = SourceFiles(path, Path(folder) / (Path(bucket.prefix).name or bucket.name), bucket)
        files.root.mkdir()
        try:
            _lay_out(files)
            yield files
        except InputError as error:  # readers know the folder only
            kind = Unreachable if isinstance(error, Unreachable) else InputError
            raise kind(files.name(str(error))) from None


def _lay_out(files: SourceFiles) -> None:
    assert files.bucket is not None
    listed = files.bucket.list("")
    if not listed:
        raise InputError(f"{files.path}: holds no object; correct the path, or upload the footage")
    left_out = []
    for key, (size, changed) in sorted(listed.items()):
        file = files.root / key
        if key.endswith("/"):  # some tools mark a folder so
            continue
        if not _is_inside(key) or not _place(file):
            left_out.append(key)
            continue
        if _is_large(key):
            os.truncate(file, size)
        elif not files._fetch(file):
            continue
        os.utime(file, ns=(round(changed * 1e9),) * 2)
    if left_out:
        shown = ", ".join(repr(key) for key in left_out[:_SHOWN_KEYS])
        print(f"{files.path}: {len(left_out)} objects left out, their keys are no paths of files: {shown}", flush=True)


def _place(file: Path) -> bool:
    """Make a file and its folders; False where another object has taken a name of them, or no file can have it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(exist_ok=False)
    except OSError:
        return False
    return True


def _is_inside(key: str) -> bool:
    return "\0" not in key and not any(part in ("", ".", "..") for part in key.split("/"))


def _is_large(name: str) -> bool:
    from perception.data.readers.layout import (
        IMAGE_SUFFIXES,
    )  # loads image libraries, which the commands' settings need not

    return name.lower().endswith((*IMAGE_SUFFIXES, ".tar"))
