"""Run git in throw-away clones, whatever the home folder, user name or working directory."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from perception.errors import InputError, Unreachable
from perception.versioning.anchor import split_address

if TYPE_CHECKING:
    from perception.versioning.signers import Signers

REMOTE_NAME = "store"
PROGRAM = "Nightdrive"  # author and committer of what a program commits
_MAIL = "nightdrive@localhost"  # no mail is ever sent
# What of git's settings reaches our children: how to get at a server, and with which key to sign. Anything else (hooks, filters,
# templates, formats, orders, places of repositories) would change what our commands do or print.
_USERS_VARIABLES = re.compile("GIT_(ASKPASS|SSH|SSH_COMMAND|SSH_VARIANT|SSL_.*|PROXY_.*)")
_USERS_SETTINGS = re.compile(
    r"(credential|http|https|ssh|gpg|url)\..*|core\.(askpass|gitproxy|sshcommand)|user\.signingkey|(commit|tag)\.gpgsign|safe\.directory"
)

_USER_INFORMATION = re.compile(r"(https?://|://[^/@\s]*:)[^/@\s]*@")  # ssh://git@host names no secret

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
    registry: str = ""  # its address, with what that says of whom to trust
    signers: "Signers | None" = None  # who may sign from here on; None: nobody signs in this registry


def holds_user_information(address: str) -> bool:
    """Tell whether an address carries a password or token, which would come out in messages, records, pages and lists of processes."""
    return _USER_INFORMATION.search(address) is not None


def git_url(registry: str | Path) -> str:
    """Give the URL git clones a registry from: file:// for a local folder, the text itself otherwise.

    Raises InputError, which does not repeat it, for one that holds user information.
    """
    text, _ = split_address(registry)
    if holds_user_information(text):
        raise InputError(
            "the registry's address holds user information, which everybody who may look at a message or a page would see; "
            "leave it out, and give it to git's credential store or to the environment (docs/cluster.md: secrets)"
        )
    if "://" in text or (":" in text.split("/", 1)[0] and not Path(text).exists()):
        return text
    return Path(text).absolute().as_uri()


def git_at(folder: Path, registry: str | Path) -> Clone:
    """Return a folder as the place where git children work for a registry."""
    url = git_url(registry)
    return Clone(folder, _environment(folder, url), url, str(registry))


def _environment(scratch: Path, url: str) -> dict[str, str]:
    """Return the environment of git children: no prompt, nothing written outside `scratch`, settings of our own.

    url: of the one repository that they work on. Credentials stay where the surroundings put them (AWS_*, GIT_ASKPASS), and so
    does what git's configuration says of servers and keys. Raises InputError for one that git cannot read, and for a folder that
    belongs to somebody else.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own |= {name: value for name, value in os.environ.items() if _USERS_VARIABLES.fullmatch(name)}
    own |= {"GIT_CEILING_DIRECTORIES": str(scratch.parent), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "TZ": "UTC"}
    own.setdefault("HOME", str(scratch))
    settings = _users_settings(scratch, own)
    if url.startswith("file://"):
        folder = _folder_of(url)
        _check_owner(folder, [value for name, value in settings if name == "safe.directory"])
        # Rewritten addresses are for servers.
        settings = [(name, value) for name, value in settings if not name.startswith("url.")]
        settings.append(("safe.directory", folder))
    configuration = scratch / "gitconfig"
    lines = "".join(_setting(name, value) for name, value in settings)
    configuration.write_bytes(lines.encode(errors="surrogateescape"))
    return own | {
        "GIT_CONFIG_GLOBAL": str(configuration),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": PROGRAM,
        "GIT_AUTHOR_EMAIL": _MAIL,
        "GIT_COMMITTER_NAME": PROGRAM,
        "GIT_COMMITTER_EMAIL": _MAIL,
    }


def _check_owner(folder: str, excepted: Sequence[str]) -> None:
    """Raise InputError for a repository of another user, whose hooks and settings would run programs as this one.

    Root's may be used by all, who are in its hands anyway. excepted: the user's own safe.directory, an empty value of which takes
    back those before it.
    """
    trusted = [value for number, value in enumerate(excepted) if "" not in excepted[number:]]
    owners = {place.stat().st_uid for place in (Path(folder), Path(folder) / ".git") if place.exists()}
    if not owners <= {os.geteuid(), 0} and not {"*", folder} & set(trusted):
        raise InputError(
            f"registry {folder} belongs to another user, whose hooks would run as this one; let this user own it, reach it through a "
            f"server, or trust its owner: git config --global --add safe.directory {shlex.quote(folder)}"
        )


