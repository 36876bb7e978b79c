"""Messages of bags as pictures with time and place: CompressedImage, Image and CompressedVideo, NavSatFix and LocationFix."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.footage.chunks import Message
from perception.data.footage.frames import Deadline, Picture, Shot, picture_of_file, utc_of
from perception.data.footage.video import SoundFrames, open_decoder, starts_anew, video_picture

_FILES = ("sensor_msgs/msg/CompressedImage", "foxglove.CompressedImage")
_PIXELS = ("sensor_msgs/msg/Image", "foxglove.RawImage")
_VIDEO = ("foxglove_msgs/msg/CompressedVideo", "foxglove.CompressedVideo")
_FIXES = ("sensor_msgs/msg/NavSatFix", "foxglove.LocationFix")
_VIDEO_DEFINITION = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
_FIX_HOLDS_NS = 2 * 10**9  # receivers give one to ten a second; after two seconds a car is elsewhere
# Bytes a pixel, and what OpenCV calls the way from there to RGB.
_LAYOUTS = {
    "rgb8": (3, ""),
    "bgr8": (3, "BGR2RGB"),
    "8UC3": (3, "BGR2RGB"),
    "rgba8": (4, "RGBA2RGB"),
    "bgra8": (4, "BGRA2RGB"),
    "mono8": (1, "GRAY2RGB"),
    "8UC1": (1, "GRAY2RGB"),
    "bayer_rggb8": (1, "BayerRGGB2RGB"),
    "bayer_bggr8": (1, "BayerBGGR2RGB"),
    "bayer_gbrg8": (1, "BayerGBRG2RGB"),
    "bayer_grbg8": (1, "BayerGRBG2RGB"),
    "yuv422": (2, "YUV2RGB_UYVY"),
    "uyvy": (2, "YUV2RGB_UYVY"),
    "yuv422_yuy2": (2, "YUV2RGB_YUY2"),
    "yuyv": (2, "YUV2RGB_YUY2"),
}


def is_wanted(kind: str) -> bool:
    """Say whether messages of a type hold pictures or places."""
    return kind in (*_FILES, *_PIXELS, *_VIDEO, *_FIXES)


def shots_of(messages: Iterable[Message | BadFrame], name: str, deadline: Deadline) -> Iterator[Shot | BadFrame]:
    """Yield the pictures of a bag's messages with the latest place before them, and a BadFrame for each damage.

    name: of the bag in messages. Raises BadFrame once the deadline is over.
    """
    bag = _Bag(name)
    for message in messages:
        deadline.check()
        try:
            yield from bag.gap(message) if isinstance(message, BadFrame) else bag.shots(message)
        except BadFrame as error:
            yield error
    yield from bag.end()


@dataclass
class _Stream:
    """Hold the decoder of a topic's video, and the messages whose frames it has not given yet, by number."""

    decoder: SoundFrames
    waiting: dict[int, tuple[Message, Any]] = field(default_factory=dict)


