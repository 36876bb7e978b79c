"""Decisions on data versions and their networks: promote, release, roll back, reject, set the reference; each a commit with a name.

People decide, or a policy that they wrote.  A decision is bound to the hash of the manifest that was looked at.  It moves a
small pointer (current.json, champion.json, reference.json) and adds one file under decisions/, in one commit; the versions themselves never
change, so rolling back runs nothing again.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perception.errors import InputError
from perception.versioning.models import judged_against_another, resolved
from perception.versioning.processes import Clone
from perception.versioning.recorded import (
    CHAMPION,
    MOVES,
    REFERENCE,
    Champion,
    Decision,
    Proposal,
    champion_at,
    decisions_at,
    keeps_model,
    pointer,
    proposal_at,
    reference_at,
    released,
    stored_model_at,
)
from perception.versioning.records import CURRENT, Current, Version, current_at, json_bytes
from perception.versioning.repository import push_commit, trailers
from perception.versioning.verified import changes_tests, verified_clone

PROPOSED = "proposed"  # where a version stands that waits for a decision


class Stale(InputError):
    """Report that another version or network was released since this one was built or judged."""


def standing(tag: str, current: str | None, decisions: Sequence[Decision]) -> str:
    """Return where a version stands: current, was current, rejected, or proposed where nobody has decided about it.

    current: tag of the current one. decisions: all, oldest first.
    """
    if tag == current:
        return "current"
    stands = {"promote": "was current", "rollback": "was current", "reject": "rejected"}
    actions = [each.action for each in decisions if each.tag == tag and each.action in stands]
    return stands[actions[-1]] if actions else PROPOSED


def promote(
    registry: str | Path,
    revision: str,
    *,
    manifest_sha256: str,
    names: Sequence[str],
    reason: str,
    data: bool = True,
    release: bool = False,
    proposal_sha256: str = "",
    policy: str | None = None,
) -> Decision | None:
    """Make a version the current one, its network the champion, or both in one commit; None when that is so already.

    manifest_sha256: hash, or its first 8 or more digits, of the manifest that was reviewed.  A version whose test set differs
    from the current one's needs two different names, because every figure measured on the test set changes its meaning; where the
    registry is signed the first of them approves, and the second one's call promotes.
    data: the version becomes current.  release: the network that was proposed with it becomes the champion.  proposal_sha256: likewise
    of the proposal that was reviewed; empty: the one that there is.  policy: text of the policy that decides.
    Raises Stale for a version that was not built on what is current, and a network that was judged against another champion;
    InputError when another rule is broken; nothing changes then.
    """
    version, people, why = _reviewed(registry, revision, manifest_sha256), _people(names), _reason(reason)
    _check_other_than_publisher(version, people)

    def decide(clone: Clone, head: str) -> Decision | None:
        current, champion = current_at(clone, head), champion_at(clone, head)
        moves = data and (current is None or current.tag != version.tag)
        _check_not_rejected(clone, head, version)
        if moves:
            _check_base(version, current)
        proposal = _proposed_network(clone, head, version, proposal_sha256) if release else None
        network = proposal.model_sha256 if proposal else None
        if not moves and (network is None or (champion and champion.model_sha256 == network)):
            return None
        agreed = _agreed(clone, head, version, people)
        decision = _decision("promote" if moves else "release", version, agreed, why, current.tag if current else None)
        if moves and changes_tests(current, version) and len(agreed) < 2:
            if not clone.signers:
                raise InputError(
                    f"{version.tag} changes the test set of {decision.previous}; name two people who agree"
                )
            return replace(decision, action="approve")
        digest = hashlib.sha256(policy.encode()).hexdigest() if policy else None
        return replace(
            decision,
            model_sha256=network,
            proposal_sha256=proposal.sha256 if proposal else None,
            policy=policy,
            policy_sha256=digest,
        )

    return _decide(registry, version, people[0], decide)


def _agreed(clone: Clone, head: str, version: Version, people: tuple[str, ...]) -> tuple[str, ...]:
    """Return who has agreed to a version: the people of this call, where the registry is signed after those who approved before."""
    if not clone.signers:
        return people
    if len(people) > 1:
        raise InputError(
            f"names {list(people)}: in a signed registry each decides with a key of his own; let each call this"
        )
    earlier = [
        old.names[0]
        for old in decisions_at(clone, head)
        if (old.action, old.tag, old.manifest_sha256) == ("approve", version.tag, version.manifest_sha256)
    ]
    return (*(name for name in dict.fromkeys(earlier) if name not in people), *people)


def _check_other_than_publisher(version: Version, people: Sequence[str]) -> None:
    if version.published_by.casefold() in {person.casefold() for person in people}:
        raise InputError(
            f"{version.published_by} published {version.tag} and cannot approve it too; name somebody else"
        )


def _check_not_rejected(clone: Clone, head: str, version: Version) -> None:
    for old in decisions_at(clone, head):
        if (old.action, old.tag) == ("reject", version.tag):
            raise InputError(f"{version.tag} was rejected by {old.names[0]} ({old.reason}); publish another version")


def _check_base(version: Version, current: Current | None) -> None:
    """Raise Stale for a version that would drop what was released since its night began."""
    if version.parent != (current.tag if current else None):
        remedy = (
            f"put its new frames onto it: make rebase VERSION={version.tag}" if current else "promote that one first"
        )
        raise Stale(
            f"{version.tag} was built on {version.parent or 'no version'}, but {current.tag if current else 'none'} is current: "
            f"what was released meanwhile would be lost; {remedy}"
        )


def _proposed_network(clone: Clone, head: str, version: Version, reviewed: str) -> Proposal:
    """Return the proposal whose network is to be released."""
    proposal, champion, reference = (
        proposal_at(clone, version.tag, head),
        champion_at(clone, head),
        reference_at(clone, head),
    )
    if proposal is None or proposal.model_sha256 is None:
        raise InputError(f"no network was proposed with {version.tag}; promote it without one (MODEL=keep)")
    if not proposal.sha256.startswith(reviewed):
        raise InputError(
            f"{version.tag} has proposal {proposal.sha256[:16]}; {reviewed[:16]} was reviewed: look at it again (make review)"
        )
    if another := judged_against_another(proposal, champion, reference):
        today = champion if another == "champion" else reference
        raise Stale(
            f"the network of {version.tag} was judged against another {another} than the one of today "
            f"({today.model_sha256[:16] if today else 'none'}); promote the data alone (MODEL=keep), the next night "
            "judges anew"
        )
    return proposal


def rollback(registry: str | Path, *, name: str, reason: str, revision: str | None = None) -> Decision:
    """Take the last release back, or make the named version current again that was current before.

    The network that was the champion beside it is so again; where there was none, the champion stays.  A network that was
    released alone is taken back alone.  Nothing is computed again and nothing is removed.  Raises InputError when there is
    nothing to go back to, or the named version never was current.
    """
    people, why = _people([name]), _reason(reason)
    with verified_clone(registry) as clone:
        history, current = decisions_at(clone, "HEAD"), current_at(clone)
    if current is None:
        raise InputError(f"registry {registry} has no current version; promote one instead")
    alone = not revision and [old.action for old in history if old.action in (*MOVES, "release")][-1] == "release"
    wanted = current.tag if alone else revision or _before(history, current.tag)
    if wanted is None:
        raise InputError(f"{current.tag} is the first version that was current; there is nothing to roll back to")
    version = resolved(registry, wanted)
    if version.tag == current.tag and not alone:
        raise InputError(f"{version.tag} is current already")
    if version.tag not in {old.tag for old in history if old.action in MOVES}:
        raise InputError(f"{version.tag} never was current; review and promote it instead")

    def decide(clone: Clone, head: str) -> Decision:
        if (found := current_at(clone, head)) != current:
            raise InputError(f"{found.tag if found else None} became current meanwhile; look again")
        since = decisions_at(clone, head)
        before = _network_before(since) if alone else champions_beside(since).get(version.tag)
        return replace(_decision("rollback", version, people, why, current.tag), model_sha256=before)

    done = _decide(registry, version, people[0], decide)
    assert done is not None
    return done


def decide_network(registry: str | Path, model_sha256: str, *, names: Sequence[str], reason: str) -> Decision | None:
    """Make a network that the registry keeps the champion, its data version left alone; None where it is so already."""
    people, why = _people(names), _reason(reason)
    with verified_clone(registry) as clone:
        version = resolved(registry, stored_model_at(clone, model_sha256).tag)

    def decide(clone: Clone, head: str) -> Decision | None:
        champion, current = champion_at(clone, head), current_at(clone, head)
        if champion and champion.model_sha256 == model_sha256:
            return None
        decision = _decision("release", version, people, why, current.tag if current else None)
        proposal = proposal_at(clone, version.tag, head)
        return replace(decision, model_sha256=model_sha256, proposal_sha256=proposal.sha256 if proposal else None)

    return _decide(registry, version, people[0], decide)


def _network_before(history: Sequence[Decision]) -> str:
    released = [old.model_sha256 for old in history if old.model_sha256]
    if len(released) < 2:
        raise InputError("the released network is the first one; there is none to roll back to")
    return released[-2]


def reject(registry: str | Path, revision: str, *, manifest_sha256: str, name: str, reason: str) -> Decision:
    """Record that a version must not become current.  Raises InputError when it is current: roll back first."""
    version, people, why = _reviewed(registry, revision, manifest_sha256), _people([name]), _reason(reason)

    def decide(clone: Clone, head: str) -> Decision:
        current = current_at(clone, head)
        if current and current.tag == version.tag:
            raise InputError(f"{version.tag} is current; roll back first, then reject it")
        return _decision("reject", version, people, why, current.tag if current else None)

    done = _decide(registry, version, people[0], decide)
    assert done is not None
    return done


def set_reference(
    registry: str | Path, *, names: Sequence[str], reason: str, revision: str | None = None
) -> Decision | None:
    """Make a network that was released the reference release, which losses over the months are counted from; None when it is so already.

    revision: a version, for the network that was proposed with it; None: the champion. No policy decides this. Raises InputError
    where there is no such network, it never was the champion, or the version's publisher is named.
    """
    people, why = _people(names), _reason(reason)
    with verified_clone(registry) as clone:
        champion = champion_at(clone)
    if champion is None:
        raise InputError(f"registry {registry} has no champion yet; promote a version with its network first")
    version = resolved(registry, revision or champion.tag)
    _check_other_than_publisher(version, people)

    def decide(clone: Clone, head: str) -> Decision | None:
        proposal = proposal_at(clone, version.tag, head)
        network = proposal.model_sha256 if revision and proposal else champion.model_sha256
        if network not in {old.model_sha256 for old in decisions_at(clone, head)} - {None}:
            raise InputError(f"the network of {version.tag} never was the champion; promote it with its network first")
        reference, current = reference_at(clone, head), current_at(clone, head)
        if reference and reference.model_sha256 == network:
            return None
        decision = _decision("reference", version, people, why, current.tag if current else None)
        return replace(decision, reference_sha256=network)

    return _decide(registry, version, people[0], decide)


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
    if not people or any(not name.isprintable() or not re.search(r"\w", name) for name in people):
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


def _message(decision: Decision) -> str:
    return trailers(
        f"{decision.action.capitalize()} {decision.tag}",
        decision.reason,
        decision=decision.action,
        decided_by=", ".join(decision.names),
        manifest_sha256=decision.manifest_sha256,
        previous=decision.previous,
        model_sha256=decision.model_sha256,
        reference_sha256=decision.reference_sha256,
        policy_sha256=decision.policy_sha256,
    )


def _decide(
    registry: str | Path, version: Version, author: str, decide: Callable[[Clone, str], Decision | None]
) -> Decision | None:
    """Commit a decision under its author's name; its rules are judged again whenever another writer came first."""
    decided: list[Decision] = []
    with verified_clone(registry) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            decision = decide(clone, head)
            if decision is None:
                return None
            decision = _dated_last(clone, head, decision)
            decided[:] = [decision]
            files: dict[str, bytes | None] = {decision.path: json_bytes(asdict(decision))}
            if decision.action in MOVES:
                files[CURRENT] = json_bytes(asdict(pointer(version, decision)))
            for path, network in ((CHAMPION, decision.model_sha256), (REFERENCE, decision.reference_sha256)):
                if network:
                    _check_kept(clone, network, head)
                    files[path] = json_bytes(asdict(released(stored_model_at(clone, network, head), decision)))
            return files, _message(decision)

        return decided[0] if push_commit(clone, changes, author=author) else None


