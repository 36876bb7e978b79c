"""The git side of a data registry: creating it, reading it, and committing to it beside other writers."""

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception.errors import InputError
from perception.versioning.anchor import split_address
from perception.versioning.processes import (
    PROGRAM,
    REMOTE_NAME,
    Clone,
    RegistryError,
    git_at,
    git_text,
    last_words,
    may_pass,
    read_committed,
    run_git,
    scratch_folder,
)
from perception.versioning.verified import check_history, verified_clone

_PUSH_ATTEMPTS = 60
_LOST_RACE = re.compile(
    rb"fetch first|non-fast-forward|cannot lock ref|incorrect old value|failed to update ref|reference already exists|"
    rb"stale info|Unable to create .*\.lock"
)
_REFUSED = re.compile(
    rb"hook declined|protected|denied|returned error: 40\d|Authentication failed|could not read (Username|Password)"
)
_UPDATE_HOOK = """#!/bin/sh
# Data tags are write-once: no run's data may become another's, or vanish.
zero=0000000000000000000000000000000000000000
case "$1" in
refs/tags/data/*)
    if [ "$2" != "$zero" ]; then
        echo "tag ${1#refs/tags/} is write-once: publish another version instead" >&2
        exit 1
    fi ;;
esac
exit 0
"""


# --- creating


def _remote_config(remote_url: str) -> str:
    return (
        f"[core]\n    remote = {REMOTE_NAME}\n    analytics = false\n    check_update = false\n    autostage = true\n"
        # Hard and symbolic links let an edit of a working file change the cache, and push it under its old name.
        '[cache]\n    type = "reflink,copy"\n'
        f"['remote \"{REMOTE_NAME}\"']\n    url = {remote_url}\n    verify = true\n"
    )


def _check_remote_url(remote_url: str) -> str:
    if re.search(r"[\s'\"#,]", remote_url) or not remote_url:
        raise InputError(f"remote {remote_url!r} must not be empty or hold spaces, quotes, # or commas; rename it")
    if "://" not in remote_url:
        return str(Path(remote_url).absolute())
    if not remote_url.startswith("s3://"):
        raise InputError(f"remote {remote_url} must be a folder or s3://bucket/prefix")
    return remote_url.rstrip("/")


def create_registry(git_path: str | Path, remote_url: str) -> None:
    """Create a data registry, or check that the one that is there has this remote; safe to call at any time.

    git_path: folder for a new bare repository, or the URL of an empty repository that exists.
    remote_url: folder, or s3://bucket/prefix (endpoint and keys come from the environment, never from the registry).
    Raises InputError when the registry exists with another remote, or the place holds something else.
    """
    url = _check_remote_url(remote_url)
    address, anchor = split_address(git_path)
    if "://" in address and not anchor.root:  # a registry that must hold something is there, or is a fault
        _commit_first(address, url)
    elif not _occupied(Path(address)) and not anchor.root:
        _create_bare(Path(address), lambda bare: _commit_first(bare, url))
    with verified_clone(git_path) as clone:
        found = configured_remote(clone)
    if found != url:
        raise InputError(
            f"registry {git_path} keeps its data at {found}, not at {url}; use its remote or another registry"
        )


def _occupied(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"registry {folder} is a file; give a folder")
    return folder.is_dir() and any(folder.iterdir())


def restore_registry(git_path: str | Path, bundle: Path, remote_url: str) -> None:
    """Create a registry from a bundle of all its history, its data at a remote of that address from now on.

    git_path: folder for a new bare repository, or the URL of an empty one. Raises InputError where something is there.
    """
    url, by_url = _check_remote_url(remote_url), "://" in str(git_path)
    if not by_url and _occupied(Path(git_path)):
        raise InputError(f"registry {git_path} holds something; restore into a new folder")
    with scratch_folder() as scratch:
        start = git_at(scratch, git_path)
        run_git(start, "clone", "--quiet", "--mirror", "--template=", "--", str(bundle.absolute()), "mirror")
        mirror = replace(start, path=scratch / "mirror")
        history = ("refs/heads/main", "refs/tags/*:refs/tags/*")
        if by_url:
            run_git(mirror, "push", "--quiet", "--atomic", mirror.url, *history)
        else:
            _create_bare(Path(git_path), lambda bare: run_git(mirror, "push", "--quiet", bare.as_uri(), *history))
    with verified_clone(git_path) as clone:
        if configured_remote(clone) != url:
            files = {".dvc/config": _remote_config(url).encode()}
            push_commit(clone, lambda _: (files, trailers("Keep the data at another place", "")))


