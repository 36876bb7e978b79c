"""Everything but kills: disks, stores, servers, clocks, GPUs and artifacts that fail, each against a whole tiny night.

A case returns how it ended: "correct" (equal to an undisturbed night), "error" (one line that names the thing, the exit code of the
contract, nothing half-written), or else what was lost. Every case that ends in an error also shows that the same call succeeds once the
fault is gone, where that costs little.
"""

import contextlib
import errno
import fcntl
import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from tests.faults.counting import Count, counted
from tests.faults.kills import Undisturbed, different
from tests.faults.nights import Ended, Task, clear, content, first_ingest, run_task, tasks_of, write_night
from tests.faults.servers import closed_url, failing_web_server, proxy

LIMIT_SECONDS = 90.0  # a case that takes longer hangs
TENTH_YEARS = timedelta(days=3652)


def elsewhere(task: Task, place: Path) -> Task:
    """Return the task with its outputs below another folder."""
    words = (task.words[0], *(str(place / word) if word in task.gives else word for word in task.words[1:]))
    return replace(task, words=words, gives=tuple(str(place / folder) for folder in task.gives))


def named(run: Path, name: str) -> Task:
    """Return a task of the night by its name."""
    return next(task for task in tasks_of(run) if task.name == name)


def judged_error(ended: Ended, codes: Sequence[int], words: Sequence[str], outputs: Sequence[Path], what: str) -> str:
    """Return "error" where the task ended as a clear error should, or what is wrong."""
    lines = [line for line in ended.said.splitlines() if line.startswith("nightdrive")]
    wrong = [
        (ended.code not in codes, f"ended with {ended.code}"),
        ("Traceback" in ended.said, "printed a traceback"),
        (not any(all(word in line for word in words) for line in lines), f"did not say {' and '.join(words)}"),
        (any(path.exists() for path in outputs), "left an output behind"),
        (ended.seconds > LIMIT_SECONDS, f"took {ended.seconds:.0f} s"),
    ]
    said = [text for holds, text in wrong if holds]
    return f"{what} {', '.join(said)}: {ended.said[-400:]!r}" if said else "error"


def judged_result(ended: Ended, run: Path, task: Task, undisturbed: Undisturbed, what: str) -> str:
    """Return "correct" where the task gave what it gives in an undisturbed night, or what is wrong."""
    if ended.code != EXIT_DONE:
        return f"{what}: ended with {ended.code}: {ended.said[-400:]!r}"
    found = {name: digest for name, digest in content(run).items() if name.startswith(tuple(task.gives))}
    expected = {name: digest for name, digest in undisturbed.content.items() if name.startswith(tuple(task.gives))}
    return "correct" if found and found == expected else f"{what}: differs in {different(found, expected)[:4]}"


# ---------------------------------------------------------------- disks


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """Mount a tmpfs of 1 MiB at `place`; yield False where this machine does not let us."""
    place.mkdir(parents=True)
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = bool(mount) and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    """Change a mounted tmpfs."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def failing_writes(number: int) -> Callable[[], None]:
    """Return what makes every write of a fork fail as the system would; the stand-in where nothing can be mounted."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    def patch() -> None:
        os.fsync = fail
        Path.write_text = Path.write_bytes = fail  # type: ignore[method-assign]

    return patch


