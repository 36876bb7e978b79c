"""What a process has used so far: processor time, and bytes that went through its hands."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

LAUNCHED_VARIABLE = "NIGHTDRIVE_LAUNCHED"  # when the stage's command was started, in seconds since 1970
FORKED_VARIABLE = "NIGHTDRIVE_FORKED"  # set in the forks of warm processes


@dataclass(frozen=True)
class Usage:
    """Hold what this process and its children that have ended had used at one moment."""

    at: float  # seconds since 1970
    cpu_seconds: float
    read_bytes: int | None  # by read calls, from disk or not, imports included; None where the kernel does not tell
    written_bytes: int | None

    @classmethod
    def now(cls) -> "Usage":
        """Ask the kernel (Linux for the bytes)."""
        each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        told = _io()
        return cls(time.time(), sum(one.ru_utime + one.ru_stime for one in each), told.get("rchar"), told.get("wchar"))

    def since(self, before: "Usage") -> dict[str, float | int | None]:
        """Return what was used since an earlier moment, as a task's record has it."""
        counts = ((self.read_bytes, before.read_bytes), (self.written_bytes, before.written_bytes))
        read, written = (None if now is None or then is None else now - then for now, then in counts)
        return {
            "cpu_seconds": round(self.cpu_seconds - before.cpu_seconds, 3),
            "read_bytes": read,
            "written_bytes": written,
        }


def launch_time() -> float:
    """Return when this process was started, in seconds since 1970: before its interpreter loaded anything."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - started_ticks / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:  # not Linux
        age = time.process_time()
    return time.time() - max(age, 0.0)


def peak_rss_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    Linux tells it for this program alone (VmHWM); getrusage counts what the process held before it became this program.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _io() -> dict[str, int]:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:  # not Linux, or a container that hides it
        return {}
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
