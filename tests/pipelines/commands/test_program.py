"""The one program: its help comes at once, its endings are told in one line, and make calls it by the same names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pipelines.commands.program import PROGRAM, SECTIONS, main

ROOT = Path(__file__).parents[3]
COMMANDS = list(PROGRAM.commands)
# What costs time is loading, so the modules that are loaded are held and not the seconds.
PROBE = """
import json, sys, sysconfig
before = set(sys.modules)
from pipelines.commands.program import main
code = main(ARGUMENTS)
installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
loaded = {name.partition(".")[0] for name, module in list(sys.modules.items())
          if name not in before and str(getattr(module, "__file__", None) or "").startswith(installed)}
print("\\n" + json.dumps([code, sorted(loaded)]))
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in COMMANDS if name not in str(SECTIONS["Measuring"]))]
)
def test_help_loads_nothing_but_click_and_our_own_code(arguments: list[str]) -> None:
    program = PROBE.replace("ARGUMENTS", repr(arguments))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    said, _, found = done.stdout.rstrip().rpartition("\n")
    assert said.startswith("Usage: nightdrive")
    assert json.loads(found) == [0, ["click"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_itself(name: str) -> None:
    command = PROGRAM.commands[name]
    assert (command.help or "").split("\n")[0].rstrip().endswith("."), "one sentence says what it does"
    assert (command.epilog or "").startswith(f"Example: nightdrive {name}")
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promot"], "No such command 'promot'. Did you mean 'promote'? (see `nightdrive --help`)"),
        (["run", "--profil", "x"], "No such option '--profil'"),
        (["evaluate", "--data", "x"], "Missing option '--model' (see `nightdrive evaluate --help`)"),
        (["scrub", "--sample", "many"], "Invalid value for '--sample'"),
        (["run", "--profile", "smok"], "did you mean 'smoke'"),
        (["run", "--run", "latest"], "night 'latest': its name must be letters"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("nightdrive: ") and said in error
    assert error.count("\n") == 1


# ---------------------------------------------------------------- make


def make(target: str, *given: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return the options that a make target hands to the program; the program itself is not run."""
    says = "import json, os; print(json.dumps(dict(os.environ)))"
    command = ["make", "-s", "--old-file=.venv/.ready", f"RUN_PYTHON={sys.executable} -c '{says}'", target, *given]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command, cwd=ROOT, env=clean | (environment or {}), capture_output=True, text=True, check=True
    )
    prefix = "NIGHTDRIVE_OPTION_"
    found = json.loads(done.stdout)
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def test_make_has_every_command_and_knows_every_option() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = re.search(r"(?m)^COMMANDS := (.*)$", makefile)
    options = re.search(r"(?m)^OPTIONS := (.*)$", makefile)
    assert targets and sorted(targets[1].split()) == sorted(COMMANDS)
    assert options
    known = {name: set().union(*map(variables, PROGRAM.commands[name].params)) for name in COMMANDS}
    assert set(options[1].split()) <= set().union(*known.values())
    for name, about in re.findall(r"(?m)^([a-z-]+):  ## (.*)$", makefile):
        said = set(re.findall(r"([A-Z_]+)=", about)) - {"KFP_HOST"}
        assert name not in known or said <= known[name] & set(options[1].split()), name


def variables(option: click.Parameter) -> set[str]:
    """Return the make variables that an option is read from."""
    named = [option.envvar] if isinstance(option.envvar, str) else option.envvar or [str(option.name).upper()]
    return {name.removeprefix("NIGHTDRIVE_OPTION_") for name in named}


AWKWARD = [
    "cost 5$USD",
    "`touch MARK`",
    "$(touch MARK)",
    "$(shell touch MARK)",
    "${HOME} $$ $@ %",
    """it's "quoted" \\ and # not a comment""",
    "two\nlines: [a, b]; rm -r x",
]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("where", ["command line", "environment"])
def test_a_value_reaches_the_program_as_it_was_typed(text: str, where: str, tmp_path: Path) -> None:
    text = text.replace("MARK", str(tmp_path / "mark"))
    if where == "command line":
        assert make("reject", f"REASON={text}", "VERSION=") == {"REASON": text, "VERSION": ""}
    else:
        assert make("reject", environment={"REASON": text})["REASON"] == text
    assert not (tmp_path / "mark").exists()


def test_no_option_and_no_other_variable_is_expanded_or_run(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    options = re.search(r"(?m)^OPTIONS := (.*)$", makefile)
    assert options
    for name in options[1].split():
        text = f"`touch {tmp_path}/{name}` $(shell touch {tmp_path}/{name}) 5$USD"
        assert make("evaluate", f"{name}={text}") == {name: text}
    says = "import os; print(os.environ['KFP_HOST'], end='')"
    text = f"$(shell touch {tmp_path}/host)5$USD"
    command = ["make", "-s", "--old-file=.venv/.ready", f'RUN_PYTHON={sys.executable} -c "{says}"', "evaluate"]
    done = subprocess.run([*command, f"KFP_HOST={text}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == text
    assert not any(tmp_path.iterdir()), "what was typed was run"


def test_what_is_not_said_is_not_handed_over() -> None:
    assert make("evaluate", "DATA=x", environment={"OUT": "of/another/tool"}) == {"DATA": "x"}
    assert make("evaluate", "OUT=here") == {"OUT": "here"}


def test_options_come_from_make_and_empty_ones_change_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTDRIVE_OPTION_RUN", "")
    monkeypatch.setenv("NIGHTDRIVE_OPTION_PROFILE", "smoke")
    monkeypatch.setenv("NIGHTDRIVE_OPTION_SET", "select.budget_frames=0")
    assert main(["run"]) == 2
    assert "budget_frames" in capsys.readouterr().err
    monkeypatch.setenv("NIGHTDRIVE_OPTION_SETS", "gates torch-cpu")
    monkeypatch.setenv("NIGHTDRIVE_OPTION_PUSH", "yes")
    assert main(["images"]) == 2
    assert "PUSH=yes: needs REGISTRY" in capsys.readouterr().err
