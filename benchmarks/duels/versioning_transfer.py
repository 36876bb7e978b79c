"""Duel: a curated version against loose files in DVC on a real S3 server; and what publishing and fetching cost.

On S3 (SeaweedFS on loopback): push and pull of small frames, ours (publish, fetch; tar shards of 1,000) and the peer's
(`dvc add` + `dvc push`, `dvc pull` into a fresh clone).  The bar is 9 times faster both ways; the limit is the same
shards put and read with the bare client.  On a folder remote: seconds of a publish of almost nothing (bar 0.5), of a
fetch as a multiple of `cp -r` (bar 1.5), and bytes that 1 % more frames push (bar 1.1 % plus the manifest).
One line of JSON for each; the last is the duel.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from blake3 import blake3

from benchmarks.duels.duel import dvc_environment, finish, result
from benchmarks.manifests import frame_rows
from benchmarks.results import ROOT
from perception.data.manifest import write_manifest
from perception.data.shards import write_shard
from perception.versioning.registry import create_registry, fetch, publish

FRAMES_PER_SHARD = 1000
PUBLISH_BAR_SECONDS, PULL_BAR, BYTES_BAR = 0.5, 1.5, 0.011


@click.command()
@click.option("--frames", default=10000)
@click.option("--frame-bytes", default=2300)
@click.option("--folder-mib", default=512)
@click.option("--skip-s3", is_flag=True)
def duel(frames: int, frame_bytes: int, folder_mib: int, skip_s3: bool) -> int:
    """Publish and fetch a data version, against loose files in DVC."""
    with tempfile.TemporaryDirectory(prefix="transfer-") as made:
        passed = folder_remote(Path(made), folder_mib)
        if not skip_s3:
            passed = on_s3(Path(made), frames, frame_bytes, passed)
    return 0 if passed else 1


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def version_folder(folder: Path, frame_ids: list[str], shards: dict[str, int], listed: dict[str, str]) -> Path:
    """Write a version's folder with random shards of the given bytes beside shards that its parent holds."""
    (folder / "shards").mkdir(parents=True)
    names = dict(listed)
    for number, (name, size) in enumerate(shards.items()):
        content = np.random.default_rng(len(listed) + number).bytes(size)
        (folder / "shards" / name).write_bytes(content)
        names[name] = hashlib.sha256(content).hexdigest()
    write_manifest(manifest(frame_ids), folder / "manifest.parquet")
    listing = [{"name": name, "sha256": sha256, "size_bytes": 0, "frames": 0} for name, sha256 in sorted(names.items())]
    (folder / "shards.json").write_text(json.dumps({"shards": listing}))
    return folder


def manifest(frame_ids: list[str]) -> pd.DataFrame:
    hashes = [hashlib.sha256(each.encode()).hexdigest() for each in frame_ids]
    uris = [f"sha256/{each[:2]}/{each}.jpg" for each in hashes]
    about = {
        "split": "train",
        "time_of_day": "day",
        "weather": "clear",
        "scene": "urban",
        "width_px": 64,
        "height_px": 32,
    }
    return frame_rows(frame_ids, image_uri=uris, image_sha256=hashes, **about)


