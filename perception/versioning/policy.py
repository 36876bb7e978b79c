"""Releases without a person, by a written policy: the data when the gates pass, the network when the verdict promotes it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from perception.versioning.decisions import promote
from perception.versioning.recorded import POLICY_NAME, Decision
from perception.versioning.settings import ReleasePolicy


def data_objections(facts: Mapping[str, Any]) -> list[str]:
    """Say why a person must look at a version's data; empty where the policy may release them.

    facts: as review_facts gives them.
    """
    removed = facts["changes"]["counts"]["removed"]
    return [
        *_gate_objections(facts),
        *(["the test set changed: two people must agree"] if facts["approval"]["test_set_changed"] else []),
        *(["somebody rejected it"] if facts["approval"]["state"] == "rejected" else []),
        *([f"{removed} frames removed"] if removed else []),
    ]


def network_objections(facts: Mapping[str, Any]) -> list[str]:
    """Say why a person must look at a version's network; empty where the policy may release it."""
    promotion = ((facts["evidence"] or {}).get("evaluation") or {}).get("promotion") or {}
    verdict = promotion.get("decision") or "missing"
    refused = (
        [] if verdict == "promote" else [f"the verdict is {verdict}: {promotion.get('reason', 'nothing was judged')}"]
    )
    return [*_gate_objections(facts), *refused]


def _gate_objections(facts: Mapping[str, Any]) -> list[str]:
    gates = (facts["evidence"] or {}).get("gates") or []
    return (
        [f"gate {gate['suite']} refused" for gate in gates if gate["decision"] == "refuse"]
        if gates
        else ["no gate judged it"]
    )


def release_by_policy(registry: str, facts: Mapping[str, Any], policy: ReleasePolicy) -> Decision | None:
    """Release what the policy allows of a reviewed version, with the policy's text in the decision; None where that is nothing.

    Raises Stale as promote does.
    """
    data = policy.data == "when_gates_pass" and not data_objections(facts)
    network = policy.network == "when_verdict_promotes" and not network_objections(facts)
    if not data and not network:
        return None
    text, head = json.dumps(asdict(policy), sort_keys=True), facts["head"]
    return promote(
        registry,
        head["tag"],
        manifest_sha256=head["manifest_sha256"],
        names=[POLICY_NAME],
        reason=f"no objection; the policy is {text}",
        data=data,
        release=network,
        policy=text,
    )


def told(facts: Mapping[str, Any], policy: ReleasePolicy) -> list[str]:
    """Say in a line each what the policy leaves to people, and why."""
    by_hand = ["by hand, as the policy says"]
    data = by_hand if policy.data == "by_hand" else data_objections(facts)
    network = by_hand if policy.network == "by_hand" else network_objections(facts)
    waits = {"data": data, "network": network}
    return [f"left to a person, the {what}: {'; '.join(why)}" for what, why in waits.items() if why]
