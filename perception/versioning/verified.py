"""The one way into a registry: a clone whose history was checked, from the list of allowed signers on to its head.

A commit's signature covers its files and its parent, so the head vouches for all before it, of this registry and no other. What is
checked of every commit: it has one parent; somebody on the list signed it, who may change what it changes; a change of the list is
signed by a root of the list before; and a decision is the signer's own, about a version that another one published, with the pointers that
follow from it. Files on the remote are proved by the hashes that commits hold.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from perception.errors import InputError
from perception.versioning.anchor import split_address
from perception.versioning.processes import (
    Clone,
    git_text,
    read_committed,
    read_json,
    read_objects,
    read_or_raise,
    run_git,
    shallow_clone,
)
from perception.versioning.recorded import (
    CHAMPION,
    DECISIONS,
    MOVES,
    POLICY_NAME,
    REFERENCE,
    Decision,
    champion_at,
    decisions_at,
    pointer,
    proposal_at,
    reference_at,
    released,
    stored_model_at,
)
from perception.versioning.records import (
    CURRENT,
    RETIRED,
    RUN,
    Current,
    Version,
    current_at,
    record_at,
    version_of,
)
from perception.versioning.signers import SIGNERS, Signer, Signers, parse_signers

_DAY_SECONDS = 24 * 3600
_EVERYTHING = (1 << 31) - 1  # as a depth of history, in git's own words


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Hold one commit of main's first-parent history."""

    sha: str
    parents: tuple[str, ...]
    when: int  # seconds since the epoch
    changes: Mapping[str, str]  # A, M, D or T by path, against its first parent
    signer: Signer | None = None  # None: nobody whose signature counts

    @property
    def before(self) -> str:
        """Name the commit that it stands on; of the first one, something that holds no file."""
        return self.parents[0] if self.parents else f"{self.sha}^"

    @property
    def decides(self) -> bool:
        """Say whether it changes a decision or what follows from one."""
        return any(path in (CURRENT, CHAMPION, REFERENCE) or path.startswith(f"{DECISIONS}/") for path in self.changes)


# --- the door


@contextmanager
def verified_clone(registry: str | Path, *, scratch: Path | None = None, whole: bool = False) -> Iterator[Clone]:
    """Clone a registry's main, checked where the registry is signed; the clone is removed afterwards.

    whole: with its history and tags, which that of a signed registry always has.
    Raises InputError where the registry cannot be read or its history is not as its signers left it, RegistryError when its
    server does not answer.
    """
    _, anchor = split_address(registry)
    with shallow_clone(registry, scratch=scratch, depth=None if whole else 1) as clone:
        if not anchor.root and read_committed(clone, SIGNERS) is None:
            yield clone
            return
        if not whole:
            read_or_raise(clone, "main", "fetch", "--quiet", f"--depth={_EVERYTHING}", "--no-tags", "origin")
        yield replace(clone, signers=check_history(clone))


def check_history(clone: Clone, revision: str = "HEAD") -> Signers:
    """Check a signed registry's history up to a commit; return who may sign on top of it.

    Raises InputError that names the first commit that does not hold, or what the address asks for and the history lacks.
    """
    problems, signers, commits = walk(clone, revision)
    _check_anchor(clone, commits)
    if problems or signers is None:
        raise InputError(
            f"registry {clone.url}: {problems[0] if problems else f'has no {SIGNERS}'}: it is not what its signers left; "
            "find out who wrote that, and restore main (docs/security.md: signed history)"
        )
    return signers


