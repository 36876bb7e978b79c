"""What a person needs to know before a data version is released: facts of two versions side by side, as plain values.

Nothing here draws; perception/reporting/review_page.py makes the page, Markdown and JSON from these facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perception.quality.profile import near_duplicate_pairs
from perception.versioning.decisions import standing
from perception.versioning.diff import CONDITIONS, UNKNOWN, VersionDiff, diff_manifests
from perception.versioning.recorded import OF_NETWORKS, Champion, Decision, Proposal
from perception.versioning.records import Version
from perception.versioning.settings import ReviewSettings

Facts = dict[str, Any]
LISTED = 200  # ids that a list holds; beyond that it says how many there are
SHOWN_PAIRS, SHOWN_DRIVES = 50, 40
GROUPED_FRAMES = 20_000  # look-alikes inside the training part are counted up to here


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two versions; a review of a first version has no base."""

    version: Version | None
    frames: pd.DataFrame  # its manifest
    profile: pd.DataFrame  # frame_id and dhash of its frames; empty where the version did not keep it
    proposal: Proposal | None  # what its night measured


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What the registry knows beside the two versions."""

    decisions: Sequence[Decision]
    champion: Champion | None
    current: str | None  # tag
    signed: bool  # whether the registry has a list of signers, and all of this was checked against it
    versions: Sequence[Version]


def review_facts(base: Side, head: Side, history: History, settings: ReviewSettings) -> Facts:
    """Compare two versions; every value of the result is what JSON can hold."""
    diff = diff_manifests(base.frames, head.frames)
    facts: Facts = {
        "head": _version_facts(head),
        "base": _version_facts(base) if base.version else None,
        "changes": _changes(diff, base, head),
        "balance": _balance(diff_manifests(_training(base), _training(head)), settings)
        | {"tagged_frames": _tagged(head)},
        "leakage": _leakage(head, settings),
        "sources": _counts(head.frames, "label_source"),
        "evidence": _evidence(head),
        "model": _model_deltas(base, head),
        "decisions": [_decision_facts(each) for each in history.decisions],
        "lineage": _lineage(head, history),
        "cost": _cost(diff, head),
        "approval": _approval(base, head, history),
    }
    return facts | {"answers": _answers(facts)}


def _evidence(side: Side) -> Facts | None:
    """Give what the version's night recorded, with null for what it did not get to."""
    kinds = ("gates", "evaluation", "model", "selection", "labels", "cost", "lineage")
    return dict.fromkeys(kinds) | dict(side.proposal.evidence) if side.proposal else None


# ---------------------------------------------------------------- what changed


def _version_facts(side: Side) -> Facts:
    version = side.version
    if version is None:
        return {"tag": None, "frames": len(side.frames), "splits": _counts(side.frames, "split")}
    names = ("tag", "run", "commit", "manifest_sha256", "parent", "published_by", "frames", "test_set_sha256")
    return {name: getattr(version, name) for name in names} | {"splits": dict(version.splits)}


def _counts(frames: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(name): int(count) for name, count in sorted(frames[column].value_counts().items()) if count}


def _some(ids: Sequence[str]) -> Facts:
    return {"total": len(ids), "ids": list(ids[:LISTED])}


_KINDS = ("added", "removed", "relabelled", "changed_image", "changed_conditions")


def _changes(diff: VersionDiff, base: Side, head: Side) -> Facts:
    drives = diff.drives.reset_index()
    order = drives["delta"].abs().sort_values(ascending=False, kind="stable").index
    known = (set(base.frames["drive_id"]), set(head.frames["drive_id"]))
    return {
        "counts": diff.counts(),
        "splits": diff.splits.reset_index().to_dict("records"),
        **{kind: _some(getattr(diff, kind)) for kind in _KINDS},
        "moved": {"total": len(diff.moved), "rows": diff.moved.head(LISTED).to_dict("records")},
        "drives": {
            "base": diff.base_drives,
            "head": diff.head_drives,
            "new": len(known[1] - known[0]),
            "gone": sorted(known[0] - known[1])[:LISTED],
            "rows": drives.loc[order].head(SHOWN_DRIVES).to_dict("records"),
        },
    }


