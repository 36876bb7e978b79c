"""Videos, and video streams in bags: H.264 and H.265, decoded by FFmpeg's libraries without painting over any damage."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.footage.frames import COPY_AGAIN, Deadline, Picture, Shot

# Named, since FFmpeg's guess would follow playlists to other files.
_CONTAINERS = {".mp4": "mp4", ".mkv": "matroska"}
_CODECS = {"h264": "h264", "hevc": "hevc", "h265": "hevc"}
_KEY_UNITS = {"h264": (5,), "hevc": tuple(range(16, 22))}  # NAL units of a picture that needs no other
# Fail where FFmpeg would else show a guess.
_OPTIONS = {"err_detect": "explode", "max_pixels": str(limits.PIXELS)}

_MATROSKA_SEGMENT = bytes.fromhex("18538067")
_GROUP_LIMIT_BYTES = 1 << 26  # of packets kept to decode them again: two seconds of 8k video


@dataclass
class _Group:
    """Hold the packets since a key frame, unless they are many, and when the frames are shown that were given since then."""

    packets: list[Any] = field(default_factory=list)
    given: set[int] = field(default_factory=set)
    size_bytes: int = 0

    def keep(self, packet: Any) -> None:
        self.size_bytes += packet.size
        if self.size_bytes <= _GROUP_LIMIT_BYTES:
            self.packets.append(packet)
        else:
            self.packets, self.given = [], set()


@dataclass
class SoundFrames:
    """Decode one stream and leave out what is damaged or depends on it: after an error all up to the next key frame."""

    decoder: Any  # av.CodecContext
    _lost: int = 0
    _sound: bool = False
    _first_pts: int | None = None  # of the key frame after a damage: what is shown before it needs frames from before
    _groups: tuple[_Group, _Group] = field(
        default_factory=lambda: (_Group(), _Group())
    )  # the last whole one, and this one

    def __post_init__(self) -> None:
        self.decoder.options, self.decoder.thread_count = _OPTIONS, 1

    def decode(self, packet: Any, is_key: bool) -> Iterator[Any]:
        """Yield the frames that are complete once this packet is in; one without data ends the stream."""
        if is_key:
            self._begin_group(packet)
        if not packet.size:
            yield from self._drained()
        elif not self._sound:
            self._lost += 1
        elif packet.is_corrupt:
            yield from self.lose()
        else:
            try:
                frames = self.decoder.decode(packet)
            except (FFmpegError, ValueError):
                yield from self._before_damage(packet.pts)
                return
            yield from self._sound_ones(frames)
            self._groups[1].keep(packet)

    def lose(self) -> Iterator[Any]:
        """Take a packet as lost and yield the frames before it that were still waiting for their turn."""
        self._lost += 1
        yield from self._drained()
        self._sound = False

    def lost(self, *, ended: bool = False) -> int:
        """Return how many frames were left out since this was asked last, once the damage is over."""
        if not (self._sound or ended):
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def _begin_group(self, packet: Any) -> None:
        before = self._groups[1] if self._sound else _Group()
        if not self._sound:
            if self._first_pts is not None:
                self.decoder.flush_buffers()
            self._sound, self._first_pts = True, packet.pts or 0
        self._groups = (before, _Group())

    def _before_damage(self, damaged_pts: int | None) -> Iterator[Any]:
        """Give all frames before a damage: the decoder's error takes one with it that was due, so the last two groups are decoded again."""
        waiting = {frame.pts: frame for frame in self._drained() if frame.pts != damaged_pts}
        self.decoder.flush_buffers()
        given = self._groups[0].given | self._groups[1].given
        few = all(group.size_bytes <= _GROUP_LIMIT_BYTES for group in self._groups)
        try:
            for packet in [*self._groups[0].packets, *self._groups[1].packets, None] if few else ():
                frames = self.decoder.decode(packet)
                waiting |= {each.pts: each for each in frames if each.pts not in given | waiting.keys()}
        except (FFmpegError, ValueError):
            pass  # what it gave up to here is sound
        yield from self._sound_ones(frame for _, frame in sorted(waiting.items()))
        self._lost, self._sound = self._lost + 1, False

    def _drained(self) -> Iterator[Any]:
        try:
            frames = self.decoder.decode(None) if self._sound else []
        except (FFmpegError, ValueError):
            self._lost, frames = self._lost + 1, []
        yield from self._sound_ones(frames)

    def _sound_ones(self, frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.is_corrupt or frame.pts is None or frame.pts < (self._first_pts or 0):
                self._lost += 1
            else:
                self._groups[1].given.add(frame.pts)
                yield frame


def open_decoder(format: str) -> SoundFrames | None:
    """Return a decoder of a video stream in a bag by the name of its format; None for a format that is not read."""
    codec = _CODECS.get(format.lower())
    return SoundFrames(av.CodecContext.create(codec, "r")) if codec else None


def starts_anew(data: bytes, format: str) -> bool:
    """Say whether a picture of a video stream (Annex B) needs no other: it holds such a NAL unit."""
    codec, place = _CODECS[format.lower()], data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        kind = data[place + 3] & 31 if codec == "h264" else data[place + 3] >> 1 & 63
        if kind in _KEY_UNITS[codec]:
            return True
        place = data.find(b"\0\0\1", place + 3)
    return False


def video_picture(frame: Any) -> Picture:
    """Return a decoded frame as a picture, turned as its recorder says that it is shown."""

    def pixels() -> NDArray[np.uint8]:
        stored = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(stored, frame.rotation // 90)) if frame.rotation else stored

    return Picture(pixels)


def read_video(path: Path, name: str, started: datetime | None, deadline: Deadline) -> Iterator[Shot | BadFrame]:
    """Yield the frames of an mp4 or mkv file in the order in which they are shown, and a BadFrame for each damage.

    name: of the file in messages, and of its camera. started: when its first frame was taken; None: what the file says
    of it, if anything. Raises BadFrame for a file of which nothing can be read.
    """
    with _opened(path, name) as container:
        streams = _streams(container, name)
        film = _Film(
            name, {each.index: SoundFrames(each.codec_context) for each in streams}, started or _start(container)
        )
        for packet in _packets(container, streams, name):
            deadline.check()
            if isinstance(packet, BadFrame):
                yield packet
            else:
                yield from film.shots(packet)
        yield from film.end(max(0, _announced_bytes(path, streams) - path.stat().st_size))


@dataclass
class _Film:
    """Number and date the frames of a file's streams, and tell what is missing."""

    name: str
    decoders: dict[int, SoundFrames]  # by the number of the stream
    started: datetime | None
    _count: int = 0
    _latest_s: float = 0.0

    def shots(self, packet: Any) -> Iterator[Shot | BadFrame]:
        stream = packet.stream
        for frame in self.decoders[stream.index].decode(packet, packet.is_keyframe):
            clock_s = None if frame.pts is None else float(frame.pts * stream.time_base)
            self._latest_s = max(self._latest_s, clock_s or 0.0)
            yield Shot(
                position=f"{stream.index}.{self._count}",
                picture=video_picture(frame),
                camera=Path(self.name).stem + (f"-{stream.index}" if len(self.decoders) > 1 else ""),
                timestamp_utc=self._date(clock_s),
                clock_s=clock_s,
            )
            self._count += 1
        yield from self._missing(self.decoders[stream.index].lost())

    def end(self, missing_bytes: int) -> Iterator[BadFrame]:
        for decoder in self.decoders.values():
            yield from self._missing(decoder.lost(ended=True))
        if missing_bytes:
            yield BadFrame(self.name, f"lacks its last {missing_bytes} bytes", COPY_AGAIN)

    def _missing(self, lost: int) -> Iterator[BadFrame]:
        if lost:
            rule = f"{lost} frames before {self._latest_s:.2f} s are damaged or depend on damaged ones"
            yield BadFrame(self.name, rule, COPY_AGAIN)

    def _date(self, clock_s: float | None) -> datetime | None:
        if self.started is None or clock_s is None:
            return None
        try:
            return self.started + timedelta(seconds=clock_s)
        except OverflowError:
            return None


def _opened(path: Path, name: str) -> Any:
    try:
        return av.open(str(path), format=_CONTAINERS[path.suffix.lower()], options={"protocol_whitelist": "file"})
    except (FFmpegError, ValueError) as error:
        part = "index" if path.suffix.lower() == ".mp4" else "header"
        raise BadFrame(name, f"has no readable {part} ({error}): none of its frames can be read", COPY_AGAIN) from None


def _streams(container: Any, name: str) -> list[Any]:
    streams = [each for each in container.streams.video if each.codec_context and each.codec_context.name in _CODECS]
    if not streams:
        found = ", ".join(each.codec_context.name for each in container.streams.video if each.codec_context) or "none"
        raise BadFrame(name, f"holds no H.264 or H.265 video, but {found}", "convert it with ffmpeg -c:v libx264")
    if any(
        stream.frames and not stream.index_entries for stream in streams if container.format.name != "matroska,webm"
    ):
        raise BadFrame(name, "ends before the first frame that its index names", COPY_AGAIN)
    return streams


def _packets(container: Any, streams: list[Any], name: str) -> Iterator[Any]:
    """Yield packets, and at last a BadFrame where the file cannot be read to its end; then decoders still hold frames."""
    try:
        yield from container.demux(streams)
    except (FFmpegError, ValueError) as error:
        for stream in streams:
            yield _end_of(stream)
        yield BadFrame(name, f"cannot be read to its end ({error})", COPY_AGAIN)


def _end_of(stream: Any) -> Any:
    packet = av.Packet()
    packet.stream = stream
    return packet


def _start(container: Any) -> datetime | None:
    """Return when a file says that it was begun, in UTC; None where it says nothing that can be read."""
    try:
        time = datetime.fromisoformat(str(container.metadata.get("creation_time")))
    except ValueError:
        return None
    # Recorders without a clock write the first moment of their calendar.
    return time.astimezone(UTC) if time.tzinfo and time.year >= 2000 else None


def _announced_bytes(path: Path, streams: list[Any]) -> int:
    """Return how many bytes a file has at least, by its index (mp4) or its header (mkv); 0 where it does not say."""
    if path.suffix.lower() == ".mp4":
        return max((entry.pos + entry.size for stream in streams for entry in stream.index_entries), default=0)
    with path.open("rb") as file:
        head = file.read(4096)
    segment, _ = _matroska_number(head, 4)  # an EBML header, then the segment, which is all the rest
    end, is_known = _matroska_number(head, segment + 4)
    return end if is_known and head[segment : segment + 4] == _MATROSKA_SEGMENT else 0


def _matroska_number(data: bytes, place: int) -> tuple[int, bool]:
    """Read a size of variable length (RFC 8794); return where what has that size ends, and whether the size is known."""
    length = 9 - data[place].bit_length() if place < len(data) else 9
    bits = (1 << 7 * length) - 1
    size = int.from_bytes(data[place : place + length], "big") & bits
    return place + length + size, length < 9 and size != bits