def walk(clone: Clone, revision: str = "HEAD") -> tuple[list[str], Signers | None, list[Commit]]:
    """Check every commit up to a revision; return what does not hold, the list of signers there, and the commits, oldest first.

    Before the first list nobody signs: whoever signs that list vouches for what there is.
    """
    problems: list[str] = []
    signers: Signers | None = None
    commits = _commits(clone, revision)
    contents = read_objects(clone, [each.sha for each in commits])
    for number, content in enumerate(contents):
        commit, after = commits[number], signers
        if SIGNERS in commit.changes:
            text = read_committed(clone, SIGNERS, commit.sha)
            after = (
                parse_signers(text.decode(errors="replace"), f"{SIGNERS} at commit {commit.sha[:12]}") if text else None
            )
        judge = signers or after
        commit = commits[number] = replace(commit, signer=judge.of(content) if judge else None)
        if judge and (
            found := _unsigned(commit) or _retired(clone, commit) or (commit.decides and _wrong(clone, commit))
        ):
            problems.append(f"commit {commit.sha[:12]} {found}")
        signers = after or signers  # a list that was taken away still says who may sign
    return problems, signers, commits


def _check_anchor(clone: Clone, commits: Sequence[Commit]) -> None:
    address, anchor = split_address(clone.registry)
    if not anchor.root:
        return
    found = root_of(clone, commits)
    if found != anchor.root:
        raise InputError(
            f"registry {address} begins with {f'signers of sha256 {found[:16]}' if found else 'no list of signers'}, but its "
            f"address says root={anchor.root[:16]}: it is another registry, or a forged one"
        )
    if anchor.least and anchor.least not in {each.sha for each in commits}:
        raise InputError(
            f"registry {address} lacks commit {anchor.least[:12]}, which its address says it must hold: an older state or another registry"
        )
    days = (time.time() - commits[-1].when) / _DAY_SECONDS
    if anchor.days and days > anchor.days:
        raise InputError(
            f"registry {address}: its newest commit is {days:.0f} days old, its address allows {anchor.days}: "
            "an older state is being served, or no night ran; look, then let a night or a person write to it with a greater days="
        )


def root_of(clone: Clone, commits: Sequence[Commit]) -> str:
    """Return the sha256 of the first list of signers in a history; nothing where it has none."""
    first = next((each for each in commits if SIGNERS in each.changes), None)
    return hashlib.sha256(read_committed(clone, SIGNERS, first.sha) or b"").hexdigest() if first else ""


def _commits(clone: Clone, revision: str) -> list[Commit]:
    options = ("--first-parent", "--reverse", "--no-renames", "--name-status", "-z", "--diff-merges=first-parent")
    said = run_git(clone, "log", *options, "--format=>%H %ct %P", revision).stdout.decode(errors="surrogateescape")
    words = iter(said.split("\0"))
    found: list[tuple[list[str], dict[str, str]]] = []
    for word in words:
        if word.startswith(">"):
            found.append((word[1:].split(), {}))
        elif word:
            found[-1][1][next(words)] = word.strip()
    return [
        Commit(sha=facts[0], when=int(facts[1]), parents=tuple(facts[2:]), changes=changes) for facts, changes in found
    ]


# --- who may


def _unsigned(commit: Commit) -> str:
    """Say what is wrong with a commit's signature or with what it changes; empty: nothing."""
    signer = commit.signer
    if len(commit.parents) > 1:
        return "joins two histories, main must be linear"
    if signer is None:
        return f"is not signed by an allowed key (it changes {', '.join(sorted(commit.changes)[:3]) or 'nothing'})"
    if SIGNERS in commit.changes and (commit.changes[SIGNERS] not in ("A", "M") or "root" not in signer.roles):
        return f"changes {SIGNERS}, signed by {signer.name}, who is no root of the list before it"
    for path, status in commit.changes.items():
        if not signer.may(status, path):
            roles = ", ".join(sorted(signer.roles))
            return f"changes {path} ({status}), which {signer.name} may not ({roles})"
    return ""


