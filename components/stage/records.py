"""What a task says while it runs and leaves behind when it ends: plain lines of progress, and one JSON record."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.stage.usage import FORKED_VARIABLE, LAUNCHED_VARIABLE, Usage, peak_rss_mib
from perception.data.documents import open_documents
from perception.errors import InputError

TASK_RULE = "[A-Za-z0-9_-]+(@[A-Za-z0-9_-]+)?"  # a task's name; behind the @ the number of its batch or shard
# Folder or s3://bucket/prefix for one JSON record a task: status, seconds, bytes, peak memory.
RECORDS_VARIABLE = "NIGHTDRIVE_RECORDS"
NIGHT_VARIABLE = "NIGHTDRIVE_NIGHT"  # name of the night among all others, where it has one: the run of a cluster
FORMAT = 1  # of a record
RUNNING = "running"  # the status of a task that has begun; one that was killed keeps it
NIGHT_FILE, WATCH_FILE = "night.json", "watch.json"  # beside the records: when the night ends, what the watch did
NO_RECORDS = (NIGHT_FILE, WATCH_FILE)
FAREWELL = "farewell"  # the report of a night that ended early
TELLERS = ("report", FAREWELL)  # the tasks that tell how the others ended

PAUSES_VARIABLE = "NIGHTDRIVE_RETRY_PAUSES"  # seconds between tries while a server does not answer, such as 5,20,60


def is_first_process() -> bool:
    """Tell whether this is the only process of its call, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def log(message: str) -> None:
    """Print one plain line of progress, at once; of several processes only the first one speaks."""
    if is_first_process():
        print(message, flush=True)


def progress_line(what: str, every_seconds: float = 5.0) -> Callable[[int, int], None]:
    """Return a progress callback (done, total) that prints at most one line in `every_seconds`, with the remaining time."""
    started = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done and (now - last >= every_seconds):
            remaining = (now - started) / done * (total - done)
            log(f"  {what}: {done}/{total}, about {remaining:.0f} s left")
            last = now

    return report


def write_record(
    task: str,
    *,
    status: str,
    before: Usage,
    message: str = "",
    values: Mapping[str, Any] | None = None,
    failed: Sequence[Mapping[str, Any]] = (),
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write the task's record where NIGHTDRIVE_RECORDS asks for it: status, and what it used since it began.

    attempt: how often it has begun. started: when its work began, in seconds since 1970; launched: when its command was
    started. seconds, cpu_seconds, read_bytes, written_bytes: of its work alone; start_cpu_seconds: of the process before
    that. forked: from a warm process. peak_rss_mib: so far. values: what it told beside its artifacts. failed: of a refusal,
    the rules with bound and observed value. parameters: of its call, where no other place has those of the whole night.
    Raises InputError for a name that no task has and for a place that cannot be written.
    """
    check_task(task)
    place = os.environ.get(RECORDS_VARIABLE)
    if not place or not is_first_process():
        return
    documents, name = open_documents(place), f"{task}.json"
    earlier = _decoded(place, name, documents.read(name)) or {}
    record = {
        "format": FORMAT,
        "night": os.environ.get(NIGHT_VARIABLE, ""),
        "name": task,
        "status": status,
        "attempt": earlier.get("attempt", 0) + (status == RUNNING),
        "launched": round(float(os.environ.get(LAUNCHED_VARIABLE, before.at)), 3),
        "started": round(before.at, 3),
        "seconds": round(time.time() - before.at, 3),
        "start_cpu_seconds": round(before.cpu_seconds, 3),
        "forked": FORKED_VARIABLE in os.environ,
        **Usage.now().since(before),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "message": _one_line(message),
        "values": dict(values or {}),
        "failed": list(failed),
        "parameters": dict(parameters or {}),
    }
    documents.write(name, json.dumps(record).encode())


def _one_line(text: str) -> str:
    """Return text on one line, its control characters spelled out: senders of footage name files, and terminals show records."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in " ".join(text.split())
    )


def check_task(task: str) -> None:
    """Raise InputError for a name that no task can have."""
    if not re.fullmatch(TASK_RULE, task):
        raise InputError(f"--task {task!r}: must match {TASK_RULE}; rename it")


def read_records(place: str | Path = "") -> list[dict[str, Any]]:
    """Return the record of every task that ran but those that tell the night, as all_records does."""
    return [record for record in all_records(place) if record["name"] not in TELLERS]


def own_work(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records without those of steps that only waited for their shares, which have records of their own."""
    waited = {record["name"].partition("@")[0] for record in records if "@" in record["name"]}
    return [record for record in records if record["name"] not in waited]


def work_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how long the tasks of these records worked, all together; None where there are none."""
    worked = own_work(records)
    return round(sum(record["seconds"] for record in worked), 1) if worked else None


def all_records(place: str | Path = "") -> list[dict[str, Any]]:
    """Return the record of every task that ran, in the order in which they started.

    place: a folder or s3://bucket/prefix, by default what NIGHTDRIVE_RECORDS names; without it there are none. Raises
    InputError for a record that this version cannot read.
    """
    asked = str(place) or os.environ.get(RECORDS_VARIABLE, "")
    if not asked:
        return []
    documents = open_documents(asked)
    names = [name for name in documents.names() if name not in NO_RECORDS]
    records = [_decoded(asked, name, documents.read(name)) for name in names]
    return sorted((record for record in records if record), key=lambda record: record["started"])


def read_document(place: str, name: str) -> dict[str, Any] | None:
    """Return a record, or what else a night's first step wrote; None where there is none; raises InputError for other content."""
    return _decoded(place, name, open_documents(place).read(name))


def _decoded(place: str, name: str, data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(
            f"{place}/{name}: is no JSON of format {FORMAT}; read it with the version that wrote it, or remove it"
        )
    return found
