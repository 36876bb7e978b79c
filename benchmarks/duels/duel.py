"""What all duels share: the report with its keys, and who else uses the processor.

A duel is a click command in a file of this folder that does the same work with ours and with a peer, asserts that both give
equal results, times them in turn, and prints `result(...)` as its last line. runner.py runs them all.
"""

import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cores

REQUIRED = ("duel", "ours", "peer", "unit", "ratio", "bar", "limit_share", "pass", "load", "quiet", "cores")


def result(
    duel: str,
    *,
    ours: Any,
    peer: Any,
    unit: str,
    ratio: float,
    bar: float,
    limit_share: float,
    passed: bool,
    **more: Any,
) -> dict[str, Any]:
    """Give the duel's last line: the keys that all have, in one order, and then its own.

    ours, peer: in `unit`. ratio: how many times better ours is. limit_share: what ours reaches of the physical limit,
    as a share. load: the load average now, quiet: whether it is at most the number of cores.
    """
    load = os.getloadavg()[0]
    return {
        "duel": duel,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": round(ratio, 2),
        "bar": bar,
        "limit_share": round(limit_share, 3),
        "pass": bool(passed),
        **more,
        "load": round(load, 1),
        "quiet": load <= cores(),
        "cores": cores(),
    }


def finish(report: Mapping[str, Any]) -> int:
    """Print the last line and return the exit code: 0 where the bar holds, 1 where it does not."""
    print(json.dumps(report), flush=True)
    return 0 if report["pass"] else 1


# ---------------------------------------------------------------- who else uses the processor


@dataclass(frozen=True)
class Moment:
    """Hold the processor's clocks at one moment, in core-seconds since the machine started."""

    at: float  # seconds of a steady clock
    used: float  # by everybody, and what the host took for other machines (steal)
    own: float  # by this process and its children that have ended

    @classmethod
    def now(cls) -> "Moment":
        """Read /proc/stat (Linux) and this process's own use."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        used = used_seconds(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
        return cls(time.monotonic(), used, sum(each.ru_utime + each.ru_stime for each in own))

    def others_share(self, earlier: "Moment") -> float:
        """Return which share of all cores others used since an earlier moment: 0 when nobody else ran."""
        passed = max(self.at - earlier.at, 1e-9) * cores()
        return max(0.0, (self.used - earlier.used - (self.own - earlier.own)) / passed)


def used_seconds(stat: str, ticks_per_second: int) -> float:
    """Add up user, nice, system, irq, softirq and steal of the first line of /proc/stat, in core-seconds."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    ticks = dict(zip(names, map(int, stat.splitlines()[0].split()[1:]), strict=False))
    return sum(ticks.get(name, 0) for name in names if name not in ("idle", "iowait")) / ticks_per_second


def others_share(seconds: float = 1.0) -> float:
    """Watch the machine for some seconds, doing nothing, and return the share of all cores that others use."""
    before = Moment.now()
    time.sleep(seconds)
    return Moment.now().others_share(before)
