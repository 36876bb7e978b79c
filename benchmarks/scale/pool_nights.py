"""A hundred nights of ten thousand new frames each on one registry: does a night cost what is new, or what exists?

What the library does in a night, with rows as footage gives them but no images: list what arrived, find what is new, sort it,
record it, take labels in, find the frames that wait, open a batch, record the night. A hundredth of what arrives are files of
earlier nights under another name; of each batch nine tenths come back labelled the next night. Seconds are the processor's, of
this process and of git. The last nights are held against the first ones of another registry, which are taken by turns with them, so that
both find the machine in the same mood; as medians of five, since a night is short.

Bars: the last nights cost at most 1.2 times the first; a clone of the registry is below 50 MB, and a night adds at most 20 kB to
its git. The last line is JSON.
"""

import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks.machine import hardware
from benchmarks.results import markdown_table, write_figures, write_page
from perception.versioning.growing import Table, book_at
from perception.versioning.ledger import events_of, read_events, record_events, state
from perception.versioning.nights import Night, news, next_night_name, nights_at, record_night, used_tonight
from perception.versioning.pool import (
    ADMITTED,
    ARRIVALS,
    FRAMES,
    ORACLE,
    PROFILE,
    PoolLimits,
    known_arrivals,
    sort_arrivals,
    take_in,
    unread,
    waiting_frames,
)
from perception.versioning.processes import run_git, shallow_clone
from perception.versioning.repository import create_registry

