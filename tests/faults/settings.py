"""Settings of the user's other tools that must change nothing: git's, DVC's, AWS's, Python's, the language, the machine's."""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.commands import Answers, all_answers, in_this_process
from tests.faults.counting import Count, counted
from tests.faults.nights import ROOT, TINY, VOLATILE

Variables = dict[str, str | None]  # None: not there at all


@dataclass(frozen=True)
class Setting:
    """Write files below a folder and return the variables that make a tool read them."""

    write: Callable[[Path], Variables]
    umask: int | None = None
    at_start: bool = False  # Python reads it as it starts


def git_config(*lines: str) -> Setting:
    """Return the setting of these lines in the user's own .gitconfig; FOLDER stands for the folder it lies in."""

    def write(folder: Path) -> Variables:
        text = "\n".join(lines).replace("FOLDER", str(folder))
        (folder / ".gitconfig").write_text(text + "\n")
        return {"HOME": str(folder), "GIT_CONFIG_GLOBAL": None, "XDG_CONFIG_HOME": None}

    return Setting(write)


def hooks_of(section: str, key: str, place: str = "") -> Setting:
    """Return the setting of a folder of hooks that refuse everything."""

    def write(folder: Path) -> Variables:
        for name in (
            "pre-push",
            "update",
            "pre-receive",
            "reference-transaction",
            "post-checkout",
            "pre-commit",
            "commit-msg",
        ):
            hook = folder / place / name
            hook.parent.mkdir(parents=True, exist_ok=True)
            hook.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
            hook.chmod(0o755)
        return git_config(f"[{section}]", f"{key} = FOLDER").write(folder)

    return Setting(write)


def signing(folder: Path) -> Variables:
    """Sign every commit and tag with a key that works."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
    subprocess.run(command, check=True)
    return git_config(
        "[commit]",
        "gpgsign",
        "[tag]",
        "gpgSign = true",
        "[gpg]",
        "format = ssh",
        "[user]",
        "signingKey = FOLDER/key.pub",
    ).write(folder)


def variables(*, at_start: bool = False, **values: str | None) -> Setting:
    """Return the setting of variables; FOLDER in a value stands for a folder of its own."""
    return Setting(
        lambda folder: {name: value and value.replace("FOLDER", str(folder)) for name, value in values.items()},
        at_start=at_start,
    )


def surrounding_repository(folder: Path) -> Variables:
    """Let temporary files lie in somebody's checkout, whose own configuration would count."""
    subprocess.run(
        ["git", "init", "--quiet", str(folder)], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    )
    with (folder / ".git" / "config").open("a") as file:
        file.write('[url "file:///nowhere/"]\n\tinsteadOf = file://\n')
    (folder / "tmp").mkdir()
    return {"TMPDIR": str(folder / "tmp")}


def dvc_config(name: str) -> Setting:
    """Return the setting of a DVC configuration with a cache elsewhere, in the folder that the variable `name` holds."""

    def write(folder: Path) -> Variables:
        text = (
            "[core]\n    autostage = true\n    hardlink_lock = true\n    remote = elsewhere\n    check_update = true\n"
        )
        text += f"[cache]\n    dir = {folder / 'cache'}\n    type = symlink\n    shared = group\n"
        (folder / "config").write_text(text + f"['remote \"elsewhere\"']\n    url = {folder / 'remote'}\n")
        return {name: str(folder)}

    return Setting(write)


def noisy_start(folder: Path) -> Variables:
    """Let a sitecustomize on the user's path print, draw random numbers and change the defaults of numpy's printing."""
    (folder / "sitecustomize.py").write_text(
        "import random, sys\nrandom.seed(1)\nprint('hello from sitecustomize', file=sys.stderr)\n"
    )
    return {"PYTHONPATH": str(folder)}


def blank_folder(name: str) -> Setting:
    """Return the setting of temporary files in a folder of that name."""

    def write(folder: Path) -> Variables:
        (folder / name).mkdir(parents=True)
        return {"TMPDIR": str(folder / name)}

    return Setting(write)


FILTER = ("[core]", "attributesFile = FOLDER/attributes", '[filter "shout"]', "clean = tr a-z A-Z", "required")


def filters(folder: Path) -> Variables:
    """Let a filter change every file that git takes in."""
    (folder / "attributes").write_text("* filter=shout text=auto eol=crlf\n")
    return git_config(*FILTER).write(folder)


