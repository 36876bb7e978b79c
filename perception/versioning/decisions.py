"""Decisions of people on data versions and their networks: promote, roll back, reject; each is a commit with a name.

A decision is bound to the hash of the manifest that the person looked at.  It moves a small pointer (current.json,
champion.json) and adds one file under decisions/, in one commit; the versions themselves never change, so rolling back
runs nothing again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perception.errors import InputError
from perception.versioning.models import CHAMPION, proposal_at, resolved, stored_model_at
from perception.versioning.processes import Clone, paths_in, read_json, shallow_clone
from perception.versioning.records import Version, json_bytes
from perception.versioning.repository import push_commit, trailers

CURRENT = "current.json"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What somebody decided about a version."""

    action: str  # promote, rollback or reject
    tag: str  # data version it is about
    manifest_sha256: str  # identity of that version, as the person saw it
    names: tuple[str, ...]  # who decided
    reason: str  # why
    previous: str | None  # tag that was current before
    decided_utc: str  # when, ISO 8601
    model_sha256: str | None = None  # network that is the champion since; None: the decision left it alone


def promote(
    registry: str | Path,
    revision: str,
    *,
    manifest_sha256: str,
    names: Sequence[str],
    reason: str,
    base: str | None = None,
    release: bool = False,
) -> Decision | None:
    """Make a version the current one; None when it is already.

    manifest_sha256: hash, or its first 8 or more digits, of the manifest that was reviewed.  base: tag that the review
    compared with; when given it must still be current.  A version whose test set differs from the current one's needs
    two different names, because every figure measured on the test set changes its meaning.  release: the network that
    was proposed with the version becomes the champion in the same commit.
    Raises InputError when a rule is broken; nothing changes then.
    """
    version, people, why = _reviewed(registry, revision, manifest_sha256), _people(names), _reason(reason)
    if version.published_by.casefold() in {person.casefold() for person in people}:
        raise InputError(
            f"{version.published_by} published {version.tag} and cannot approve it too; name somebody else"
        )

    def decide(clone: Clone, head: str) -> Decision | None:
        current = read_json(clone, CURRENT, head)
        previous = current["tag"] if current else None
        if previous == version.tag:
            return None
        if base is not None and base != previous:
            raise InputError(f"the review compared with {base}, but {previous} is current now; review again")
        for old in decisions_at(clone, head):
            if (old.action, old.tag) == ("reject", version.tag):
                raise InputError(
                    f"{version.tag} was rejected by {old.names[0]} ({old.reason}); publish another version"
                )
        if current and current["test_set_sha256"] != version.test_set_sha256 and len(people) < 2:
            raise InputError(f"{version.tag} changes the test set of {previous}; name two people who agree")
        decision = _decision("promote", version, people, why, previous)
        if not release:
            return decision
        proposal = proposal_at(clone, version.tag, head)
        if proposal is None or proposal.model_sha256 is None:
            raise InputError(f"no network was proposed with {version.tag}; promote it without one (MODEL=keep)")
        return replace(decision, model_sha256=proposal.model_sha256)

    return _decide(registry, version, decide)


def rollback(registry: str | Path, *, name: str, reason: str, revision: str | None = None) -> Decision:
    """Make a version current again that was current before: the one before the current one, or the one that is named.

    The network that was the champion beside it is so again; where there was none, the champion stays.  Nothing is
    computed again and nothing is removed.  Raises InputError when there is none, or the named version never was
    current.
    """
    people, why = _people([name]), _reason(reason)
    with shallow_clone(registry) as clone:
        history, current = decisions_at(clone, "HEAD"), read_json(clone, CURRENT)
    if current is None:
        raise InputError(f"registry {registry} has no current version; promote one instead")
    wanted = revision or _before(history, current["tag"])
    if wanted is None:
        raise InputError(f"{current['tag']} is the first version that was current; there is nothing to roll back to")
    version = resolved(registry, wanted)
    if version.tag == current["tag"]:
        raise InputError(f"{version.tag} is current already")
    if version.tag not in {old.tag for old in history if old.action in ("promote", "rollback")}:
        raise InputError(f"{version.tag} never was current; review and promote it instead")

    def decide(clone: Clone, head: str) -> Decision:
        if (found := read_json(clone, CURRENT, head)) != current:
            raise InputError(f"{found['tag'] if found else None} became current meanwhile; look again")
        before = champions_beside(decisions_at(clone, head)).get(version.tag)
        return replace(_decision("rollback", version, people, why, current["tag"]), model_sha256=before)

    done = _decide(registry, version, decide)
    assert done is not None
    return done


def reject(registry: str | Path, revision: str, *, manifest_sha256: str, name: str, reason: str) -> Decision:
    """Record that a version must not become current.  Raises InputError when it is current: roll back first."""
    version, people, why = _reviewed(registry, revision, manifest_sha256), _people([name]), _reason(reason)

    def decide(clone: Clone, head: str) -> Decision:
        current = read_json(clone, CURRENT, head)
        if current and current["tag"] == version.tag:
            raise InputError(f"{version.tag} is current; roll back first, then reject it")
        return _decision("reject", version, people, why, current["tag"] if current else None)

    done = _decide(registry, version, decide)
    assert done is not None
    return done