# ---------------------------------------------------------------- balance


def _training(side: Side) -> pd.DataFrame:
    """Give the frames that networks learn from: a class that only the test set shows is not taught."""
    return side.frames[side.frames["split"] == "train"]


def _tagged(side: Side) -> int:
    """Count the training frames of which an annotator said in what conditions they were taken."""
    frames = _training(side)
    return int(frames["tag_drop"].notna().sum()) if "tag_drop" in frames else 0


def _balance(diff: VersionDiff, settings: ReviewSettings) -> Facts:
    rows = []
    for name, row in diff.classes.iterrows():
        values = {str(key): None if pd.isna(value) else float(value) for key, value in row.items()}
        frames = {key: None if pd.isna(row[key]) else int(row[key]) for key in ("base_frames", "head_frames")}
        before, after = values["base_share"], values["head_share"]
        changed = before and after is not None and abs(after - before) > settings.share_change * before
        rows.append({"class": str(name), **values, **frames, "flagged": bool(changed)})
    conditions = [
        {"condition": f"{axis}={name}", **{key: int(value) for key, value in row.items()}}
        for axis in CONDITIONS
        for name, row in diff.conditions.groupby(level=axis).sum().iterrows()
    ]
    grid = _grid(diff)
    thin = [
        {"class": row["class"], "condition": cell["condition"], "frames": cell["head"]}
        for row in grid
        for cell in row["cells"]
        if cell["head"] < settings.least_frames and not cell["condition"].endswith(f"={UNKNOWN}")
    ]
    return {
        "classes": rows,
        "conditions": conditions,
        "grid": grid,
        "thin": sorted(thin, key=lambda cell: (cell["frames"], cell["class"], cell["condition"])),
        "least_frames": settings.least_frames,
    }


def _grid(diff: VersionDiff) -> list[Facts]:
    """Count the frames that show each class in each single condition."""
    table = diff.class_conditions
    rows: dict[str, list[Facts]] = {str(name): [] for name in table.index.unique("class")}
    for axis in CONDITIONS:
        for (name, value), row in table.groupby(level=["class", axis]).sum().iterrows():
            cell = {"condition": f"{axis}={value}", "base": int(row["base"]), "head": int(row["head"])}
            rows[str(name)].append(cell)
    return [{"class": name, "cells": cells} for name, cells in rows.items()]


# ---------------------------------------------------------------- leakage


def _leakage(head: Side, settings: ReviewSettings) -> Facts:
    frames = head.frames[["frame_id", "drive_id", "split", "image_sha256"]]
    sides = frames.assign(split=frames["split"].replace({"pool": "train"}))
    placed = sides.groupby(["drive_id", "split"]).size().unstack(fill_value=0)
    split = placed[(placed > 0).sum(axis=1) > 1]
    drives = [
        {"drive_id": str(name), "splits": {str(k): int(v) for k, v in row.items() if v}}
        for name, row in split.iterrows()
    ]
    equal = sides.groupby("image_sha256")["split"].nunique()
    return {
        "drives": drives[:LISTED],
        "drives_total": len(drives),
        "equal_images": int((equal > 1).sum()),
        **_near_duplicates(sides, head.profile, settings.near_bits),
    }


