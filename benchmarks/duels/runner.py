"""Run duels one after the other, each in a process of its own, and judge what each one says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.duels.catalogue import Duel
from benchmarks.duels.duel import REQUIRED, Moment, others_share
from benchmarks.duels.page import FAILED, FALLS_SHORT, HOLDS, OTHERS_LIMIT, Row, figure_text
from benchmarks.machine import cores, hardware
from benchmarks.results import ROOT

WAIT_SECONDS = 20.0  # for a quiet second before a duel: what the one before wrote may still go to disk


# ---------------------------------------------------------------- is the machine quiet?


def busy(load: float, others: float) -> str:
    """Say why the machine is too busy to publish figures from; nothing when it is quiet."""
    if load > cores():
        return f"its load average is {load:.1f} on {cores()} cores"
    return f"others use {others:.0%} of its cores (at most {OTHERS_LIMIT:.0%})" if others > OTHERS_LIMIT else ""


def wait_for_quiet(watch: Callable[[], float] = others_share, seconds: float = WAIT_SECONDS) -> float:
    """Watch the machine second by second until it is quiet, but no longer than this; return what others use at last."""
    end = time.monotonic() + seconds
    while (others := watch()) > OTHERS_LIMIT and time.monotonic() < end:
        pass
    return others


# ---------------------------------------------------------------- one duel


def fight(duel: Duel, versions: Mapping[str, str], load: float) -> Row:
    """Run a duel and judge what it says; whatever goes wrong becomes part of the row."""
    others_before, before, date = wait_for_quiet(), Moment.now(), datetime.now(UTC)
    report, problem = _run([sys.executable, *words(duel)], duel.timeout_s)
    after = Moment.now()
    return Row(
        name=duel.name,
        verdict=FAILED if problem else HOLDS if report["pass"] else FALLS_SHORT,
        report=report,
        problem=problem,
        command=" ".join(["python", *words(duel)]),
        date=date.strftime("%Y-%m-%d %H:%M"),
        seconds=round(after.at - before.at, 1),
        load_before=round(load, 2),
        others_before=round(others_before, 3),
        others_during=round(after.others_share(before), 3),
        hardware=hardware(),
        versions=dict(versions),
    )


def words(duel: Duel) -> list[str]:
    """Return what a Python interpreter is told to run a duel."""
    return ["-m", "benchmarks.duels", duel.name, *duel.options]


def _run(command: Sequence[str], timeout_s: float) -> tuple[dict[str, Any], str]:
    """Return the last line's report and no problem, or nothing and the problem."""
    # A session of its own, so that what a duel started (a server, workers) ends with it when it takes too long.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, complaints = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return {}, f"did not end within {timeout_s:.0f} s"
    said = out.strip().splitlines()
    try:
        return checked_report(said[-1] if said else "", process.returncode), ""
    except ValueError as error:
        last = (complaints.strip() or out.strip()).splitlines()[-1:]
        return {}, f"{error}: {' '.join(last)[:200]}"


def checked_report(line: str, code: int) -> dict[str, Any]:
    """Return a duel's last line as what it says; raises ValueError where it is no report, or does not fit the exit code."""
    try:
        report: Any = json.loads(line)
    except json.JSONDecodeError:
        raise ValueError(f"exit code {code} and no report") from None
    missing = [key for key in REQUIRED if not isinstance(report, dict) or key not in report]
    if missing:
        raise ValueError(f"its report has no {missing[0]!r}")
    if code != (0 if report["pass"] else 1):
        raise ValueError(f"exit code {code} does not fit pass {report['pass']}")
    return dict(report)


def sentence(row: Row) -> str:
    """Say in a line how a duel went."""
    noise = f"load before {row.load_before:.1f}, others {max(row.others_before, row.others_during):.0%}, {row.seconds:.0f} s"
    if row.verdict == FAILED:
        return f"FAILED: {row.problem} ({noise})"
    report = row.report
    return (
        f"{row.verdict}: ours {figure_text(report['ours'])}, peer {figure_text(report['peer'])} {report['unit']}; ratio "
        f"{report['ratio']:g}, {report['limit_share']:.0%} of the limit ({noise})"
    )