def full_disk(folder: Path, undisturbed: Undisturbed, tasks: Sequence[str]) -> Count:
    """Fill the disk of the store, then of the outputs of several stages, and make room again."""
    run, place = undisturbed.run, folder / "disk"
    with small_disk(place) as mounted:
        if mounted:
            (place / "filling").write_bytes(bytes(1 << 20))
        before = None if mounted else failing_writes(errno.ENOSPC)
        endings = []
        fresh = write_night(folder / "runs", overrides=[f"common.store={place / 'store'}"])
        first = first_ingest(fresh)
        ended = run_task(first, fresh, before=before)
        endings.append(
            judged_error(ended, (EXIT_FAILED, EXIT_BAD_INPUT), ("No space left",), [fresh / first.gives[0]], first.name)
        )
        for name in tasks:
            task = elsewhere(named(run, name), place)
            ended = run_task(task, run, before=before)
            outputs = [Path(path) for path in task.gives] + sorted(place.rglob(".*"))
            endings.append(judged_error(ended, (EXIT_FAILED, EXIT_BAD_INPUT), ("No space left",), outputs, name))
        if mounted:
            (place / "filling").unlink()
            remount(place, "size=64m")
        endings.append(judged_result(run_task(first, fresh), fresh, first, undisturbed, "once there is room"))
    return counted(f"full disk ({'tmpfs' if mounted else 'injected ENOSPC'})", endings)


def read_only_store(folder: Path, undisturbed: Undisturbed) -> Count:
    """Let the store, then the outputs, lie on a file system that is read-only, and make it writable again."""
    place = folder / "disk"
    with small_disk(place) as mounted:
        before = None if mounted else failing_writes(errno.EROFS)
        if mounted:
            remount(place, "ro")
        fresh = write_night(folder / "runs", overrides=[f"common.store={place / 'store'}"])
        first = first_ingest(fresh)
        codes = (EXIT_FAILED, EXIT_BAD_INPUT)
        endings = [
            judged_error(
                run_task(first, fresh, before=before), codes, ("Read-only",), [fresh / first.gives[0]], "store"
            )
        ]
        task = elsewhere(named(undisturbed.run, "gather"), place)
        endings.append(
            judged_error(
                run_task(task, undisturbed.run, before=before), codes, ("Read-only",), [place / "frames"], "out"
            )
        )
        if mounted:
            remount(place, "rw,size=64m")
        endings.append(judged_result(run_task(first, fresh), fresh, first, undisturbed, "once it is writable"))
    return counted(f"read-only store ({'tmpfs' if mounted else 'injected EROFS'})", endings)


# ---------------------------------------------------------------- servers

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret12345"}


def with_environment(values: dict[str, str]) -> Callable[[], None]:
    """Return what sets variables in a fork."""
    return lambda: os.environ.update(values)


def s3_gone(folder: Path) -> Count:
    """Let the store's server be absent, or answer every request with an error."""
    run = write_night(folder / "runs", overrides=["common.store=s3://nightdrive/store"])
    first = first_ingest(run)
    endings = []

    def attempt(url: str, what: str) -> None:
        ended = run_task(first, run, before=with_environment({**KEYS, "NIGHTDRIVE_S3_ENDPOINT": url}))
        endings.append(judged_error(ended, (EXIT_BAD_INPUT,), ("s3://nightdrive/store",), [run / first.gives[0]], what))

    attempt(closed_url(), "S3 server absent")
    for status in (500, 503, 403):
        with failing_web_server(status) as url:
            attempt(url, f"S3 server answering {status}")
    return counted("S3 absent, 500, 503, 403", endings)


