"""Settings of other tools change nothing: some registry commands under each. `make faults CAMPAIGN=settings` runs all, one by one."""

import os
from pathlib import Path

import pytest

from components.stage.surroundings import own_environment
from pipelines.local.run import _environment, code_commit
from tests.faults.commands import Answers, all_answers, few_answers, in_this_process
from tests.faults.settings import SETTINGS, TOGETHER, answers_under, surroundings, unsigned

PROGRAMS = ("PYTHONWARNINGS", "LC_ALL=C in ASCII")  # at the start of a process, which costs seconds
GROUPS = [[name for name in names if not SETTINGS[name].at_start] for names in TOGETHER]
ALONE = [
    [name]
    for name, each in SETTINGS.items()
    if name in PROGRAMS or (not each.at_start and not any(name in group for group in GROUPS))
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the few commands say without any setting."""
    return few_answers(tmp_path_factory.mktemp("undisturbed"), in_this_process)


@pytest.mark.parametrize("names", [*GROUPS, *ALONE], ids=" + ".join)
def test_registry_commands_say_the_same(names: list[str], undisturbed: Answers, tmp_path: Path) -> None:
    assert answers_under(names, tmp_path, few_answers) == undisturbed


def test_every_registry_command_says_the_same(tmp_path: Path) -> None:
    expected = all_answers(tmp_path / "undisturbed", in_this_process)
    found = answers_under(("core.hooksPath",), tmp_path / "hooks", all_answers)
    assert found == {name: unsigned(said) for name, said in expected.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_engine_and_its_stages_run_in_an_environment_of_their_own(name: str, tmp_path: Path) -> None:
    place = (
        "HOME",
        "TMPDIR",
        "XDG_",
        "AWS_",
        "GIT_",
        "CUDA_",
        "NO_COLOR",
        "FORCE_COLOR",
        "CLICOLOR",
        "PAGER",
        "USER",
        "LOGNAME",
    )
    kept = (*place, "COLUMNS", "LINES", "TERM", "OMP_", "MKL_", "OPENBLAS_", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    before = _environment(tmp_path)
    with surroundings((name,), tmp_path / "settings"):
        under = _environment(tmp_path)
    assert {
        each
        for each in before.keys() | under.keys()
        if before.get(each) != under.get(each) and not each.startswith(kept)
    } == set()


def test_an_environment_of_its_own_is_one_step_away() -> None:
    once = own_environment(
        {"PYTHONWARNINGS": "error", "LANG": "tr_TR", "DVC_ROOT": "x", "AWS_PROFILE": "p", "PYTHONPATH": "here"}
    )
    assert once == {"AWS_PROFILE": "p", "PYTHONPATH": "here", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "TZ": "UTC"}
    assert own_environment(once) == once


@pytest.mark.parametrize("name", ["GIT_DIR", "core.autocrlf", "core.attributesFile", "core.worktree", "color.ui"])
def test_the_code_commit_is_the_same(name: str, tmp_path: Path) -> None:
    before = code_commit()
    with surroundings((name,), tmp_path):
        assert code_commit() == before
    assert "GIT_DIR" not in os.environ


def test_at_least_25_settings_are_tried_and_no_night_names_one_twice() -> None:
    named = [name for night in TOGETHER for name in night]
    assert len(SETTINGS) >= 25 and len(TOGETHER) <= 4 and len(set(named)) == len(named) >= 25
