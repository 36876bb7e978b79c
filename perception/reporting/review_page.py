"""The page that people release a data version by: one HTML file, and the same in Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from perception.data.taxonomies import Taxonomy
from perception.quality.page import markdown_table
from perception.reporting.page import duration, fitting, picture_filters, short_count, template_environment
from perception.versioning.review_pictures import ReviewPicture

WIDEST_PX = 380
QUESTIONS = {
    "changed": "What changed?",
    "leaking": "Is it leaking?",
    "worse": "Which condition got worse?",
    "chosen": "Why these frames?",
    "approved": "Who approved?",
    "back": "How do I get it back?",
}


def render_review(
    facts: Mapping[str, Any],
    commands: Mapping[str, str],
    shown: Mapping[str, Sequence[ReviewPicture]],
    taxonomy: Taxonomy,
) -> str:
    """Render a review as one HTML file without scripts, below 3 MB; pictures shrink together until it fits.

    facts: as perception.versioning.review gives them.  commands: shell lines by purpose: promote, reject, rollback,
    reproduce, compare, lineage, deletion.  shown: pictures by group.  taxonomy: of the pictures' labels.
    """
    environment = template_environment()
    environment.filters |= {
        "fine": lambda share: "–" if share is None else f"{100 * share:.2f}",
        "signed": signed_count,
        "points": points,
        "bytes": lambda value: f"{short_count(value)}B",
        "hours": duration,
        "axis": lambda name: name.split("=")[0].replace("_", " "),
        "value": lambda name: name.split("=")[-1].replace("_", " "),
    }

    def render(width_share: float, picture_bytes: int) -> str:
        filters = picture_filters(taxonomy, width_share, picture_bytes)
        environment.filters |= {name: partial(filters[name], width_px=WIDEST_PX) for name in ("photo", "classes")}
        return environment.get_template("review.html").render(
            f=facts,
            commands=commands,
            shown=shown,
            taxonomy=taxonomy,
            questions=QUESTIONS,
            answers={**facts["answers"], "back": commands["reproduce"]},
        )

    return fitting(render, f"the review of {facts['head']['tag']}")


def signed_count(value: int | None) -> str:
    """Write a difference of counts: +3, −2, 0."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:+,}".replace(",", " ").replace("-", "−")


def points(share: float | None) -> str:
    """Write a difference of shares in points of a percent: 0.021 is +2.1."""
    return "–" if share is None or share != share else f"{100 * share:+.1f}".replace("-", "−")


def write_review(
    folder: Path,
    facts: Mapping[str, Any],
    commands: Mapping[str, str],
    shown: Mapping[str, Sequence[ReviewPicture]],
    taxonomy: Taxonomy,
) -> None:
    """Write review.html, review.md and review.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "review.html").write_text(render_review(facts, commands, shown, taxonomy), encoding="utf-8")
    (folder / "review.md").write_text(review_markdown(facts, commands), encoding="utf-8")
    text = json.dumps(
        {**facts, "commands": dict(commands)}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    (folder / "review.json").write_text(text + "\n", encoding="utf-8")


# ---------------------------------------------------------------- Markdown


def review_markdown(facts: Mapping[str, Any], commands: Mapping[str, str]) -> str:
    """Say a review in Markdown, for a pull request or a terminal; equal reviews give equal text."""
    head, base = facts["head"], facts["base"]
    lines = [f"# Data version {head['tag']}", "", f"manifest {head['manifest_sha256']}", ""]
    lines += [f"compared with {base['tag']}" if base else "the first version: there is nothing to compare with", ""]
    lines += [f"- **{QUESTIONS[key]}** {answer}" for key, answer in facts["answers"].items()]
    lines += [f"- **{QUESTIONS['back']}** `{commands['reproduce']}`", "", "## Changes", ""]
    splits = [
        (row["split"], row["base"], row["head"], signed_count(row["delta"])) for row in facts["changes"]["splits"]
    ]
    lines += markdown_table(("split", "before", "now", "change"), splits)
    for kind in ("removed", "relabelled", "changed_image"):
        listed = facts["changes"][kind]
        if listed["total"]:
            lines += [f"{kind.replace('_', ' ')} ({listed['total']}): {', '.join(listed['ids'][:20])}", ""]
    moved = [f"{r['frame_id']} ({r['base_split']} → {r['head_split']})" for r in facts["changes"]["moved"]["rows"][:20]]
    lines += [f"moved: {', '.join(moved)}", ""] if moved else []
    lines += _balance_lines(facts["balance"]) + _leakage_lines(facts["leakage"])
    lines += _model_lines(facts["model"]) + _gate_lines((facts["evidence"] or {}).get("gates") or [])
    lines += ["## Commands", "", *(f"- {name}: `{command}`" for name, command in commands.items()), ""]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _balance_lines(balance: Mapping[str, Any]) -> list[str]:
    rows = [
        (row["class"], _share(row["base_share"]), _share(row["head_share"]), "look" if row["flagged"] else "")
        for row in balance["classes"]
    ]
    thin = ", ".join(f"{c['class']} in {c['condition']} ({c['frames']})" for c in balance["thin"][:20])
    return [
        *("## Balance", ""),
        *markdown_table(("class", "share before", "share now", ""), rows),
        f"thin cells, below {balance['least_frames']} frames ({len(balance['thin'])}): {thin or 'none'}",
        "",
    ]


def _leakage_lines(leakage: Mapping[str, Any]) -> list[str]:
    pairs = [f"- {p['train']} / {p['held_out']} ({p['distance_bits']} bits)" for p in leakage["pairs"][:20]]
    drives = [f"- drive {d['drive_id']}: {d['splits']}" for d in leakage["drives"][:20]]
    return ["## Leakage", "", *(drives + pairs or ["none found"]), ""]


def _model_lines(model: Mapping[str, Any] | None) -> list[str]:
    if model is None:
        return ["## Network", "", "not evaluated", ""]
    rows = [
        (row["name"], _share(row["base"]), _share(row["head"]), points(row["delta"]), row["frames"] or "–")
        for row in model["conditions"]
    ]
    return [
        *("## Network", ""),
        *(f"against {model['against']}" if model["against"] else f"not compared: {model['not_compared']}", ""),
        *markdown_table(("worst first", "mIoU before", "mIoU now", "points", "frames"), rows),
    ]


def _gate_lines(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Gates", ""]
    for gate in gates:
        lines.append(f"- {gate['suite']}: {gate['decision']} ({gate['checked']} rules, {len(gate['failed'])} broken)")
        for failure in gate["failed"]:
            waived = f" – WAIVED by {failure['waived_by']}" if failure["waived_by"] else ""
            lines.append(f"  - {failure['severity']} {failure['id']}: {failure['observed']}{waived}")
    return [*lines, ""]
