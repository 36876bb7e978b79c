"""Speed and memory of reading footage: frames a second against bare decoding, a large file against a small one, a long listing.

A video of 1280x720 is read as a night reads it, a frame a second taken and encoded, and decoded bare by the same library on one
thread; an MCAP file of JPEG images is read and its images decoded, against the same by the format's own library. Figures are this
thread's processor time; the two go on in turn, frame by frame, so that whatever else the machine does slows both alike. A file of
forty times the frames must not take more memory than the small one; a listing of a hundred thousand files, a thousand a folder,
must take less than a minute and 8 MiB, and as many objects of a bucket, whose server here makes up its pages. The last line is JSON.
"""

import json
import multiprocessing
import resource
import socketserver
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import av
import click
import numpy as np
from mcap.reader import make_reader

from perception.data.decoding import decode_image
from perception.data.footage.frames import encode_jpeg
from perception.data.footage.locations import BucketLocation, FolderLocation, Location
from perception.data.footage.reading import Footage, FootageFrame, FootageObject, open_footage
from perception.data.footage.settings import FootageSettings, Sampling
from perception.data.s3 import ENDPOINT_VARIABLE, open_bucket

LEAST_SHARE, LIST_SECONDS, LIST_MIB, MEMORY_RATIO = 0.8, 60.0, 8.0, 1.1
_WIDTH, _HEIGHT, _RATE = 1280, 720, 30
_A_FOLDER = 1000  # files
_OBJECT = (
    "<Contents><Key>{1}{0:07d}.jpg</Key><LastModified>2026-11-30T06:00:00.000Z</LastModified>"
    "<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>250000</Size></Contents>"
)


@click.command()
@click.option("--frames", default=240, help="Of the video.")
@click.option("--messages", default=100, help="Of the MCAP file.")
@click.option("--files", default=100_000, help="Of the listing.")
@click.option("--rounds", default=3)
def run(frames: int, messages: int, files: int, rounds: int) -> int:
    """Hold reading footage to 80 % of bare decoding, and its memory to what a small file needs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = _video(root / "video", frames, rounds) | _bag(root / "bag", messages, rounds)
        found |= _memory(root / "video") | _listing("folder", _folder(root / "many", files), files)
    with _bucket(files) as bucket:
        found |= _listing("bucket", bucket, files)
    passed = (
        min(found["video_share"], found["mcap_share"]) >= LEAST_SHARE
        and max(found["folder_list_s"], found["bucket_list_s"]) < LIST_SECONDS
        and max(found["folder_list_mib"], found["bucket_list_mib"]) < LIST_MIB
        and found["video_memory_ratio"] <= MEMORY_RATIO
    )
    print(json.dumps({"benchmark": "footage_speed"} | found | {"pass": passed}))
    return 0 if passed else 1


def _video(root: Path, frames: int, rounds: int) -> dict[str, float]:
    root.mkdir()
    _write_video(root / "small.mp4", frames)
    sampled = FootageSettings(sampling=Sampling(every_s=1.0))
    runs = {"bare": lambda: _decoded(root / "small.mp4"), "read": lambda: _encoded(root, "small.mp4", sampled)}
    return _share("video", frames * rounds, _in_turn(runs, rounds))


def _bag(root: Path, messages: int, rounds: int) -> dict[str, float]:
    from tests.perception.data.footage.recordings import types, write_mcap

    root.mkdir()
    store, images = types(2), [encode_jpeg(_picture(number)) for number in range(messages)]
    sent = [("/front", _message(store, image, number), number * 33_000_000) for number, image in enumerate(images)]
    write_mcap(root / "drive.mcap", sent, chunk_bytes=4_000_000)

    def bare() -> Iterator[object]:
        with (root / "drive.mcap").open("rb") as stream:
            for image, _ in zip(images, make_reader(stream).iter_messages(), strict=True):
                yield decode_image(image, "image")

    def read() -> Iterator[object]:
        return (frame.picture.pixels() for frame in _frames(root, "drive.mcap", FootageSettings()))

    return _share("mcap", messages * rounds, _in_turn({"bare": bare, "read": read}, rounds))


def _in_turn(runs: dict[str, Callable[[], Iterator[object]]], rounds: int) -> dict[str, float]:
    """Return the seconds that each of some runs took; the one that took less so far goes on, step by step; a warm round before."""
    spent: dict[str, float] = {}
    for turn in range(rounds + 1):
        if turn <= 1:
            spent = dict.fromkeys(runs, 0.0)
        left = {name: run() for name, run in runs.items()}
        while left:
            name = min(left, key=lambda each: spent[each])
            started = time.thread_time()
            if next(left[name], None) is None:
                del left[name]
            spent[name] += time.thread_time() - started
    return spent


def _share(name: str, count: int, seconds: dict[str, float]) -> dict[str, float]:
    rates = {what: count / each for what, each in seconds.items()}
    share = rates["read"] / rates["bare"]
    print(f"{name}: {rates['read']:.0f} frames/s, bare decoding {rates['bare']:.0f} ({share:.0%})")
    return {f"{name}_frames_per_s": round(rates["read"], 1), f"{name}_share": round(share, 3)}


def _memory(root: Path) -> dict[str, float]:
    """Compare the peak memory of processes that read the small video and one of forty times its frames."""
    _repeat(root / "small.mp4", root / "large.mp4", 40)
    peaks = [_peak_mib(root, name) for name in ("small.mp4", "large.mp4")]
    print(f"video: {peaks[0]:.0f} MiB at most for the small file, {peaks[1]:.0f} MiB for forty times its frames")
    return {"video_memory_ratio": round(peaks[1] / peaks[0], 3)}


def _peak_mib(root: Path, name: str) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(_read_and_measure, (root, name)))


def _read_and_measure(root: Path, name: str) -> float:
    for _ in _encoded(root, name, FootageSettings(sampling=Sampling(every_s=1.0))):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _listing(kind: str, location: Location, files: int) -> dict[str, float]:
    def listed() -> int:
        return sum(1 for _ in Footage("fleet", location, "", FootageSettings()).objects("", Counter()))

    started = time.perf_counter()
    assert listed() == files
    seconds = time.perf_counter() - started
    tracemalloc.start()  # which takes several times as long
    listed()
    peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    print(f"listing of a {kind}: {files} files in {seconds:.1f} s, {peak_mib:.1f} MiB at most")
    return {f"{kind}_list_s": round(seconds, 2), f"{kind}_list_mib": round(peak_mib, 2)}


def _folder(root: Path, files: int) -> Location:
    for number in range(files):
        if number % _A_FOLDER == 0:
            folder = root / f"{number // _A_FOLDER:04d}"
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.jpg").touch()
    return FolderLocation(root)


@contextmanager
def _bucket(files: int) -> Iterator[Location]:
    """Give a bucket whose server, a process of its own, makes up the pages of its listing."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Pages) as server:
        server.files = files  # type: ignore[attr-defined]
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        try:
            yield BucketLocation(open_bucket("s3://drops", {ENDPOINT_VARIABLE: endpoint, **keys}))
        finally:
            process.terminate()
            process.join()


