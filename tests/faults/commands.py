"""Every registry command on a small registry, as `nightdrive` runs it, and what each printed without times and places."""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from perception.data.manifest import empty_manifest
from perception.data.store import FolderStore
from perception.versioning.curated import build_version
from perception.versioning.registry import create_registry, publish
from perception.versioning.upkeep import RetentionPolicy, apply_retention, plan_retention
from pipelines.commands.program import main
from tests.corpus.layouts import SIZE, picture, truth
from tests.perception.data.readers.layouts import grey

Answers = dict[str, str]
FEW = ("promote", "versions", "reproduce")
_CHANGING = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d|\b[0-9a-f]{12}\b")  # times of decisions; commits


def frames_folder(folder: Path, numbers: range) -> Path:
    """Build a version of some of four frames, as a night curates it."""
    store, rows = FolderStore(folder.parent / "store"), []
    for number in numbers:
        blobs = {"image": store.put(picture(number, ".png"), "png"), "label": store.put(grey(truth(number)), "png")}
        row = {
            "frame_id": f"d{number}_0000",
            "drive_id": f"d{number}",
            "domain": "real",
            "split": "train",
            "camera": "front",
        }
        for name, blob in blobs.items():
            row |= {f"{name}_uri": blob.uri, f"{name}_sha256": blob.sha256}
        row |= {"width_px": SIZE[1], "height_px": SIZE[0], "label_source": "human", "label_taxonomy": "cityscapes19"}
        rows.append(row | {"source": "fleet"})
    missing = dict.fromkeys(name for name in empty_manifest().columns if name not in rows[0])
    build_version(pd.DataFrame([row | missing for row in rows]), store, None, folder, frames_per_shard=2)
    return folder


def commands(folder: Path, tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the command lines in their order, by a name each; tags: of the versions that are in the registry."""
    signed = ["--by", "Ada Lovelace", "--reason", "looked at it, José"]
    drive = ["--drive", "d1"]
    return {
        "review": ["review", "--head", tags["second"], "--base", tags["first"], "--out", str(folder / "review")],
        "promote": ["promote", "--version", tags["first"], *signed],
        "promote another": ["promote", "--version", tags["second"], *signed],
        "rollback": ["rollback", *signed],
        "reject": ["reject", "--version", tags["second"], *signed],
        "versions": ["versions"],
        "history": ["history"],
        "verify-history": ["verify-history"],
        "reproduce": ["reproduce", "--version", tags["first"], "--out", str(folder / "reproduced")],
        "lineage": ["lineage", *drive],
        "scrub": ["scrub", "--sample", "-1"],
        "retire": ["retire"],
    }


def all_answers(folder: Path, run: Callable[[list[str]], str]) -> Answers:
    """Publish three versions and run every command; return what each said, and what retirement did with the first."""
    tags = published(folder, {"none": range(1), "first": range(2), "second": range(1, 4)})
    answers = answers_of(folder, run, commands(folder, tags))
    answers["page"] = plain((folder / "review" / "review.md").read_text(encoding="utf-8"), folder)
    return {"publish": json.dumps(tags), **answers, "retire, done": retired(folder)}


def few_answers(folder: Path, run: Callable[[list[str]], str]) -> Answers:
    """Publish a version, release it, list it and fetch it again; return what was said."""
    tags = published(folder, {"first": range(2)})
    wanted = {name: line for name, line in commands(folder, tags | {"second": ""}).items() if name in FEW}
    return {"publish": json.dumps(tags), **answers_of(folder, run, wanted)}


def published(folder: Path, versions: Mapping[str, range]) -> dict[str, str]:
    """Make a registry and publish versions of some of the frames, `second` built on `first`; return their tags."""
    create_registry(folder / "registry.git", str(folder / "remote"))
    tags: dict[str, str] = {}
    for name, numbers in versions.items():
        parent = tags["first"] if name == "second" else None
        version = publish(folder / "registry.git", name, frames_folder(folder / name, numbers), parent=parent)
        tags[name] = version.tag
    return tags


def answers_of(folder: Path, run: Callable[[list[str]], str], lines: Mapping[str, list[str]]) -> Answers:
    """Run command lines on the registry; return what each said, and what was fetched."""
    registry = ["--registry", str(folder / "registry.git")]
    answers = {name: plain(run([*line, *registry]), folder) for name, line in lines.items()}
    return answers | {"reproduced": json.dumps(digests(folder / "reproduced"))}


def retired(folder: Path) -> str:
    """Retire, two days later, what nobody released; return what was retired and what is left on the remote."""
    policy, later = RetentionPolicy(keep_days=1, grace_hours=1), datetime.now(UTC) + timedelta(days=2)
    plan = plan_retention(folder / "registry.git", policy, now=later)
    decided = {"plan_sha256": plan.sha256, "name": "Ada", "reason": "nobody needs it"}
    done = apply_retention(folder / "registry.git", policy, now=later, **decided)
    return json.dumps([done.retired, dict(done.kept), len(done.objects), sorted(digests(folder / "remote"))])


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder; of run.json, which names a commit, that it is there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): "" if path.name == "run.json" else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }  # fmt: skip


def plain(said: str, folder: Path) -> str:
    """Return what was said without the times, commits and folders that no two runs share."""
    return _CHANGING.sub("#", said.replace(str(folder), "FOLDER"))


def in_this_process(arguments: list[str]) -> str:
    """Run a command here; return its exit code and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return f"{code}\n{out.getvalue()}{err.getvalue()}"
