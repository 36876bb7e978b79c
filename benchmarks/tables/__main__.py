"""Run a table: python -m benchmarks.tables TABLE --data PATH [--size small|medium|long|full] [--minutes M].

Every finished cell is kept: a run that is stopped, or whose minutes are spent, goes on with the same command.
Cells that measure this machine's processor wait for a call with --device cpu.
Exit codes: 0 the table is complete and written, 4 the minutes are spent and cells remain, 2 bad input.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import torch

import benchmarks.tables
from benchmarks.tables.data import data_kind
from benchmarks.tables.results import write_results
from benchmarks.tables.runner import SIZES, Request, machines, run_cells
from perception.errors import InputError

RUN_OUT = 4


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    try:
        module = importlib.import_module(f"benchmarks.tables.{options.table}")
        _require_size(module, options)
        _require_sound(options)
        request = Request(
            table=options.table,
            data=options.data,
            data_kind=data_kind(options.data),
            size=options.size,
            seeds=options.seeds,
            device=options.device,
            eager=options.eager,
            work=options.work,
            workers=options.workers,
        )
        cells = module.cells(request)
        done, seconds = run_cells(cells, request, options.work, options.minutes, options.only)
        if options.only is not None:
            wanted = [cell.name for cell in cells if re.search(options.only, cell.name)]
            finished = sum(name in done for name in wanted)
            print(f"{finished} of {len(wanted)} cells named {options.only!r} are done, of {len(cells)}", flush=True)
            return 0 if finished == len(wanted) else RUN_OUT
        if len(done) < len(cells):
            print(f"{len(done)} of {len(cells)} cells are done; the same command goes on", flush=True)
            if not options.partial:
                return RUN_OUT
        shown = f"make table TABLE={request.table} SIZE={request.size} SEEDS={request.seeds}"
        shown += f" DATA=/path/to/{request.data_kind}" if options.data else ""
        shown += f" PARTIAL=1 ({len(done)} of {len(cells)} cells)" if len(done) < len(cells) else ""
        report = module.report(request, done)
        page = write_results(options.out, request, report, shown, seconds, machines(cells, request, options.work))
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def _names() -> list[str]:
    """Name the modules beside this one that are tables, which say what they are about; the others help them."""
    modules = sorted(Path(benchmarks.tables.__path__[0]).glob("*.py"))
    return [module.stem for module in modules if "\nABOUT = " in module.read_text()]


def _require_sound(options: argparse.Namespace) -> None:
    """Raise InputError for options that would stop a table on its way, before anything is computed."""
    if not options.minutes >= 0:
        raise InputError(f"MINUTES = {options.minutes}: must be at least 0; 0 sets no limit")
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")
    try:
        re.compile(options.only or "")
    except re.error as error:
        raise InputError(f"--only {options.only!r}: no regular expression ({error}); give a part of a name") from None
    _require_device(options.device)
    for name in ("work", "out"):
        folder = getattr(options, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--{name} {folder}: cannot be made ({error.strerror}); give another folder") from None


def _require_device(device: str) -> None:
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise InputError(f"DEVICE = {device}: must be cpu, cuda or cuda:N")
    number = int(device.partition(":")[2] or 0)
    if device != "cpu" and number >= torch.cuda.device_count():
        raise InputError(f"DEVICE = {device}: this machine has {torch.cuda.device_count()} GPUs that torch can use")


def _require_size(module: ModuleType, options: argparse.Namespace) -> None:
    """Raise InputError where the table has no such size."""
    offered = getattr(module, "TABLE_SIZES", ("small", "full"))
    if options.size not in offered:
        raise InputError(f"SIZE = {options.size}: table {options.table} has {', '.join(offered)}; take one of these")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=_names())
    parser.add_argument("--data", type=Path, help="data set, known by what is in it; without: procedural scenes")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="small: two cores; medium: minutes of a GPU, or an hour of two cores; full: hours",
    )
    parser.add_argument("--seeds", type=int, default=3, help="independent repetitions")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--eager", action="store_true", help="on a GPU, launch kernels one by one; slower")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare data")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no cell after so many minutes; 0: no limit")
    parser.add_argument("--only", help="run the cells whose name matches this, write no table: for several processes")
    parser.add_argument("--partial", action="store_true", help="write the rows that are done, though others are not")
    parser.add_argument("--work", type=Path, default=Path("build/tables"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where the table is written")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"argument --seeds: {options.seeds} must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
