"""The page of the duels: the table docs/results/duels.md, and each duel's command, bars, machine and remaining figures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.duels.catalogue import DUELS, Duel
from benchmarks.duels.duel import REQUIRED
from benchmarks.results import RESULTS, write_figures, write_page

HOLDS, FALLS_SHORT, FAILED = "holds", "falls short", "failed"
OTHERS_LIMIT = 0.10  # of all cores, in the second before a duel and on average while it runs


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold how one duel went."""

    name: str
    verdict: str  # HOLDS, FALLS_SHORT or FAILED
    report: dict[str, Any]  # its last line; empty when it failed
    problem: str  # why it failed
    command: str
    date: str  # UTC
    seconds: float
    load_before: float
    others_before: float  # share of all cores that others used in the second before
    others_during: float  # and while it ran
    hardware: str
    versions: dict[str, str]  # of the peers

    @property
    def quiet(self) -> bool:
        """Tell whether the figures may be published."""
        return max(self.others_before, self.others_during) <= OTHERS_LIMIT


def publish(rows: Sequence[Row], root: Path) -> Path:
    """Put the rows in place of earlier ones of the same duels, write page and figures, and return the page."""
    store = root / RESULTS / "duels.json"
    known = {row["name"]: row for row in json.loads(store.read_text())} if store.exists() else {}
    known |= {row.name: asdict(row) for row in rows}
    ordered = [Row(**known[duel.name]) for duel in DUELS if duel.name in known]
    write_figures(store, [asdict(row) for row in ordered])
    return write_page(store.with_suffix(".md"), page_text(ordered))


def page_text(rows: Sequence[Row]) -> str:
    """Write the page: the table, then each duel's command, bars, machine and remaining figures."""
    duels = {duel.name: duel for duel in DUELS}
    held = sum(row.verdict == HOLDS for row in rows)
    lines = [
        "# The duels", "",
        f"Written by `make bench` on a quiet machine: {held} of {len(rows)} hold. Each duel does the same work with ours and with the",
        "peer, asserts equal results first, and times both in turn; the least time of each counts. *Of the limit* is what ours",
        "reaches of what the machine can do at best; above 100 % where ours needs less than the limit's model says. What is behind",
        "each duel is in its script; the figures for machines are in [duels.json](duels.json).", "",
        "| duel | ours | peer | unit | ratio | bar | of the limit | verdict |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | --- |",
    ]  # fmt: skip
    lines += [_table_line(row, duels[row.name]) for row in rows]
    for row in rows:
        lines += ["", *_section(row, duels[row.name])]
    return "\n".join(lines) + "\n"


def _table_line(row: Row, duel: Duel) -> str:
    if row.verdict == FAILED:
        return f"| [{row.name}](#{row.name}) | – | – | – | – | {duel.bar} | – | **failed** |"
    report = row.report
    verdict = row.verdict if row.verdict == HOLDS else f"**{row.verdict}**"
    return (
        f"| [{row.name}](#{row.name}) | {figure_text(report['ours'])} | {figure_text(report['peer'])} | {report['unit']} "
        f"| {report['ratio']:g} | {duel.bar} | {report['limit_share']:.0%} | {verdict} |"
    )


def _section(row: Row, duel: Duel) -> list[str]:
    peers = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    lines = [
        f"## {row.name}", "",
        f"{duel.ours[0].upper()}{duel.ours[1:]}, against {duel.against}. Limit: {duel.limit}.", "",
        f"    {row.command}", "",
        f"{row.date} UTC, {row.seconds:.0f} s; {row.hardware}; with {peers}; load before {row.load_before:.2f}, others used "
        f"{row.others_before:.1%} of the cores in the second before and {row.others_during:.1%} meanwhile.", "",
    ]  # fmt: skip
    if row.verdict == FAILED:
        return [*lines, f"Failed: {row.problem}"]
    more = {name: value for name, value in row.report.items() if name not in REQUIRED}
    return [*lines, "; ".join(f"{name} {_plain(value)}" for name, value in more.items())]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def figure_text(value: Any) -> str:
    """Write a figure, or several by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each:g}" for name, each in value.items())
    return "–" if value is None else f"{value:g}"
