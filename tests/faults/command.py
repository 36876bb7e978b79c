"""`nightdrive faults`: faults, bad input, hostile settings and random operations, with their counts; exit code 1 for a loss."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tests.faults.counting import Count

OPERATIONS = Path("build/operations")  # parts of the campaign of operations that are done, by code and seed


@click.command(epilog="Example: nightdrive faults --campaign faults --only clock,gpu")
@click.option(
    "--campaign",
    type=click.Choice(("all", "faults", "footage", "inputs", "settings", "nights", "trust", "erasure")),
    default="all",
    show_default=True,
    help="What to run.",
)
@click.option(
    "--seeds",
    type=int,
    multiple=True,
    default=(1, 2, 3),
    show_default=True,
    help="Of the kills, one night each, and of the operations, a row each.",
)
@click.option("--examples", default=60, show_default=True, help="Generated cases of each bad-input property.")
@click.option("--only", default="", metavar="NAME,...", help="The faults of these names; default: all.")
def faults(campaign: str, seeds: tuple[int, ...], examples: int, only: str) -> int:
    """Run the campaigns of faults, damaged footage, bad input, hostile settings and random operations, and count what was lost."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from tests.faults.counting import table
    from tests.faults.nights import load_libraries

    started = time.monotonic()
    load_libraries()
    rows = []
    with tempfile.TemporaryDirectory(prefix="nightdrive-faults-", ignore_cleanup_errors=True) as folder:
        for row in _rows(Path(folder), campaign, seeds, examples, only):
            rows.append(row)
            print(f"{time.monotonic() - started:6.0f} s  {table([row]).splitlines()[1]}", flush=True)
            for loss in row.losses:
                print(f"          LOSS: {loss}", flush=True)
    used = time.process_time() + sum(os.times()[2:4])
    print(f"\n{table(rows)}\n{time.monotonic() - started:.0f} s, {used:.0f} s of one core")
    return 1 if any(row.losses for row in rows) else 0


def _rows(folder: Path, campaign: str, seeds: Sequence[int], examples: int, only: str) -> "Iterator[Count]":
    if campaign in ("all", "faults"):
        yield from fault_rows(folder, seeds, only)
    if campaign in ("all", "footage"):
        from tests.faults.footage import footage_rows

        yield from footage_rows(folder / "footage")
    if campaign in ("all", "inputs"):
        from tests.faults.inputs import input_rows

        yield from input_rows(folder / "inputs", examples)
    if campaign in ("all", "settings"):
        from tests.faults.settings import settings_rows

        yield from settings_rows(folder / "settings")
    if campaign in ("all", "trust"):
        from tests.faults.trust import EXAMPLES, trust_rows

        yield from trust_rows(folder / "trust", EXAMPLES)
    if campaign in ("all", "nights"):
        from tests.faults.operations import operation_rows

        yield from operation_rows(OPERATIONS, seeds)
    if campaign in ("all", "erasure"):
        from tests.faults.erasure import erasure_rows

        yield from erasure_rows(folder / "erasure", seeds)


def fault_rows(folder: Path, seeds: Sequence[int], only: str = "") -> "Iterator[Count]":
    """Run the faults of the full campaign named in `only` (all where it is empty), against one undisturbed night."""
    from tests.conftest import running_s3
    from tests.faults import cases
    from tests.faults.kills import kill_campaign, undisturbed_night

    undisturbed = undisturbed_night(folder / "undisturbed")
    tag = json.loads((undisturbed.run / "version" / "version.json").read_text())["tag"]
    stages = ("gather", "score@0", "select", "gate_select", "curate", "adapt", "compress", "report")
    learning = ("ensemble", "score@0", "compare", "adapt", "train_prune")

    def s3_failing(place: Path) -> "Count":
        with running_s3() as server:
            return cases.s3_failing(place, undisturbed, server)

    rows: dict[str, Callable[[Path], Count]] = {
        "kills": lambda place: kill_campaign(place, undisturbed, seeds),
        "full_disk": lambda place: cases.full_disk(place, undisturbed, stages),
        "read_only": lambda place: cases.read_only_store(place, undisturbed),
        "s3_gone": cases.s3_gone,
        "s3_failing": s3_failing,
        "registry": lambda place: cases.registry_unreachable(place, undisturbed),
        "clock": lambda place: cases.clock_skew(place, undisturbed, ()),
        "decisions": lambda place: cases.decisions_with_a_skewed_clock(place, undisturbed, tag),
        "two_nights": lambda place: cases.two_nights(place, undisturbed, ()),
        "gpu": lambda place: cases.broken_gpu(place, undisturbed, learning),
        "artifacts": lambda place: cases.spoilt_artifacts(place, undisturbed),
        "blobs": lambda place: cases.spoilt_blobs(place, undisturbed),
        "shards": lambda place: cases.spoilt_shards(place, undisturbed, tag),
    }
    for name, run in rows.items():
        if not only or name in only.split(","):
            yield run(folder / name)
