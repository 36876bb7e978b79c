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

from benchmarks.duels.catalogue import DUELS
from benchmarks.machine import cores

REQUIRED = ("duel", "ours", "peer", "unit", "ratio", "bar", "limit_share", "pass", "load", "quiet", "cores")


def result(
    name: str,
    *,
    ours: Any,
    peer: Any,
    limit_share: float,
    ratio: float | None = None,
    bar: float | None = None,
    passed: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """Give the duel's last line: the keys that all have, in one order, and then its own, to four digits.

    ours, peer: in the duel's unit. ratio: how many times better ours is, by default in what it takes. limit_share: what ours
    reaches of the physical limit, as a share. bar: by default the duel's least ratio, which must be reached as well as what
    `passed` says. load: the load average now, quiet: whether it is at most the number of cores.
    """
    (duel,) = (each for each in DUELS if each.name == name)
    ratio = peer / ours if ratio is None else ratio
    load = os.getloadavg()[0]
    measured = {"ours": ours, "peer": peer, "ratio": ratio, "limit_share": limit_share, **more}
    return {
        "duel": name,
        "unit": duel.unit,
        "bar": duel.least_ratio if bar is None else bar,
        "pass": bool(passed and ratio >= duel.least_ratio),
        **_to_four_digits(measured),
        "load": round(load, 1),
        "quiet": load <= cores(),
        "cores": cores(),
    }


def _to_four_digits(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_four_digits(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_to_four_digits(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def finish(report: Mapping[str, Any]) -> int:
    """Print the last line and return the exit code: 0 where the bar holds, 1 where it does not."""
    print(json.dumps(report), flush=True)
    return 0 if report["pass"] else 1


def dvc_environment(**more: str) -> dict[str, str]:
    """Return the environment that a duel calls DVC in: it phones nobody and asks nothing."""
    return os.environ | {"DVC_NO_ANALYTICS": "1", "CI": "1"} | more


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
