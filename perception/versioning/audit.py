"""Check that the history of decisions is what was signed off: nothing changed afterwards, pointers as decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perception.versioning.decisions import DECISIONS, MOVES, Decision, recorded_decisions
from perception.versioning.models import CHAMPION, REFERENCE, champion_at, reference_at
from perception.versioning.processes import Clone, git_text, read_json, shallow_clone
from perception.versioning.records import current_at

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
    same manifest, and current.json, champion.json and reference.json are what the last decision about them left.
    """
    with shallow_clone(registry, depth=None) as clone:
        found, problems = [], []
        for path, decision in recorded_decisions(clone, "HEAD").items():
            commits = git_text(clone, "log", "--format=%H", "HEAD", "--", path).splitlines()
            commit = commits[-1]
            written = _said(clone, path, commit)
            problems += [
                f"{path} was changed by commit {later[:12]} after it was written"
                for later in commits[:-1]
                if _said(clone, path, later) != written
            ]
            problems += _contradictions(clone, decision, commit, path)
            found.append(AuditedDecision(decision=decision, commit=commit, signature=_signature(clone, commit)))
        removed = git_text(clone, "log", "--format=%h", "--diff-filter=D", "HEAD", "--", f"{DECISIONS}/").split()
        problems += [f"commit {commit} removed a decision" for commit in removed]
        if git_text(clone, "rev-list", "--min-parents=2", "HEAD"):
            problems.append("the history is not linear")
        problems += _pointers(clone, [entry.decision for entry in found])
        problems += [f"commit {e.commit[:12]}: {e.signature}" for e in found if e.signature.startswith("BAD")]
    return Audit(decisions=tuple(found), problems=tuple(problems))


def _said(clone: Clone, path: str, commit: str) -> dict[str, Any] | None:
    """Read what a decision says at a commit, but for the number of its format, which a migration adds."""
    record = read_json(clone, path, commit)
    return None if record is None else {name: value for name, value in record.items() if name != "format"}


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