def s3_failing(folder: Path, undisturbed: Undisturbed, server: Any) -> Count:
    """Let a real S3 server be slow, fall silent, cut connections, and be killed in the middle of a task; bring it back.

    server: tests.conftest.RunningS3.
    """
    endings = []
    endpoint = server.server.endpoint

    def fresh(name: str) -> tuple[Path, Task]:
        run = write_night(folder / name, overrides=[f"common.store=s3://{server.server.bucket}/{name}"])
        return run, first_ingest(run)

    def through(url: str) -> Callable[[], None]:
        return with_environment({**server.server.environment(), "NIGHTDRIVE_S3_ENDPOINT": url})

    run, task = fresh("slow")
    with proxy(endpoint, delay_seconds=0.02) as between:
        endings.append(
            judged_result(run_task(task, run, before=through(between.url)), run, task, undisturbed, "slow S3")
        )
    run, task = fresh("silent")
    with proxy(endpoint, silent=True) as between:
        ended = run_task(task, run, before=through(between.url))
        endings.append(
            judged_error(ended, (EXIT_BAD_INPUT,), ("cannot be reached",), [run / task.gives[0]], "silent S3")
        )
    run, task = fresh("cut")
    with proxy(endpoint, cut_after_bytes=3000) as between:
        ended = run_task(task, run, before=through(between.url))
        endings.append(judged_error(ended, (EXIT_BAD_INPUT,), ("store s3://",), [run / task.gives[0]], "cut S3"))
    endings.append(
        judged_result(run_task(task, run, before=through(endpoint)), run, task, undisturbed, "after the cut")
    )
    run, task = fresh("killed")
    killer = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import time,os; time.sleep(0.4); os.kill({server.process.pid}, 9)"]
    )
    ended = run_task(task, run, before=through(endpoint))
    killer.wait()
    server.process.wait()
    if ended.code == EXIT_DONE:  # it was done before the server died; then it must be right
        endings.append(judged_result(ended, run, task, undisturbed, "S3 killed after the task"))
    else:
        endings.append(judged_error(ended, (EXIT_BAD_INPUT,), ("store s3://",), [run / task.gives[0]], "S3 killed"))
    server.restart()
    clear(task, run)
    endings.append(judged_result(run_task(task, run, before=through(endpoint)), run, task, undisturbed, "S3 back"))
    return counted("S3 slow, silent, cut, killed (weed)", endings, kills=1)


def registry_unreachable(folder: Path, undisturbed: Undisturbed) -> Count:
    """Let the registry's server be absent or fail when a night starts, publishes and proposes; then let it be there."""
    endings = []
    with failing_web_server(503) as failing, failing_web_server(404) as missing:
        for url in (closed_url(), failing, missing):
            for name in ("resolve", "publish", "propose"):
                task = elsewhere(named(undisturbed.run, name), folder / "out")
                ended = run_task(task, undisturbed.run, more=["--set", f"registry={url}/smoke.git"])
                outputs = [Path(path) for path in task.gives]
                endings.append(judged_error(ended, (EXIT_BAD_INPUT,), ("registry", url), outputs, f"{name} at {url}"))
    for name in ("resolve", "publish"):
        task = elsewhere(named(undisturbed.run, name), folder / "out")
        ended = run_task(task, undisturbed.run)
        endings.append("correct" if ended.code == EXIT_DONE else f"{name} with the registry back: {ended.said[-300:]}")
    return counted("registry unreachable", endings)


# ---------------------------------------------------------------- clocks


