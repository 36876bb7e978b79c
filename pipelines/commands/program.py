"""`nightdrive`: the one program. Every command is a make target of the same name; each is loaded only when it is asked for."""

import ast
import importlib
import sys
from collections import UserDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from components.stage.program import run_program

ROOT = Path(__file__).parents[2]
# An option may also come from a variable such as NIGHTDRIVE_OPTION_PROFILE, which is how make hands values over as they were typed.
SETTINGS = {"auto_envvar_prefix": "NIGHTDRIVE_OPTION", "max_content_width": 110}
SECTIONS = {
    "A night on this machine": {
        "run": "pipelines.commands.night:run",
        "evaluate": "pipelines.commands.night:evaluate",
        "profile": "pipelines.commands.night:profile",
        "engine": "pipelines.commands.night:engine",
    },
    "A cluster": {
        "images": "pipelines.commands.cluster:images",
        "preflight": "pipelines.commands.cluster:preflight",
        "pipeline-compile": "pipelines.commands.cluster:pipeline_compile",
        "pipeline-submit": "pipelines.commands.cluster:pipeline_submit",
        "pipeline-status": "pipelines.commands.cluster:pipeline_status",
        "cancel": "pipelines.commands.cluster:cancel",
        "schedule": "pipelines.commands.cluster:schedule",
    },
    "Data versions": {
        "review": "pipelines.commands.registry:review",
        "promote": "pipelines.commands.registry:promote",
        "reject": "pipelines.commands.registry:reject",
        "rollback": "pipelines.commands.registry:rollback",
        "versions": "pipelines.commands.registry:versions",
        "history": "pipelines.commands.registry:history",
        "verify-history": "pipelines.commands.registry:verify_history",
        "reproduce": "pipelines.commands.registry:reproduce",
        "lineage": "pipelines.commands.registry:lineage",
        "scrub": "pipelines.commands.registry:scrub",
        "retire": "pipelines.commands.registry:retire",
    },
    "Measuring": {
        "table": "benchmarks.tables.command:table",
        "bench": "benchmarks.duels.command:bench",
        "simulate": "benchmarks.scale.command:simulate",
        "scenes": "benchmarks.scale.command:scenes",
        "faults": "tests.faults.command:faults",
    },
    "Upkeep": {
        "dag": "pipelines.commands.upkeep:dag",
        "audit": "pipelines.commands.upkeep:audit",
        "licences": "pipelines.commands.upkeep:licences",
    },
}


def _sentence(place: str) -> str:
    """Return the first line of a command's docstring, read and not imported: what measures may load torch."""
    module, _, attribute = place.partition(":")
    source = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
    functions = (node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == attribute)
    return (ast.get_docstring(next(functions)) or "").partition("\n")[0]


class _Commands(UserDict[str, Any]):
    """Hold the commands by name; each is loaded when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self.data[name].partition(":")
        if module.startswith(("benchmarks.", "tests.")) and str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))  # these are in the checkout and in no installed package
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.context_settings = SETTINGS
        return command


class _Program(click.Group):
    """List the commands by section, with a sentence each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, _sentence(place)) for name, place in names.items()])


PROGRAM = _Program(
    commands=_Commands({name: place for section in SECTIONS.values() for name, place in section.items()}),
    context_settings=SETTINGS,
    help="Turn a fleet's footage into a small reviewed training set and a small fast network, night after night.",
    epilog="`nightdrive COMMAND --help` tells the options of a command. Exit codes: 0 done, 1 failed, 2 bad usage or input, "
    "3 refused by a gate, 130 interrupted.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: this process's) ask for and return the exit code."""
    return run_program(PROGRAM, sys.argv[1:] if arguments is None else arguments, "nightdrive")
