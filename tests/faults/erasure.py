"""An erasure that is killed at a random call of git, of the remote or of a place, and given again: it ends as the undisturbed one did.

200 kills and more with the default seeds, 70 a row; whoever stops the campaign goes on with the seeds that are left.
"""

import base64
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from PIL import Image

from benchmarks.scale.erasure import SIGNED, WHEN, build_installation, drive_name, street
from perception.versioning import processes, repository
from perception.versioning.asked import Asked
from perception.versioning.backup import backup
from perception.versioning.decisions import promote
from perception.versioning.erasing.carry_out import carry_out, decide, denied_by
from perception.versioning.erasing.certificate import search_installation
from perception.versioning.erasing.places import FolderPlace
from perception.versioning.erasing.plan import Installation, Plan, plan_erasure
from perception.versioning.erasing.record import read_erasures
from perception.versioning.growing import open_book, read_table
from perception.versioning.ledger import events_of, record_events
from perception.versioning.lineage import record_taught
from perception.versioning.models import propose
from perception.versioning.pool import FRAMES
from perception.versioning.processes import git_text, shallow_clone
from perception.versioning.remote import FolderRemote
from perception.versioning.upkeep import versions
from tests.faults.counting import Count, counted
from tests.faults.stopping import Killed, counting

DRIVES, FRAMES_PER_DRIVE, VERSIONS = 4, 3, 2
GONE = drive_name(0)  # the drive that goes; drives 0 and 1 are in both versions
KILLS = 70  # of a seed


@dataclass(frozen=True)
class Home:
    """An installation with a copy of one drive in every place of docs/erasure.md, and how it was saved."""

    root: Path
    place: Installation
    models: tuple[str, ...]  # of the first version, and of the second, which went on from it
    tags: tuple[str, ...]

    def plan(self, networks: Any = "retrain", drive: str = GONE) -> Plan:
        """Plan the erasure of a drive."""
        return plan_erasure(self.place, Asked(drives=(drive,)), networks=networks, **SIGNED)

    def restore(self) -> "Home":
        """Put everything back as it was built."""
        shutil.rmtree(self.root)
        shutil.copytree(self.root.with_name("saved"), self.root)
        return self


def build_home(root: Path) -> Home:
    """Build the installation and save it."""
    place = build_installation(root, DRIVES, FRAMES_PER_DRIVE, VERSIONS)
    registry, rows = place.registry, read_table(open_book(place.registry), FRAMES)
    tags = tuple(version.tag for version in versions(registry))
    models: list[str] = []
    for number, tag in enumerate(tags):
        (root / "model.onnx").write_bytes(f"weights {number}".encode())
        facts = {"started_from_model": models[-1]} if models else {}
        named = {"gates": [{"failed": [{"frames": [f"{GONE}_0", "another"]}]}]}
        models.append(str(propose(registry, tag, named, model=root / "model.onnx", facts=facts).model_sha256))
        taught = rows[rows.drive_id == GONE].head(1 - number)[["frame_id", "drive_id", "label_source", "label_uri"]]
        record_taught(registry, models[-1], taught, when=WHEN)
        signed = {"names": ["Ada Lovelace", "Bob"], "reason": "looked at it", "release": True}
        promote(registry, tag, manifest_sha256=tag[-8:], **signed)
    _open_batch(registry, rows)
    _plant(root, rows)
    also = (str(root / "curated"), str(root / "backup"))
    backup(registry, root / "backup")
    shutil.copytree(root, root.with_name("saved"))
    return Home(root, replace(place, runs=root / "runs", also=also), tuple(models), tags)


def _open_batch(registry: str, rows: pd.DataFrame) -> None:
    ids = [f"{GONE}_1", f"{drive_name(1)}_1"]
    events = events_of("opened", ids, batch="batch-1", when=WHEN, due=WHEN.date(), why=f"far from {GONE}_2")
    record_events(open_book(registry), "night-1-labels", "labels", events, when=WHEN)
    assert set(ids) <= set(rows.frame_id)