def folder_remote(root: Path, mib: int) -> bool:
    registry, remote = root / "folder.git", root / "remote"
    create_registry(registry, str(remote))
    shards = {f"s{k:03d}.tar": 4 << 20 for k in range(mib // 4)}
    frame_ids = [f"d{k % 50}_{k}" for k in range(100 * len(shards))]
    first = version_folder(root / "first", frame_ids, shards, {})
    push_s, version = timed(lambda: publish(registry, "first", first))
    listed = {each["name"]: each["sha256"] for each in json.loads((first / "shards.json").read_text())["shards"]}
    before = {path for path in remote.rglob("*") if path.is_file()}
    size = sum(path.stat().st_size for path in before)
    one_percent = version_folder(
        root / "more", [*frame_ids, *(f"e_{k}" for k in range(len(frame_ids) // 100))], {"new.tar": size // 100}, listed
    )
    publish(registry, "more", one_percent, parent=version.tag)
    pushed = sum(path.stat().st_size for path in remote.rglob("*") if path.is_file() and path not in before)
    share = (pushed - (one_percent / "manifest.parquet").stat().st_size) / size

    def publish_small(name: str) -> None:
        publish(registry, name, version_folder(root / name, [f"x_{name}"], {"x.tar": 10}, {}))

    small = min(timed(lambda k=k: publish_small(f"small{k}"))[0] for k in range(3))
    pull_s, copy_s = float("inf"), float("inf")
    for k in range(3):
        copy_s = min(copy_s, timed(lambda k=k: subprocess.run(["cp", "-r", first, root / f"cp{k}"], check=True))[0])
        subprocess.run(["sync"], check=True)
        pull_s = min(pull_s, timed(lambda k=k: fetch(registry, version, root / f"out{k}"))[0])
        subprocess.run(["sync"], check=True)
        shutil.rmtree(root / f"cp{k}")
        shutil.rmtree(root / f"out{k}")
    rates = {name: round(hashed_gb_s(new), 2) for name, new in (("sha256", hashlib.sha256), ("blake3", blake3))}
    passed = small <= PUBLISH_BAR_SECONDS and pull_s <= PULL_BAR * copy_s and share <= BYTES_BAR
    report = {
        "what": "folder remote", "mib": mib, "publish_s": round(push_s, 2), "small_publish_s": round(small, 3),
        "small_publish_bar_s": PUBLISH_BAR_SECONDS, "pull_s": round(pull_s, 3), "copy_s": round(copy_s, 3),
        "pull_ratio": round(pull_s / copy_s, 2), "pull_bar": PULL_BAR, "one_percent_pushes_share": round(share, 5),
        "one_percent_bar": BYTES_BAR,
        "hashed_gb_s": rates, "copied_gb_s": round(mib * 2**20 / 1e9 / copy_s, 2), "load": round(os.getloadavg()[0], 1), "pass": passed,
    }  # fmt: skip
    print(json.dumps(report), flush=True)
    return passed


def hashed_gb_s(new: Callable[..., Any]) -> float:
    """Hash 64 MiB on one core; gigabytes a second."""
    content = bytes(1 << 26)
    return len(content) / 1e9 / min(timed(lambda: new(content).hexdigest())[0] for _ in range(3))


def on_s3(root: Path, frames: int, frame_bytes: int, folder_passed: bool) -> bool:
    conftest = importlib.util.spec_from_file_location("server", ROOT / "tests" / "conftest.py")
    assert conftest and conftest.loader
    server_module = importlib.util.module_from_spec(conftest)
    conftest.loader.exec_module(server_module)
    contents = np.random.default_rng(0).bytes(frames * frame_bytes)
    frame_ids = [f"d{k // 200}_{k:06d}" for k in range(frames)]
    blobs = [contents[k * frame_bytes : (k + 1) * frame_bytes] for k in range(frames)]
    with server_module.running_s3() as running:
        os.environ |= running.server.environment() | {"AWS_DEFAULT_REGION": "us-east-1"}
        ours = _ours(root, running.server, frame_ids, blobs)
        limit = _limit(root, running.server)
        peer = _peer(root, running.server, frame_ids, blobs)
    ratio = {way: peer[way] / ours[way] for way in ours}
    worst = min(ratio, key=lambda way: ratio[way])
    report = result(
        "versioning_transfer",
        ours=ours,
        peer=peer,
        ratio=ratio[worst],
        limit_share=limit[worst] / ours[worst],
        passed=folder_passed,
        ratios=ratio,
        frames=frames,
        folder_pass=folder_passed,
    )
    return finish(report) == 0


def _ours(root: Path, server: Any, frame_ids: list[str], blobs: list[bytes]) -> dict[str, float]:
    registry, folder = root / "s3.git", root / "curated"
    create_registry(registry, f"s3://{server.bucket}/ours")

    def push() -> Any:
        (folder / "shards").mkdir(parents=True)
        listing = []
        for start in range(0, len(frame_ids), FRAMES_PER_SHARD):
            part = range(start, min(start + FRAMES_PER_SHARD, len(frame_ids)))
            path = folder / "shards" / f"{start:06d}.tar"
            sha256 = write_shard(((frame_ids[k], {"jpg": blobs[k]}) for k in part), path)
            listing.append(
                {"name": path.name, "sha256": sha256, "size_bytes": path.stat().st_size, "frames": len(part)}
            )
        (folder / "shards.json").write_text(json.dumps({"shards": listing}))
        write_manifest(manifest(frame_ids), folder / "manifest.parquet")
        return publish(registry, "night", folder)

    push_s, version = timed(push)

    def pull() -> None:
        fetch(registry, version, root / "fetched")
        for shard in (root / "fetched" / "shards").iterdir():
            subprocess.run(["tar", "-xf", shard, "-C", root / "fetched"], check=True)

    pull_s = timed(pull)[0]
    _assert_same(root / "fetched", frame_ids, blobs)
    return {"push": push_s, "pull": pull_s}


def _assert_same(folder: Path, frame_ids: list[str], blobs: list[bytes]) -> None:
    """Check that every frame came back with its bytes; both sides move each frame once, so it is checked afterwards."""
    for frame_id, blob in zip(frame_ids, blobs, strict=True):
        assert (folder / f"{frame_id}.jpg").read_bytes() == blob, f"{folder / frame_id}.jpg: other bytes came back"


def _limit(root: Path, server: Any) -> dict[str, float]:
    from perception.data.s3 import connect, download, upload

    client, shards = connect(os.environ, "limit"), sorted((root / "curated" / "shards").iterdir())
    data = [shard.read_bytes() for shard in shards]
    put = timed(lambda: [upload(client, server.bucket, f"limit/{k}", each, "limit") for k, each in enumerate(data)])[0]
    get = timed(lambda: [download(client, server.bucket, f"limit/{k}", "limit") for k in range(len(data))])[0]
    return {"push": put, "pull": get}


def _peer(root: Path, server: Any, frame_ids: list[str], blobs: list[bytes]) -> dict[str, float]:
    place, environment = root / "loose", dvc_environment(DVC_SITE_CACHE_DIR=str(root / "site"))
    (place / "frames").mkdir(parents=True)

    def run(*words: str, where: Path = place) -> None:
        program = [sys.executable, "-m", "dvc"] if words[0] == "dvc" else [words[0]]
        subprocess.run([*program, *words[1:]], cwd=where, env=environment, check=True, stdout=subprocess.DEVNULL)

    run("git", "init", "-q", ".")
    run("dvc", "init", "-q")
    run("dvc", "remote", "add", "-q", "-d", "store", f"s3://{server.bucket}/loose")
    run("dvc", "remote", "modify", "-q", "store", "endpointurl", server.endpoint)

    def push() -> None:
        for frame_id, blob in zip(frame_ids, blobs, strict=True):
            (place / "frames" / f"{frame_id}.jpg").write_bytes(blob)
        run("dvc", "add", "-q", "frames")
        run("dvc", "push", "-q")

    push_s = timed(push)[0]
    run("git", "add", "-A")
    run("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "frames")
    run("git", "clone", "-q", str(place), str(root / "clone"))
    pull_s = timed(lambda: run("dvc", "pull", "-q", where=root / "clone"))[0]
    _assert_same(root / "clone" / "frames", frame_ids, blobs)
    return {"push": push_s, "pull": pull_s}
