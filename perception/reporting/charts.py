"""Small charts as inline SVG: coloured by the page's style sheet, with text of one size everywhere, without script.

Geometry is in percent of the plot, so a chart stretches with its column while text and lines keep their size. How each is
drawn stands in templates/charts.html.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a grid: value between 0 and 1 (None: nothing is known), and what to say of it."""

    value: float | None
    text: str
    described: str
    faint: bool = False  # measured on too little to count


def page_environment() -> jinja2.Environment:
    """Return an environment that renders the templates beside this file, in which a misspelt name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _charts() -> Any:
    environment = page_environment()
    environment.tests["measured"] = _measured
    environment.filters |= {
        "position": _position,
        "percent": lambda value: percent(value) if _measured(value) else NOT_MEASURED,
    }
    return environment.get_template("charts.html").module


def _draw(chart: str, *shown: Any) -> Markup:
    drawn: Markup = getattr(_charts(), chart)(*shown)
    return drawn


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
    return _draw("horizontal_bars", bars, title, maximum, number, reference_name)


def grouped_bars(groups: Sequence[Group], series: Sequence[str], *, title: str, maximum: float) -> Markup:
    """Draw groups of bars with a legend, one bar a series in each group, as one table.

    Each group's values follow the order of series. A value of None says "not measured".
    """
    assert all(len(group.values) == len(series) for group in groups), "one value a series"
    return _draw("grouped_bars", groups, series, title, maximum)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    ends: tuple[str, str] | None = None,
    number: Callable[[float], str] = "{:g}".format,
) -> Markup:
    """Draw lines over a common x axis with round ticks; says "not measured" when there is no finite point.

    ends: what stands below the ends of the x axis, in place of x_label and its values. number: writes the ticks.
    """
    lines = [(each.name, [p for p in each.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for each in series]
    points = [point for _, line in lines for point in line]
    if not points:
        return _draw("unmeasured", title)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))

    def along(value: float, low: float, high: float) -> float:
        return 100.0 * (value - low) / (high - low) if high > low else 50.0

    paths = []
    for _, line in lines:
        # A second copy of a lone point gives its round cap something to draw.
        drawn = [*line, *line] if len(line) == 1 else line
        at = ((along(x, x_low, x_high), 100.0 - along(y, ticks[0], ticks[-1])) for x, y in drawn)
        paths.append(" ".join(f"{x:.2f},{y:.2f}" for x, y in at))
    marks = [(number(tick), f"{100.0 - along(tick, ticks[0], ticks[-1]):.2f}%") for tick in ticks]
    first, last = ends or (f"{x_label} {x_low:g}", f"{x_high:g}")
    return _draw("line_chart", title, [name for name, _ in lines], marks, paths, first, last)


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


def grid(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell]], *, title: str) -> Markup:
    """Draw a table of coloured fields, pale for low and full for high values, hatched where nothing is known."""
    return _draw("grid", rows, columns, cells, title)


def reliability_diagram(bins: Sequence[tuple[float | None, float | None, float]], *, title: str) -> Markup:
    """Draw accuracy over confidence: (confidence, accuracy, share of predictions) a bin; the diagonal is perfect.

    A bar reaches up to the bin's accuracy, its width is the bin's; a line shows the share of predictions at the foot.
    """
    most = max((share for *_, share in bins), default=1.0) or 1.0
    said = ", ".join(
        f"sure {percent(sure)} %: right {percent(right)} %"
        for sure, right, _ in bins
        if sure is not None and right is not None
    )
    return _draw("reliability_diagram", bins, most, said, title)
