"""The command of the duels: `make bench`, or `python -m benchmarks.duels`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.duels import runner
from benchmarks.duels.catalogue import DUELS, peer_versions
from benchmarks.duels.page import HOLDS, Row, publish
from benchmarks.lazy import LazyCommands
from benchmarks.results import ROOT

EXIT_HOLDS, EXIT_FALLS_SHORT, EXIT_BUSY = 0, 1, 3
_BY_NAME = {duel.name: duel for duel in DUELS}
_WHAT_THEN = (
    "wait until it is quiet, or look at figures that are not written down with --anyway (make bench ANYWAY=yes)"
)


@click.group(
    epilog="Example: nightdrive bench --only scoring --only confusion",
    commands=LazyCommands({name: f"benchmarks.duels.{name}:duel" for name in _BY_NAME}),
    invoke_without_command=True,
)
@click.option("--only", multiple=True, type=click.Choice(list(_BY_NAME)), help="This duel; its row is replaced.")
@click.option("--anyway", is_flag=True, help="Also on a busy machine; nothing is written.")
@click.option("--list", "listed", is_flag=True, help="Name the duels and their bars.")
@click.pass_context
def bench(context: click.Context, only: tuple[str, ...], anyway: bool, listed: bool) -> int:
    """Run every duel with the peers, one after the other, and write docs/results/duels.md; or, with its name, one alone.

    A duel that fails or falls short does not stop the others. Figures are published only when the machine was quiet: nobody
    else may use more than a tenth of its cores, neither in the second before a duel nor while it runs, and the load average
    must not be above the number of cores when the first one starts. Exit codes: 0 every bar holds; 1 a duel falls short or
    fails; 2 a peer is missing or a name is wrong; 3 not published, because the machine is busy.
    """
    if context.invoked_subcommand is not None:
        peer_versions(_BY_NAME[context.invoked_subcommand])
        return EXIT_HOLDS  # what the duel itself returns counts
    if listed:
        for duel in DUELS:
            print(f"{duel.name:20s} {duel.ours}, against {duel.against}: {duel.bar}")
        return EXIT_HOLDS
    return _run_all(only or tuple(_BY_NAME), anyway)


def _run_all(names: Sequence[str], anyway: bool) -> int:
    duels = [duel for duel in DUELS if duel.name in names]
    versions = {duel.name: peer_versions(duel) for duel in duels}
    load = os.getloadavg()[0]
    if (reason := runner.busy(load, runner.wait_for_quiet())) and not anyway:
        print(f"nightdrive: the machine is busy: {reason}; {_WHAT_THEN}", file=sys.stderr)
        return EXIT_BUSY
    rows = []
    for number, duel in enumerate(duels, 1):
        print(f"[{number}/{len(duels)}] {duel.name}: {duel.ours}, against {duel.against}", flush=True)
        rows.append(runner.fight(duel, versions[duel.name], load if number == 1 else os.getloadavg()[0]))
        print(f"    {runner.sentence(rows[-1])}", flush=True)
    return conclude(rows, ROOT, to_publish=not anyway)


def conclude(rows: Sequence[Row], root: Path, *, to_publish: bool) -> int:
    """Publish the rows where they may be, say what falls short, and return the exit code."""
    loud = [row.name for row in rows if not row.quiet]
    short = [row.name for row in rows if row.verdict != HOLDS]
    print(f"{len(rows) - len(short)} of {len(rows)} duels hold{'; not ' + ', '.join(short) if short else ''}")
    if to_publish and loud:
        during = f"others used the machine during {', '.join(loud)}"
        print(f"nightdrive: not published: {during}; {_WHAT_THEN}", file=sys.stderr)
        return EXIT_BUSY
    if to_publish:
        print(f"written: {publish(rows, root)}")
    return EXIT_FALLS_SHORT if short else EXIT_HOLDS
