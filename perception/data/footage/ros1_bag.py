"""ROS 1 bags (format 2.0), also those without an index, which recorders leave that lost their power."""

from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct, error, unpack_from
from typing import BinaryIO

from perception.data.decoding import BadFrame
from perception.data.footage.chunks import (
    DESCRIPTION_LIMIT_BYTES,
    PLACES_LIMIT,
    TYPES_LIMIT,
    Damaged,
    Message,
    messages_of,
    take,
    unpack,
)
from perception.data.footage.frames import COPY_AGAIN, Deadline

_MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 5, 6, 7
_LENGTH = Struct("<I")
_Fields = dict[bytes, bytes]


def read_ros1_bag(
    path: Path, name: str, wants: Callable[[str], bool], deadline: Deadline
) -> Iterator[Message | BadFrame]:
    """Yield the messages of the types that are wanted, and a BadFrame for each damage; raises BadFrame for no such bag."""
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise BadFrame(name, "does not begin as a ROS 1 bag of format 2.0", COPY_AGAIN)
        reader = _Reader(stream, path.stat().st_size, wants)
        yield from messages_of(name, reader.places(deadline), reader.messages, reader.broken_off, deadline)


class _Reader:
    """Find and read the chunks of one bag."""

    def __init__(self, stream: BinaryIO, size: int, wants: Callable[[str], bool]) -> None:
        self._stream, self._size, self._wants = stream, size, wants
        self._connections: dict[bytes, tuple[str, str]] = {}  # topic and type by number
        self.broken_off = ""

    def places(self, deadline: Deadline) -> list[int]:
        """List where chunks begin: as a walk from record to record finds them, and as the index at the end says."""
        found: list[int] = []
        index, place = 0, len(_MAGIC)
        while place < self._size and len(found) < PLACES_LIMIT:
            deadline.check()
            try:
                fields, start, length = self._record(place)
            except Damaged:
                break
            kind = fields.get(b"op", b"\0")[0]
            if kind == _CHUNK:
                found.append(place)
            if kind == _BAG and len(fields.get(b"index_pos", b"")) == 8:
                index = int.from_bytes(fields[b"index_pos"], "little")
            place = start + length
        indexed = self._indexed(index) if index else []
        if place != self._size or not index:
            self.broken_off = f"has no whole index, or cannot be walked through beyond byte {place} of {self._size}"
        return found + indexed

    def _indexed(self, place: int) -> list[int]:
        found: list[int] = []
        try:
            while place < self._size and len(found) < PLACES_LIMIT:
                fields, start, length = self._record(place)
                kind = fields.get(b"op", b"\0")[0]
                if kind == _CHUNK_INFO:
                    found.append(int.from_bytes(fields.get(b"chunk_pos", b""), "little"))
                if kind == _CONNECTION:
                    self._connect(fields, take(self._stream, start, length, DESCRIPTION_LIMIT_BYTES))
                place = start + length
        except Damaged:
            pass  # what it told up to here may still help
        return found

    def _record(self, place: int) -> tuple[_Fields, int, int]:
        """Return the fields of a record's header and where its data begin and how long they are; raises Damaged."""
        (length,) = _LENGTH.unpack(take(self._stream, place, 4))
        fields = _fields(take(self._stream, place + 4, length, DESCRIPTION_LIMIT_BYTES))
        (size,) = _LENGTH.unpack(take(self._stream, place + 4 + length, 4))
        start = place + 8 + length
        if start + size > self._size:
            raise Damaged(f"ends after {self._size - start} of {size} bytes")
        return fields, start, size

    def messages(self, place: int) -> Iterator[Message]:
        """Yield the messages of the chunk that begins at a place; raises Damaged."""
        fields, start, length = self._record(place)
        if fields.get(b"op") != bytes((_CHUNK,)) or len(fields.get(b"size", b"")) != 4:
            raise Damaged("it is no chunk")
        compression = fields.get(b"compression", b"").decode("ascii", "replace")
        size = int.from_bytes(fields[b"size"], "little")
        content, here = bytes(unpack(compression, take(self._stream, start, length), size)), 0
        while here < size:
            fields, here, data = _inner_record(content, here)
            kind = fields.get(b"op", b"\0")[0]
            if kind == _CONNECTION:
                self._connect(fields, data)
            if kind == _MESSAGE:
                yield from self._message(fields, data)

    def _message(self, fields: _Fields, data: bytes) -> Iterator[Message]:
        number, time = fields.get(b"conn", b""), fields.get(b"time", b"")
        if number not in self._connections or len(time) != 8:
            raise Damaged("a message has no connection or no time")
        topic, kind = self._connections[number]
        if self._wants(kind):
            seconds, nanoseconds = unpack_from("<II", time)
            yield Message(topic, kind, "ros1", b"", seconds * 10**9 + nanoseconds, data)

    def _connect(self, fields: _Fields, data: bytes) -> None:
        package, _, kind = _fields(data).get(b"type", b"").decode("utf-8", "replace").rpartition("/")
        topic = fields.get(b"topic", b"").decode("utf-8", "replace")
        number, told = fields.get(b"conn", b""), (topic, f"{package}/msg/{kind}")
        # The index and a chunk tell the same, unless one is damaged.
        if not self._wants(self._connections.get(number, told)[1]):
            self._connections.pop(number, None)
        if len(self._connections) < TYPES_LIMIT:
            self._connections.setdefault(number, told)


def _inner_record(content: bytes, place: int) -> tuple[_Fields, int, bytes]:
    """Return the fields and data of a record inside a chunk, and where the next one begins; raises Damaged."""
    try:
        (length,) = _LENGTH.unpack_from(content, place)
        fields = _fields(content[place + 4 : place + 4 + length])
        (size,) = _LENGTH.unpack_from(content, place + 4 + length)
    except error:
        raise Damaged("a record is cut off") from None
    start = place + 8 + length
    if start + size > len(content):
        raise Damaged("a record is cut off")
    return fields, start + size, content[start : start + size]


def _fields(header: bytes) -> _Fields:
    fields, place = {}, 0
    while place < len(header):
        size = int.from_bytes(header[place : place + 4], "little")
        name, equals, value = header[place + 4 : place + 4 + size].partition(b"=")
        if not equals or place + 4 + size > len(header) or (name == b"op" and len(value) != 1):
            raise Damaged("a header's fields cannot be told apart")
        fields[name] = value
        place += 4 + size
    return fields