COST_BAR, CLONE_BAR_MB, NIGHT_BAR_KB, SIDE_NIGHTS = 1.2, 50.0, 20.0, 5
BUDGET, REPEATED_SHARE, DRIVE_FRAMES = 200, 0.01, 200
FIRST = datetime(2026, 1, 1, 3, tzinfo=UTC)
FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--nights", default=100, show_default=True)
@click.option("--frames", default=10_000, show_default=True, help="New frames of a night.")
@click.option("--waiting", default=20_000, show_default=True, help="Frames that may wait in the pool.")
@click.option("--folder", type=FOLDER, help="Where to work; else a temporary folder.")
@click.option("--out", type=FOLDER, help="Folder to write pool_nights.md and .json into; default: print only.")
def run(nights: int, frames: int, waiting: int, folder: Path | None, out: Path | None) -> int:
    """Take a pool through a hundred nights, and hold the last to the cost of the first."""
    with tempfile.TemporaryDirectory(prefix="nights-", dir=folder) as made:
        place, other = (new_place(Path(made) / name, frames, waiting) for name in ("long", "short"))
        last = max(0, nights - SIDE_NIGHTS)
        measured, firsts = [one_night(place, number) for number in range(last)], []
        for number in range(last, nights):
            firsts.append(one_night(other, number - last))
            measured.append(one_night(place, number))
        report = judged(firsts, measured, clone_mb(place.registry)) | {
            "command": f"python -m benchmarks.scale pool_nights --nights {nights} --frames {frames} --waiting {waiting}",
            "hardware": hardware(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
    if out:
        write_figures(out / "pool_nights.json", report)
        write_page(out / "pool_nights.md", page(report))
    print(json.dumps({name: value for name, value in report.items() if name != "nights"}))
    return 0 if report["pass"] else 1


# ---------------------------------------------------------------- a night


@dataclass(frozen=True)
class Place:
    """Hold where the nights work and what arrives in each."""

    root: Path
    frames: int
    limits: PoolLimits

    @property
    def registry(self) -> Path:
        """Give the registry's folder."""
        return self.root / "registry.git"

    @property
    def kept(self) -> Path:
        """Give the folder in which fetched parts are kept."""
        return self.root / "kept"


def new_place(root: Path, frames: int, waiting: int) -> Place:
    """Create an empty registry in a new folder."""
    root.mkdir()
    place = Place(root, frames, PoolLimits(max_age_days=60, max_frames=waiting))
    create_registry(place.registry, str(place.root / "remote"))
    return place


def one_night(place: Place, number: int) -> dict[str, float]:
    """Take one night through; return what it cost and what became of its frames."""
    listing = arriving(place, number)
    git_before, started, cpu = git_bytes(place), time.perf_counter(), cpu_seconds()
    found = _work(place, listing, FIRST + timedelta(days=number))
    seconds, used = time.perf_counter() - started, cpu_seconds() - cpu
    kilobytes = (git_bytes(place) - git_before) / 1e3
    print(
        f"night {number + 1}: {used:.2f} s of processor, {seconds:.2f} s, {kilobytes:.1f} kB of git; {found}",
        flush=True,
    )
    return {"cpu_seconds": round(used, 3), "seconds": round(seconds, 3), "git_kb": round(kilobytes, 1)} | found


def arriving(place: Place, number: int) -> pd.DataFrame:
    """List what arrives in a night: new files, some of an earlier night under another name, and some that were read then."""
    new = _files(number, np.arange(place.frames))
    count = round(place.frames * REPEATED_SHARE)
    earlier = _files(number // 2, np.arange(count))
    renamed = earlier.assign(
        object="again/" + str(number) + "/" + earlier.object, frame_id=f"x{number}_" + earlier.frame_id
    )
    return pd.concat([new, renamed, earlier], ignore_index=True).drop_duplicates("object")


def _files(night: int, places: "np.ndarray[Any, Any]") -> pd.DataFrame:
    names = [f"n{night:04d}_d{place // DRIVE_FRAMES:04d}_{place:06d}" for place in places]
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    columns = {
        "object": [f"drops/{night:04d}/{name}.jpg" for name in names],
        "source_sha256": hashes,
        "frame_id": names,
    }
    signatures = [f"{int(each[:5], 16)}:{int(each[5:20], 16)}" for each in hashes]
    return pd.DataFrame(columns).assign(source="fleet", signature=signatures, label_sha256=None, reason=None)


def _work(place: Place, listing: pd.DataFrame, when: datetime) -> dict[str, float]:
    with shallow_clone(place.registry) as clone:
        book, nights = book_at(clone, place.kept), nights_at(clone)
    name = next_night_name([night.night for night in nights], when)
    read = unread(listing, known_arrivals(book, listing[["object"]]))
    arrivals = sort_arrivals(read, known_arrivals(book, read[["source_sha256", "frame_id"]]))
    book = take_in(book, name, when, tables_of(arrivals))
    known = state(read_events(book))
    due = known[known.status == "open"]
    back = due[due.frame_id.str[-1] != "0"]  # nine of ten
    of_batches = {"batch": back.batch.to_numpy(), "when": when, "who": "ada", "night": name}
    labels = pd.concat([events_of(event, back.frame_id, **of_batches) for event in ("returned", "accepted")])
    book = record_events(book, f"{name}-labels", "labels", labels, when=when)
    known.loc[back.index, "status"] = "accepted"
    waiting = waiting_frames(book, known, place.limits, when.date())
    chosen = waiting.frames.sample(min(BUDGET, len(waiting.frames)), random_state=len(book.entries)).frame_id
    opened = events_of("opened", chosen, batch=f"batch-{name}", when=when, due=when.date(), night=name, why="unsure")
    book = record_events(book, f"{name}-batch", "batch", opened, when=when)
    used = used_tonight(book, parameters="p", code="c")
    assert news(used, nights), "new frames are news"
    record_night(
        place.registry,
        Night(night=name, date=when.date(), profile="scale", base=None, status="done", used=used),
    )
    counts = arrivals.outcome.value_counts()
    return {
        "new": int(counts.get("new", 0)),
        "repeated": int(counts.get("repeated", 0)),
        "waiting": len(waiting.frames),
    }


def tables_of(arrivals: pd.DataFrame) -> dict[Table, pd.DataFrame]:
    """Give the tables of what was taken in, with columns of the sizes that real ones have."""
    frames = arrivals[arrivals.outcome.isin(ADMITTED)].drop(columns=["object", "signature", "outcome", "reason"])
    image = frames.source_sha256
    facts = {
        "camera": "front",
        "domain": "real",
        "split": "pool",
        "time_of_day": "day",
        "weather": None,
        "scene": "urban",
    }
    facts |= {"width_px": 1920, "height_px": 1208, "label_source": "none", "label_uri": None, "label_taxonomy": None}
    facts |= {"timestamp_utc": None, "instances_uri": None, "label_drop": None}
    frames = frames.assign(
        drive_id=frames.frame_id.str[:11],
        image_sha256=image,
        image_uri="sha256/" + image.str[:2] + "/" + image + ".jpg",
        **facts,
    )
    profile = frames[["frame_id", "source"]].assign(image_sha256_actual=image, decode_ok=True, dhash=image.str[:16])
    profile = profile.assign(width_px=1920, height_px=1208, label_min=None, label_max=None, void_fraction=None)
    noise = np.random.default_rng(0).random((len(frames), 3))
    profile = profile.assign(**dict(zip(("brightness_mean", "contrast_std", "sharpness"), noise.T, strict=True)))
    return {ARRIVALS: arrivals, FRAMES: frames, PROFILE: profile, ORACLE: ORACLE.schema.empty_table().to_pandas()}


def cpu_seconds() -> float:
    """Return the processor's seconds that this process and its children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


# ---------------------------------------------------------------- what it says


def git_bytes(place: Place) -> int:
    """Return the bytes of the registry's git."""
    return sum(path.stat().st_size for path in place.registry.rglob("*") if path.is_file())


def clone_mb(registry: Path) -> float:
    """Return the size of a whole clone of the registry, in MB."""
    with shallow_clone(registry, depth=None) as clone:
        run_git(clone, "checkout", "--quiet", "main")
        return sum(path.stat().st_size for path in clone.path.rglob("*") if path.is_file()) / 1e6


def judged(firsts: list[dict[str, float]], nights: list[dict[str, float]], megabytes: float) -> dict[str, Any]:
    """Hold the last nights against first ones, and git to its sizes."""
    first, last = (median(night["cpu_seconds"] for night in side) for side in (firsts, nights[-SIDE_NIGHTS:]))
    kilobytes = max(night["git_kb"] for night in nights)
    passed = last <= COST_BAR * first and megabytes < CLONE_BAR_MB and kilobytes <= NIGHT_BAR_KB
    figures = {"first_cpu_seconds": first, "last_cpu_seconds": last, "ratio": round(last / first, 3)}
    sizes = {"clone_mb": round(megabytes, 2), "most_git_kb_a_night": kilobytes}
    return {"benchmark": "pool_nights", **figures, **sizes, "pass": passed, "nights": nights}


def page(report: dict[str, Any]) -> str:
    """Write the page: what nights cost along the way, and the figures that are held to bars."""
    nights = report["nights"]
    shown = sorted({0, *range(9, len(nights), max(10, len(nights) // 10)), len(nights) - 1})
    rows = [
        [
            str(at + 1),
            *(f"{nights[at][name]:,.2f}" for name in ("cpu_seconds", "seconds", "git_kb")),
            f"{nights[at]['waiting']:,}",
        ]
        for at in shown
    ]
    table = markdown_table(["night", "processor, s", "by the clock, s", "git, kB", "frames that wait"], rows)
    return (
        f"# {len(nights)} nights on one registry\n\n    {report['command']}\n\n{report['hardware']}; {report['date']}. "
        "What is measured stands in [scale](../scale.md).\n\n"
        f"{table}\n\nThe last {SIDE_NIGHTS} nights took {report['ratio']:.2f} times the processor time of the first {SIDE_NIGHTS} of a "
        f"registry beside them (at most {COST_BAR}); a clone of the registry has {report['clone_mb']} MB (below {CLONE_BAR_MB:.0f}), and "
        f"no night added more than {report['most_git_kb_a_night']} kB to git (at most {NIGHT_BAR_KB:.0f}).\n"
    )
