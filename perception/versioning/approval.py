"""When a version may be released without a person: every rule must hold, and a changed test set never passes."""

from collections.abc import Mapping
from typing import Any

from perception.versioning.decisions import Decision, promote
from perception.versioning.settings import ApprovalRules

RULES_NAME = "automatic rules"  # signs in place of a person; never the name of whoever publishes


def objections(facts: Mapping[str, Any], rules: ApprovalRules) -> list[str]:
    """Say why a person must look at a version; empty when every rule holds.

    facts: as review_facts gives them.
    """
    counts, leakage, evidence = facts["changes"]["counts"], facts["leakage"], facts["evidence"]
    if facts["base"] is None:
        return ["the first version is always looked at"]
    if evidence is None:
        return ["its night recorded nothing about it"]
    changed = counts["relabelled"] + counts["moved"] + counts["changed_image"]
    broken = [each for gate in evidence["gates"] or [] for each in gate["failed"] if each["severity"] != "info"]
    verdict = ((evidence.get("evaluation") or {}).get("promotion") or {}).get("decision")
    worse = (facts["model"] or {}).get("worse") or []
    found = [
        (facts["approval"]["test_set_changed"], "the test set changed: two people must agree"),
        (facts["approval"]["state"] == "rejected", "somebody rejected it"),
        (counts["removed"] > rules.max_removed_frames, f"{counts['removed']} frames removed"),
        (changed > rules.max_changed_frames, f"{changed} frames changed"),
        (counts["added"] > rules.max_added_share * counts["base"], f"{counts['added']} frames added"),
        (len(broken) > rules.max_gate_warnings, f"{len(broken)} rules of gates broken"),
        (not evidence["gates"], "no gate judged it"),
        (leakage["drives_total"] + leakage["pairs_total"] + leakage["equal_images"] > 0, "training and test overlap"),
        (verdict != "promote", f"the night's verdict on its network is {verdict or 'missing'}"),
        (bool(worse), f"the network is worse in {', '.join(worse[:3])}"),
    ]
    return [words for holds, words in found if holds]


def approve_automatically(registry: str, facts: Mapping[str, Any], rules: ApprovalRules) -> Decision | None:
    """Release a version whose review raises no objection, with its network; None where a person must look.

    The promotion is bound to the reviewed manifest and to the base that it was compared with.
    """
    if objections(facts, rules):
        return None
    head = facts["head"]
    return promote(
        registry,
        head["tag"],
        manifest_sha256=head["manifest_sha256"],
        names=[RULES_NAME],
        reason=f"no objection within {rules}",
        base=facts["base"]["tag"],
        release=True,
    )
