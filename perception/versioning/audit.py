"""The history of decisions, each with who signed it; of a registry without signers, whether it still is as it was written."""

from collections.abc import Sequence
from dataclasses import dataclass

from perception.versioning.processes import Clone
from perception.versioning.recorded import (
    CHAMPION,
    DECISIONS,
    MOVES,
    REFERENCE,
    Decision,
    champion_at,
    recorded_decisions,
    reference_at,
)
from perception.versioning.records import current_at
from perception.versioning.signers import Signer
from perception.versioning.verified import Commit, changed_decision, verified_clone, walk


@dataclass(frozen=True, kw_only=True)
class AuditedDecision:
    """A decision with the commit that wrote it down."""

    decision: Decision
    commit: str
    signer: Signer | None  # who signed that commit; None: nobody on a list


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A registry's history: its commits and decisions, oldest first, and what does not hold together."""

    signed: bool  # whether the registry has a list of allowed signers
    commits: tuple[Commit, ...]
    decisions: tuple[AuditedDecision, ...]
    problems: tuple[str, ...]  # of a registry without signers: a signed one whose history does not hold is not opened


def audit(registry: str) -> Audit:
    """Walk the whole history of a registry and check every decision in it.

    A decision is sound when its file was added once and never touched again, and current.json, champion.json and
    reference.json are what the last decision about them left. Raises InputError for a signed registry whose history does not hold.
    """
    with verified_clone(registry, whole=True) as clone:
        _, signers, commits = walk(clone)
        decided = recorded_decisions(clone, "HEAD")
        added = {path: commit for commit in commits for path, status in commit.changes.items() if status == "A"}
        problems = [] if signers else [*_edits(clone, commits), *_pointers(clone, list(decided.values()))]
    entries = [
        AuditedDecision(decision=decision, commit=added[path].sha, signer=added[path].signer)
        for path, decision in decided.items()
    ]
    return Audit(signed=signers is not None, commits=tuple(commits), decisions=tuple(entries), problems=tuple(problems))


def _edits(clone: Clone, commits: Sequence[Commit]) -> list[str]:
    changed = [
        f"commit {commit.sha[:12]} {said}"
        for commit in commits
        for path, status in commit.changes.items()
        if path.startswith(f"{DECISIONS}/") and status != "A" and (said := changed_decision(clone, commit, path))
    ]
    joined = any(len(each.parents) > 1 for each in commits)
    return changed + (["the history is not linear"] if joined else [])


def _pointers(clone: Clone, history: Sequence[Decision]) -> list[str]:
    problems = []
    moves = [each for each in history if each.action in MOVES]
    current = current_at(clone)
    found = (current.tag, current.manifest_sha256, current.decided_utc) if current else (None,) * 3
    expected = (moves[-1].tag, moves[-1].manifest_sha256, moves[-1].decided_utc) if moves else (None,) * 3
    if found != expected:
        problems.append(f"current.json names {found[0]}, the last decision {expected[0]}: it was moved by hand")
    for pointer, network, decided in (
        (CHAMPION, champion_at(clone), [each.model_sha256 for each in history]),
        (REFERENCE, reference_at(clone), [each.reference_sha256 for each in history]),
    ):
        named, last = network.model_sha256 if network else None, next(filter(None, reversed(decided)), None)
        if named != last:
            problems.append(f"{pointer} names {named}, which no decision released last")
    return problems
