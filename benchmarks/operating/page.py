"""Write what the simulated fleet showed: one page with its curves, and the figures for machines."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.operating.studies import DRAWN, FILLED, Cell, Study
from benchmarks.results import markdown_table, write_figures, write_page, write_plot

NAME = "operating_characteristics"


def write_results(study: Study, cells: Sequence[Cell], command: str, took_minutes: float, folder: Path) -> Path:
    """Write the page, its figures and its plot into the folder and return the page."""
    write_figures(folder / f"{NAME}.json", [asdict(each) | {"error": round(each.error, 4)} for each in cells])
    write_plot(folder / f"{NAME}.svg", draw(study, cells))
    return write_page(folder / f"{NAME}.md", page_text(study, cells, command, took_minutes))


def page_text(study: Study, cells: Sequence[Cell], command: str, took_minutes: float) -> str:
    """Return the page as Markdown."""
    world = study.world
    parts = [
        f"# What the verdict lets through\n\n    {command}\n",
        "Simulated with the product's own functions (`compare`, `decide`, the default release contract) on drives with random "
        f"effects: {world.frames_per_drive} frames a drive, {len(world.class_shares)} classes, of which ten are contracted, a "
        f"paired spread between networks of {world.paired_sd:g} on the logit by drive and {world.paired_frame_sd:g} by frame. "
        "Every number of it is a parameter ([world.py](../../benchmarks/operating/world.py), "
        "[studies.py](../../benchmarks/operating/studies.py)): put in those of your own test set before you rely on this. "
        f"{study.repeats} repetitions a cell; ± is one standard error; {took_minutes:.0f} minutes, {study.workers} at a time.",
        "## A loss that is exactly at its margin\n\nHow often a challenger is promoted whose true loss in one figure is what the contract "
        "allows there and no more. It should be 5 % at most.",
        _margin_table(study, cells),
        "Fog is told twice: on drives as they come, where most small test sets lack the least number of drives of some contracted "
        "condition, so that nothing is promoted at all; and on test sets that people filled up. Truth and margin are those of drives "
        "mixed as in the test set: one that was filled up holds more hard drives than the road does, and its figures speak of that mix.",
        "## Networks that are equal\n\nChallenger, champion and reference release differ by chance alone, as three trainings do; every "
        f"contracted condition has its least number of drives ({study.least}).",
        _table(
            _of(cells, "equal_networks"), ("test drives", "promoted"), lambda c: (f"{c.about['drives']:,}", _share(c))
        ),
        f"## A loss at night, by the number of test drives\n\n![Promoted and refused, by loss; and months]({NAME}.svg)",
        f"## Months\n\nOne test set of {study.frozen_drives} drives a year, {study.nights} nights, each night's true change drawn "
        f"around the trend with a spread of {study.trend_sd:g} points. A challenger must be no worse than the champion *and* than "
        "the reference release, which nobody moves.",
        _months_table(study, cells),
        "## Intervals and bounds\n\nHow often the 95 % interval holds the truth: the least and the greatest share of mIoU and the "
        f"IoU of each class, {2 * study.repeats} repetitions; and of the upper bound of rare failures, ten frames a drive.",
        _coverage_table(cells),
        _bounds_table(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _of(cells: Iterable[Cell], study: str, **about: object) -> list[Cell]:
    return [
        each
        for each in cells
        if each.study == study and all(each.about[name] == value for name, value in about.items())
    ]


def _share(cell: Cell) -> str:
    return f"{100 * cell.share:.1f} ± {100 * cell.error:.1f} %"


def _table(cells: Sequence[Cell], header: tuple[str, ...], row: Callable[[Cell], tuple[str, ...]]) -> str:
    return markdown_table(header, [row(each) for each in cells])


def _margin_table(study: Study, cells: Sequence[Cell]) -> str:
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for each in _of(cells, "at_the_margin"):
        share = f"{100 * each.about['share']:g} %" if each.about["share"] else "all"
        rows.setdefault((each.about["figure"], share, each.about["test_set"]), {})[each.about["drives"]] = _share(each)
    header = ("the loss is in", "share of drives", "test set", *(f"{drives:,} drives" for drives in study.drives))
    said = {DRAWN: "as it comes", FILLED: "filled up"}
    return markdown_table(
        header,
        [
            (figure, share, said[kind], *(found.get(drives, "–") for drives in study.drives))
            for (figure, share, kind), found in rows.items()
        ],
    )


def _months_table(study: Study, cells: Sequence[Cell]) -> str:
    rows = []
    for trend in study.trends:
        years = _of(cells, "months", trend=trend)
        ends = np.array([each.about["levels"][-1] for each in years])
        error = f" ± {ends.std(ddof=1) / np.sqrt(len(ends)):.2f}" if len(ends) > 1 else ""
        within = int(sum(each.share for each in years))
        rows.append((f"{trend:+g}", f"{ends.mean():+.2f}{error}", f"{ends.min():+.2f}", f"{within} of {len(years)}"))
    return markdown_table(("points a night", "at the end, in the mean", "worst year", "years within one margin"), rows)


def _coverage_table(cells: Sequence[Cell]) -> str:
    found = _of(cells, "interval_coverage")
    rows = []
    for drives in dict.fromkeys(each.about["drives"] for each in found):
        shares = {each.about["figure"]: 100 * each.share for each in found if each.about["drives"] == drives}
        classes = [share for figure, share in shares.items() if figure != "mIoU"]
        rows.append((f"{drives}", f"{shares['mIoU']:.1f} %", f"{min(classes):.1f} to {max(classes):.1f} %"))
    return markdown_table(("drives", "mIoU", "classes"), rows)


def _bounds_table(cells: Sequence[Cell]) -> str:
    found = _of(cells, "bound_coverage")
    correlations = list(dict.fromkeys(each.about["correlation"] for each in found))
    rows: dict[tuple[int, float], list[str]] = {}
    for each in found:
        rows.setdefault((each.about["drives"], each.about["rate"]), []).append(f"{100 * each.share:.1f} %")
    header = ("drives", "failures", *(f"correlation {each:g}" for each in correlations))
    return markdown_table(
        header, [(f"{drives}", f"{100 * rate:g} %", *shares) for (drives, rate), shares in rows.items()]
    )


def draw(study: Study, cells: Sequence[Cell]) -> Figure:
    """Draw how often a loss at night is promoted and refused, and how the true level went over the months."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = _of(cells, "by_loss")
    for drives in dict.fromkeys(each.about["drives"] for each in curves):
        for decision, style in (("promote", "-"), ("refuse", ":")):
            part = [each for each in curves if each.about["drives"] == drives and each.about["decision"] == decision]
            colour = f"C{list(study.drives).index(drives)}"
            label = f"{drives:,} drives, {'promoted' if decision == 'promote' else 'refused'}"
            left.plot(
                [each.about["points"] for each in part],
                [100 * each.share for each in part],
                style,
                color=colour,
                label=label,
            )
    left.axhline(5, color="0.6", linewidth=0.8)
    left.set_xlabel("true loss of mIoU at night, points")
    left.set_ylabel("% of nights")
    left.legend(fontsize="small")
    for number, trend in enumerate(study.trends):
        levels = np.array([each.about["levels"] for each in _of(cells, "months", trend=trend)])
        months = np.linspace(0, 12, levels.shape[1])
        right.plot(months, levels.mean(axis=0), color=f"C{number}", label=f"{trend:+g} points a night")
        right.fill_between(months, levels.min(axis=0), levels.max(axis=0), color=f"C{number}", alpha=0.2, linewidth=0)
    right.set_xlabel("months")
    right.set_ylabel("true mIoU since the reference, points")
    right.legend(fontsize="small")
    return figure
