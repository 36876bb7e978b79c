"""Footage cut at random places and with single bits flipped: what is undamaged is read, the rest is told."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.counting import Count, counted
from tests.perception.data.footage import damage
from tests.perception.data.footage.recordings import drive, types

CUTS, FLIPS = 1000, 200
LIMIT_SECONDS = 10.0  # a case that takes longer hangs; the files have a few seconds of small pictures


def recordings(folder: Path) -> list[damage.Recording]:
    """Write one recording of each kind."""
    sent = {ros: list(drive(types(ros), 30, kinds=("jpeg", "video"))) for ros in (1, 2)}
    return [
        damage.video(folder / "0", "front.mp4", "libx264"),
        damage.video(folder / "1", "front.mkv", "libx264"),
        damage.video(folder / "2", "front.mkv", "libx265"),
        damage.video(folder / "3", "front.mp4", "libx265", index_first=False),
        damage.mcap(folder / "4", sent[2], "NONE"),
        damage.mcap(folder / "5", sent[2], "ZSTD"),
        damage.mcap(folder / "6", sent[2], "LZ4"),
        damage.ros1(folder / "7", sent[1], ""),
        damage.ros1(folder / "8", sent[1], "BZ2"),
        damage.ros1(folder / "9", sent[1], "LZ4"),
    ]


def footage_rows(folder: Path, cuts: int = CUTS, flips: int = FLIPS, seed: int = 0) -> Iterator[Count]:
    """Damage the recordings by turns, so many times; each case is drawn from the seed and its number alone."""
    made = recordings(folder)
    yield counted("footage cut", [_case(made, number, seed, cut=True) for number in range(cuts)])
    yield counted("footage with a bit flipped", [_case(made, number, seed, cut=False) for number in range(flips)])


def _case(made: list[damage.Recording], number: int, seed: int, *, cut: bool) -> str:
    recording, draw = made[number % len(made)], random.Random(f"{seed} {number} {cut}")
    place, started = draw.randrange(len(recording.data)), time.monotonic()
    if cut:
        said = damage.judge(recording, recording.data[:place], (place, len(recording.data)), cut=True)
    else:
        flipped = bytearray(recording.data)
        flipped[place] ^= 1 << draw.randrange(8)
        said = damage.judge(recording, bytes(flipped), (place, place + 1), cut=False)
    seconds = time.monotonic() - started
    return said if seconds < LIMIT_SECONDS else f"{recording.path} at {place}: took {seconds:.0f} s"