def _near_duplicates(frames: pd.DataFrame, profile: pd.DataFrame, near_bits: int) -> Facts:
    """Find images that look alike: pairs across splits, and groups inside the training part."""
    if "dhash" not in profile.columns or not len(frames):
        return {"hashed": 0, "near_bits": near_bits, "pairs": [], "pairs_total": 0, "groups": None}
    hashed = frames.merge(profile[["frame_id", "dhash"]].dropna(), on="frame_id").sort_values("frame_id")
    train, held = hashed[hashed["split"] == "train"], hashed[hashed["split"].isin(["val", "test"])]
    found = near_duplicate_pairs(train["dhash"].tolist(), held["dhash"].tolist(), near_bits)
    found = found[np.argsort(found[:, 2], kind="stable")]
    pairs = [
        {
            "train": str(train["frame_id"].iloc[a]),
            "held_out": str(held["frame_id"].iloc[b]),
            "split": str(held["split"].iloc[b]),
            "distance_bits": int(bits),
            "same_drive": bool(train["drive_id"].iloc[a] == held["drive_id"].iloc[b]),
        }
        for a, b, bits in found[:SHOWN_PAIRS]
    ]
    groups = None
    if len(train) <= GROUPED_FRAMES:  # whole drives look alike, so the pairs of a large version would not fit in memory
        groups = _groups(near_duplicate_pairs(train["dhash"].tolist(), train["dhash"].tolist(), near_bits), len(train))
    counted = {"hashed": len(hashed), "near_bits": near_bits, "pairs_total": len(found)}
    return counted | {"pairs": pairs, "groups": groups}


def _groups(pairs: Any, frames: int) -> Facts:
    """Join alike images to groups (connected parts) and count them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(frames, frames))
    sizes = np.bincount(connected_components(graph, directed=False)[1]) if frames else np.zeros(0, int)
    alike = sizes[sizes > 1]
    return {"groups": len(alike), "frames": int(alike.sum()), "largest": int(alike.max(initial=0))}


# ---------------------------------------------------------------- the network trained on it


def _model_deltas(base: Side, head: Side) -> Facts | None:
    """Compare the network trained on the head with the champion of that night or else the base's, worst condition first."""
    ours = _evaluation(head)
    if ours is None:
        return None
    against, theirs, reason = _reference(base, head)
    known = {"overall": theirs["miou"], **theirs["miou_by_condition"]} if theirs else {}
    counts = {"overall": ours["frames"], **ours["frames_by_condition"]}
    rows = []
    for name, after in [("overall", ours["miou"]), *sorted(ours["miou_by_condition"].items())]:
        before = known.get(name)
        delta = None if after is None or before is None else after - before
        row = {"name": name, "base": before, "head": after, "delta": delta, "frames": counts.get(name)}
        rows.append(row | _spread(ours, name))
    rows.sort(key=lambda row: (row["delta"] is None, row["delta"] if row["delta"] is not None else row["head"] or 0.0))
    classes = [
        {"name": name, "base": (theirs or {}).get("iou_by_class", {}).get(name), "head": value}
        for name, value in ours["iou_by_class"].items()
    ]
    judged = (ours.get("comparison") or {}).get("judgements", [])
    return {
        "against": against,
        "not_compared": reason,
        "conditions": rows,
        "classes": sorted(classes, key=lambda row: (row["head"] is None, row["head"] or 0.0)),
        "worse": [each["name"] for each in judged if each["outcome"] == "worse"],
        "promotion": ours.get("promotion"),
    }


def _evaluation(side: Side) -> Facts | None:
    return side.proposal.evidence.get("evaluation") if side.proposal else None


def _reference(base: Side, head: Side) -> tuple[str | None, Facts | None, str | None]:
    """Give what to compare with: its name, its evaluation, and why there is none."""
    ours = _evaluation(head) or {}
    compared = ours.get("comparison")
    if compared:
        champion = {
            "miou": ours.get("miou_champion"),
            "miou_by_condition": compared.get("champion_miou_by_condition") or {},
            "iou_by_class": compared.get("champion_iou_by_class") or {},
        }
        return "the champion, on the same test frames on the same night", champion, None
    theirs = _evaluation(base)
    if theirs is None:
        return None, None, "nothing was measured on the base version" if base.version else "this is the first version"
    assert base.version and head.version
    if base.version.test_set_sha256 != head.version.test_set_sha256:
        return None, None, "the test set changed, so the figures of the two nights do not compare"
    return f"the network of {base.version.tag}", theirs, None


