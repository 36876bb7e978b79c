"""Speed and memory of reading footage: frames a second against bare decoding, a large file against a small one, a long listing.

A video of 1280x720 is read as a night reads it, a frame a second taken and encoded, and decoded bare by the same library on one
thread; an MCAP file of JPEG images is read and its images decoded, against the same by the format's own library. Figures are this
thread's processor time, least of the rounds. A file of forty times the frames must not take more memory than the small one; a
listing of a hundred thousand files, a thousand a folder, must take less than a minute and 8 MiB. The last line is JSON.
"""

import json
import multiprocessing
import resource
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
from mcap.reader import make_reader

from benchmarks.timing import least_seconds
from perception.data.decoding import decode_image
from perception.data.footage.frames import encode_jpeg
from perception.data.footage.reading import FootageFrame, FootageObject, open_footage
from perception.data.footage.settings import FootageSettings, Sampling

LEAST_SHARE, LIST_SECONDS, LIST_MIB, MEMORY_RATIO = 0.8, 60.0, 8.0, 1.1
_WIDTH, _HEIGHT, _RATE = 1280, 720, 30


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
        found |= _memory(root / "video") | _listing(root / "many", files)
    passed = (
        min(found["video_share"], found["mcap_share"]) >= LEAST_SHARE
        and found["list_s"] < LIST_SECONDS
        and found["list_mib"] < LIST_MIB
        and found["video_memory_ratio"] <= MEMORY_RATIO
    )
    print(json.dumps({"benchmark": "footage_speed"} | found | {"pass": passed}))
    return 0 if passed else 1


def _video(root: Path, frames: int, rounds: int) -> dict[str, float]:
    root.mkdir()
    _write_video(root / "small.mp4", frames)
    sampled = FootageSettings(sampling=Sampling(every_s=1.0))
    seconds = _timed(
        {"bare": lambda: _decode(root / "small.mp4"), "read": lambda: _read(root, "small.mp4", sampled)}, rounds
    )
    return _share("video", frames, seconds)


def _bag(root: Path, messages: int, rounds: int) -> dict[str, float]:
    from tests.perception.data.footage.recordings import types, write_mcap

    root.mkdir()
    store, images = types(2), [encode_jpeg(_picture(number)) for number in range(messages)]
    sent = [("/front", _message(store, image, number), number * 33_000_000) for number, image in enumerate(images)]
    write_mcap(root / "drive.mcap", sent, chunk_bytes=4_000_000)

    def bare() -> None:
        with (root / "drive.mcap").open("rb") as stream:
            for image, _ in zip(images, make_reader(stream).iter_messages(), strict=True):
                decode_image(image, "image")

    def read() -> None:
        for frame in _frames(root, "drive.mcap", FootageSettings()):
            frame.picture.pixels()

    return _share("mcap", messages, _timed({"bare": bare, "read": read}, rounds))


def _timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return least_seconds(runs, rounds, warm_rounds=1, clock=time.thread_time)


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
    _read(root, name, FootageSettings(sampling=Sampling(every_s=1.0)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _listing(root: Path, files: int) -> dict[str, float]:
    for number in range(files):
        if number % 1000 == 0:
            folder = root / f"{number // 1000:04d}"
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.jpg").touch()
    tracemalloc.start()
    started = time.perf_counter()
    listed = sum(1 for _ in open_footage("fleet", str(root), FootageSettings()).objects("", Counter()))
    seconds, peak_mib = time.perf_counter() - started, tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert listed == files
    print(f"listing: {files} files in {seconds:.1f} s (memory traced), {peak_mib:.1f} MiB at most")
    return {"list_s": round(seconds, 2), "list_mib": round(peak_mib, 2)}


def _frames(root: Path, name: str, settings: FootageSettings) -> Iterator[FootageFrame]:
    for frame in open_footage("fleet", str(root), settings).frames(FootageObject(name, "drive", ""), Counter()):
        assert isinstance(frame, FootageFrame)
        yield frame


def _read(root: Path, name: str, settings: FootageSettings) -> int:
    return sum(len(frame.picture.encoded()[0]) for frame in _frames(root, name, settings))


def _decode(path: Path) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


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