@dataclass
class _Bag:
    name: str
    _numbers: Counter[str] = field(default_factory=Counter)  # messages so far by topic
    _streams: dict[str, _Stream] = field(default_factory=dict)  # by topic
    _fix: tuple[int, tuple[float, float]] | None = None  # when, and where

    def shots(self, message: Message) -> Iterator[Shot | BadFrame]:
        number = self._numbers[message.topic]
        self._numbers[message.topic] += 1
        try:
            content = _content(message)
        except Exception as error:  # decoders of messages raise many types on damaged bytes
            if message.topic in self._streams:
                yield from self._frames(message.topic, self._streams[message.topic].decoder.lose())
            where = f"{self.name}: {message.topic} {number}"
            raise BadFrame(where, f"is no {message.type} ({type(error).__name__})", "record it again") from None
        if message.type in _FIXES:
            self._note_fix(message, content)
        elif message.type in _VIDEO:
            yield from self._video(message, content, number)
        else:
            draw = _picture_of_file if message.type in _FILES else _picture_of_pixels
            yield self._shot(message, content, number, draw(content, f"{self.name}: {message.topic} {number}"))

    def gap(self, damage: BadFrame) -> Iterator[Shot | BadFrame]:
        """Pass a damage on; any stream may have lost a frame there, on which its next ones depend."""
        for topic, stream in self._streams.items():
            yield from self._frames(topic, stream.decoder.lose())
        yield damage

    def end(self) -> Iterator[Shot | BadFrame]:
        import av

        for topic, stream in self._streams.items():
            yield from self._frames(topic, stream.decoder.decode(av.Packet(), False))
            yield from self._missing(topic, stream.decoder.lost(ended=True))

    def _note_fix(self, message: Message, content: Any) -> None:
        status = getattr(getattr(content, "status", None), "status", 0)  # below 0: the receiver has no fix
        place = (float(content.latitude), float(content.longitude))
        known = status >= 0 and abs(place[0]) <= 90 and abs(place[1]) <= 180  # neither holds of NaN
        self._fix = (message.log_ns, place) if known else None

    def _video(self, message: Message, content: Any, number: int) -> Iterator[Shot | BadFrame]:
        import av

        if message.topic not in self._streams:
            decoder = open_decoder(content.format)
            if decoder is None:
                where = f"{self.name}: {message.topic} {number}"
                raise BadFrame(where, f"is video of format {content.format[:20]!r}", "record h264 or h265")
            self._streams[message.topic] = _Stream(decoder)
        stream, data = self._streams[message.topic], bytes(content.data)
        packet = av.Packet(data)
        packet.pts = number
        stream.waiting[number] = (message, content)
        yield from self._frames(message.topic, stream.decoder.decode(packet, starts_anew(data, content.format)))
        yield from self._missing(message.topic, stream.decoder.lost())

    def _frames(self, topic: str, frames: Iterable[Any]) -> Iterator[Shot]:
        waiting = self._streams[topic].waiting
        for frame in frames:
            if frame.pts in waiting:
                message, content = waiting[frame.pts]
                yield self._shot(message, content, frame.pts, video_picture(frame))
                for number in [each for each in waiting if each <= frame.pts]:  # a topic's frames come in order
                    del waiting[number]

    def _missing(self, topic: str, lost: int) -> Iterator[BadFrame]:
        if lost:
            rule = f"{lost} frames before message {self._numbers[topic]} are damaged or depend on damaged ones"
            yield BadFrame(f"{self.name}: {topic}", rule, "record it again")

    def _shot(self, message: Message, content: Any, number: int, picture: Picture) -> Shot:
        fix = self._fix
        return Shot(
            position=f"{message.topic}.{number}",
            picture=picture,
            camera=message.topic,
            timestamp_utc=utc_of(_stamp_ns(content), message.log_ns),
            clock_s=message.log_ns / 1e9,
            place=fix[1] if fix and abs(message.log_ns - fix[0]) <= _FIX_HOLDS_NS else None,
        )


def _picture_of_file(content: Any, name: str) -> Picture:
    return picture_of_file(bytes(content.data), name)


def _picture_of_pixels(content: Any, name: str) -> Picture:
    """Return the picture of an Image message; raises BadFrame for one that does not hold what it says."""
    if content.encoding not in _LAYOUTS:
        raise BadFrame(name, f"is an image of encoding {content.encoding[:30]!r}", f"record {', '.join(_LAYOUTS)}")
    depth, way = _LAYOUTS[content.encoding]
    height, width, step = int(content.height), int(content.width), int(content.step)
    if not 0 < height * width <= limits.PIXELS or step < width * depth or len(content.data) < height * step:
        found = f"{width}x{height} px, {step} bytes a row, {len(content.data)} bytes in all"
        raise BadFrame(name, f"is an image that does not hold what it says ({found})", "record it again")

    def pixels() -> NDArray[np.uint8]:
        import cv2

        rows = np.frombuffer(content.data, np.uint8, height * step).reshape(height, step)[:, : width * depth]
        stored = np.ascontiguousarray(rows).reshape((height, width, depth) if depth > 1 else (height, width))
        return np.asarray(cv2.cvtColor(stored, getattr(cv2, f"COLOR_{way}")) if way else stored, np.uint8)

    return Picture(pixels)


def _stamp_ns(content: Any) -> int:
    """Return the camera's own time of a message, nanoseconds since 1970."""
    stamp = content.header.stamp if hasattr(content, "header") else content.timestamp
    if hasattr(stamp, "sec"):
        return int(stamp.sec) * 10**9 + int(stamp.nanosec)
    return int(stamp.seconds) * 10**9 + int(stamp.nanos)


def _content(message: Message) -> Any:
    if message.encoding == "protobuf":
        return _protobuf(message.type, message.schema)(message.data)
    if message.encoding == "ros1":
        return _types("ROS1_NOETIC").deserialize_ros1(message.data, message.type)
    return _types("ROS2_HUMBLE").deserialize_cdr(message.data, message.type)


@cache
def _types(store: str) -> Any:
    """Return the published types of ROS messages. What a bag says of its types is not used: code would be made of it."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    types = get_typestore(Stores[store])
    types.register(get_types_from_msg(_VIDEO_DEFINITION, _VIDEO[0]))
    return types


@lru_cache(maxsize=16)
def _protobuf(kind: str, descriptors: bytes) -> Any:
    from mcap.records import Schema
    from mcap_protobuf.decoder import DecoderFactory

    schema = Schema(id=1, name=kind, encoding="protobuf", data=descriptors)
    return DecoderFactory().decoder_for("protobuf", schema)