def _spread(evaluation: Mapping[str, Any], name: str) -> Facts:
    """Give the interval of a figure's difference from the champion's, resampled over drives, where it was measured."""
    judged = {each["name"]: each for each in (evaluation.get("comparison") or {}).get("judgements", [])}
    found = judged.get(name, {})
    return {"low": found.get("lower"), "high": found.get("upper"), "outcome": found.get("outcome")}


# ---------------------------------------------------------------- people, lineage, cost


def _decision_facts(decision: Decision) -> Facts:
    facts: Facts = {name: getattr(decision, name) for name in ("action", "tag", "reason", "model_sha256")}
    return facts | {"names": list(decision.names), "decided_utc": decision.decided_utc[:16].replace("T", " ")}


def _approval(base: Side, head: Side, history: History) -> Facts:
    """Say where the version stands and what a promotion needs."""
    assert head.version
    about = [
        each
        for each in history.decisions
        if each.tag == head.version.tag and each.action not in (*OF_NETWORKS, "approve")
    ]
    last = about[-1] if about else None
    changed = bool(base.version) and base.version.test_set_sha256 != head.version.test_set_sha256  # type: ignore[union-attr]
    return {
        "state": standing(head.version.tag, history.current, history.decisions),
        "names": list(last.names) if last else [],
        "reason": last.reason if last else None,
        "decided_utc": last.decided_utc[:16].replace("T", " ") if last else None,
        "test_set_changed": changed,
        "names_needed": 2 if changed else 1,
        "signed": history.signed,
        "proposal_sha256": head.proposal.sha256 if head.proposal else None,
    }


def _lineage(head: Side, history: History) -> Facts:
    assert head.version
    chain: list[Facts] = []
    tags = {version.tag: version for version in history.versions}
    tag: str | None = head.version.tag
    while tag in tags and len(chain) < 12:
        version = tags[tag]
        chain.append({"tag": tag, "frames": version.frames, "new_bytes": version.new_bytes})
        tag = version.parent
    found = history.champion
    return {
        "chain": chain,
        "drives": int(head.frames["drive_id"].nunique()),
        "model_sha256": head.proposal.model_sha256 if head.proposal else None,
        "champion": {"model_sha256": found.model_sha256, "tag": found.tag, "names": list(found.names)}
        if found
        else None,
        "record": dict(head.proposal.evidence.get("lineage") or {}) if head.proposal else {},
        "publisher": dict(head.version.facts),
    }


def _cost(diff: VersionDiff, head: Side) -> Facts:
    assert head.version
    added = set(diff.added) | set(diff.relabelled)
    human = head.frames[head.frames["frame_id"].isin(added) & (head.frames["label_source"] == "human")]
    return {
        "new_bytes": head.version.new_bytes,
        "new_labels": len(human[human["split"] == "train"]),
        **(dict(head.proposal.evidence.get("cost") or {}) if head.proposal else {}),
    }


# ---------------------------------------------------------------- in words


def _answers(facts: Mapping[str, Any]) -> dict[str, str]:
    """Answer what a reviewer asks first, one sentence each."""
    return {
        "changed": _what_changed(facts),
        "leaking": _is_it_leaking(facts["leakage"]),
        "worse": _which_got_worse(facts),
        "chosen": _why_chosen(facts),
        "approved": _who_approved(facts),
    }


def _what_changed(facts: Mapping[str, Any]) -> str:
    counts = facts["changes"]["counts"]
    words = [
        f"{counts[key]} {key.replace('_', ' ')}"
        for key in ("added", "removed", "relabelled", "moved", "changed_image")
        if counts[key]
    ]
    if not facts["base"]:
        parts = " and ".join(f"{count} {split}" for split, count in facts["head"]["splits"].items() if count)
        return f"First version, all of it new: {counts['head']} frames, {parts}."
    return f"{counts['base']} frames before, {counts['head']} now: {', '.join(words) or 'nothing changed'}."


