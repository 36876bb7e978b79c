"""Check that the history of decisions is what was signed off: nothing changed afterwards, pointers as decided."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from perception.versioning.decisions import CURRENT, Decision, decision_paths, decisions_at
from perception.versioning.models import CHAMPION
from perception.versioning.processes import Clone, git_text, read_json, shallow_clone

SIGNATURES = {
    "G": "signed", "U": "signed, key not in the list of trusted ones", "B": "BAD SIGNATURE", "E": "signed, not checkable here",
    "X": "signed, signature expired", "Y": "signed, key expired", "R": "signed, key revoked", "N": "not signed",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AuditedDecision:
    """A decision with the commit that wrote it down."""

    decision: Decision
    commit: str
    signature: str  # one of SIGNATURES, with who signed


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All decisions, oldest first, and what does not hold together."""

    decisions: tuple[AuditedDecision, ...]
    problems: tuple[str, ...]


def audit(registry: str) -> Audit:
    """Walk the whole history of a registry and check every decision in it.

    A decision is sound when its file was added once and never touched again, its commit says the same people and the
    same manifest, and current.json and champion.json are what the last decision about them left.
    """
    with shallow_clone(registry, depth=None) as clone:
        found, problems = [], []
        for decision, path in zip(decisions_at(clone, "HEAD"), decision_paths(clone, "HEAD"), strict=True):
            commits = git_text(clone, "log", "--format=%H", "HEAD", "--", path).splitlines()
            commit = commits[-1]
            if len(commits) > 1:
                problems.append(f"{path} was changed by commit {commits[0][:12]} after it was written")
            problems += _contradictions(clone, decision, commit, path)
            found.append(AuditedDecision(decision=decision, commit=commit, signature=_signature(clone, commit)))
        removed = git_text(clone, "log", "--format=%h", "--diff-filter=D", "HEAD", "--", "decisions/").split()
        problems += [f"commit {commit} removed a decision" for commit in removed]
        if git_text(clone, "rev-list", "--min-parents=2", "HEAD"):
            problems.append("the history is not linear")
        problems += _pointers(clone, [entry.decision for entry in found])
        problems += [f"commit {e.commit[:12]}: {e.signature}" for e in found if e.signature.startswith("BAD")]
    return Audit(decisions=tuple(found), problems=tuple(problems))


def _contradictions(clone: Clone, decision: Decision, commit: str, path: str) -> list[str]:
    """Compare a decision's file with the trailers of the commit that added it."""
    said = git_text(clone, "log", "-1", "--format=%(trailers)", commit)
    wanted = {
        "Decision": decision.action,
        "Decided-By": ", ".join(decision.names),
        "Manifest-Sha256": decision.manifest_sha256,
    }
    return [
        f"{path} and its commit {commit[:12]} disagree about {name}"
        for name, value in wanted.items()
        if f"{name}: {value}" not in said.splitlines()
    ]


def _signature(clone: Clone, commit: str) -> str:
    kind, _, who = git_text(clone, "log", "-1", "--format=%G?|%GS", commit).partition("|")
    return SIGNATURES.get(kind, kind) + (f" by {who}" if who else "")


def _pointers(clone: Clone, history: Sequence[Decision]) -> list[str]:
    problems = []
    moves = [each for each in history if each.action in ("promote", "rollback")]
    current = read_json(clone, CURRENT) or {}
    expected = (moves[-1].tag, moves[-1].manifest_sha256, moves[-1].decided_utc) if moves else (None,) * 3
    if (current.get("tag"), current.get("manifest_sha256"), current.get("decided_utc")) != expected:
        problems.append(
            f"current.json names {current.get('tag')}, the last decision {expected[0]}: it was moved by hand"
        )
    released = [each.model_sha256 for each in history if each.model_sha256]
    champion = read_json(clone, CHAMPION) or {}
    if champion.get("model_sha256") != (released[-1] if released else None):
        problems.append(
            f"champion.json names {json.dumps(champion.get('model_sha256'))}, which no decision released last"
        )
    return problems
