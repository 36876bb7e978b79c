"""What readers of footage give: pictures with what the recording tells of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from perception.data.decoding import BadFrame, decode_image

COPY_AGAIN = "copy the file again"
_JPEG_QUALITY = 95  # of pictures that have no file of their own; above it files grow faster than what is seen of it
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EARLIEST_NS = 946_684_800 * 10**9  # 2000-01-01: a recorder whose clock says less has not been set


@dataclass(frozen=True)
class Picture:
    """Hold a picture as what draws its pixels, (height, width, 3) uint8 RGB, and as the file that it arrived in, if any."""

    pixels: Callable[[], NDArray[np.uint8]] = field(repr=False)
    file: bytes | None = field(default=None, repr=False)

    def encoded(self) -> tuple[bytes, str]:
        """Return the bytes of a JPEG or PNG file, and its suffix: the file that arrived, else the pixels as JPEG."""
        if self.file is None:
            return encode_jpeg(self.pixels()), "jpg"
        return self.file, "png" if self.file.startswith(_PNG_START) else "jpg"


def picture_of_file(data: bytes, name: str) -> Picture:
    """Return the picture in the bytes of a JPEG or PNG file; raises BadFrame for what starts as neither."""
    if not data.startswith((_JPEG_START, _PNG_START)):
        raise BadFrame(name, "is neither JPEG nor PNG", "record JPEG or PNG")
    return Picture(lambda: decode_image(data, name), data)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (height, width, 3) uint8 RGB pixels."""
    import cv2

    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Hold one picture of an object as its reader gives it; None is unknown."""

    position: str  # in the object; empty where the object is the picture
    picture: Picture
    camera: str | None = None
    timestamp_utc: datetime | None = None
    clock_s: float | None = None  # on the recording's own clock
    place: tuple[float, float] | None = None  # latitude and longitude in degrees


def utc_of(*clocks_ns: int) -> datetime | None:
    """Return the first of some clocks, in nanoseconds since 1970, that has been set; None where none has."""
    for clock_ns in clocks_ns:
        if _EARLIEST_NS <= clock_ns < 2**62:
            return datetime.fromtimestamp(clock_ns // 10**9, UTC).replace(microsecond=clock_ns % 10**9 // 1000)
    return None


@dataclass(frozen=True)
class Deadline:
    """Bound the time that one object may take."""

    name: str  # of the object
    limit_s: float
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise BadFrame once the time is over."""
        if time.monotonic() - self.started > self.limit_s:
            raise BadFrame(self.name, f"takes longer than {self.limit_s:g} s", "raise max_object_s or cut the file")