class _Pages(BaseHTTPRequestHandler):
    """Answer ListObjectsV2: at the top the folders, in a folder its objects, two hundred a page."""

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        folder, start = asked.get("prefix", ""), int(asked.get("continuation-token", 0))
        count = _A_FOLDER if folder else self.server.files // _A_FOLDER  # type: ignore[attr-defined]
        end = min(start + 200, count)
        entry = _OBJECT if folder else "<CommonPrefixes><Prefix>{0:04d}/</Prefix></CommonPrefixes>"
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < count else ""
        entries = "".join(entry.format(number, folder) for number in range(start, end))
        body = f"<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Name>drops</Name>{more}"
        body += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{entries}</ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def _frames(root: Path, name: str, settings: FootageSettings) -> Iterator[FootageFrame]:
    for frame in open_footage("fleet", str(root), settings).frames(FootageObject(name, "drive", ""), Counter()):
        assert isinstance(frame, FootageFrame)
        yield frame


def _encoded(root: Path, name: str, settings: FootageSettings) -> Iterator[bytes]:
    return (frame.picture.encoded()[0] for frame in _frames(root, name, settings))


def _decoded(path: Path) -> Iterator[object]:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from container.decode(video=0)


def _picture(number: int) -> Any:
    """Draw blocks that move, under the noise of a sensor by day, without which video decodes as no camera's does."""
    draw = np.random.default_rng(number)
    coarse = np.random.default_rng(0).integers(20, 235, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
    moved = np.roll(coarse.repeat(16, 0).repeat(16, 1), number * 4, axis=1)
    return moved + draw.integers(0, 12, moved.shape, np.uint8)


def _write_video(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.options = {"g": "30", "preset": "veryfast"}
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(number), format="rgb24")))
        container.mux(stream.encode())


def _repeat(short: Path, long: Path, times: int) -> None:
    """Write the packets of a video so many times one after another."""
    with av.open(str(short)) as given, av.open(str(long), "w") as made:
        packets = [packet for packet in given.demux(video=0) if packet.size]
        stream = made.add_stream_from_template(given.streams.video[0])
        step = Fraction(given.duration, av.time_base) / packets[0].time_base
        times_of = [(packet, packet.pts, packet.dts) for packet in packets]
        for turn in range(times):
            for packet, pts, dts in times_of:
                packet.pts, packet.dts, packet.stream = int(pts + turn * step), int(dts + turn * step), stream
                made.mux(packet)


def _message(store: Any, image: bytes, number: int) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](number, 0)
    header = store.types["std_msgs/msg/Header"](stamp, "car")
    return store.types["sensor_msgs/msg/CompressedImage"](header, "jpeg", np.frombuffer(image, np.uint8))