def _retired(clone: Clone, commit: Commit) -> str:
    """Say which version a commit took away without saying who did; empty: none."""
    for path, status in commit.changes.items():
        folder, _, name = path.rpartition("/")
        if (status, name) in (("D", "frames.dvc"), ("A", RETIRED)) and folder.startswith("datasets/runs/"):
            why = read_json(clone, f"{folder}/{RETIRED}", commit.sha) or {}
            if commit.signer is None or why.get("retired_by") != commit.signer.name:
                return f"retires {folder} in the name of {why.get('retired_by')}, who did not sign it"
    return ""


# --- what was decided


def _wrong(clone: Clone, commit: Commit) -> str:
    """Say what is wrong with a signed commit that decides, or changes what follows from decisions; empty: nothing."""
    decided = {path: status for path, status in commit.changes.items() if path.startswith(f"{DECISIONS}/")}
    for path, status in decided.items():
        if status != "A" and (changed := changed_decision(clone, commit, path)):
            return changed
    added = [path for path, status in decided.items() if status == "A"]
    if len(added) > 1:
        return f"decides {len(added)} things at once"
    decision = record_at(clone, added[0], Decision, commit.sha) if added else None
    if decision is None:
        return _pointers(clone, commit, None, None)
    version = published_version(clone, decision.tag, commit.sha)
    return _whose(clone, commit, decision, version, added[0]) or _pointers(clone, commit, decision, version)


def changed_decision(clone: Clone, commit: Commit, path: str) -> str:
    """Say how a commit changed a decision that was written before; empty where it only gave it the number of its format."""
    if commit.changes[path] == "D":
        return f"removed a decision, {path}"
    same = _but_format(clone, path, commit.sha) == _but_format(clone, path, commit.before)
    return "" if same else f"changed {path} after it was written"


def _but_format(clone: Clone, path: str, revision: str) -> object:
    """Read a record but for the number of its format, which a migration adds."""
    content = read_committed(clone, path, revision) or b""
    with suppress(ValueError):
        return {name: value for name, value in dict(json.loads(content)).items() if name != "format"}
    return content


def _whose(clone: Clone, commit: Commit, decision: Decision, version: Version | None, path: str) -> str:
    """Say why a decision is not the signer's to make, or not about the version that it names; empty: it is."""
    signer = commit.signer
    assert signer  # of every commit whose decisions are judged
    if version is None or version.manifest_sha256 != decision.manifest_sha256:
        return f"decides about {decision.tag} with a manifest that nobody published ({path})"
    wanted, role = (POLICY_NAME, "policy") if decision.policy is not None else (signer.name, "decide")
    if decision.names[-1:] != (wanted,) or role not in signer.roles:
        return f"decides in the name of {', '.join(decision.names)}, but {signer.name} signed it ({path})"
    if path != decision.path:
        return f"names its decision {path}, which must be {decision.path}"
    if decision.model_sha256 and decision.action in ("promote", "release"):
        proposal = proposal_at(clone, decision.tag, commit.sha)
        if proposal is None or (proposal.sha256, proposal.model_sha256) != (
            decision.proposal_sha256,
            decision.model_sha256,
        ):
            return f"releases another network than was proposed with {decision.tag} ({path})"
    return _not_agreed(clone, commit, decision, version)


def _not_agreed(clone: Clone, commit: Commit, decision: Decision, version: Version) -> str:
    """Say who of the people that a decision needs did not sign; empty: all did."""
    earlier = decisions_at(clone, commit.before)
    approvals = {(old.names, old.tag, old.manifest_sha256) for old in earlier if old.action == "approve"}
    for name in decision.names[:-1]:
        if ((name,), decision.tag, decision.manifest_sha256) not in approvals or name == decision.names[-1]:
            return f"names {name}, who did not approve {decision.tag} before"
    current = current_at(clone, commit.before)
    if decision.action == "promote" and changes_tests(current, version) and len(set(decision.names)) < 2:
        return f"changes the test set of {current.tag if current else 'nothing'}, which needs two people"
    if decision.action == "rollback":
        before = [old for old in earlier if old.action in MOVES or old.action == "release"]
        if version.tag not in {old.tag for old in before} or decision.model_sha256 not in {
            None,
            *(old.model_sha256 for old in before),
        }:
            return f"goes back to {version.tag} or a network that nobody released before"
        return ""
    if decision.reference_sha256 not in {None, *(old.model_sha256 for old in earlier)}:
        return "makes a network the reference that nobody released before"
    publisher = _publisher(clone, version)
    erases = version.run.startswith(
        "erasure-"
    )  # which only root can publish: what was current, without what was erased
    if publisher in decision.names and decision.policy is None and not erases:
        return f"is about {version.tag}, which {publisher} published and cannot decide about too"
    return ""


