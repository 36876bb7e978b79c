"""What an erasure costs: one drive of a thousand, from fifty versions, from half of them, and from the last alone.

python -m benchmarks.scale erasure
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pandas as pd
from PIL import Image

from perception.data.manifest import COLUMNS
from perception.data.store import FolderStore
from perception.versioning.asked import Asked
from perception.versioning.curated import MEMBERS, VERSION, build_version
from perception.versioning.erasing.carry_out import carry_out, decide
from perception.versioning.erasing.plan import Installation, plan_erasure
from perception.versioning.growing import open_book
from perception.versioning.pool import ARRIVALS, FRAMES, take_in
from perception.versioning.records import MANIFEST, SHARDS
from perception.versioning.registry import create_registry, fetch, publish

SIZE_PX = (96, 48)
WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)
SIGNED: Mapping[str, Any] = {"names": ("Ada Lovelace", "Bob"), "reason": "request 7", "now": WHEN}


@dataclass(frozen=True)
class Cost:
    """What an erasure cost."""

    versions: int  # that held the drive
    seconds: float
    planned_seconds: float
    written_bytes: int
    removed_bytes: int


def build_installation(root: Path, drives: int, frames_per_drive: int, versions: int) -> Installation:
    """Write a registry to which each night brought as many drives, each in all versions since, with its store."""
    place = Installation(registry=str(root / "registry.git"), store=str(root / "store"), kept=root / "store.kept")
    create_registry(place.registry, str(root / "remote"))
    every = pd.concat(
        [_frames(root / "store", number, frames_per_drive) for number in range(drives)], ignore_index=True
    )
    base: Path | None = None
    for night, part in enumerate(np.array_split(np.arange(drives), versions)):
        name = f"night-{night}"
        _arrive(place.registry, name, every[every.drive_id.isin([drive_name(each) for each in part])])
        held = every[every.drive_id.isin([drive_name(each) for each in range(part[-1] + 1)])].drop(
            columns="source_sha256"
        )
        folder = root / "built" / name
        build_version(held, FolderStore(root / "store"), base, folder, frames_per_shard=4 * frames_per_drive)
        tag = publish(place.registry, name, folder).tag
        base = root / "fetched" / name
        fetch(place.registry, tag, base, files=[MANIFEST, MEMBERS, SHARDS, VERSION])
    return place


def drive_name(number: int) -> str:
    """Return the name of a drive."""
    return f"drive{number:04}"


def street(number: int) -> bytes:
    """Return a JPEG of noise in blocks, another for every number."""
    coarse = np.random.default_rng(number).integers(0, 256, (24, 48, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(SIZE_PX, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _frames(store: Path, drive: int, count: int) -> pd.DataFrame:
    rows = []
    for number in range(count):
        pixels, label = street(drive * count + number), io.BytesIO()
        Image.fromarray(np.full(SIZE_PX[::-1], drive % 19, np.uint8)).save(label, "PNG")
        blobs = {
            "image": FolderStore(store).put(pixels, "jpg"),
            "label": FolderStore(store).put(label.getvalue(), "png"),
        }
        row: dict[str, Any] = dict.fromkeys(COLUMNS.names) | {
            "frame_id": f"{drive_name(drive)}_{number}", "drive_id": drive_name(drive), "domain": "real", "split": "train",
            "camera": "front",
            "width_px": SIZE_PX[0], "height_px": SIZE_PX[1], "label_source": "human", "label_taxonomy": "cityscapes19", "source": "fleet",
        }  # fmt: skip
        for name, blob in blobs.items():
            row |= {f"{name}_uri": blob.uri, f"{name}_sha256": blob.sha256}
        rows.append(row | {"source_sha256": row["image_sha256"]})
    return pd.DataFrame(rows)


def _arrive(registry: str, night: str, frames: pd.DataFrame) -> None:
    files = frames[["source", "source_sha256", "label_sha256", "frame_id"]]
    files = files.assign(object=frames.frame_id, signature="1", reason=None, outcome="new")
    take_in(open_book(registry), night, WHEN, {ARRIVALS: files, FRAMES: frames})


def erase_drive(place: Installation, drive: str) -> Cost:
    """Erase a drive from an installation; return what that cost."""
    remote, began = Path(place.registry).parent / "remote", time.process_time()
    planned = plan_erasure(place, Asked(drives=(drive,)), **SIGNED)
    between, before = time.process_time(), _sizes(remote)
    carry_out(place, decide(place, planned))
    after = _sizes(remote)
    return Cost(
        versions=len(planned.erasure.versions),
        seconds=time.process_time() - between,
        planned_seconds=between - began,
        written_bytes=sum(size for name, size in after.items() if name not in before),
        removed_bytes=sum(size for name, size in before.items() if name not in after),
    )


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@click.command()
@click.option("--drives", default=1000, show_default=True, help="Of the fleet.")
@click.option("--frames", default=2, show_default=True, help="Of each drive.")
@click.option("--versions", default=50, show_default=True, help="Each holds those before it.")
def run(drives: int, frames: int, versions: int) -> None:
    """Build a registry, erase one drive after the other, and print what each cost."""
    with TemporaryDirectory() as folder:
        place = build_installation(Path(folder), drives, frames, versions)
        total = sum(_sizes(Path(folder) / "remote").values())
        print(
            f"{date.today()}: {drives} drives in {versions} versions, {total / 1e6:.1f} MB on the remote; seconds of this process"
        )
        print(f"{'in versions':>11} {'plan, s':>9} {'erase, s':>9} {'written, MB':>12} {'removed, MB':>12}")
        for drive in (0, drives // 2, drives - 1):
            cost = erase_drive(place, drive_name(drive))
            sizes = f"{cost.written_bytes / 1e6:>12.2f} {cost.removed_bytes / 1e6:>12.2f}"
            print(f"{cost.versions:>11} {cost.planned_seconds:>9.1f} {cost.seconds:>9.1f} {sizes}")
