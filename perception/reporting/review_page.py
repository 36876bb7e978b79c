"""The page that people release a data version by: one HTML file, and the same in Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from perception.data.taxonomies import Taxonomy
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
    environment = _environment()

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


def review_markdown(facts: Mapping[str, Any], commands: Mapping[str, str]) -> str:
    """Say a review in Markdown, for a pull request or a terminal; equal reviews give equal text."""
    template = _environment().get_template("review.md")
    return template.render(f=facts, commands=commands, questions=QUESTIONS)


def _environment() -> jinja2.Environment:
    environment = template_environment()
    environment.filters |= {
        "fine": lambda share: "–" if share is None else f"{100 * share:.2f}",
        "share": lambda share: "–" if share is None else f"{share:.2%}",
        "signed": signed_count,
        "points": points,
        "bytes": lambda value: f"{short_count(value)}B",
        "hours": duration,
        "axis": lambda name: name.split("=")[0].replace("_", " "),
        "value": lambda name: name.split("=")[-1].replace("_", " "),
    }
    return environment
