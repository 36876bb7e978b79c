"""MCAP files: their chunks are checked one by one, so that one that is damaged costs its own messages alone."""

import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema

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

_MAGIC = b"\x89MCAP0\r\n"
_HEAD = Struct("<BQ")  # of a record: its kind and the bytes that follow
_CHUNK = Struct("<QQQII")  # first and last time, bytes when unpacked, their checksum, letters of the compression's name
_MESSAGE = Struct("<HIQQ")  # channel, number, when it was recorded, when it was sent
_FOOTER = Struct("<BQQQI8s")  # the last bytes of a file; the third number is where the summary begins


def read_mcap(path: Path, name: str, wants: Callable[[str], bool], deadline: Deadline) -> Iterator[Message | BadFrame]:
    """Yield the messages of the types that are wanted, and a BadFrame for each damage; raises BadFrame for no MCAP file."""
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise BadFrame(name, "does not begin as an MCAP file", COPY_AGAIN)
        reader = _Reader(stream, path.stat().st_size, wants)
        yield from messages_of(name, reader.places(deadline), reader.messages, reader.broken_off, deadline)


class _Reader:
    """Find and read the chunks, or the messages outside chunks, of one file."""

    def __init__(self, stream: BinaryIO, size: int, wants: Callable[[str], bool]) -> None:
        self._stream, self._size, self._wants = stream, size, wants
        self._schemas: dict[int, Any] = {}
        self._channels: dict[int, Any] = {}
        self.broken_off = ""

    def places(self, deadline: Deadline) -> list[int]:
        """List where chunks and messages begin: as a walk from record to record finds them, and as the index says."""
        found: list[int] = []
        place, ended = len(_MAGIC), False
        while not ended and place + _HEAD.size <= self._size and len(found) < PLACES_LIMIT:
            deadline.check()
            kind, length = _HEAD.unpack(take(self._stream, place, _HEAD.size))
            if place + _HEAD.size + length > self._size:
                break
            if kind in (Opcode.CHUNK, Opcode.MESSAGE, Opcode.SCHEMA, Opcode.CHANNEL):
                found.append(place)
            ended = kind in (Opcode.DATA_END, Opcode.FOOTER)
            place += _HEAD.size + length
        indexed = self._indexed()
        if not ended:
            self.broken_off = f"cannot be walked through beyond byte {place} of {self._size}"
            self.broken_off += "; the rest was found by its index" if indexed else " and has no index for the rest"
        return found + indexed

    def _indexed(self) -> list[int]:
        """Return the places of chunks by the summary at the file's end, and note its schemas and channels."""
        try:
            tail = take(self._stream, max(0, self._size - _FOOTER.size), _FOOTER.size)
            kind, _, start, _, crc, magic = _FOOTER.unpack(tail)
            if kind != Opcode.FOOTER or magic != _MAGIC or not 0 < start <= self._size - _FOOTER.size:
                return []
            summary = take(self._stream, start, self._size - _FOOTER.size - start)
            if crc and zlib.crc32(summary + tail[:-12]) != crc:
                return []
            noted = (self._note(kind, data) for kind, data in _records(memoryview(summary)))
            return [each.chunk_start_offset for each in noted if isinstance(each, ChunkIndex)]
        except Damaged:
            return []

    def _note(self, kind: int, data: memoryview) -> Any:
        record = _parsed(kind, data)
        known = {Schema: self._schemas, Channel: self._channels}.get(type(record))
        if known is not None:
            if len(data) > DESCRIPTION_LIMIT_BYTES or len(known) >= TYPES_LIMIT:
                raise Damaged(f"describes {len(known)} topics or types, one in {len(data)} bytes")
            known[record.id] = record
        return record

    def messages(self, place: int) -> Iterator[Message]:
        """Yield the messages of the chunk, or the message, that begins at a place; raises Damaged."""
        kind, length = _HEAD.unpack(take(self._stream, place, _HEAD.size))
        data = memoryview(take(self._stream, place + _HEAD.size, length))
        for inner, record in _records(_chunk(data)) if kind == Opcode.CHUNK else [(kind, data)]:
            if inner == Opcode.MESSAGE:
                yield from self._message(record)
            else:
                self._note(inner, record)

    def _message(self, data: memoryview) -> Iterator[Message]:
        if len(data) < _MESSAGE.size:
            raise Damaged("a message is cut off")
        number, _, log_ns, _ = _MESSAGE.unpack_from(data)
        channel = self._channels.get(number)
        if channel is None:
            raise Damaged(f"channel {number} is not described")
        schema = self._schemas.get(channel.schema_id)
        type_name = schema.name if schema else ""
        if "/" in type_name and "/msg/" not in type_name:
            type_name = type_name.replace("/", "/msg/")
        if schema and self._wants(type_name):
            descriptors = schema.data if channel.message_encoding == "protobuf" else b""
            yield Message(
                channel.topic, type_name, channel.message_encoding, descriptors, log_ns, bytes(data[_MESSAGE.size :])
            )


def _chunk(data: memoryview) -> memoryview:
    """Return what a chunk holds, once its size and checksum are right; raises Damaged."""
    if len(data) < _CHUNK.size:
        raise Damaged("its header is cut off")
    _, _, size, crc, letters = _CHUNK.unpack_from(data)
    start = _CHUNK.size + letters + 8
    if start + int.from_bytes(data[start - 8 : start], "little") != len(data):
        raise Damaged("its length is wrong")
    content = unpack(bytes(data[_CHUNK.size : start - 8]).decode("ascii", "replace"), data[start:], size)
    if crc and zlib.crc32(content) != crc:
        raise Damaged("its checksum is wrong")
    return memoryview(content)


def _records(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    place = 0
    while place < len(data):
        if place + _HEAD.size > len(data):
            raise Damaged("a record is cut off")
        kind, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if place + length > len(data):
            raise Damaged("a record is cut off")
        yield kind, data[place : place + length]
        place += length


_KINDS: dict[int, Any] = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel, Opcode.CHUNK_INDEX: ChunkIndex}


def _parsed(kind: int, data: memoryview) -> Any:
    """Return a record that describes others; None for any other. Raises Damaged."""
    try:
        return _KINDS[kind].read(ReadDataStream(BytesIO(data))) if kind in _KINDS else None
    except Exception as error:  # as the library's parser raises many types
        raise Damaged(f"a record cannot be read ({type(error).__name__})") from None