def _users_settings(scratch: Path, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """List the settings of the machine, the user and the surroundings that reach our children, the last of a name counts."""
    given = {name: value for name, value in os.environ.items() if name.startswith("GIT_CONFIG")}
    command = ["git", "config", "--list", "--includes", "-z"]
    done = subprocess.run(command, cwd=scratch, env={**environment, **given}, capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"git's configuration cannot be read: {last_words(done.stderr, 1)}; correct it")
    lines = done.stdout.decode(errors="surrogateescape").split("\0")
    parts = (line.partition("\n") for line in lines)
    pairs = [(name, value if separator else "true") for name, separator, value in parts]  # a name alone says yes
    return [(name, value) for name, value in pairs if _USERS_SETTINGS.fullmatch(name)]


def _setting(name: str, value: str) -> str:
    """Write one setting as a git configuration file holds it; git lists a name as section.subsection.key."""
    section, _, rest = name.partition(".")
    subsection, _, key = rest.rpartition(".")
    within = f" {json.dumps(subsection, ensure_ascii=False)}" if subsection else ""
    return f"[{section}{within}]\n\t{key} = {json.dumps(value, ensure_ascii=False)}\n"


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
def shallow_clone(registry: str | Path, *, scratch: Path | None = None, depth: int | None = 1) -> Iterator[Clone]:
    """Clone the branch main of a registry without a working tree, unchecked; the clone is removed afterwards.

    Raises InputError when the registry or the branch cannot be read, RegistryError when its server does not answer.
    """
    with scratch_folder(scratch) as folder:
        start = git_at(folder, registry)
        options = ["--quiet", "--no-checkout", "--template=", "--branch", "main"]
        options += ["--depth", str(depth), "--no-tags"] if depth else []
        read_or_raise(start, "main", "clone", *options, "--", start.url, "clone")
        yield replace(start, path=folder / "clone")


def read_or_raise(clone: Clone, wanted: str, *arguments: str) -> None:
    """Run a git command that reads the registry; raises InputError and RegistryError as shallow_clone does."""
    done = run_git(clone, *arguments, check=False)
    if done.returncode and may_pass(done.stderr):
        raise RegistryError(f"registry {clone.url} cannot be reached: {last_words(done.stderr, 1)}; try again")
    if done.returncode and clone.url.startswith("file://") and not Path(folder := _folder_of(clone.url)).is_dir():
        raise InputError(
            f"registry {folder}: there is no such folder; correct the path, or run the first night, which creates it"
        )
    if done.returncode:
        raise InputError(
            f"registry {clone.url}: must be a git repository that has {wanted!r}, and cannot be read ({last_words(done.stderr, 1)}); "
            "correct the path or URL or the credentials, or run the first night, which creates it"
        )


def _folder_of(url: str) -> str:
    return unquote(url.removeprefix("file://"))


def read_committed(clone: Clone, path: str, revision: str = "HEAD") -> bytes | None:
    """Read a file as committed at a revision; None where it does not exist."""
    done = run_git(clone, "cat-file", "blob", f"{revision}:{path}", check=False)
    return done.stdout if done.returncode == 0 else None


def read_all_committed(clone: Clone, folder: str, revision: str = "HEAD") -> dict[str, bytes]:
    """Read every file below a folder as committed at a revision, in two processes however many there are: {path: content}."""
    listed = run_git(clone, "ls-tree", "-r", "-z", revision, "--", f"{folder}/").stdout.decode().split("\0")[:-1]
    paths = {line.partition("\t")[2]: line.split()[2] for line in listed}
    return dict(zip(paths, read_objects(clone, list(paths.values())), strict=True))


def read_objects(clone: Clone, names: Sequence[str]) -> list[bytes]:
    """Read objects by their hashes, in one process however many there are."""
    if not names:
        return []
    answer = run_git(clone, "cat-file", "--batch", stdin="\n".join(names).encode()).stdout
    found, place = [], 0
    for _ in names:  # each comes as a line `hash type size`, its bytes and a line feed
        start = answer.index(b"\n", place) + 1
        place = start + int(answer[place:start].split()[2]) + 1
        found.append(answer[start : place - 1])
    return found


def read_json(clone: Clone, path: str, revision: str = "HEAD") -> dict[str, Any] | None:
    """Read a JSON record as committed at a revision; None where it does not exist."""
    content = read_committed(clone, path, revision)
    return None if content is None else json.loads(content)


def paths_in(clone: Clone, folder: str, revision: str = "HEAD") -> list[str]:
    """List what is committed in a folder at a revision, sorted."""
    return sorted(git_text(clone, "ls-tree", "--name-only", revision, f"{folder}/").splitlines())


def check_empty(folder: Path, remedy: str) -> None:
    """Raise InputError, which ends with what to do, for a folder that holds something."""
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; {remedy}")