def _plant(root: Path, rows: pd.DataFrame) -> None:
    image, (frame_id, *_) = street(0), rows.frame_id[rows.drive_id == GONE]
    page = b"<img src='data:image/jpeg;base64," + base64.b64encode(smaller(image)) + b"'>"
    read_table(open_book(root / "registry.git", root / "store.kept"), FRAMES)
    for place, content in {
        "store/given/0a1b/frames/frames/whole.tar": tar_of("./images/x.jpg", smaller(image)),
        "store/given/0a1b/score/scores/whole.tar": tar_of("./nothing.txt", b"of it"),
        "store/given/9f9f/frames/frames/whole.tar": tar_of("./images/y.jpg", street(FRAMES_PER_DRIVE)),
        "store/nights/first/select": json.dumps(
            {"name": "select", "failed": [{"frames": [frame_id, "other"]}]}
        ).encode(),
        "runs/first/dvc.yaml": b"stages: {}\n",
        "runs/first/summary.json": b'{"run": "first"}',
        "runs/first/selection/annotation/images/x.jpg": smaller(image, 0.8),
        "runs/first/report.html": page,
        "runs/second/dvc.yaml": b"stages: {}\n",
        "runs/second/report.html": b"<img src='data:image/jpeg;base64," + base64.b64encode(street(9)) + b"'>",
        "runs/reviews/x/review.html": page,
        "curated/images/anything.bin": image,
        "curated/other.json": b'{"drive": "another"}',
    }.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    (root / "runs/first/frames").mkdir()
    rows.to_parquet(root / "runs/first/frames/manifest.parquet", index=False)


def smaller(image: bytes, share: float = 0.7) -> bytes:
    """Return a copy of a picture that shares no byte with it."""
    picture, out = Image.open(io.BytesIO(image)).convert("RGB"), io.BytesIO()
    picture.resize((int(picture.width * share), int(picture.height * share))).save(out, "JPEG", quality=75)
    return out.getvalue()


def tar_of(name: str, content: bytes) -> bytes:
    """Return a tar of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


# --- killing


@contextmanager
def killed(calls: int) -> Iterator[list[int]]:
    """Raise Killed in the call of git, of the remote or of a place that comes after so many others: before it or after it did its work."""
    left, counts = counting(calls)
    git = counts(processes.run_git)
    with (
        patch.object(processes, "run_git", git),
        patch.object(repository, "run_git", git),
        patch.object(FolderRemote, "upload", counts(FolderRemote.upload)),
        patch.object(FolderRemote, "write", counts(FolderRemote.write)),
        patch.object(FolderRemote, "remove", counts(FolderRemote.remove)),
        patch.object(FolderPlace, "remove", counts(FolderPlace.remove)),
        patch.object(FolderPlace, "write", counts(FolderPlace.write)),
    ):
        yield left


def erase(home: Home) -> None:
    """Do what the command does, or go on with it."""
    known = read_erasures(home.place.registry)
    carry_out(home.place, known[0] if known else decide(home.place, home.plan()))


def what_is_left(home: Home) -> dict[str, str]:
    """Return everything that lies in the installation, by its hash; of git what main holds, but for moments."""
    files = {
        path.relative_to(home.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.root.rglob("*")
        if path.is_file() and "registry.git" not in path.parts
    }
    with shallow_clone(home.place.registry) as clone:
        tree = git_text(clone, "ls-tree", "-r", "HEAD").splitlines()
    moving = ("-done.json", "current.json", "champion.json", "decisions/")
    return files | {line: "" for line in tree if not any(word in line for word in moving)}


def erasure_row(home: Home, seed: int, kills: int) -> Count:
    """Kill an erasure so many times, each from the start, and give it again, killed once more in half of the cases."""
    with killed(10**9) as left:
        erase(home.restore())
    calls, expected, drawn = 10**9 - left[0], what_is_left(home), random.Random(seed)
    endings = [_killed_and_resumed(home, drawn, calls, expected) for _ in range(kills)]
    return counted(f"erasures killed, seed {seed}", endings, kills)


def _killed_and_resumed(home: Home, drawn: random.Random, calls: int, expected: dict[str, str]) -> str:
    home.restore()
    points = [drawn.randrange(calls) for _ in range(1 + drawn.randrange(2))]
    for point in points:
        try:
            with killed(point):
                erase(home)
        except Killed:
            (erasure,) = read_erasures(home.place.registry) or (None,)
            if erasure and _is_said(home) and search_installation(home.place, denied_by(home.place, erasure)).findings:
                return f"killed at {point}: said to be carried out while copies are left"
    try:
        erase(home)
    except Exception as error:  # whatever it is, the command did not go on
        return f"killed at {points}: {type(error).__name__}: {error}"
    found = what_is_left(home)
    other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return f"killed at {points}: differs in {', '.join(other[:4])}" if other else "correct"


def _is_said(home: Home) -> bool:
    with shallow_clone(home.place.registry) as clone:
        return "-done.json" in git_text(clone, "ls-tree", "-r", "--name-only", "HEAD")


def erasure_rows(folder: Path, seeds: Sequence[int]) -> Iterator[Count]:
    """Kill erasures, a row for each seed."""
    home = build_home(folder / "home")
    for seed in seeds:
        yield erasure_row(home, seed, KILLS)
