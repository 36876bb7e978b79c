"""What bags have in common: messages in chunks, which are found by walking the file and by its index, and unpacked within bounds."""

import bz2
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from perception.data.decoding import BadFrame
from perception.data.footage.frames import COPY_AGAIN, Deadline

# Recorders write chunks of some megabytes, and some hundred topics; what is far beyond is damaged, or meant to fill memory.
CHUNK_LIMIT_BYTES = 1 << 28
PLACES_LIMIT = 1 << 22  # chunks of a file, or messages outside chunks
TYPES_LIMIT, DESCRIPTION_LIMIT_BYTES = 4096, 1 << 20  # topics or types of a file, and what it says of one


class Damaged(Exception):
    """Say in a few words what is wrong with a chunk or a record of a bag."""


@dataclass(frozen=True)
class Message:
    """Hold one message of a bag."""

    topic: str
    type: str  # as ROS 2 writes it, sensor_msgs/msg/Image, or a protobuf's full name
    encoding: str  # ros1, cdr or protobuf
    schema: bytes  # the protobuf's descriptors; empty for others
    log_ns: int  # when it was recorded, nanoseconds since 1970
    data: bytes


def messages_of(
    name: str, places: Iterable[int], read: Callable[[int], Iterable[Message]], broken_off: str, deadline: Deadline
) -> Iterator[Message | BadFrame]:
    """Yield the messages of a bag chunk by chunk, and a BadFrame for each that is damaged.

    places: bytes at which chunks begin; read: gives the messages of one, or raises Damaged; broken_off: why the walk
    through the file ended before its end, empty where it did not. Raises BadFrame once the deadline is over.
    """
    for place in sorted(set(places)):
        deadline.check()
        try:
            yield from read(place)
        except Damaged as error:
            rule = f"its chunk at byte {place} is damaged ({error}): what is left of its messages is left out"
            yield BadFrame(name, rule, COPY_AGAIN)
    if broken_off:
        yield BadFrame(name, broken_off, COPY_AGAIN)


def take(stream: BinaryIO, place: int, size: int, limit: int = CHUNK_LIMIT_BYTES) -> bytes:
    """Return bytes of a file; raises Damaged where there are not so many, or more than the limit."""
    if size > limit:
        raise Damaged(f"has {size} bytes, more than {limit}")
    stream.seek(place)
    data = stream.read(size)
    if len(data) != size:
        raise Damaged(f"ends after {len(data)} of {size} bytes")
    return data


def unpack(compression: str, data: bytes | memoryview, size: int) -> bytes | memoryview:
    """Return what was compressed, exactly `size` bytes; raises Damaged for anything else, having unpacked little more."""
    if size > CHUNK_LIMIT_BYTES:
        raise Damaged(f"unpacks to {size} bytes, more than {CHUNK_LIMIT_BYTES}")
    try:
        unpacked = _UNPACKERS[compression](data, size + 1)
    except KeyError:
        raise Damaged(f"compression {compression[:20]!r} is unknown") from None
    except Exception as error:  # the libraries share no base class of what they raise on damaged bytes
        raise Damaged(f"{compression}: {error}") from None
    if len(unpacked) != size:
        raise Damaged(f"unpacks to {len(unpacked)} bytes in place of {size}")
    return unpacked


def _unpack_lz4(data: Any, limit: int) -> bytes:
    import lz4.frame

    unpacked: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=limit)
    return unpacked


def _unpack_zstd(data: Any, limit: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(data) > limit:
        raise Damaged("announces another size")
    return zstandard.ZstdDecompressor(max_window_size=CHUNK_LIMIT_BYTES).decompress(data, max_output_size=limit)


_UNPACKERS: dict[str, Callable[[Any, int], bytes | memoryview]] = {
    "": lambda data, _: data,
    "none": lambda data, _: data,
    "bz2": lambda data, limit: bz2.BZ2Decompressor().decompress(data, max_length=limit),
    "lz4": _unpack_lz4,
    "zstd": _unpack_zstd,
}
