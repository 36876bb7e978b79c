"""The command of the tables: `make table TABLE=NAME`, or `python -m benchmarks.tables NAME`."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import torch

from benchmarks.results import RESULTS
from benchmarks.tables.data import data_kind
from benchmarks.tables.results import write_results
from benchmarks.tables.runner import SIZES, Request, machines, run_cells
from perception.errors import InputError

RUN_OUT = 4
FOLDER = click.Path(path_type=Path)


def table_names() -> list[str]:
    """Return the names of the tables: the packages beside this file that have a table.py."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/table.py"))


def load_table(name: str) -> ModuleType:
    """Return a table's module; the package's docstring says what such a module has."""
    return import_module(f"benchmarks.tables.{name}.table")


def _expression(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression ({error}); give a part of a name") from None
    return value


def _device(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d+)?", value) is None:
        raise click.BadParameter(f"{value} must be cpu, cuda or cuda:N")
    if value != "cpu" and int(value.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise click.BadParameter(f"{value}: this machine has {torch.cuda.device_count()} GPUs that torch can use")
    return value


@click.command(epilog="Example: nightdrive table dpe --data /path/to/cifar10.npz --size medium --minutes 9")
@click.argument("name", type=click.Choice(table_names()), envvar="NIGHTDRIVE_OPTION_TABLE")
@click.option("--data", type=FOLDER, help="Data set, known by what is in it; without: procedural scenes.")
@click.option("--size", type=click.Choice(SIZES), default="small", help="small: two cores; full: hours of a GPU.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Independent repetitions.")
@click.option("--device", default="cpu", callback=_device, help="cpu, cuda or cuda:N.")
@click.option("--eager", is_flag=True, help="On a GPU, launch kernels one by one; slower.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes that prepare data.")
@click.option("--minutes", type=float, default=0.0, help="Start no cell after so many minutes; 0: no limit.")
@click.option("--only", callback=_expression, help="Run cells whose name matches, write no table: to share the work.")
@click.option("--partial", is_flag=True, help="Write the rows that are done, though others are not.")
@click.option("--work", type=FOLDER, default=Path("build/tables"), help="Where finished cells are kept.")
@click.option("--out", type=FOLDER, default=RESULTS, help="Where the table is written.")
def table(
    name: str, data: Path | None, size: str, seeds: int, device: str, eager: bool, workers: int, minutes: float,
    only: str | None, partial: bool, work: Path, out: Path,
) -> int:  # fmt: skip
    """Run a published table again at this machine's size, and write it into docs/results.

    Every finished cell is kept: a run that is stopped, or whose minutes are spent, goes on with the same command. Cells that
    measure this machine's processor wait for a call with --device cpu. Exit codes: 0 the table is complete and written, 4
    the minutes are spent and cells remain, 2 bad input.
    """
    module = load_table(name)
    _require_sound(module, name, size, minutes, (work, out))
    request = Request(
        table=name, data=data, data_kind=data_kind(data), size=size, seeds=seeds, device=device, eager=eager,
        work=work, workers=workers,
    )  # fmt: skip
    cells = module.cells(request)
    done, seconds = run_cells(cells, request, minutes, only)
    if only is not None:
        wanted = [cell.name for cell in cells if re.search(only, cell.name)]
        finished = sum(each in done for each in wanted)
        print(f"{finished} of {len(wanted)} cells named {only!r} are done, of {len(cells)}", flush=True)
        return 0 if finished == len(wanted) else RUN_OUT
    if len(done) < len(cells):
        print(f"{len(done)} of {len(cells)} cells are done; the same command goes on", flush=True)
        if not partial:
            return RUN_OUT
    command = _in_words(request, "" if len(done) == len(cells) else f" PARTIAL=1 ({len(done)} of {len(cells)} cells)")
    print(write_results(out, request, module.report(request, done), command, seconds, machines(cells, request)))
    return 0


def _require_sound(module: ModuleType, name: str, size: str, minutes: float, folders: tuple[Path, ...]) -> None:
    """Raise InputError for options that would stop a table on its way, before anything is computed."""
    if size not in module.TABLE_SIZES:
        raise InputError(f"SIZE = {size}: table {name} has {', '.join(module.TABLE_SIZES)}; take one of these")
    if not minutes >= 0:
        raise InputError(f"MINUTES = {minutes}: must be at least 0; 0 sets no limit")
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder") from None


def _in_words(request: Request, partial: str) -> str:
    data = f" DATA=/path/to/{request.data_kind}" if request.data else ""
    return f"make table TABLE={request.table} SIZE={request.size} SEEDS={request.seeds}{data}{partial}"