def _is_it_leaking(leakage: Mapping[str, Any]) -> str:
    found = []
    if leakage["drives_total"]:
        found.append(f"{leakage['drives_total']} drives lie in two splits ({leakage['drives'][0]['drive_id']} first)")
    if leakage["equal_images"]:
        found.append(f"{leakage['equal_images']} images occur in two splits, byte for byte")
    if leakage["pairs_total"]:
        found.append(f"{leakage['pairs_total']} training images look like a held-out one; the pairs are shown")
    if found:
        return "Yes, look: " + "; ".join(found) + "."
    if not leakage["hashed"]:
        return "No drive and no image is in two splits; whether images look alike was not measured."
    return f"No: no drive, no image and no look-alike (within {leakage['near_bits']} of 64 bits) is in two splits."


def _which_got_worse(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    if model is None:
        return "Not measured: no network trained on this version was evaluated."
    if model["against"] is None:
        worst = next((row for row in model["conditions"] if row["name"] != "overall" and row["head"] is not None), None)
        weakest = f" Weakest now: {_plain_name(worst['name'])}, mIoU {worst['head']:.1%}." if worst else ""
        return f"Nothing to compare with: {model['not_compared']}.{weakest}"
    rows = [row for row in model["conditions"] if row["delta"] is not None]
    worst = rows[0] if rows else None
    if not model["worse"] or worst is None:
        least = f"; lowest: {_plain_name(worst['name'])} {_points(worst['delta'])}" if worst else ""
        return f"None that the night's verdict calls worse, against {model['against']}{least}."
    deltas = {row["name"]: f" {_points(row['delta'])}" for row in rows}
    named = ", ".join(f"{_plain_name(name)}{deltas.get(name, '')}" for name in model["worse"])
    return f"Against {model['against']}: {named}."


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _plain_name(name: str) -> str:
    return name.replace("=", ": ").replace("_", " ")


_IN_WORDS = {
    "top_n": ", the most uncertain",
    "k_centre": ", the most uncertain that are unlike each other",
    "core_set": ", those that are least like what is labelled",
    "kmeans_plus_plus": ", uncertain ones drawn apart from each other",
    "random": ", drawn at random",
}


def _why_chosen(facts: Mapping[str, Any]) -> str:
    story = (facts["evidence"] or {}).get("selection") or {}
    if not story.get("strategy"):
        return "Nobody recorded a selection for this version."
    taught = ""
    if story.get("miou_selected") and story.get("miou_random"):
        means = [sum(story[key]) / len(story[key]) for key in ("miou_selected", "miou_random")]
        taught = f" Trained alone on them a network reaches mIoU {means[0]:.1%}; on as many random ones {means[1]:.1%}"
        taught += "." if means[0] > means[1] else ": choosing did not pay tonight."
    return (
        f"{story.get('selected_frames')} of {story.get('pool_frames')} by {story['strategy']} on {story.get('measure')}"
        f"{_IN_WORDS.get(story['strategy'], '')} (budget {story.get('budget_frames')}); each picture says its reason.{taught}"
    )


def _who_approved(facts: Mapping[str, Any]) -> str:
    approval = facts["approval"]
    if approval["state"] == "proposed":
        agreed = "two people must agree, as the test set changed"
        return f"Nobody yet; {agreed if approval['test_set_changed'] else 'one person decides'}."
    names = ", ".join(approval["names"])
    done = {"current": "Released", "was current": "Released once, not now", "rejected": "Rejected"}[approval["state"]]
    return f"{done} by {names} on {approval['decided_utc']} UTC: {approval['reason']}"
