"""`nightdrive`: the one program. Every command is a make target of the same name; each is loaded only when it is asked for."""

import ast
import importlib
import sys
from collections import UserDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from components.stage.program import run_program
from components.stage.surroundings import start_in_own_environment

ROOT = Path(__file__).parents[2]
# An option may also come from a variable such as NIGHTDRIVE_OPTION_PROFILE, which is how make hands values over as they were typed.
SETTINGS = {"auto_envvar_prefix": "NIGHTDRIVE_OPTION", "max_content_width": 110}
# Section: module: its commands, each a function of that name.
SECTIONS = {
    "A night on this machine": {"pipelines.commands.night": "run season replay evaluate profile engine"},
    "A cluster": {
        "pipelines.commands.cluster": "images preflight pipeline-compile pipeline-submit pipeline-status pipeline-retry cancel "
        "schedule watch test-cluster"
    },
    "Data versions": {
        "pipelines.commands.registry": "review promote reference rebase reject rollback versions nights history verify-history trust "
        "reproduce scrub retire migrate backup restore",
        "pipelines.commands.erasure": "lineage erase verify-erasure",
    },
    "Annotation": {"pipelines.commands.annotation": "batches recall"},
    "Measuring": {
        "benchmarks.tables.command": "table",
        "benchmarks.duels.command": "bench",
        "benchmarks.scale.command": "simulate scenes",
        "benchmarks.operating.command": "operating-characteristics",
        "tests.faults.command": "faults",
    },
    "Upkeep": {"pipelines.commands.upkeep": "dag parameters audit licences"},
}


class _Commands(UserDict[str, Any]):
    """Hold the commands by name; each is loaded when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))  # benchmarks and tests are in the checkout and in no installed package
        command: click.Command = getattr(importlib.import_module(self.data[name]), name.replace("-", "_"))
        command.context_settings = SETTINGS
        return command


class _Program(click.Group):
    """List the commands by section, with a sentence each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, modules in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([row for module, names in modules.items() for row in _sentences(module, names)])


def _sentences(module: str, names: str) -> Iterator[tuple[str, str]]:
    """Yield commands with the first lines of their docstrings, which are read and not imported: what measures may load torch."""
    source = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
    told = {node.name: ast.get_docstring(node) or "" for node in source.body if isinstance(node, ast.FunctionDef)}
    for name in names.split():
        yield name, told[name.replace("-", "_")].partition("\n")[0]


PROGRAM = _Program(
    commands=_Commands(
        {name: module for modules in SECTIONS.values() for module, names in modules.items() for name in names.split()}
    ),
    context_settings=SETTINGS,
    help="Turn a fleet's footage into a small reviewed training set and a small fast network, night after night.",
    epilog="`nightdrive COMMAND --help` tells the options of a command. Exit codes: 0 done, 1 failed, 2 bad usage or input, "
    "3 refused by a gate, 130 interrupted.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: this process's) ask for and return the exit code."""
    if arguments is None:
        start_in_own_environment()
    return run_program(PROGRAM, sys.argv[1:] if arguments is None else arguments, "nightdrive")