def _create_bare(place: Path, fill: Callable[[Path], Any]) -> None:
    """Build the repository beside its place, filled, and move it there whole, so that no half-made registry is ever seen."""
    with scratch_folder(place.absolute().parent, prefix=f".{place.name}-") as scratch:
        bare = scratch / "registry.git"
        outside = git_at(scratch, place)
        run_git(outside, "init", "--quiet", "--bare", "-b", "main", str(bare))
        for name, value in (
            ("receive.denyNonFastForwards", "true"),
            ("receive.denyDeletes", "true"),
            # A clone opens every loose object, and a night brings about thirty: what is pushed stays a pack. The push that finds fifty
            # makes one of them before it ends: in the background that would race with whoever moves or removes the folder next.
            ("receive.unpackLimit", "1"),
            ("gc.autoDetach", "false"),
        ):
            run_git(replace(outside, path=bare), "config", name, value)
        hook = bare / "hooks" / "update"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(_UPDATE_HOOK)
        hook.chmod(0o755)
        fill(bare)
        try:
            bare.replace(place)
        except OSError:
            if not _occupied(place):  # otherwise somebody else created it meanwhile
                raise


def _commit_first(registry: str | Path, remote_url: str) -> None:
    with scratch_folder() as scratch:
        (scratch / "first").mkdir()
        clone = replace(git_at(scratch, registry), path=scratch / "first")
        run_git(clone, "init", "--quiet", "-b", "main")
        run_git(clone, "remote", "add", "origin", clone.url)
        found = run_git(clone, "ls-remote", "origin", "refs/heads/main", check=False)
        if found.returncode:
            raise _not_read(registry, found.stderr)
        if found.stdout.strip():
            return
        files = {
            ".dvc/config": _remote_config(remote_url).encode(),
            ".dvc/.gitignore": b"/config.local\n/tmp\n/cache\n",
            ".dvcignore": b"",
            "README.md": b"Data registry: versions under datasets/runs, released version in current.json. "
            b"Written by programs and by recorded decisions; do not edit by hand.\n",
        }
        commit = commit_files(clone, None, files, "Create the data registry")
        done = run_git(clone, "push", "--quiet", "origin", f"{commit}:refs/heads/main", check=False)
        if done.returncode and not _LOST_RACE.search(done.stderr):
            raise _not_written(registry, done.stderr)


def configured_remote(clone: Clone) -> str:
    config = (read_committed(clone, ".dvc/config") or b"").decode()
    found = re.search(r"^\s*url\s*=\s*(\S+)\s*$", config, re.MULTILINE)
    if not found:
        raise InputError(f"{clone.url} is a git repository but not a data registry; create the registry first")
    return found.group(1)


# --- commits


def commit_files(clone: Clone, base: str | None, files: Mapping[str, bytes | None], message: str) -> str:
    """Commit files on top of `base` without touching a working tree; None as content removes the path."""
    environment = {**clone.environment, "GIT_INDEX_FILE": str(clone.path.parent / "index")}
    bare = replace(clone, environment=environment)
    run_git(bare, "read-tree", *([base] if base else ["--empty"]))
    lines = []
    for path, content in sorted(files.items()):
        blob = "0" * 40 if content is None else git_text(bare, "hash-object", "-w", "--stdin", stdin=content)
        lines.append(f"{'0' if content is None else '100644'} {blob}\t{path}\n")
    run_git(bare, "update-index", "--add", "--index-info", stdin="".join(lines).encode())
    tree = git_text(bare, "write-tree")
    parents = ["-p", base] if base else []
    how, signed = _signing(bare)
    return git_text(bare, *how, "commit-tree", *signed, tree, *parents, stdin=message.encode())


