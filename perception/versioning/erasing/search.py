"""Search every file of a place for frames: by name, by bytes, and by what pictures show, within archives, tables and pages as well.

What a file is, its first bytes say, not its name. Names are looked up by their hash, so that the search needs no list of
what it must not find. A picture counts when its mark is near an erased frame's, and no frame that stays is as near.
"""

import base64
import binascii
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perception.data.decoding import BadFrame, decode_image
from perception.data.deny_list import DenyList, digest
from perception.data.picture_hash import COPY_BITS, mark_distances, picture_mark
from perception.versioning.erasing.places import Place

_WORD = re.compile(rb"[A-Za-z0-9_-]{1,200}")
_LONG_WORD = re.compile(rb"[A-Za-z0-9_-]{4,200}")  # of binary files, which hold shorter ones by chance
_DATA_URL = re.compile(rb"data:image/[a-z+]+;base64,([A-Za-z0-9+/=\s]+)")
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")
_MOST_LEVELS = 4  # of archives within archives


@dataclass(frozen=True)
class Finding:
    """One copy that the search found."""

    place: str
    name: str  # of the file, and of what within it
    why: str


@dataclass(frozen=True)
class _Picture:
    finding: Finding
    distance: int
    mark: NDArray[np.uint8]


@dataclass
class Search:
    """Look for what a list denies; give it files, then ask what it found."""

    denied: DenyList
    stays: frozenset[str]  # sha256 of the blobs of frames that stay
    _found: list[Finding] = field(default_factory=list)
    _near: list[_Picture] = field(default_factory=list)
    _living: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    @cached_property
    def _marks(self) -> NDArray[np.uint8]:
        return np.array([list(bytes.fromhex(mark)) for mark in sorted(self.denied.marks)], np.uint8).reshape(-1, 32)

    def look_through(self, label: str, place: Place, leave_out: Callable[[str], bool] = lambda _: False) -> int:
        """Look into every file of a place but those left out; return how many."""
        count = 0
        for name in place.names():
            if not leave_out(name):
                self.look_into(label, name, place.read(name))
                count += 1
        return count

    def look_into(self, label: str, name: str, data: bytes, level: int = 0) -> None:
        """Look into one file, and into what it holds."""
        self._text(label, name, name)
        if not data:
            return
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in self.denied.contents and sha256 not in self.stays:
            self._found.append(Finding(label, name, "holds its bytes"))
        try:
            for inner, content in _inside(data) if level < _MOST_LEVELS else ():
                self.look_into(label, f"{name}!{inner}", content, level + 1)
            if data.startswith(b"PAR1"):
                self._table(label, name, data)
                return
        except (tarfile.TarError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, pa.ArrowException) as error:
            self._found.append(Finding(label, name, f"cannot be looked into ({' '.join(str(error).split())})"))
        if data.startswith(_PICTURES):
            self._picture(label, name, data)
        else:
            self._words(label, name, data)
            self._json(label, name, data)

    def findings(self) -> list[Finding]:
        """Return all that was found; pictures that a frame which stays explains are none."""
        living = np.array(list(self._living.values()), np.uint8).reshape(-1, 32)
        true = [
            each.finding
            for each in self._near
            if not len(living) or mark_distances(each.mark, living).min() > each.distance
        ]
        return sorted({*self._found, *true}, key=lambda each: (each.place, each.name, each.why))

    def _picture(self, label: str, name: str, data: bytes) -> None:
        try:
            mark = picture_mark(decode_image(data, name, upright=False))
        except BadFrame:
            return
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in self.stays:
            self._living[sha256] = mark
        elif len(self._marks) and (distance := int(mark_distances(mark, self._marks).min())) <= COPY_BITS:
            finding = Finding(label, name, f"shows it ({distance} of 255 bits differ)")
            self._near.append(_Picture(finding, distance, mark))

    def _table(self, label: str, name: str, data: bytes) -> None:
        file = pq.ParquetFile(io.BytesIO(data))
        for number in range(file.num_row_groups):
            for column in file.read_row_group(number).columns:
                for value in set(_texts(column)):
                    self._text(label, name, value)

    def _json(self, label: str, name: str, data: bytes) -> None:
        """Look up whole texts, which the names of drives are found by."""
        if data[:1] in b"{[" and self.denied.drives:
            try:
                _each_text(json.loads(data), lambda text: self._text(label, name, text))
            except ValueError:
                return

    def _text(self, label: str, name: str, text: str) -> None:
        if any(map(self.denied.names_drive, {text, *text.split("/")})):
            self._found.append(Finding(label, name, "names its drive"))
        self._words(label, name, text.encode())

    def _words(self, label: str, name: str, data: bytes) -> None:
        for word in set((_LONG_WORD if b"\0" in data[:4096] else _WORD).findall(data)):
            if digest(word.decode()) in self.denied.frames:
                self._found.append(Finding(label, name, "names it"))


def is_meant(name: str, content: bytes, denied: DenyList) -> bool:
    """Say whether one file is, holds or names something denied; pictures by their bytes alone."""
    search = Search(denied, frozenset())
    search.look_into("", name, content)
    return bool(search.findings())


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (value for value in column.unique().to_pylist() if value is not None)
    elif pa.types.is_nested(kind):
        found: list[str] = []
        _each_text(column.to_pylist(), found.append)
        yield from found


def _each_text(value: Any, take: Callable[[str], None]) -> None:
    if isinstance(value, str):
        take(value)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            _each_text(name, take)
            _each_text(each, take)
    elif isinstance(value, list | tuple):
        for each in value:
            _each_text(each, take)


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what archives hold, and the pictures within pages."""
    if data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content:
                    yield member.name, content.read()
    elif data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            for info in zipped.infolist():
                yield info.filename, zipped.read(info)
    elif b"data:image/" in data:
        for number, found in enumerate(_DATA_URL.findall(data)):
            try:
                yield f"picture {number}", base64.b64decode(found)
            except binascii.Error:
                continue
