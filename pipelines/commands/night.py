"""The commands of a night on this machine, of its network and of its figures."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from components.stage.program import EXIT_DONE
from pipelines.commands.options import PATH, night_options, set_option

runs_option = click.option(
    "--runs", type=PATH, default=Path(__file__).parents[2] / "runs", help="Folder of all runs; default: runs."
)


@click.command(epilog="Example: nightdrive run --profile smoke --set select.budget_frames=20")
@night_options("demo")
@click.option(
    "--run", default="", metavar="NAME", help="The night; default: the latest that has not ended, or a new one."
)
@runs_option
def run(profile: str, data: str, overrides: list[str], run: str, runs: Path) -> int:
    """Run one whole night on this machine; a night that was stopped goes on."""
    from perception.data.source_files import S3
    from pipelines.local.nights import open_night
    from pipelines.local.run import run_night
    from pipelines.local.summary_table import night_table
    from pipelines.nightly import nightly
    from pipelines.settings import load_settings

    started, night = time.monotonic(), nightly()
    data = str(Path(data).resolve()) if data and not data.startswith(S3) else data
    load_settings(night, profile, overrides, data)  # a mistake opens no night
    folder, date = open_night(runs, profile, run, datetime.now(UTC))
    code = run_night(night, folder, load_settings(night, profile, overrides, data, run=folder.name, date=date))
    if (folder / "summary.json").exists():  # a report that could not be written has said why
        print(night_table(folder, seconds=time.monotonic() - started))
    return code


@click.command(epilog="Example: nightdrive replay --night 2026-11-30 --set select.strategy=random")
@click.option("--night", required=True, metavar="NAME", help="The night, as `nightdrive nights` lists it.")
@set_option
@runs_option
def replay(night: str, overrides: list[str], runs: Path) -> int:
    """Repeat a recorded night on its own frames and show both side by side; nothing is released or recorded."""
    from pipelines.local.replay import replay as repeat
    from pipelines.local.replay import replay_table
    from pipelines.nightly import nightly

    done = repeat(nightly(), runs, night, overrides)
    print(replay_table(done))
    return done.code


@click.command(epilog="Example: nightdrive season --nights 5 --against random")
@night_options("season")
@click.option("--nights", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@click.option("--against", type=click.Choice(("random",)), help="The same season with another choice beside it.")
@runs_option
def season(profile: str, data: str, overrides: list[str], nights: int, against: str | None, runs: Path) -> int:
    """Run nights one after the other, each with new footage and yesterday's labels; a season that was stopped goes on."""
    from pipelines.local.season import CHOSEN, EVERYTHING, RANDOM, open_season, run_season, tell_season
    from pipelines.nightly import nightly

    data = str(Path(data).resolve()) if data else ""
    asked, arms = open_season(runs, nightly(), profile, data, overrides, nights), (CHOSEN, RANDOM, EVERYTHING)
    code = run_season(asked, arms if against else arms[:1])
    if code == EXIT_DONE:
        print(tell_season(asked, arms if against else arms[:1]))
    return code


@click.command(epilog="Example: nightdrive evaluate --model runs/latest/compressed/model.onnx --data /path/to/camvid")
@click.option("--model", required=True, type=PATH, metavar="FILE", help="The exported network, an ONNX file.")
@click.option("--data", required=True, type=PATH, metavar="FOLDER", help="The data set.")
@click.option("--format", default="", metavar="NAME", help="The folder's layout; default: found out.")
@click.option("--part", default="", metavar="NAME", help="The data set's own name of the part to read, such as val.")
@click.option("--taxonomy", default="", metavar="NAME", help="The network's classes, for a file that does not tell.")
@click.option("--champion", type=PATH, metavar="FILE", help="Another ONNX file to compare with.")
@click.option("--out", type=PATH, metavar="FOLDER", help="The result; default: runs/evaluate/MODEL-DATA.")
@set_option
def evaluate(model: Path, data: Path, out: Path | None, overrides: list[str], **about: Any) -> None:
    """Judge an exported network on a data set, with a page of its own; --set takes fields of JudgeParameters."""
    from pipelines.local.evaluation import evaluate_folder, figures_table, judge_fields

    target = out or Path("runs/evaluate") / f"{model.stem}-{data.resolve().name}"
    print(figures_table(evaluate_folder(model, data, target, given=judge_fields(overrides), **about), target))


@click.command(epilog="Example: nightdrive profile --run smoke")
@click.option("--run", default="latest", show_default=True, metavar="NAME", help="The run's folder below --runs.")
@runs_option
def profile(run: str, runs: Path) -> None:
    """Say where the seconds and bytes of a night on this machine went."""
    from pipelines.local.night_profile import night_profile, profile_text

    print(profile_text(night_profile(runs / run)))


@click.command(epilog="Example: nightdrive engine --onnx runs/demo/compressed/model.onnx --batch-frames 8")
@click.option(
    "--onnx",
    type=PATH,
    default="runs/latest/compressed/model.onnx",
    show_default=True,
    metavar="FILE",
    help="The network.",
)
@click.option("--out", type=PATH, metavar="FILE", help="The engine; default: the network's name with .engine.")
@click.option("--batch-frames", default=1, show_default=True, help="Largest batch.")
@click.option("--full-precision", is_flag=True, help="No float16.")
def engine(onnx: Path, out: Path | None, batch_frames: int, full_precision: bool) -> None:
    """Build a TensorRT engine from an exported network, where trtexec is installed."""
    from perception.compression.tensorrt import build_engine

    target = out or onnx.with_suffix(".engine")
    print(build_engine(onnx, target, largest_batch_frames=batch_frames, half=not full_precision))
    print(target)