SETTINGS: Mapping[str, Setting] = {
    "core.autocrlf": git_config("[core]", "autocrlf = true", "eol = crlf", "safecrlf = true"),
    "core.hooksPath": hooks_of("core", "hooksPath"),
    "commit.gpgsign, tag.gpgSign": Setting(signing),
    "init.defaultBranch": git_config("[init]", "defaultBranch = trunk", "defaultObjectFormat = sha256"),
    "init.templateDir": hooks_of("init", "templateDir", "hooks"),
    "user.useConfigOnly": git_config("[user]", "useConfigOnly = true"),
    "safe.directory": git_config("[safe]", "directory =", "bareRepository = explicit"),
    "url.insteadOf": git_config('[url "file:///nowhere/"]', "insteadOf = file://", "pushInsteadOf = /"),
    "credential.helper": git_config("[credential]", "helper = !false"),
    "core.fsmonitor": git_config("[core]", "fsmonitor = /bin/false", "untrackedCache = true"),
    "core.excludesFile": git_config("[core]", "excludesFile = FOLDER/.gitconfig", "[status]", "showUntrackedFiles = no"),
    "core.attributesFile": Setting(filters),
    "core.quotePath": git_config("[core]", "quotePath = false", "precomposeUnicode = true", "ignoreCase = true"),
    "core.worktree": git_config("[core]", "worktree = /nowhere", "bare = false"),
    "core.commentChar": git_config("[core]", "commentChar = P", "abbrev = 4", "[commit]", "cleanup = strip"),
    "core.pager": git_config("[core]", "pager = false", "editor = false", "[pager]", "log = true"),
    "tag.sort": git_config("[tag]", "sort = -version:refname", "[versionsort]", "suffix = -"),
    "log.showSignature": git_config("[log]", "showSignature = true", "follow = true", "date = relative"),
    "format.pretty": git_config("[format]", "pretty = oneline", "[log]", "decorate = full", "abbrevCommit = true"),
    "color.ui": git_config("[color]", "ui = always", "[column]", "ui = always"),
    "i18n": git_config("[i18n]", "logOutputEncoding = UTF-16", "commitEncoding = ISO-8859-1"),
    "push.default": git_config("[push]", "default = nothing", "followTags = true", "gpgSign = true", "autoSetupRemote"),
    "fetch.prune": git_config("[fetch]", "prune = true", "pruneTags = true", "fsckObjects = true", "[remote]", "pushDefault = x"),
    "transfer.hideRefs": git_config("[transfer]", "hideRefs = refs/tags", "[uploadpack]", "hideRefs = refs/heads"),
    "receive": git_config("[receive]", "denyCurrentBranch = refuse", "denyCreates = true", "maxInputSize = 10"),
    "protocol.allow": git_config("[protocol]", "allow = never", '[protocol "file"]', "allow = never"),
    "extensions, features": git_config("[feature]", "manyFiles = true", "[index]", "version = 4", "skipHash = true"),
    "alias": git_config("[alias]", "log = log --graph", "push = !false", "clone = !false"),
    "GIT_DIR": variables(GIT_DIR="FOLDER/.git"),
    "GIT_WORK_TREE": variables(GIT_WORK_TREE="FOLDER", GIT_INDEX_FILE="FOLDER/index", GIT_PREFIX="x/"),
    "GIT_OBJECT_DIRECTORY": variables(GIT_OBJECT_DIRECTORY="FOLDER/objects", GIT_NAMESPACE="somebody"),
    "GIT_CONFIG_COUNT": variables(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="core.hooksPath", GIT_CONFIG_VALUE_0="/dev/null"),
    "GIT_CONFIG_PARAMETERS": variables(GIT_CONFIG_PARAMETERS="'core.worktree'='/nowhere'"),
    "GIT_CONFIG_GLOBAL": variables(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="yes"),
    "GIT_DEFAULT_HASH": variables(GIT_DEFAULT_HASH="sha256", GIT_TEMPLATE_DIR="FOLDER"),
    "GIT_TERMINAL_PROMPT": variables(GIT_TERMINAL_PROMPT="1", GIT_EDITOR="false", GIT_PAGER="false"),
    "GIT_TRACE": variables(GIT_TRACE="1", GIT_TRACE_PERFORMANCE="2", GIT_CURL_VERBOSE="1"),
    "GIT_ALLOW_PROTOCOL": variables(GIT_ALLOW_PROTOCOL="https", GIT_PROTOCOL_FROM_USER="0"),
    "GIT_AUTHOR_DATE": variables(GIT_AUTHOR_DATE="2001-01-01T00:00:00Z", GIT_COMMITTER_DATE="2001-01-01T00:00:00Z"),
    "GIT_LITERAL_PATHSPECS": variables(GIT_ICASE_PATHSPECS="1", GIT_NO_LAZY_FETCH="1", GIT_ATTR_SOURCE="HEAD"),
    "a repository round TMPDIR": Setting(surrounding_repository),
    "DVC's configuration of the user": dvc_config("DVC_GLOBAL_CONFIG_DIR"),
    "DVC's configuration of the machine": dvc_config("DVC_SYSTEM_CONFIG_DIR"),
    "DVC_*": variables(DVC_ROOT="/nowhere", DVC_STAGE="x", DVC_SITE_CACHE_DIR="/proc/none", DVC_STUDIO_OFFLINE="0"),
    "AWS_PROFILE": variables(AWS_PROFILE="absent", AWS_DEFAULT_PROFILE="absent"),
    "AWS_CONFIG_FILE": variables(AWS_CONFIG_FILE="/proc/self/mem", AWS_SHARED_CREDENTIALS_FILE="/nowhere"),
    "AWS_ENDPOINT_URL": variables(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_REGION="nowhere-1", AWS_CA_BUNDLE="/nowhere"),
    "PYTHONOPTIMIZE": variables(at_start=True, PYTHONOPTIMIZE="2"),
    "PYTHONHASHSEED": variables(at_start=True, PYTHONHASHSEED="7"),
    "PYTHONWARNINGS": variables(at_start=True, PYTHONWARNINGS="error"),
    "PYTHONDONTWRITEBYTECODE": variables(at_start=True, PYTHONDONTWRITEBYTECODE="1", PYTHONNODEBUGRANGES="1"),
    "PYTHONIOENCODING": variables(at_start=True, PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
    "PYTHONINSPECT": variables(at_start=True, PYTHONINSPECT="1", PYTHONSAFEPATH="1", PYTHONVERBOSE="0"),
    "sitecustomize": Setting(noisy_start, at_start=True),
    "LC_ALL=C in ASCII": variables(at_start=True, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", LANG=None),
    "LC_ALL=POSIX": variables(at_start=True, LC_ALL="POSIX", LANG="POSIX"),
    "LC_ALL=tr_TR": variables(at_start=True, LC_ALL="tr_TR.UTF-8", LANG="tr_TR.UTF-8", LANGUAGE="tr:de"),
    "TZ": variables(at_start=True, TZ="Pacific/Kiritimati"),
    "umask 077": Setting(lambda _: {}, umask=0o077),
    "umask 000": Setting(lambda _: {}, umask=0o000),
    "TMPDIR with a blank": blank_folder("my files (é)"),
    "TMPDIR with a long name": blank_folder("/".join(["a long name of a folder"] * 4)),
    "no HOME": variables(HOME=None, USER=None, LOGNAME=None),
    "HOME that is not there": variables(HOME="/nowhere/at/all", XDG_CACHE_HOME="/nowhere", XDG_CONFIG_HOME="/nowhere"),
    "COLUMNS": variables(COLUMNS="9", LINES="2", TERM="dumb"),
    "NO_COLOR": variables(NO_COLOR="1", FORCE_COLOR="1", CLICOLOR_FORCE="1"),
    "CUDA_VISIBLE_DEVICES": variables(CUDA_VISIBLE_DEVICES=""),
    "OMP_NUM_THREADS": variables(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
}  # fmt: skip


def written(names: Sequence[str], folder: Path) -> Variables:
    """Write the settings of these names, each below a folder of its own; return their variables together."""
    found: Variables = {}
    for name in names:
        place = folder / re.sub("[^a-zA-Z0-9]+", "-", name)
        place.mkdir(parents=True)
        found |= SETTINGS[name].write(place)
    return found


def applied(given: Variables) -> dict[str, str]:
    """Return this process's environment with variables set or taken away."""
    changed = {name: value for name, value in given.items() if value is not None}
    return {name: value for name, value in os.environ.items() if name not in given} | changed


@contextlib.contextmanager
def surroundings(names: Sequence[str], folder: Path) -> Iterator[dict[str, str]]:
    """Put this process under settings until the block ends; yield the environment that children get."""
    environment, before, mask = applied(written(names, folder)), dict(os.environ), os.umask(0o022)
    try:
        os.umask(next((found for name in names if (found := SETTINGS[name].umask) is not None), mask))
        _become(environment)
        yield environment
    finally:
        os.umask(mask)
        _become(before)


def _become(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is remembered from the first time on
    time.tzset()


# ---------------------------------------------------------------- nights

TOGETHER: Sequence[Sequence[str]] = (
    ("core.autocrlf", "GIT_DIR", "DVC's configuration of the user", "AWS_PROFILE", "PYTHONOPTIMIZE", "LC_ALL=tr_TR", "TZ",
     "umask 077", "TMPDIR with a blank", "COLUMNS"),
    ("core.hooksPath", "GIT_WORK_TREE", "DVC's configuration of the machine", "AWS_CONFIG_FILE", "PYTHONHASHSEED",
     "LC_ALL=C in ASCII", "umask 000", "TMPDIR with a long name", "NO_COLOR", "OMP_NUM_THREADS"),
    ("core.attributesFile", "GIT_OBJECT_DIRECTORY", "GIT_AUTHOR_DATE", "DVC_*", "AWS_ENDPOINT_URL", "PYTHONWARNINGS",
     "LC_ALL=POSIX", "a repository round TMPDIR", "CUDA_VISIBLE_DEVICES"),
    ("GIT_CONFIG_PARAMETERS", "GIT_DEFAULT_HASH", "GIT_TRACE", "GIT_ALLOW_PROTOCOL", "PYTHONIOENCODING", "sitecustomize",
     "PYTHONDONTWRITEBYTECODE", "HOME that is not there"),
)  # fmt: skip
"""Settings that do not touch each other, by night."""


def night_figures(run: Path) -> Any:
    """Return what a night's summary holds without times, and the exact identity of all that it published."""
    return _lasting(json.loads((run / "summary.json").read_text(encoding="utf-8")))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(each) for name, each in value.items() if not VOLATILE.search(name) and name != "stages"}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def night_under(names: Sequence[str], folder: Path) -> str:
    """Run the tiny night under settings; return "" or how it ended otherwise."""
    sets = [word for override in TINY for word in ("--set", override)]
    command = [
        sys.executable,
        "-m",
        "pipelines.commands",
        "run",
        "--profile",
        "smoke",
        "--runs",
        str(folder / "runs"),
        *sets,
    ]
    with surroundings(names, folder / "settings") as environment:
        umask = stat.S_IMODE(os.umask(0))
        os.umask(umask)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, umask=umask, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )  # fmt: skip
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {(done.stderr + done.stdout)[-600:]}"


def nights_under_settings(folder: Path) -> Count:
    """Run an undisturbed night and one under each group of settings; every figure must be the same."""
    said = night_under((), folder / "undisturbed")
    assert not said, said
    expected = night_figures(folder / "undisturbed" / "runs" / "smoke")
    endings = []
    for number, names in enumerate(TOGETHER):
        place = folder / str(number)
        said = night_under(names, place)
        if not said and (found := night_figures(place / "runs" / "smoke")) != expected:
            said = f"differs in {', '.join(name for name in expected if found.get(name) != expected[name])}"
        endings.append(f"night under {', '.join(names)}: {said}" if said else "correct")
    return counted("nights under hostile settings", endings)


# ---------------------------------------------------------------- registry commands


def in_a_process(environment: Mapping[str, str]) -> Callable[[list[str]], str]:
    """Return the function that runs a command as a program of its own; it gives its exit code and what it printed."""

    def run(arguments: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.commands", *arguments],
            cwd=ROOT, env=dict(environment), capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode(errors="replace")
        return f"{done.returncode}\n{said.replace('hello from sitecustomize' + chr(10), '')}"

    return run


def answers_under(
    names: Sequence[str], folder: Path, answers: Callable[[Path, Callable[[list[str]], str]], Answers]
) -> Answers:
    """Give the answers of registry commands under settings; those that Python reads as it starts get processes."""
    with surroundings(names, folder / "settings") as environment:
        run = in_a_process(environment) if any(SETTINGS[name].at_start for name in names) else in_this_process
        return {each: unsigned(said) for each, said in answers(folder / "place", run).items()}


def unsigned(said: str) -> str:
    """Leave out by which key something was signed: that is what signing changes, and all that it may change."""
    return re.sub(r"\[signed, .*?\]|is signed by a key that is not in the list of allowed signers", "not signed", said).replace(
        "[not signed]", "not signed"
    ).replace("is not signed", "not signed")  # fmt: skip


def commands_under_settings(folder: Path) -> Count:
    """Run every registry command under each setting alone; each must say and do the same."""
    expected = {each: unsigned(said) for each, said in all_answers(folder / "undisturbed", in_this_process).items()}
    endings = []
    for number, name in enumerate(SETTINGS):
        try:
            found = answers_under((name,), folder / str(number), all_answers)
        except Exception as error:
            found = {"publish": f"{type(error).__name__}: {error}"}
        for command, said in expected.items():
            ending = f"{command} under {name}: {found.get(command, 'never reached')[-300:]}"
            endings.append("correct" if found.get(command) == said else ending)
    return counted("registry commands under hostile settings", endings)


def settings_rows(folder: Path) -> Iterator[Count]:
    """Run both parts of the campaign of settings."""
    yield commands_under_settings(folder / "commands")
    yield nights_under_settings(folder / "nights")