def _check_kept(clone: Clone, network: str, head: str) -> None:
    """Raise InputError for a network whose files the registry keeps no more."""
    if not keeps_model(clone, network, head):
        raise InputError(
            f"network {network[:16]} was retired by an erasure; release another, or the data alone (MODEL=keep)"
        )


def _dated_last(clone: Clone, head: str, decision: Decision) -> Decision:
    """Date a decision after the ones before it, even where this machine's clock lies behind theirs.

    Decisions are kept in the order of their times; one that was dated before its predecessor would count as undone.
    """
    earlier = decisions_at(clone, head)
    if not earlier:
        return decision
    last = datetime.fromisoformat(earlier[-1].decided_utc)
    if datetime.fromisoformat(decision.decided_utc) > last:
        return decision
    return replace(decision, decided_utc=(last + timedelta(microseconds=1)).isoformat(timespec="microseconds"))


def released_for(clone: Clone, night: str) -> tuple[str | None, Champion | None]:
    """Return the version (None: none yet) and the network that are released, as a night that begins at a clone's head finds them.

    Where the policy has just released what this very night made, the night was stopped right after that and begins again: it finds what
    was released before.
    """
    history = decisions_at(clone, "HEAD")
    if not history or history[-1].policy is None or night not in _makers(clone, history[-1]):
        return "current" if current_at(clone) else None, champion_at(clone)
    last, earlier = history[-1], [each for each in history[:-1] if each.model_sha256]
    if not earlier:
        return last.previous, None
    return last.previous, released(stored_model_at(clone, str(earlier[-1].model_sha256)), earlier[-1])


def _makers(clone: Clone, decision: Decision) -> set[str]:
    """Give the nights that made what a decision released: its version, and its network, which may be a later one's."""
    model = decision.model_sha256 and stored_model_at(clone, decision.model_sha256)
    return {decision.tag.removeprefix("data/")[:-9], *([model.facts.get("run", "")] if model else [])}


def champions_beside(history: Sequence[Decision]) -> dict[str, str]:
    """Give the network that was the champion when each version was current last: {tag: model_sha256}."""
    found: dict[str, str] = {}
    current: str | None = None
    released: str | None = None
    for decision in history:
        if decision.action in MOVES:
            current = decision.tag
        released = decision.model_sha256 or released
        if current and released:
            found[current] = released
    return found


def _before(history: Sequence[Decision], tag: str) -> str | None:
    """Give the tag that was current before `tag` was last promoted."""
    promoted = [old for old in history if (old.action, old.tag) == ("promote", tag)]
    return promoted[-1].previous if promoted else None
