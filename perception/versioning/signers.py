"""Who may sign what in a registry: its file allowed_signers, in the format of ssh-keygen(1), with roles as namespaces beside git.

    night@cluster.example namespaces="git,publish" ssh-ed25519 AAAA...
    ada@example.org namespaces="git,decide" ssh-ed25519 AAAA...
    owner@example.org namespaces="git,root" ssh-ed25519 AAAA...

git and ssh-keygen read the same file. A name is one person or program, and one key.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from perception.errors import InputError

if TYPE_CHECKING:
    from asyncssh.sshsig import SSHAllowedSigners

SIGNERS = "allowed_signers"
# What a role may do: status (added, modified, deleted) and path of every change of a commit that it signs. An erasure writes
# anew what was published, so only root carries it out: its records, deny list, version (erasure-*) and every erased.json.
_MAY = {
    "publish": r"A (entries/[^/]*|datasets/runs)/(?!erasure-)(?!.*/erased\.json).*|A (nights|models)/.*"
    r"|M nights/.*|M models/[^/]*\.json|M datasets/runs/[^/]*/proposal\.json",
    "decide": r"A decisions/[^/]*|[AM] (current|champion|reference)\.json|A datasets/runs/[^/]*/retired\.json"
    r"|D datasets/runs/[^/]*/frames\.dvc|A erasures/[^/]*-certificate-[^/]*",
    "policy": r"A decisions/[^/]*|[AM] (current|champion)\.json",
    "root": r".*",
}
_LINE = re.compile(
    r'([A-Za-z0-9][A-Za-z0-9._@+-]{0,99}) namespaces="git((?:,(?:' + "|".join(_MAY) + r'))+)" '
    r"((?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+)(?: .*)?"
)
_COMMIT = re.compile(
    rb"(?P<before>tree [0-9a-f]{40}\n(?:parent [0-9a-f]{40}\n)?author [^\n]*\ncommitter [^\n]*\n)"
    rb"gpgsig (?P<signature>[^\n]*\n(?: [^\n]*\n)*)(?P<after>\n.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Signer:
    """Name somebody whose signature counts, and for what."""

    name: str
    roles: frozenset[str]
    key: str  # type and base64, as ssh writes them

    def may(self, status: str, path: str) -> bool:
        """Say whether a commit that this one signs may add (A), modify (M) or delete (D) a path."""
        return any(re.fullmatch(_MAY[role], f"{status} {path}", re.DOTALL) for role in self.roles)


@dataclass(frozen=True)
class Signers:
    """Hold a list of allowed signers."""

    listed: tuple[Signer, ...]

    def of(self, commit: bytes) -> Signer | None:
        """Return who signed a commit, given as the bytes of its object; None where no signature counts."""
        name = _signed_by(commit, self)
        return next((each for each in self.listed if each.name == name), None)


def parse_signers(text: str, where: str) -> Signers:
    """Read a list of allowed signers; raises InputError, with its place, for a line that is none, and a name or key that stands twice."""
    from asyncssh import KeyImportError, import_public_key  # here, since unsigned registries need not wait for it

    listed = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(
                f'{where}: {line[:80]!r} must be NAME namespaces="git,ROLE" KEY, with roles {", ".join(_MAY)}; correct it'
            )
        signer = Signer(found[1], frozenset(found[2].split(",")[1:]), found[3])
        try:
            import_public_key(signer.key)
        except KeyImportError as error:
            raise InputError(f"{where}: the key of {signer.name} is none ({error}); correct it") from None
        listed.append(signer)
    for what in ("name", "key"):
        values = [getattr(each, what) for each in listed]
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(
                f"{where}: {what} {twice[0]!r} stands twice; a person is one name and one key: take one out"
            )
    if not any("root" in each.roles for each in listed):
        raise InputError(f"{where}: nobody has the role root, so the list could never change; give it to somebody")
    return Signers(tuple(listed))


@lru_cache(maxsize=20_000)
def _signed_by(commit: bytes, signers: Signers) -> str | None:
    """Return the name; a commit that was checked before, in this process, is not checked again."""
    from asyncssh import validate_sshsig

    found = _COMMIT.fullmatch(commit)
    if found is None:
        return None
    signature, payload = found["signature"].replace(b"\n ", b"\n"), found["before"] + found["after"]
    for signer in signers.listed:
        try:
            if validate_sshsig(payload, signature, signer.name, _allowed(signers)):
                return signer.name
        except (ValueError, TypeError, LookupError, OverflowError):  # of a signature that is none
            return None
    return None


@lru_cache(maxsize=8)
def _allowed(signers: Signers) -> "SSHAllowedSigners":
    from asyncssh import import_allowed_signers

    return import_allowed_signers("\n".join(f'{each.name} namespaces="git" {each.key}' for each in signers.listed))
