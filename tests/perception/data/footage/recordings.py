"""Recordings for tests, written by the libraries of their formats; every picture shows its own number in light and dark blocks."""

import io
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from numpy.typing import NDArray
from PIL import Image
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

HEIGHT, WIDTH = 96, 160
START_NS = 1_793_500_000 * 10**9  # 2026-11-01T02:26:40Z
STEP_NS = 100_000_000
VIDEO_DEFINITION = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"


def numbered(number: int) -> NDArray[np.uint8]:
    """Draw a number as eight blocks over a background that moves with it: (HEIGHT, WIDTH, 3) uint8 RGB."""
    noise = np.random.default_rng(0).integers(60, 190, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    picture = np.roll(noise.repeat(8, 0).repeat(8, 1), number * 3, axis=1)
    for bit in range(8):
        picture[:32, bit * 20 : bit * 20 + 20] = 230 if number >> bit & 1 else 25
    return picture


def number_in(pixels: NDArray[np.uint8]) -> int:
    """Read the number that a picture shows."""
    return sum(int(pixels[8:24, bit * 20 + 5 : bit * 20 + 15].mean() > 128) << bit for bit in range(8))


def jpeg(number: int, **saved: Any) -> bytes:
    """Encode a numbered picture as JPEG."""
    data = io.BytesIO()
    Image.fromarray(numbered(number)).save(data, "JPEG", quality=90, **saved)
    return data.getvalue()


def write_video(
    path: Path,
    count: int,
    codec: str = "libx264",
    *,
    first: int = 0,
    started: str = "",
    index_first: bool = True,
    bframes: int = 2,
) -> list[tuple[int, int, int, bool]]:
    """Write a video of numbered pictures, ten a second, a key frame every twelve; return (pts, place, bytes, key) of each packet."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" and index_first else {}
    with av.open(str(path), "w", options=options) as container:
        if started:
            container.metadata["creation_time"] = started
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if codec == "libx264":
            stream.options = {"g": "12", "bf": str(bframes), "threads": "1", "preset": "veryfast"}
        else:
            stream.options = {
                "x265-params": f"keyint=12:bframes={bframes}:log-level=none:pools=none:frame-threads=1:open-gop=1",
                "preset": "ultrafast",
            }
        for number in range(first, first + count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packets = [each for each in container.demux(video=0) if each.size]
        return [(each.pts, each.pos, each.size, each.is_keyframe) for each in packets]


def video_packets(count: int, codec: str = "libx264") -> list[bytes]:
    """Encode numbered pictures as a stream of Annex B packets without B frames, one a picture, as CompressedVideo asks for."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = WIDTH, HEIGHT, "yuv420p", 10
    encoder.time_base = Fraction(1, 10)
    encoder.options = {"g": "12", "bf": "0", "threads": "1", "tune": "zerolatency", "preset": "veryfast"}
    frames = [av.VideoFrame.from_ndarray(numbered(number), format="rgb24") for number in range(count)]
    for number, frame in enumerate(frames):
        frame.pts = number
    return [bytes(packet) for frame in [*frames, None] for packet in encoder.encode(frame)]


def types(ros: int) -> Any:
    """Return the published message types of ROS 1 or 2, with CompressedVideo."""
    store = get_typestore(Stores.ROS1_NOETIC if ros == 1 else Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(VIDEO_DEFINITION, "foxglove_msgs/msg/CompressedVideo"))
    return store


Sent = tuple[str, Any, int]  # topic, message, nanoseconds since 1970


def drive(store: Any, count: int, *, first: int = 0, kinds: Sequence[str] = ("jpeg", "raw", "video")) -> Iterable[Sent]:
    """Yield the messages of a drive northwards: a place, then numbered pictures on a topic for each kind, ten times a second."""
    packets = video_packets(first + count) if "video" in kinds else []
    for number in range(first, first + count):
        time_ns = START_NS + number * STEP_NS
        stamp = store.types["builtin_interfaces/msg/Time"](time_ns // 10**9, time_ns % 10**9)
        header = _header(store, stamp)
        yield "/fix", _fix(store, header, 48.0 + number * 1e-5, 11.0), time_ns
        if "jpeg" in kinds:
            data = np.frombuffer(jpeg(number), np.uint8)
            yield "/front", store.types["sensor_msgs/msg/CompressedImage"](header, "jpeg", data), time_ns + 1
        if "raw" in kinds:
            bgr = numbered(number)[..., ::-1].ravel()
            image = store.types["sensor_msgs/msg/Image"](header, HEIGHT, WIDTH, "bgr8", 0, WIDTH * 3, bgr)
            yield "/rear", image, time_ns + 2
        if "video" in kinds:
            data = np.frombuffer(packets[number], np.uint8)
            yield "/left", store.types["foxglove_msgs/msg/CompressedVideo"](stamp, "left", data, "h264"), time_ns + 3


def _header(store: Any, stamp: Any) -> Any:
    kind = store.types["std_msgs/msg/Header"]
    return kind(seq=0, stamp=stamp, frame_id="car") if "seq" in kind.__dataclass_fields__ else kind(stamp, "car")


def _fix(store: Any, header: Any, latitude: float, longitude: float) -> Any:
    status = store.types["sensor_msgs/msg/NavSatStatus"](status=0, service=1)
    return store.types["sensor_msgs/msg/NavSatFix"](
        header, status, latitude, longitude, 500.0, np.zeros(9), position_covariance_type=0
    )


def write_mcap(path: Path, sent: Iterable[Sent], *, compression: str = "ZSTD", chunk_bytes: int = 60_000) -> None:
    """Write ROS 2 messages as an MCAP file; without a compression's name also without chunks."""
    store = types(2)
    with path.open("wb") as stream:
        kind = CompressionType[compression or "NONE"]
        writer = McapWriter(stream, chunk_size=chunk_bytes, compression=kind, use_chunking=bool(compression))
        writer.start("ros2")
        channels: dict[str, int] = {}
        for topic, message, time_ns in sent:
            name = message.__msgtype__
            if topic not in channels:
                definition = store.generate_msgdef(name)[0].encode()
                schema = writer.register_schema(name, "ros2msg", definition)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(store.serialize_cdr(message, name))
            writer.add_message(channels[topic], log_time=time_ns, publish_time=time_ns, data=data)
        writer.finish()


def write_ros1(path: Path, sent: Iterable[Sent], *, compression: str = "", chunk_bytes: int = 60_000) -> None:
    """Write ROS 1 messages as a bag."""
    store = types(1)
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    writer.chunk_threshold = chunk_bytes
    with writer:
        connections: dict[str, Any] = {}
        for topic, message, time_ns in sent:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], time_ns, store.serialize_ros1(message, kind))


def write_ros2_database(path: Path, sent: Iterable[Sent]) -> None:
    """Write ROS 2 messages as a recorder's SQLite file."""
    store = types(2)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT, offered_qos_profiles TEXT)"
        )
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
        )
        topics: dict[str, int] = {}
        for topic, message, time_ns in sent:
            if topic not in topics:
                topics[topic] = len(topics) + 1
                row = (topics[topic], topic, message.__msgtype__, "cdr", "")
                database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", row)
            data = bytes(store.serialize_cdr(message, message.__msgtype__))
            database.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", (topics[topic], time_ns, data)
            )
