"""Duel: taking frames in (hash, header check, manifest row), ours against bare SHA-256 and against `dvc add`.

The frames are JPEGs of noise of about 256 KiB, warm in the page cache. Ours reads every file, checks its image header,
hashes it and writes the manifest ("describe"). Its bars: 80 % of the speed of reading and hashing alone (hashlib, one
core), which is the limit, and 5 times the speed of `dvc add` of the same folder in a fresh repository, DVC's start left
out. `dvc add` keeps a copy beside it: so ours that also puts every file into the blob store ("keep") must be no slower,
although ours flushes every file to disk and DVC does not. All must have found equal hashes (DVC's md5 is compared with
one of ours). What a night's intake does beside it, decoding every frame and measuring its pixels, no peer does; its speed
is printed as `whole_intake_gb_s`. The last line is JSON.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np

from benchmarks.duels.duel import dvc_environment, finish, result
from benchmarks.manifests import frame_rows
from benchmarks.timing import least_seconds
from perception.data.blobs import describe_blob
from perception.data.decoding import image_size
from perception.data.manifest import write_manifest
from perception.data.readers.layout import RawFrame
from perception.data.store import FolderStore
from perception.quality.intake import Arrival, IntakeSettings, admit_frames

BAR_OF_HASH, BAR_KEEPING = 0.8, 1.0
WHOLE_FRAMES = 100  # of which the whole intake is timed


@click.command()
@click.option("--frames", default=2000)
@click.option("--frame-kib", default=256)
@click.option("--rounds", default=3)
def duel(frames: int, frame_kib: int, rounds: int) -> int:
    """Take frames in, against bare SHA-256 and `dvc add`."""
    with tempfile.TemporaryDirectory(prefix="ingest-") as made:
        root = Path(made)
        paths = _frames(root / "frames", frames, frame_kib)
        size = sum(path.stat().st_size for path in paths)
        assert _described(paths, root / "manifest.parquet") == _hashed(paths), "other hashes than hashlib's"
        runs = {"describe": lambda: _described(paths, root / "manifest.parquet"), "hash": lambda: _hashed(paths)}
        seconds = least_seconds(runs, rounds)
        keeping = _keeping(paths, root, rounds)
        whole = _whole_intake(paths[:WHOLE_FRAMES], root / "whole")
    return finish(_report(seconds | keeping, size, whole, frames))


def _frames(folder: Path, count: int, kib: int) -> list[Path]:
    """Write JPEGs of one picture of noise of about the wanted size that differ in a comment behind their first marker."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (kib * 5 // 4, kib * 15 // 4, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    paths = [folder / f"drive{number // 100:03d}_{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        comment = b"\xff\xfe" + (18).to_bytes(2) + number.to_bytes(16)
        path.write_bytes(jpeg[:2] + comment + jpeg[2:])
    return paths


def _hashed(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _described(paths: list[Path], manifest: Path, store: FolderStore | None = None) -> list[str]:
    """Do what ours does with a frame before its pixels are looked at, and write the manifest."""
    blobs, sizes = [], []
    for path in paths:
        data = path.read_bytes()
        sizes.append(image_size(data, path))
        blobs.append(store.put(data, "jpg") if store else describe_blob(data, "jpg"))
    rows = frame_rows(
        [path.stem for path in paths], height_px=[size[0] for size in sizes], width_px=[size[1] for size in sizes],
        image_uri=[blob.uri for blob in blobs], image_sha256=[blob.sha256 for blob in blobs],
    )  # fmt: skip
    write_manifest(rows, manifest)
    return [blob.sha256 for blob in blobs]


def _keeping(paths: list[Path], root: Path, rounds: int) -> dict[str, float]:
    """Keep the frames by ours and by the peer in turn, each time from nothing; return the least seconds of each."""
    least = {"keep": float("inf"), "dvc_add": float("inf")}
    for _ in range(rounds):
        start = time.perf_counter()
        _described(paths, root / "manifest.parquet", FolderStore(root / "store"))
        least["keep"] = min(least["keep"], time.perf_counter() - start)
        shutil.rmtree(root / "store")
        least["dvc_add"] = min(least["dvc_add"], _dvc_add(paths, root / "dvc"))
    return least


def _dvc_add(paths: list[Path], place: Path) -> float:
    """Return the seconds of `dvc add` without those of its start; its folder object must list the files' hashes."""
    environment = dvc_environment(DVC_SITE_CACHE_DIR=str(place.parent / "site"))

    def dvc(*words: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=place, env=environment, check=True)
        return time.perf_counter() - start

    shutil.copytree(paths[0].parent, place / "frames")
    dvc("init", "-q", "--no-scm")
    begin = dvc("status", "-q")
    seconds = dvc("add", "-q", "frames") - begin
    (listing,) = (place / ".dvc" / "cache" / "files" / "md5").glob("*/*.dir")
    md5 = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())}
    assert md5[paths[0].name] == hashlib.md5(paths[0].read_bytes()).hexdigest() and len(md5) == len(paths)
    shutil.rmtree(place)
    shutil.rmtree(place.parent / "site", ignore_errors=True)
    return seconds


def _whole_intake(paths: list[Path], root: Path) -> float:
    """Return the seconds that a night's intake takes for these frames: decoding and measuring the pixels included."""
    settings = IntakeSettings(source="camera", split="pool", domain="real", labels="none", taxonomy="cityscapes19")
    start = time.perf_counter()
    intake = admit_frames(_arrivals(paths), len(paths), FolderStore(root), settings)
    seconds = time.perf_counter() - start
    assert list(intake.manifest.image_sha256) == _hashed(paths)
    return seconds / len(paths)


def _arrivals(paths: list[Path]) -> Iterator[Arrival]:
    for path in paths:
        facts = RawFrame(frame_id=path.stem, drive_id=path.stem.split("_")[0], image_path=path)
        yield Arrival(
            facts=facts, image=path.read_bytes(), image_path=str(path), label=None, label_path="", label_taxonomy="cityscapes19"
        )  # fmt: skip


def _report(seconds: dict[str, float], size: int, whole: float, frames: int) -> dict[str, object]:
    gb_s = {name: size / 1e9 / each for name, each in seconds.items()}
    of_hash, of_dvc, keeping = (
        gb_s[one] / gb_s[other] for one, other in (("describe", "hash"), ("describe", "dvc_add"), ("keep", "dvc_add"))
    )
    return result(
        "ingest",
        ours=gb_s["describe"],
        peer=gb_s["dvc_add"],
        ratio=of_dvc,
        limit_share=of_hash,
        passed=of_hash >= BAR_OF_HASH and keeping >= BAR_KEEPING,
        limit_share_bar=BAR_OF_HASH,
        keep_gb_s=gb_s["keep"],
        keep_ratio=keeping,
        keep_bar=BAR_KEEPING,
        hashlib_gb_s=gb_s["hash"],
        whole_intake_gb_s=size / frames / 1e9 / whole,
        frames=frames,
    )