def skewed_clock(skew: timedelta) -> Callable[[], None]:
    """Return what moves the clocks of a fork: Python's in our modules, and git's."""

    def patch() -> None:
        real_time, real_datetime = time.time, datetime
        seconds = skew.total_seconds()

        class Skewed(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return real_datetime.now(tz) + skew

        time.time = lambda: real_time() + seconds
        time.time_ns = lambda: int((real_time() + seconds) * 1e9)
        for module in list(sys.modules.values()):
            ours = getattr(module, "__name__", "").startswith(("components", "perception", "pipelines"))
            if ours and getattr(module, "datetime", None) is real_datetime:
                module.datetime = Skewed  # type: ignore[attr-defined]
        moment = f"@{int(real_time() + seconds)} +0000"
        os.environ.update({"GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment})

    return patch


def clock_skew(folder: Path, undisturbed: Undisturbed, only: Sequence[str], seed: int = 0) -> Count:
    """Run a night whose tasks see clocks ten years ahead and ten years behind by turns, on files with times to match."""
    generator = random.Random(seed)
    run = write_night(folder / "runs")
    endings = []
    for number, task in enumerate(each for each in tasks_of(run) if not only or each.name.partition("@")[0] in only):
        skew = TENTH_YEARS if number % 2 else -TENTH_YEARS
        ended = run_task(task, run, before=skewed_clock(skew))
        endings.append(judged_result(ended, run, task, undisturbed, f"{task.name}, clock off by {skew.days} days"))
        for path in (run / task.gives[0]).rglob("*"):
            moment = time.time() + generator.choice((-1, 1)) * TENTH_YEARS.total_seconds()
            os.utime(path, (moment, moment))
    return counted("clock ten years ahead or behind", endings)


def decisions_with_a_skewed_clock(folder: Path, undisturbed: Undisturbed, tag: str) -> Count:
    """Reject a version three times with clocks that go back between decisions; their order, and the audit, must hold."""
    from perception.versioning import decisions
    from perception.versioning.audit import audit

    registry = folder / "registry" / "smoke.git"
    shutil.copytree(undisturbed.run.parent / "registry" / "smoke.git", registry)
    manifest = tag.rpartition("-")[2]
    real = decisions.datetime
    skews = (TENTH_YEARS, timedelta(0), -TENTH_YEARS)
    try:
        for skew in skews:
            # The class is replaced as in skewed_clock, but in this process: a decision is a call of the library.
            decisions.datetime = type("Skewed", (real,), {"now": classmethod(lambda _, tz, by=skew: real.now(tz) + by)})  # type: ignore[misc]
            why = f"clock off by {skew.days} days"
            decisions.reject(registry, tag, manifest_sha256=manifest, name="Ada", reason=why)
    finally:
        decisions.datetime = real  # type: ignore[misc]
    found = audit(registry.as_uri())
    reasons = [each.decision.reason for each in found.decisions]
    right = reasons == [f"clock off by {skew.days} days" for skew in skews]
    ending = "correct" if right and not found.problems else f"decisions in the order {reasons}; {found.problems}"
    return counted("decisions with a clock going back", [ending])


# ---------------------------------------------------------------- two nights at once


def two_nights(folder: Path, undisturbed: Undisturbed, only: Sequence[str]) -> Count:
    """Run two nights side by side on one store, one registry and the same footage, and a second night on the folder of a first.

    A frame is one night's: where both publish at once, the one that comes second says so by name and is to be run again.
    """
    runs = folder / "runs"
    nights = [write_night(runs, "night"), write_night(runs, "other")]
    chains = []
    for run in nights:
        chain = os.fork()
        if chain == 0:
            failed = [task.name for task in chosen(run, only) if run_task(task, run).code != EXIT_DONE]
            os._exit(len(failed))
        chains.append(chain)
    codes = [os.waitstatus_to_exitcode(os.waitpid(chain, 0)[1]) for chain in chains]
    endings = []
    for run, code in zip(nights, codes, strict=True):
        changed = different(content(run), undisturbed.content)
        good = code == 0 and not changed
        ending = "correct" if good else "error" if _overtaken(run) else f"{code} tasks failed; differs in {changed[:4]}"
        endings.append(ending if ending in ("correct", "error") else f"{run.name}: {ending}")
    published = {run.name for run, ending in zip(nights, endings, strict=True) if ending == "correct"}
    endings.append(_published(runs / "registry" / "smoke.git", published))
    endings.append(second_on_one_folder(folder))
    return counted("two nights at once", endings)


def chosen(run: Path, only: Sequence[str]) -> list[Task]:
    """Return the tasks of a run, only those of the named stages where some are named."""
    return [task for task in tasks_of(run) if not only or task.name.partition("@")[0] in only]


def _overtaken(run: Path) -> bool:
    """Say whether a night's publication named the night that took the same frames, and what to do."""
    log = run / "publish.log"
    said = log.read_text() if log.exists() else ""
    other = {"night": "other", "other": "night"}[run.name]
    return f"night {other} took in" in said and f"run {run.name} again" in said


def _published(registry: Path, nights: set[str]) -> str:
    from perception.versioning.audit import audit
    from perception.versioning.upkeep import scrub, versions

    listed = {version.run for version in versions(str(registry))}
    whole = scrub(str(registry), sample=None, seed=0).is_clean and not audit(registry.as_uri()).problems
    return "correct" if listed == nights and nights and whole else f"registry holds {listed}, whole: {whole}"


def second_on_one_folder(folder: Path) -> str:
    """Hold the lock of a run as its night does, and start another night there."""
    from pipelines.commands.program import main

    run = folder / "locked" / "smoke"
    run.mkdir(parents=True)
    (run / "night.json").write_text('{"date": "2026-11-30", "profile": "smoke"}')
    said = io.StringIO()
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.redirect_stderr(said):
            code = main(["run", "--runs", str(folder / "locked"), "--profile", "smoke"])
    clear_enough = code == EXIT_BAD_INPUT and "another night is running" in said.getvalue()
    return (
        "error"
        if clear_enough and sorted(run.iterdir()) == [run / ".lock", run / "night.json"]
        else f"second night: {code}, {said.getvalue()!r}"
    )


# ---------------------------------------------------------------- a broken GPU


@dataclass(frozen=True)
class GPUFault:
    """How a GPU fails: what torch says, and at which move of data to it."""

    words: str
    at_move: int


GPU_FAULTS = (
    GPUFault("CUDA error: no kernel image is available for execution on the device", 0),
    GPUFault("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`", 3),
    GPUFault("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB", 5),
    GPUFault("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", 2),
)


def broken_gpu_patch(fault: GPUFault) -> Callable[[], None]:
    """Return what makes torch see a GPU that fails at a given move of a tensor to it; until then the CPU stands in."""

    def patch() -> None:
        import torch

        import perception.training.setup

        moves = [0]
        real = torch.Tensor.to

        def to(tensor: Any, *arguments: Any, **options: Any) -> Any:
            moves[0] += 1
            if moves[0] > fault.at_move:
                kind = torch.OutOfMemoryError if "out of memory" in fault.words else RuntimeError
                raise kind(fault.words)
            return real(tensor, *arguments, **options)

        torch.Tensor.to = to  # type: ignore[method-assign,assignment]
        perception.training.setup.best_device = lambda: "cpu"

    return patch


def broken_gpu(folder: Path, undisturbed: Undisturbed, tasks: Sequence[str]) -> Count:
    """Let the GPU fail in every stage that learns, in every way, and run the stage again on a machine that works."""
    endings = []
    for name in tasks:
        for number, fault in enumerate(GPU_FAULTS):
            task = elsewhere(named(undisturbed.run, name), folder / f"{number}")
            ended = run_task(task, undisturbed.run, before=broken_gpu_patch(fault))
            words = ("the GPU failed", fault.words.split("\n")[0].split(".")[0])
            endings.append(
                judged_error(
                    ended, (EXIT_FAILED,), words, [Path(path) for path in task.gives], f"{name} on a broken GPU"
                )
            )
        ended = run_task(elsewhere(named(undisturbed.run, name), folder / "mended"), undisturbed.run)
        endings.append("correct" if ended.code == EXIT_DONE else f"{name} after the broken GPU: {ended.said[-300:]}")
    return counted("broken GPU (injected)", endings)


# ---------------------------------------------------------------- artifacts, blobs and shards that are not what they were

SPOILERS: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "bit flipped": lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
    "emptied": lambda _: b"",
    "removed": lambda _: None,
}


@contextlib.contextmanager
def spoilt(path: Path, how: str) -> Iterator[None]:
    """Damage a file until the block ends."""
    data = path.read_bytes()
    changed = SPOILERS[how](data)
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(data)


def spoilt_artifacts(folder: Path, undisturbed: Undisturbed, seed: int = 0) -> Count:
    """Damage one file of every artifact that every task takes, in a way drawn by the seed."""
    generator, run, endings = random.Random(seed), undisturbed.run, []
    for task in (each for each in chosen(run, ()) if any((run / out).exists() for out in each.gives)):
        taken = [run / word for word in task.words if "*" not in word and (run / word / "seal.json").is_file()]
        for artifact in (path for path in taken if str(path.relative_to(run)) not in task.gives):
            files = [
                path
                for path in sorted(artifact.rglob("*"))
                if path.is_file() and path.stat().st_size > 8 and path.name != "seal.json"
            ]
            path, how = generator.choice(files), generator.choice(sorted(SPOILERS))
            with spoilt(path, how):
                moved = elsewhere(task, folder / task.name)
                ended = run_task(moved, run)
                outputs = [Path(each) for each in moved.gives]
                endings.append(
                    judged_error(ended, (EXIT_BAD_INPUT,), (path.name,), outputs, f"{task.name}: {path.name} {how}")
                )
    return counted("truncated and changed artifacts", endings)


def spoilt_blobs(folder: Path, undisturbed: Undisturbed) -> Count:
    """Damage a blob in the store that a stage reads; ingesting its source again must mend it."""
    import pandas as pd

    run, endings = undisturbed.run, []
    store = run.parent / "store"
    frames = pd.read_parquet(run / "frames" / "manifest.parquet")
    labelled = frames[(frames.split == "train") & (frames.source == "fleet")].iloc[0]
    listings = {path.parent.name: pd.read_parquet(path) for path in (run / "arrivals").glob("*/listing.parquet")}
    (batch,) = [name for name, listing in listings.items() if labelled.frame_id in set(listing.object)]
    blob = store / labelled.image_uri
    good = blob.read_bytes()
    for how in SPOILERS:
        with spoilt(blob, how):
            task = elsewhere(named(run, "ensemble"), folder / how.replace(" ", "_"))
            ended = run_task(task, run)
            endings.append(judged_error(ended, (EXIT_BAD_INPUT,), (blob.name,), [Path(task.gives[0])], f"blob {how}"))
            again = run_task(elsewhere(named(run, f"ingest@{batch}"), folder / f"again_{how.replace(' ', '_')}"), run)
            mended = blob.is_file() and blob.read_bytes() == good
            endings.append(
                "correct" if again.code == EXIT_DONE and mended else f"blob {how}: ingesting again mended nothing"
            )
    return counted("blobs damaged in the store", endings)


def spoilt_shards(folder: Path, undisturbed: Undisturbed, tag: str) -> Count:
    """Damage a shard on the registry's remote: a night that needs its frames must say so, and start once it is restored."""
    from perception.versioning.decisions import promote

    run, endings = undisturbed.run, []
    registry = run.parent / "registry"
    promote(registry / "smoke.git", tag, manifest_sha256=tag.rpartition("-")[2], names=["Ada"], reason="looked at it")
    objects = sorted(path for path in (registry / "smoke").rglob("*") if path.is_file())
    shard = next(path for path in objects if path.read_bytes()[257:262] == b"ustar")
    for number, how in enumerate(SPOILERS):
        shard.chmod(0o644)
        with spoilt(shard, how):
            task = elsewhere(named(run, "resolve"), folder / f"base{number}")
            ended = run_task(task, run, more=["--set", f"store={folder / f'store{number}'}"])
            endings.append(judged_error(ended, (EXIT_BAD_INPUT,), (tag,), [Path(task.gives[0])], f"shard {how}"))
    ended = run_task(
        elsewhere(named(run, "resolve"), folder / "base"), run, more=["--set", f"store={folder / 'store'}"]
    )
    blobs = len(list((folder / "store").rglob("*.*"))) if ended.code == EXIT_DONE else 0
    endings.append("correct" if blobs else f"with the shard restored: {ended.code}: {ended.said[-300:]}")
    return counted("shards damaged on the remote", endings)
