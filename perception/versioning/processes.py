"""Run git in throw-away clones, whatever the home folder, user name or working directory."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from perception.errors import InputError, Unreachable

REMOTE_NAME = "store"
PROGRAM = "Nightdrive"  # author and committer of what a program commits
_MAIL = "nightdrive@localhost"  # no mail is ever sent
# Set by git around hooks; inherited, they would point our commands at somebody else's repository.
_GIT_LOCATION_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"),
    *("GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE", "GIT_QUARANTINE_PATH"),
)
# What git says when a server did not answer or failed, in the words of git and of libcurl.
_PASSING = re.compile(
    rb"Could not resolve host|Temporary failure in name resolution|Failed to connect|Couldn't connect|Connection refused|"
    rb"Connection reset|timed out|No route to host|Network is unreachable|returned error: (429|5\d\d)|early EOF|"
    rb"unexpected disconnect|hung up unexpectedly|RPC failed|Empty reply from server|Recv failure|Send failure"
)


class RegistryError(Unreachable):
    """Report that git or the remote failed for a reason that may pass: the same call may be made again."""


@dataclass(frozen=True)
class Clone:
    """A throw-away clone: nothing in it is shared with any other process, so no lock can be left for anyone."""

    path: Path
    environment: Mapping[str, str]
    url: str


def git_url(registry: str | Path) -> str:
    """Give the URL git clones a registry from: file:// for a local folder, the text itself otherwise."""
    text = str(registry)
    if "://" in text or (":" in text.split("/", 1)[0] and not Path(text).exists()):
        return text
    return Path(text).absolute().as_uri()


def git_at(folder: Path, registry: str | Path) -> Clone:
    """Return a folder as the place where git children work for a registry."""
    url = git_url(registry)
    return Clone(folder, _environment(folder, url), url)


def _environment(scratch: Path, url: str) -> dict[str, str]:
    """Give the environment of git children: no prompt, nothing written outside `scratch`.

    Credentials stay where the surroundings put them (AWS_*, GIT_ASKPASS, the user's own git configuration).
    """
    own = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATION_VARIABLES}
    user_config = Path(own["HOME"]) / ".gitconfig" if own.get("HOME") else None
    if own.get("GIT_CONFIG_GLOBAL"):
        user_config = Path(own["GIT_CONFIG_GLOBAL"])
    lines = [f"[include]\n\tpath = {json.dumps(str(user_config))}\n"] if user_config and user_config.is_file() else []
    if url.startswith("file://"):
        # A volume may belong to another user id than this process; only this one registry is trusted.
        lines.append(f"[safe]\n\tdirectory = {json.dumps(unquote(url.removeprefix('file://')))}\n")
    configuration = scratch / "gitconfig"
    configuration.write_text("".join(lines))
    own.setdefault("HOME", str(scratch))
    own |= {
        "GIT_CONFIG_GLOBAL": str(configuration),
        "GIT_TERMINAL_PROMPT": "0",
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), PROGRAM),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), _MAIL),
        "LC_ALL": "C",
    }
    return own


def run_git(
    clone: Clone, *arguments: str, stdin: bytes | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run one git command in a clone; raises RegistryError with git's own words when `check` and it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=clone.path, env=dict(clone.environment), input=stdin, capture_output=True, check=False
    )
    if check and done.returncode:
        raise RegistryError(f"git {arguments[0]} failed on registry {clone.url}: {last_words(done.stderr)}")
    return done


def git_text(clone: Clone, *arguments: str, stdin: bytes | None = None) -> str:
    """Run one git command in a clone and give what it printed, stripped."""
    return run_git(clone, *arguments, stdin=stdin).stdout.decode().strip()


def may_pass(output: bytes) -> bool:
    """Say whether git failed because a server did not answer or was at fault, by what git said."""
    return _PASSING.search(output) is not None


def last_words(output: bytes, lines: int = 3) -> str:
    """Give the last lines of a child's output as one line."""
    said = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(said[-lines:]) or "no message"


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = "nightdrive-") -> Iterator[Path]:
    """Make a private folder and remove it afterwards, read-only members included."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shallow_clone(
    registry: str | Path, *, branch: str = "main", scratch: Path | None = None, depth: int | None = 1
) -> Iterator[Clone]:
    """Clone one branch or tag of a registry without a working tree; the clone is removed afterwards.

    Raises InputError when the registry or the branch cannot be read, RegistryError when its server does not answer.
    """
    with scratch_folder(scratch) as folder:
        start = git_at(folder, registry)
        options = ["--quiet", "--no-checkout", "--template=", "--branch", branch]
        options += ["--depth", str(depth), "--no-tags"] if depth else []
        done = run_git(start, "clone", *options, "--", start.url, "clone", check=False)
        if done.returncode and may_pass(done.stderr):
            raise RegistryError(f"registry {registry} cannot be reached: {last_words(done.stderr, 1)}; try again")
        if done.returncode:
            raise InputError(
                f"registry {registry} has no readable {branch!r}: {last_words(done.stderr, 1)}; "
                "check the path or URL and the credentials, or create the registry first"
            )
        yield replace(start, path=folder / "clone")


def read_committed(clone: Clone, path: str, revision: str = "HEAD") -> bytes | None:
    """Read a file as committed at a revision; None where it does not exist."""
    done = run_git(clone, "cat-file", "blob", f"{revision}:{path}", check=False)
    return done.stdout if done.returncode == 0 else None
