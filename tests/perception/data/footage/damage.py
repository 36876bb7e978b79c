"""What must be read from a damaged recording, worked out from where its packets and chunks lie, without the readers."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
from mcap.reader import make_reader
from rosbags.rosbag1 import Reader as Ros1Reader

from perception.data.decoding import BadFrame
from perception.data.footage.reading import FootageObject, open_footage
from perception.data.footage.settings import FootageSettings
from tests.perception.data.footage.recordings import Sent, write_mcap, write_ros1, write_video

_HEADER_BYTES = 64  # a packet's own header in a container, which its size does not count
Key = tuple[str, float]  # camera and clock


@dataclass(frozen=True)
class Read:
    """Hold what was read of one file: a hash of each frame's pixels, and the damages in words."""

    frames: dict[Key, str]
    damages: list[str]


def read_all(path: Path) -> Read:
    """Read a file that lies in a folder of its own."""
    found: dict[Key, str] = {}
    damages = []
    object = FootageObject(path.name, "drive", "")
    for each in open_footage("fleet", str(path.parent), FootageSettings()).frames(object, Counter()):
        if isinstance(each, BadFrame):
            damages.append(str(each))
            continue
        # A damaged header may take the date with it.
        key = str(each.camera), each.timestamp_utc.timestamp() if each.timestamp_utc else -1.0 - len(found)
        try:
            found[key] = hashlib.sha256(each.picture.pixels().tobytes()).hexdigest()
        except BadFrame as error:
            damages.append(str(error))
    return Read(found, damages)


@dataclass(frozen=True)
class Recording:
    """Hold an undamaged recording: its bytes, its frames, and by groups which of its bytes each frame needs.

    needs: for every frame, the pieces of the file (first byte, byte after the last) without which it cannot be read.
    """

    path: Path
    data: bytes
    whole: Read
    needs: dict[Key, list[tuple[int, int]]]
    index: tuple[int, int] = (0, 0)  # bytes without which nothing can be read

    def must(self, lost: Iterable[tuple[int, int]]) -> set[Key]:
        """Return the frames that must be read where some pieces (first byte, byte after the last) are lost or damaged."""
        lost = list(lost)
        if _meet(self.index, lost):
            return set()
        return {key for key, pieces in self.needs.items() if not any(_meet(piece, lost) for piece in pieces)}


def _meet(piece: tuple[int, int], lost: Iterable[tuple[int, int]]) -> bool:
    return any(first < piece[1] and piece[0] < after for first, after in lost)


def video(folder: Path, name: str, codec: str, count: int = 40, index_first: bool = True) -> Recording:
    """Write a video; a frame needs all packets from its group's key frame to its own, and those of the group before that it refers to."""
    folder.mkdir(parents=True)
    path = folder / name
    packets = write_video(path, count, codec, started="2026-11-01T06:00:00Z", index_first=index_first)
    whole = read_all(path)
    by_pts = sorted(packets)
    assert len(whole.frames) == len(by_pts) == count and not whole.damages
    times = dict(zip((pts for pts, *_ in by_pts), sorted(whole.frames, key=lambda key: key[1]), strict=True))
    needs: dict[Key, list[tuple[int, int]]] = {}
    group: list[tuple[int, int]] = []
    before: list[tuple[int, int]] = []
    key_pts = 0
    for pts, place, size, is_key in packets:
        if is_key:
            before, group, key_pts = group, [], pts
        group.append((place - _HEADER_BYTES, place + size + _HEADER_BYTES))
        needs[times[pts]] = [*group, *(before if pts < key_pts else [])]
    data = path.read_bytes()
    first = min(place for _, place, _, _ in packets) - _HEADER_BYTES
    after = max(place + size for _, place, size, _ in packets)
    at_end = name.endswith(".mp4") and data.find(b"moov") > after
    return Recording(path, data, whole, needs, (after, len(data)) if at_end else (0, first))


def mcap(folder: Path, sent: list[Sent], compression: str) -> Recording:
    """Write an MCAP file; a frame needs its chunk, a frame of video also those before."""
    folder.mkdir(parents=True)
    path = folder / "drive.mcap"
    write_mcap(path, sent, compression=compression, chunk_bytes=20_000)
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    chunks = sorted(
        (
            each.chunk_start_offset,
            each.chunk_start_offset + each.chunk_length,
            each.message_start_time,
            each.message_end_time,
        )
        for each in summary.chunk_indexes
    )
    return _bag(path, sent, chunks)


def ros1(folder: Path, sent: list[Sent], compression: str) -> Recording:
    """Write a ROS 1 bag; likewise."""
    folder.mkdir(parents=True)
    path = folder / "drive.bag"
    write_ros1(path, sent, compression=compression, chunk_bytes=20_000)
    with Ros1Reader(path) as reader:
        infos = sorted(reader.chunk_infos, key=lambda each: each.pos)
        chunks = [
            (
                each.pos,
                reader.chunks[each.pos].datapos + reader.chunks[each.pos].datasize,
                each.start_time,
                each.end_time - 1,
            )
            for each in infos
        ]
    return _bag(path, sent, chunks)


def _bag(path: Path, sent: list[Sent], chunks: list[tuple[int, int, int, int]]) -> Recording:
    whole = read_all(path)
    needs: dict[Key, list[tuple[int, int]]] = {}
    for topic, _, time_ns in sent:
        if topic == "/fix":
            continue
        number = next(n for n, chunk in enumerate(chunks) if chunk[2] <= time_ns <= chunk[3])
        pieces = [(first, after) for first, after, *_ in chunks]
        needs[topic, time_ns // 10**8 / 10] = pieces[: number + 1] if topic == "/left" else [pieces[number]]
    assert needs.keys() == whole.frames.keys() and not whole.damages, (
        whole.damages,
        needs.keys() ^ whole.frames.keys(),
    )
    assert len(chunks) > 5
    return Recording(path, path.read_bytes(), whole, needs, (0, 13))


def _packets(path: Path) -> int:
    try:
        with av.open(str(path), format="matroska") as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, IndexError):
        return 0


def judge(recording: Recording, data: bytes, lost: tuple[int, int], *, cut: bool) -> str:
    """Read damaged bytes in the recording's place; return "correct", or what is wrong."""
    recording.path.write_bytes(data)
    try:
        # A flip in what mkv writes round a packet takes packets without a trace: FFmpeg goes on with the next cluster.
        found = cut or recording.path.suffix != ".mkv" or _packets(recording.path) == len(recording.needs)
        read = read_all(recording.path)
    except Exception as error:
        return f"{recording.path.name} {lost}: {type(error).__name__}: {error}"
    finally:
        recording.path.write_bytes(recording.data)
    must = recording.must([lost]) if found else set()
    topics = {key[1]: key for key in read.frames} if not cut else {}
    missing = [
        key for key in must if read.frames.get(key) != recording.whole.frames[key] and topics.get(key[1]) is None
    ]
    wrong = [key for key, pixels in read.frames.items() if cut and pixels != recording.whole.frames.get(key)]
    untold = (cut or must) and len(read.frames) < len(recording.whole.frames) and not read.damages
    said = [("misses", missing), ("has wrong", wrong), ("tells no damage", ["it"] if untold else [])]
    return "; ".join(f"{recording.path} {lost} {what} {which[:3]}" for what, which in said if which) or "correct"
