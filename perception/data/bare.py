"""A picture without what is told beside its pixels: EXIF with its place and time, XMP, comments, previews, what lies behind its end.

The compressed pixels are taken over as they are; a colour profile and what a decoder needs stay.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from perception.data.decoding import BadFrame

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND"),
    *(b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs"),
)
_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # within compressed pixels 0 or a restart follows every 255
_JPEG_KEPT = {
    0xE0: b"JFIF\0",
    0xE2: b"ICC_PROFILE\0",
    0xEE: b"Adobe",
}  # of the segments of applications, by how they begin


def bare_picture(data: bytes, path: Path | str) -> bytes:
    """Return a JPEG or PNG that can be decoded without all that is no pixel; `path` names it in messages.

    Raises BadFrame where its parts cannot be told apart.
    """
    try:
        return b"".join(_png_parts(data) if data.startswith(_PNG_START) else _jpeg_parts(data))
    except struct.error:
        raise BadFrame(
            path, "its parts cannot be told apart, so that nothing could be left out", "save it again"
        ) from None


def _png_parts(data: bytes) -> Iterator[bytes]:
    yield _PNG_START
    place, kind = len(_PNG_START), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in _PNG_KEPT:
            yield data[place : place + 12 + length]
        place += 12 + length


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    place, marker = 2, 0
    while marker != _END:
        marker, length = struct.unpack_from(">xBH", data + b"\0\0", place)  # the end has no length
        end = place + 2 if marker == _END else place + 2 + length
        if marker == _SCAN:
            following = _MARKER.search(data, end)
            end = following.end() - 2 if following else len(data)
        if _is_kept(marker, data[place + 4 : place + 20]):
            yield data[place:end]
        place = end
        while data[place : place + 2] == b"\xff\xff":  # as many as one likes may stand before a marker
            place += 1


def _is_kept(marker: int, begins: bytes) -> bool:
    if 0xE0 <= marker <= 0xEF:
        return marker in _JPEG_KEPT and begins.startswith(_JPEG_KEPT[marker])
    return marker != _COMMENT