def _signing(clone: Clone) -> tuple[list[str], list[str]]:
    """Return git's options and commit-tree's, which does not look itself; raises InputError without a key where one is needed."""
    if clone.signers is None:
        return [], ["-S"] if _asked_to_sign(clone, "commit.gpgsign") else []
    if not run_git(clone, "config", "--get", "user.signingkey", check=False).stdout.strip():
        raise InputError(
            f"registry {clone.url} takes signed commits only; name your key: git config --global user.signingKey ~/.ssh/id_ed25519.pub"
        )
    return ["-c", "gpg.format=ssh"], ["-S"]


def _asked_to_sign(clone: Clone, name: str) -> bool:
    return run_git(clone, "config", "--type=bool", "--get", name, check=False).stdout.strip() == b"true"


def trailers(subject: str, body: str, **values: str | None) -> str:
    """Write a commit message whose last lines are trailers; run_id becomes Run-Id."""
    lines = [f"{name.replace('_', '-').title()}: {' '.join(value.split())}" for name, value in values.items() if value]
    return "\n\n".join(part for part in (subject, body.strip(), "\n".join(lines)) if part) + "\n"


def push_commit(
    clone: Clone,
    changes: Callable[[str], tuple[Mapping[str, bytes | None], str] | None],
    tag: tuple[str, str] | None = None,
    author: str = PROGRAM,
) -> str | None:
    """Commit on top of main and push, again and again until no other writer came first; history stays linear.

    changes: gives the files and the message for the head of main that it is told (a commit of the clone), or None when
    nothing is left to do.  tag: (name, message) of an annotated tag that appears with the commit or not at all.  author: of
    the commit.
    Returns the commit, or None when `changes` gave None.  Raises InputError when a rule of the registry refuses.
    """
    clone = replace(clone, environment={**clone.environment, "GIT_AUTHOR_NAME": author})
    jitter = random.Random(f"{os.getpid()} {time.monotonic_ns()}")
    base = git_text(clone, "rev-parse", "HEAD")
    for attempt in range(_PUSH_ATTEMPTS):
        if attempt:
            time.sleep(jitter.uniform(0, min(1.0, 0.05 * 2**attempt)))
            depth = [] if clone.signers else ["--depth", "1"]
            run_git(clone, "fetch", "--quiet", *depth, "--no-tags", "origin", "refs/heads/main")
            base = git_text(clone, "rev-parse", "FETCH_HEAD")
            _check(clone, base)
        change = changes(base)
        if change is None:
            return None
        commit = commit_files(clone, base, *change)
        _check(clone, commit)
        targets = [f"{commit}:refs/heads/main"]
        if tag:
            kind = "-s" if clone.signers or _asked_to_sign(clone, "tag.gpgsign") else "-a"
            run_git(
                clone, *_signing(clone)[0], "tag", "--force", kind, "-F", "-", tag[0], commit, stdin=tag[1].encode()
            )
            targets.append(f"refs/tags/{tag[0]}")
        done = run_git(clone, "push", "--quiet", "--atomic", "origin", *targets, check=False)
        if not done.returncode:
            return commit
        if not _LOST_RACE.search(done.stderr) or _REFUSED.search(done.stderr):
            raise _not_written(clone.url, done.stderr)
    raise RegistryError(f"registry {clone.url}: other writers came first {_PUSH_ATTEMPTS} times; try again")


def _check(clone: Clone, commit: str) -> None:
    """Hold what is about to be built on or pushed to what every reader of a signed registry will hold it to."""
    if clone.signers:
        check_history(clone, commit)


def _not_read(registry: str | Path, said: bytes) -> InputError:
    """Give the error of a registry that does not answer: one that may pass where its server is at fault."""
    if may_pass(said):
        return RegistryError(f"registry {registry} cannot be reached: {last_words(said, 1)}; try again")
    return InputError(f"registry {registry} cannot be read: {last_words(said, 1)}; check path and credentials")


def _not_written(registry: str | Path, said: bytes) -> InputError:
    """Give the error of a push that failed: one for people where the registry refused it, else one that may pass."""
    if _REFUSED.search(said) and not may_pass(said):
        return InputError(
            f"registry {registry} refused the change: {last_words(said)}; check its rules and credentials"
        )
    return RegistryError(f"registry {registry} cannot be written: {last_words(said)}")
