"""The files of a label drop: a folder's, a zip archive's, or one alone. Nothing of an archive is written anywhere."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.files import is_left_behind
from perception.data.readers.layout import read_file


@dataclass(frozen=True)
class Pack:
    """Hold the names of a drop's files, with / between folders; what systems left behind is left out."""

    path: Path
    names: tuple[str, ...]
    moment: datetime  # when the newest of its files was written, as an archive tells it
    came: datetime  # when it was written here

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def is_archive(self) -> bool:
        return self.path.is_file() and self.path.suffix.lower() == ".zip"

    def where(self, name: str) -> str:
        """Name a file in messages."""
        return f"{self.path}" if self.path.name == name else f"{self.path}/{name}"

    def file(self, name: str) -> Path:
        """Return the file on disk that holds a file of the drop."""
        return self.path / name if self.is_folder else self.path

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raises BadFrame for one that is damaged, locked or too large."""
        if not self.is_archive:
            return self._plain(name)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
                data = file.read(limits.FILE_BYTES + 1)
        except (
            OSError,
            RuntimeError,
            NotImplementedError,
            KeyError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
        ) as error:
            raise BadFrame(self.where(name), f"cannot be read ({error})", "export it again") from None
        if len(data) > limits.FILE_BYTES:
            raise BadFrame(self.where(name), f"has more than {limits.FILE_BYTES} bytes", "export fewer frames at once")
        return data

    def _plain(self, name: str) -> bytes:
        file = self.file(name)
        if file.is_file() and file.stat().st_size > limits.FILE_BYTES:
            raise BadFrame(self.where(name), f"has more than {limits.FILE_BYTES} bytes", "export fewer frames at once")
        return read_file(file)


def open_pack(path: Path) -> Pack:
    """List the files of a drop; raises BadFrame for an archive that is damaged or holds too many."""
    if path.is_dir():
        written = dict(_files_below(path))
        came = _moment(max(written.values(), default=path.stat().st_mtime))
        return Pack(path, tuple(sorted(written)), moment=came, came=came)
    came = _moment(path.stat().st_mtime)
    pack = Pack(path, (path.name,), moment=came, came=came)
    if not pack.is_archive:
        return pack
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [each for each in archive.infolist() if not each.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise BadFrame(path, f"is not a whole zip archive ({error})", "export it again") from None
    if len(listed) > limits.DROP_FILES:
        raise BadFrame(path, f"holds {len(listed)} files, more than {limits.DROP_FILES}", "export fewer frames at once")
    names = (each.filename for each in listed)
    kept = tuple(sorted(name for name in names if not any(map(is_left_behind, PurePosixPath(name).parts))))
    return Pack(path, kept, moment=max(map(_written, listed), default=came), came=came)


def _files_below(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the name below a folder of each of its files, and when it was written: every night asks for those of all drops."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_behind(name)]
        below = "" if root == str(folder) else f"{os.path.relpath(root, folder)}/"
        for name in names:
            path = f"{root}/{name}"
            if not is_left_behind(name) and os.path.isfile(path):  # noqa: PTH113  # paths as objects take most of the time
                yield below + name, os.stat(path).st_mtime  # noqa: PTH116


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _written(file: zipfile.ZipInfo) -> datetime:
    """Return when a file of an archive was written; archives tell no zone."""
    try:
        return datetime(*file.date_time, tzinfo=UTC)
    except ValueError:
        return datetime(1980, 1, 1, tzinfo=UTC)