def changes_tests(current: Current | None, version: Version) -> bool:
    """Say whether a version has another test set than what is current, which two people must want."""
    return current is not None and current.test_set_sha256 != version.test_set_sha256


def _publisher(clone: Clone, version: Version) -> str | None:
    """Return who signed the commit that published a version; None where nobody signed then."""
    text = read_committed(clone, SIGNERS, version.commit)
    if text is None:
        return None
    signer = parse_signers(text.decode(errors="replace"), SIGNERS).of(read_objects(clone, [version.commit])[0])
    return signer.name if signer else None


def _pointers(clone: Clone, commit: Commit, decision: Decision | None, version: Version | None) -> str:
    """Say which pointer is not what follows from the decision that came with it, or from those before; empty: none."""
    current, champion = current_at(clone, commit.before), champion_at(clone, commit.before)
    reference = reference_at(clone, commit.before)
    if decision and decision.action in MOVES:
        current = pointer(version, decision) if version else None
    if decision and decision.model_sha256:
        champion = released(stored_model_at(clone, decision.model_sha256, commit.before), decision)
    if decision and decision.reference_sha256:
        reference = released(stored_model_at(clone, decision.reference_sha256, commit.before), decision)
    if current_at(clone, commit.sha) != current:
        found = current_at(clone, commit.sha)
        return f"leaves {CURRENT} at {found.tag if found else None}, decided was {current.tag if current else None}: it was moved by hand"
    for path, wanted in ((CHAMPION, champion), (REFERENCE, reference)):
        network = champion_at(clone, commit.sha) if path == CHAMPION else reference_at(clone, commit.sha)
        if network != wanted:
            return f"leaves {path} at {network.model_sha256[:16] if network else None}, which no decision released"
    return ""


# --- versions


def published(clone: Clone, revision: str = "HEAD") -> dict[str, str]:
    """List the versions that a clone of the whole history holds and the commit that published each, oldest first."""
    said = git_text(
        clone, "log", "--first-parent", "--reverse", "--diff-filter=A", "--no-renames", "--name-only", "--format=>%H", revision,
        "--", f"datasets/runs/*/{RUN}",
    )  # fmt: skip
    found: dict[str, str] = {}
    commit = ""
    for line in said.splitlines():
        if line.startswith(">"):
            commit = line[1:]
        elif line:
            found.setdefault(f"data/{Path(line).parent.name}", commit)
    return found


def published_version(clone: Clone, tag: str, revision: str = "HEAD") -> Version | None:
    """Read a version where a clone of the whole history published it; None where it did not."""
    commit = published(clone, revision).get(tag)
    return version_of(clone, tag, commit) if commit else None


def version_in(clone: Clone, tag: str) -> Version:
    """Read a version of a registry; raises InputError where it has none of that tag.

    What a signed registry published its history tells; of another one the tag is asked, which it keeps from being moved.
    """
    if clone.signers:
        version = published_version(clone, tag)
        if version is None:
            raise InputError(f"registry {clone.url} has no version {tag}; list them with make versions")
        return version
    read_or_raise(clone, tag, "fetch", "--quiet", "--depth", "1", "--no-tags", "--", clone.url, f"refs/tags/{tag}")
    return version_of(clone, tag, git_text(clone, "rev-parse", "FETCH_HEAD^{commit}"))