# --- recording


def _reviewed(registry: str | Path, revision: str, manifest_sha256: str) -> Version:
    if not re.fullmatch("[0-9a-f]{8,64}", manifest_sha256):
        raise InputError(
            f"manifest hash {manifest_sha256!r} must be at least its first 8 hex digits; copy it from the review"
        )
    version = resolved(registry, revision)
    if not version.manifest_sha256.startswith(manifest_sha256):
        raise InputError(
            f"{version.tag} has manifest {version.manifest_sha256[:16]}; {manifest_sha256[:16]} was reviewed"
        )
    return version


def _people(names: Sequence[str]) -> tuple[str, ...]:
    people = tuple(dict.fromkeys(" ".join(name.split()) for name in names))
    if not people or not all(people) or any(not name.isprintable() for name in people):
        raise InputError(f"names {list(names)} must say who decides; give at least one full name")
    if len({name.casefold() for name in people}) < len(people):
        raise InputError(f"names {list(names)} hold one person twice; name different people")
    return people


def _reason(reason: str) -> str:
    text = " ".join(reason.split())
    if len(text) < 3:
        raise InputError(f"reason {reason!r} must say why, for those who read the history later")
    return text


def _decision(action: str, version: Version, names: tuple[str, ...], reason: str, previous: str | None) -> Decision:
    return Decision(
        action=action,
        tag=version.tag,
        manifest_sha256=version.manifest_sha256,
        names=names,
        reason=reason,
        previous=previous,
        decided_utc=datetime.now(UTC).isoformat(timespec="microseconds"),
    )


def _decision_file(decision: Decision) -> dict[str, bytes]:
    moment = re.sub(r"[^0-9T]", "", decision.decided_utc.removesuffix("+00:00"))
    return {f"decisions/{moment}-{decision.action}-{decision.manifest_sha256[:8]}.json": json_bytes(asdict(decision))}


def _message(decision: Decision) -> str:
    return trailers(
        f"{decision.action.capitalize()} {decision.tag}",
        decision.reason,
        decision=decision.action,
        decided_by=", ".join(decision.names),
        manifest_sha256=decision.manifest_sha256,
        previous=decision.previous,
        model_sha256=decision.model_sha256,
    )


def _decide(registry: str | Path, version: Version, decide: Callable[[Clone, str], Decision | None]) -> Decision | None:
    """Commit a decision; its rules are judged again whenever another writer came first."""
    decided: list[Decision] = []
    with shallow_clone(registry) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            decision = decide(clone, head)
            if decision is None:
                return None
            decision = _dated_last(clone, head, decision)
            decided[:] = [decision]
            files: dict[str, bytes | None] = dict(_decision_file(decision))
            if decision.action in ("promote", "rollback"):
                files[CURRENT] = json_bytes(_pointer(version, decision))
                if decision.model_sha256:
                    model = stored_model_at(clone, decision.model_sha256, head)
                    files[CHAMPION] = json_bytes(asdict(model) | {"names": decision.names, "reason": decision.reason})
            return files, _message(decision)

        return decided[0] if push_commit(clone, changes) else None


def _dated_last(clone: Clone, head: str, decision: Decision) -> Decision:
    """Date a decision after the ones before it, even where this machine's clock lies behind theirs.

    Decisions are kept in the order of their times; one that was dated before its predecessor would count as undone.
    """
    if not decision_paths(clone, head):
        return decision
    last = datetime.fromisoformat(decisions_at(clone, head)[-1].decided_utc)
    if datetime.fromisoformat(decision.decided_utc) > last:
        return decision
    return replace(decision, decided_utc=(last + timedelta(microseconds=1)).isoformat(timespec="microseconds"))


def _pointer(version: Version, decision: Decision) -> dict[str, Any]:
    named = {name: getattr(version, name) for name in ("tag", "commit", "manifest_sha256", "test_set_sha256")}
    return named | {"decided_by": decision.names, "decided_utc": decision.decided_utc, "reason": decision.reason}


def champions_beside(history: Sequence[Decision]) -> dict[str, str]:
    """Give the network that was the champion when each version was current last: {tag: model_sha256}."""
    found: dict[str, str] = {}
    current: str | None = None
    released: str | None = None
    for decision in history:
        if decision.action in ("promote", "rollback"):
            current = decision.tag
        released = decision.model_sha256 or released
        if current and released:
            found[current] = released
    return found


def decision_paths(clone: Clone, commit: str) -> list[str]:
    """List the files of all decisions at a commit of the clone, oldest first."""
    return paths_in(clone, "decisions", commit)


def decisions_at(clone: Clone, commit: str) -> list[Decision]:
    """List all decisions at a commit of the clone, oldest first."""
    found = [read_json(clone, path, commit) for path in decision_paths(clone, commit)]
    return [Decision(**record | {"names": tuple(record["names"])}) for record in found if record]


def _before(history: Sequence[Decision], tag: str) -> str | None:
    """Give the tag that was current before `tag` was last promoted."""
    promoted = [old for old in history if (old.action, old.tag) == ("promote", tag)]
    return promoted[-1].previous if promoted else None
