"""Small charts as inline SVG: coloured by the page's style sheet, with text of one size everywhere, without script.

Geometry is in percent of the plot, so a chart stretches with its column while text and lines keep their size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a line chart."""

    name: str
    points: tuple[tuple[float, float], ...]  # (x, y); points with a NaN are left out


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar with its label and, where known, what to compare it with."""

    label: str
    value: float | None  # None or NaN: not measured
    note: str = ""  # small print behind the label, for example a number of frames
    reference: float | None = None  # drawn as a tick: what the champion reached
    whole: float | None = None  # drawn as a pale bar behind: what it was before
    tone: int = 0  # index of the series colour
    interval: tuple[float, float] | None = None  # drawn as a whisker: where the value surely lies


@dataclass(frozen=True, kw_only=True)
class Group:
    """Bars that belong together, one a series; None: not measured."""

    label: str
    values: tuple[float | None, ...]


def percent(value: float) -> str:
    """Write a share as per cent with one decimal."""
    return f"{100.0 * value:.1f}"


def _measured(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _position(value: float, maximum: float) -> str:
    return f"{100.0 * min(max(value / maximum, 0.0), 1.0):.2f}%" if maximum > 0 else "0%"


def horizontal_bars(
    bars: Sequence[Bar],
    *,
    title: str,
    maximum: float,
    number: Callable[[float], str] = percent,
    reference_name: str = "",
) -> Markup:
    """Draw labelled bars as a table, one row a bar: a screen reader reads the figures, an eye the lengths.

    maximum: the value of a full-width bar. A bar without a value says "not measured".
    """
    rows = Markup("").join(_bar_row(bar, maximum, number, reference_name) for bar in bars)
    return Markup('<table class="bars"><caption>{}</caption><tbody>{}</tbody></table>').format(title, rows)


def _bar_row(bar: Bar, maximum: float, number: Callable[[float], str], reference_name: str) -> Markup:
    note = Markup(" <small>{}</small>").format(bar.note) if bar.note else ""
    label = Markup('<th scope="row">{}{}</th>').format(bar.label, note)
    if not _measured(bar.value):
        return Markup('<tr>{}<td colspan="2" class="unmeasured">{}</td></tr>').format(label, NOT_MEASURED)
    described = f"{bar.label}: {number(bar.value)}"
    if reference_name and _measured(bar.reference):
        described += f" ({reference_name} {number(bar.reference)})"
    if bar.interval is not None:
        described += f", {number(bar.interval[0])} to {number(bar.interval[1])}"
    figure = number(bar.value) if bar.whole is None else f"{number(bar.value)} / {number(bar.whole)}"
    return Markup('<tr>{}<td class="bar">{}</td><td class="n">{}</td></tr>').format(
        label, _bar_svg(bar, maximum, described), figure
    )


def _bar_svg(bar: Bar, maximum: float, described: str) -> Markup:
    shapes = [Markup('<rect class="track" width="100%" height="10" rx="2"/>')]
    shapes += [
        Markup('<rect class="{}" width="{}" height="10" rx="2"/>').format(kind, _position(value, maximum))
        for kind, value in (("whole", bar.whole), (f"s{bar.tone}", bar.value))
        if _measured(value)
    ]
    if _measured(bar.reference):
        where = _position(bar.reference, maximum)
        shapes.append(Markup('<line class="reference" x1="{0}" x2="{0}" y1="-2" y2="12"/>').format(where))
    if bar.interval is not None:
        ends = [_position(end, maximum) for end in bar.interval]
        shapes.append(Markup('<line class="whisker" x1="{}" x2="{}" y1="5" y2="5"/>').format(*ends))
        shapes += [Markup('<line class="whisker" x1="{0}" x2="{0}" y1="2" y2="8"/>').format(end) for end in ends]
    return Markup('<svg role="img" height="10" width="100%"><title>{}</title>{}</svg>').format(
        described, Markup("").join(shapes)
    )


def grouped_bars(groups: Sequence[Group], series: Sequence[str], *, title: str, maximum: float) -> Markup:
    """Draw groups of bars with a legend, one bar a series in each group, as one table.

    Each group's values follow the order of series. A value of None says "not measured".
    """
    rows = Markup("").join(_group_row(group, series, maximum) for group in groups)
    return Markup('{}<table class="bars grouped"><caption>{}</caption><tbody>{}</tbody></table>').format(
        legend(series), title, rows
    )


def _group_row(group: Group, series: Sequence[str], maximum: float) -> Markup:
    assert len(group.values) == len(series), "one value a series"
    height = 9 * len(series) - 2
    shapes = [
        Markup('<rect class="s{}" y="{}" width="{}" height="7" rx="1.5"/>').format(
            index, 9 * index, _position(value, maximum)
        )
        for index, value in enumerate(group.values)
        if _measured(value)
    ]
    figures = [percent(value) if _measured(value) else NOT_MEASURED for value in group.values]
    described = f"{group.label}: " + ", ".join(f"{name} {figure}" for name, figure in zip(series, figures, strict=True))
    svg = Markup('<svg role="img" width="100%" height="{}"><title>{}</title>{}</svg>').format(
        height, described, Markup("").join(shapes)
    )
    shown = " · ".join("–" if figure == NOT_MEASURED else figure for figure in figures)
    return Markup('<tr><th scope="row">{}</th><td class="bar">{}</td><td class="n">{}</td></tr>').format(
        group.label, svg, shown
    )


def legend(series: Sequence[str]) -> Markup:
    """Name the series colours."""
    entries = Markup("").join(
        Markup(
            '<li><svg width="10" height="10" aria-hidden="true"><rect class="s{}" width="10" height="10" rx="2"/></svg>'
            "{}</li>"
        ).format(index, name)
        for index, name in enumerate(series)
    )
    return Markup('<ul class="legend">{}</ul>').format(entries)


def line_chart(series: Sequence[Series], *, title: str, x_label: str) -> Markup:
    """Draw lines over a common x axis with round ticks; says "not measured" when there is no finite point."""
    lines = [(each.name, [p for p in each.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for each in series]
    points = [point for _, line in lines for point in line]
    if not points:
        return Markup('<p class="unmeasured">{}: {}</p>').format(title, NOT_MEASURED)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))
    shapes = [_grid_line(tick, ticks) for tick in ticks]
    shapes.append(_polylines([line for _, line in lines], (x_low, x_high), (ticks[0], ticks[-1])))
    shapes += [
        Markup('<text class="axis" x="0" y="100%" dy="16">{}</text>').format(f"{x_label} {x_low:g}"),
        Markup('<text class="axis" x="100%" y="100%" dy="16" text-anchor="end">{}</text>').format(f"{x_high:g}"),
    ]
    drawing = Markup('<svg role="img" class="plot" width="100%" height="150"><title>{}</title>{}</svg>').format(
        title, Markup("").join(shapes)
    )
    names = legend([name for name, _ in lines]) if len(lines) > 1 else ""
    return Markup('<figure class="lines"><figcaption>{}</figcaption>{}{}</figure>').format(title, names, drawing)


def _grid_line(tick: float, ticks: Sequence[float]) -> Markup:
    where = f"{100.0 * (1.0 - (tick - ticks[0]) / (ticks[-1] - ticks[0])):.2f}%"
    return Markup(
        '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>'
        '<text class="axis" x="-8" y="{0}" dy="4" text-anchor="end">{1}</text>'
    ).format(where, f"{tick:g}")


def _polylines(
    lines: Sequence[Sequence[tuple[float, float]]], x_range: tuple[float, float], y_range: tuple[float, float]
) -> Markup:
    def along(value: float, ends: tuple[float, float]) -> float:
        return 100.0 * (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 50.0

    drawn = []
    for index, line in enumerate(lines):
        # A second copy of a lone point gives its round cap something to draw.
        points = [*line, *line] if len(line) == 1 else line
        path = " ".join(f"{along(x, x_range):.2f},{100.0 - along(y, y_range):.2f}" for x, y in points)
        drawn.append(Markup('<polyline class="l{}" points="{}"/>').format(index, path))
    # The inner drawing stretches with the column; non-scaling-stroke keeps its lines even.
    return Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{}</svg>').format(
        Markup("").join(drawn)
    )


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Give round tick values (steps of 1, 2 or 5 times a power of ten) that enclose [low, high]; at least two."""
    if high <= low:
        low, high = low - 0.5 * max(abs(low), 1.0), low + 0.5 * max(abs(low), 1.0)
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a grid: value between 0 and 1 (None: nothing is known), and what to say of it."""

    value: float | None
    text: str
    described: str
    faint: bool = False  # measured on too little to count


def grid(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell]], *, title: str) -> Markup:
    """Draw a table of coloured fields, pale for low and full for high values, hatched where nothing is known."""
    head = Markup("").join(Markup('<th scope="col"><span>{}</span></th>').format(name) for name in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, Markup("").join(_grid_cell(cell) for cell in line))
        for name, line in zip(rows, cells, strict=True)
    )
    return Markup(
        '<table class="domain"><caption>{}</caption><thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(title, head, body)


def _grid_cell(cell: Cell) -> Markup:
    if cell.value is None:
        return Markup('<td class="unseen" title="{0}"><span class="hidden">{0}</span></td>').format(cell.described)
    share = round(100 * min(max(cell.value, 0.0), 1.0))
    kind = Markup(' class="thin"') if cell.faint else ""
    return Markup('<td{} style="--share:{}%" title="{}">{}</td>').format(kind, share, cell.described, cell.text)


def reliability_diagram(bins: Sequence[tuple[float | None, float | None, float]], *, title: str) -> Markup:
    """Draw accuracy over confidence: (confidence, accuracy, share of predictions) a bin; the diagonal is perfect.

    A bar reaches up to the bin's accuracy, its width is the bin's; a line shows the share of predictions at the foot.
    """
    count = len(bins)
    shapes = [Markup('<line class="ideal" x1="0" y1="100%" x2="100%" y2="0"/>')]
    most = max((share for *_, share in bins), default=1.0) or 1.0
    box = Markup('<rect class="{}" x="{:.2f}%" y="{:.2f}%" width="{:.2f}%" height="{:.2f}%"/>')
    for index, (_sure, right, share) in enumerate(bins):
        left, width = 100 * index / count, 100 / count
        if right is not None:
            shapes.append(box.format("s0", left + 0.1 * width, 100 * (1 - right), 0.8 * width, 100 * right))
        low, high = 100 - 30 * share / most, 30 * share / most
        shapes.append(box.format("whole", left + 0.35 * width, low, 0.3 * width, high))
    said = ", ".join(
        f"sure {percent(sure)} %: right {percent(right)} %"
        for sure, right, _ in bins
        if sure is not None and right is not None
    )
    axes = Markup(
        '<text class="axis" x="0" y="100%" dy="16">sure 0 %</text>'
        '<text class="axis" x="100%" y="100%" dy="16" text-anchor="end">100 %</text>'
        '<text class="axis" x="-8" y="0" dy="10" text-anchor="end">100 %</text>'
        '<text class="axis" x="-8" y="100%" text-anchor="end">right 0 %</text>'
    )
    return Markup(
        '<figure class="lines"><figcaption>{}</figcaption>'
        '<svg role="img" class="plot reliability" width="100%" height="190"><title>{}</title>{}{}</svg></figure>'
    ).format(title, said, Markup("").join(shapes), axes)
