"""What a task says while it runs and leaves behind when it ends: plain lines of progress, and one JSON record."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.stage.usage import FORKED_VARIABLE, LAUNCHED_VARIABLE, Usage, peak_rss_mib
from perception.data.files import replace_file
from perception.errors import InputError

TASK_RULE = "[A-Za-z0-9_-]+(@[A-Za-z0-9_-]+)?"  # a task's name; behind the @ the number of its batch or shard
RECORDS_VARIABLE = "NIGHTDRIVE_RECORDS"  # folder for one JSON record a task: status, seconds, bytes, peak memory

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


def write_record(task: str, *, status: str, before: Usage, message: str, values: dict[str, str] | None = None) -> None:
    """Write the task's record where NIGHTDRIVE_RECORDS asks for it: status, and what it used since it began.

    started: when its work began, in seconds since 1970; launched: when its command was started. seconds, cpu_seconds,
    read_bytes, written_bytes: of its work alone; start_cpu_seconds: of the process before that. forked: from a warm
    process. peak_rss_mib: so far. values: what it gave beside its artifacts.
    Raises InputError for a name that no task has and for a folder that cannot be written.
    """
    folder = os.environ.get(RECORDS_VARIABLE)
    if not folder or not is_first_process():
        return
    check_task(task)
    record = {
        "name": task,
        "status": status,
        "launched": round(float(os.environ.get(LAUNCHED_VARIABLE, before.at)), 3),
        "started": round(before.at, 3),
        "seconds": round(time.time() - before.at, 3),
        "start_cpu_seconds": round(before.cpu_seconds, 3),
        "forked": FORKED_VARIABLE in os.environ,
        **Usage.now().since(before),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "message": message,
        "values": values or {},
    }
    target = Path(folder) / f"{task}.json"
    try:
        replace_file(target, json.dumps(record).encode())
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); make room, or correct its folder") from None


def check_task(task: str) -> None:
    """Raise InputError for a name that no task can have."""
    if not re.fullmatch(TASK_RULE, task):
        raise InputError(f"--task {task!r}: must match {TASK_RULE}; rename it")


def read_records(folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the record of every task that ran but report's, in the order in which they started.

    folder: by default the one that NIGHTDRIVE_RECORDS names; without it there are none.
    """
    place = folder or os.environ.get(RECORDS_VARIABLE)
    records = [json.loads(path.read_text()) for path in Path(place).glob("*.json")] if place else []
    return sorted((record for record in records if record["name"] != "report"), key=lambda record: record["started"])
