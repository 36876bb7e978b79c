"""Signed history: data tags and decisions carry signatures, and a list of allowed signers says whose count.

Git signs with an SSH or GPG key where its configuration asks for it (commit.gpgSign, tag.gpgSign, gpg.format, user.signingKey). Who may
sign is a list in the format of ssh-keygen(1), ALLOWED SIGNERS: one `name ssh-ed25519 AAAA...` a line, a file or the lines themselves.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perception.data.files import read_text
from perception.errors import InputError
from perception.versioning.decisions import DECISIONS
from perception.versioning.models import CHAMPION, REFERENCE
from perception.versioning.processes import Clone, git_text, last_words, run_git, shallow_clone
from perception.versioning.records import CURRENT

_KEY_LINE = re.compile(r"^\S.*\s(ssh-[a-z0-9-]+|ecdsa-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+(\s.*)?$")
_POINTERS = (CURRENT, CHAMPION, REFERENCE)
_SIGNED_BY = re.compile(r'Good "git" signature for (.+?) with ')


@dataclass(frozen=True, kw_only=True)
class CheckedSignature:
    """Say of a tag or a decision's commit whose valid signature it bears, or what is wrong."""

    what: str  # name of a tag, or `commit` and its first digits
    signer: str | None = None  # name in the list of allowed signers; None where the signature does not count
    problem: str = ""  # why it does not count


def check_history(registry: str | Path, allowed_signers: str) -> list[CheckedSignature]:
    """Check the signature of every data tag and of every commit that decided something, oldest first.

    allowed_signers: path of the list, or its lines. Raises InputError for a list that is none or a registry that cannot be read.
    """
    with _trusting_clone(registry, allowed_signers) as clone:
        tags = git_text(clone, "tag", "--list", "data/*", "--sort=creatordate").splitlines()
        decisions = git_text(clone, "log", "--reverse", "--format=%H", "HEAD", "--", f"{DECISIONS}/", *_POINTERS)
        return [_tag(clone, tag) for tag in tags] + [_commit(clone, commit) for commit in decisions.splitlines()]


def require_signed(registry: str | Path, tag: str, allowed_signers: str) -> str:
    """Return who signed a version; raises InputError unless its tag, and the last decision on current, champion and reference, are
    signed by allowed keys.
    """
    with _trusting_clone(registry, allowed_signers) as clone:
        found = [_tag(clone, tag)]
        released = [git_text(clone, "log", "-1", "--format=%H", "HEAD", "--", name) for name in _POINTERS]
        found += [_commit(clone, commit) for commit in dict.fromkeys(released) if commit]
    for each in found:
        if each.signer is None:
            raise InputError(
                f"registry {registry}: {each.what} {each.problem}, and signatures are required; sign it with an allowed key, "
                "start from a signed version (resolve.revision), or turn resolve.require_signed off"
            )
    return str(found[0].signer)


@contextmanager
def _trusting_clone(registry: str | Path, allowed_signers: str) -> Iterator[Clone]:
    """Clone the whole history with its tags, told whose signatures count and nothing of the user's own settings about that."""
    lines = allowed_lines(allowed_signers)
    with shallow_clone(registry, depth=None) as clone:
        listed = clone.path.parent / "allowed_signers"
        listed.write_text("\n".join(lines) + "\n")
        run_git(clone, "fetch", "--quiet", "--tags", "origin")
        run_git(clone, "config", "gpg.ssh.allowedSignersFile", str(listed))
        run_git(clone, "config", "gpg.ssh.program", "ssh-keygen")
        yield clone


def allowed_lines(allowed_signers: str) -> list[str]:
    """Return the lines of a list of allowed signers, given as its path or as text; raises InputError where it is none."""
    text, where = allowed_signers, "allowed_signers"
    if not any(_KEY_LINE.match(line.strip()) for line in text.splitlines()):
        where = f"allowed_signers {allowed_signers[:200]!r}"
        try:
            text = read_text(Path(allowed_signers))
        except (OSError, ValueError):
            raise InputError(f"{where}: no such file, and no lines `name ssh-ed25519 KEY`; give one of these") from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    wrong = [line for line in lines if not _KEY_LINE.match(line)]
    if wrong:
        raise InputError(f"{where}: {wrong[0][:80]!r} is no line `name ssh-ed25519 KEY`; correct it")
    if not lines:
        raise InputError(f"{where}: is empty")
    return lines


def _tag(clone: Clone, tag: str) -> CheckedSignature:
    if git_text(clone, "cat-file", "-t", f"refs/tags/{tag}") != "tag":
        return CheckedSignature(what=f"tag {tag}", problem="is no annotated tag")
    done = run_git(clone, "verify-tag", "--", tag, check=False)
    named = git_text(clone, "for-each-ref", "--format=%(contents:subject)", f"refs/tags/{tag}")
    # A signed tag object can be hung under another name; what was signed names the tag itself.
    if tag not in named or _object_name(clone, tag) != tag:
        return CheckedSignature(what=f"tag {tag}", problem="bears the signed content of another tag")
    return _judged(f"tag {tag}", done.returncode, done.stderr)


def _object_name(clone: Clone, tag: str) -> str:
    """Give the name that is written inside the tag object, which the signature covers."""
    lines = git_text(clone, "cat-file", "tag", f"refs/tags/{tag}").split("\n\n")[0].splitlines()
    facts: Mapping[str, str] = dict(line.split(" ", 1) for line in lines if " " in line)
    return facts.get("tag", "")


def _commit(clone: Clone, commit: str) -> CheckedSignature:
    done = run_git(clone, "verify-commit", commit, check=False)
    return _judged(f"commit {commit[:12]}", done.returncode, done.stderr)


def _judged(what: str, code: int, said: bytes) -> CheckedSignature:
    text = said.decode(errors="replace")
    signer = _SIGNED_BY.search(text)
    if code == 0 and signer:
        return CheckedSignature(what=what, signer=signer.group(1))
    if not text.strip() or "no signature" in text:
        return CheckedSignature(what=what, problem="is not signed")
    if "No principal matched" in text or 'Good "git" signature with' in text:
        return CheckedSignature(what=what, problem="is signed by a key that is not in the list of allowed signers")
    if "cannot run ssh-keygen" in text or "No such file" in text:
        raise InputError("ssh-keygen is not on the PATH, so no signature can be checked; install openssh-client")
    return CheckedSignature(what=what, problem=f"has a bad signature ({last_words(said, 1)})")
