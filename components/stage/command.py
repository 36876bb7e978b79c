"""The face that a stage shows to a shell: `python -m components.stage STAGE --INPUT FOLDER --OUTPUT FOLDER --params FILE`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from components.stage.declaration import Port, Stage
from components.stage.execution import Call, execute, option_name, recorded
from components.stage.parameters import read_section
from components.stage.program import run_program
from components.stage.registry import find_stage, stage_names
from perception.errors import InputError


class _Stages(click.Group):
    """List every stage, and load only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return stage_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return stage_command(find_stage(cmd_name)) if cmd_name in stage_names() else None


PROGRAM = _Stages(name="components.stage", help="Run one stage of the night.")


def main(arguments: Sequence[str]) -> int:
    """Run the stage that `arguments` name and return the exit code."""
    return run_program(PROGRAM, arguments, "python -m components.stage")


def stage_command(stage: Stage) -> click.Command:
    """Return the command line of a stage: an option for each of its ports, and for its parameters a file and overrides."""

    def run(params: Path | None, task: str, overrides: tuple[str, ...], **folders: Any) -> int:
        call = Call(
            stage=stage,
            task=task,
            inputs={port.name: _folders(folders[port.name]) for port in stage.inputs},
            outputs={port.name: Path(folders[port.name]) for port in stage.outputs},
            parameters=read_section(params, task.partition("@")[0], overrides),
        )
        return recorded(task, lambda: execute(call)).code

    repeated = "; may be repeated, or a quoted pattern"
    options: list[click.Parameter] = [
        *(_folder(port, f"{port.about}{repeated if port.many else ''}") for port in stage.inputs),
        *(_folder(port, f"written: {port.about}") for port in stage.outputs),
        click.Option(["--params"], type=click.Path(path_type=Path), metavar="FILE", help="YAML file with its section"),
        click.Option(["--task"], default=stage.name, help="name of this call in the night, and of its section"),
        click.Option(["--set", "overrides"], multiple=True, metavar="NAME=VALUE", help="override one parameter"),
    ]
    return click.Command(stage.name, callback=run, params=options, help=stage.summary, short_help=stage.summary)


def _folder(port: Port, about: str) -> click.Option:
    names = [option_name(port.name), port.name]
    return click.Option(names, multiple=port.many, required=not port.optional, metavar="FOLDER", help=about)


def _folders(given: str | tuple[str, ...] | None) -> tuple[Path, ...]:
    names = (given,) if isinstance(given, str) else given or ()
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.name == "*":  # every batch or shard, as dvc.yaml says it without knowing their number
            found += sorted(each for each in path.parent.glob("[!.]*") if each.is_dir())
            if not found:
                raise InputError(f"{name}: holds no folder; run the stage that writes them first")
        else:
            found.append(path)
    return tuple(found)
