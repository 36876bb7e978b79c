"""The nights as a series, on one page."""

import dataclasses
import re

from perception.reporting.nights_page import MAX_NIGHTS, render_nights
from perception.versioning.nights import NightFigures
from tests.perception.reporting.made_up_nights import ENDED, made_up


def rows(html: str) -> list[list[str]]:
    """Return the text of each cell of the table of nights."""
    table = html.partition('<section id="nights">')[2]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)]
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in found[1:]]


def polyline(html: str, title: str) -> list[tuple[float, float]]:
    """Return the points of the first line of a chart."""
    points = re.search(rf"<title>{re.escape(title)}</title>.*?points=\"([^\"]*)\"", html, re.S)
    assert points, title
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points[1].split())]


def test_every_night_has_a_row_the_latest_first() -> None:
    found = rows(render_nights(made_up(), "r"))
    assert [row[0] for row in found] == [f"2026-11-{day:02d}" for day in range(30, 0, -1)]
    assert found[0] == [
        "2026-11-30", "done", "data/2026-11-29-0000001c", "1 500", "200", "61.2", "time of day: backlit", "hold",
        "proposed", "6.83", "99.00",
    ]  # fmt: skip
    assert found[29 - 12][1:] == ["nothing new", "data/2026-11-12-0000000b", "1 200", *["–"] * 5, "0.25", "4.00"]
    assert {row[8] for row in found} == {"proposed", "current", "was current", "rejected", "–"}


def test_a_line_has_a_point_for_each_night_that_measured_it() -> None:
    nights = made_up()
    html = render_nights(nights, "r")
    measured = [place for place in range(30) if place not in ENDED]
    line = polyline(html, "mIoU on the frozen test set, %")
    assert [round(x / 100 * 29) for x, _ in line] == measured
    heights = [y for _, y in line]
    by_value = sorted(measured, key=lambda place: -(nights[place].night.figures.miou or 0))
    assert sorted(measured, key=lambda place: heights[measured.index(place)]) == by_value, "higher is better"
    assert len(polyline(html, "EUR a night")) == 30, "a refused night costs too"
    weather = html.partition("mIoU by weather, %")[2].partition("</ul>")[0]
    assert re.findall(r"</svg>(\w+)</li>", weather) == ["clear", "cloudy", "rain", "snow"], "no night has measured fog"


def test_the_drift_is_drawn_since_the_latest_reference_only() -> None:
    title = "mIoU since the reference release, points"
    assert title not in render_nights(made_up(10), "r")
    nights = made_up()
    html = render_nights(nights, "r")
    assert len(polyline(html, title)) == len([place for place in range(10, 30) if place not in ENDED])
    assert re.search(r"<dt>Since the reference</dt>\s*<dd>\+7.2 <i>points</i></dd>\s*<p>\+6.2 to \+8.2</p>", html)
    moved = dataclasses.replace(
        nights[-1].night, figures=dataclasses.replace(nights[-1].night.figures, reference="cd" * 32)
    )
    html = render_nights([*nights[:-1], dataclasses.replace(nights[-1], night=moved)], "r")
    assert len(set(polyline(html, title))) == 1, "what was counted from another reference does not compare"


def test_what_the_last_night_lacks_stands_as_it_was_and_what_waits_is_said() -> None:
    html = render_nights(made_up(20), "r")
    assert "The last night failed." in html and "waits for a decision" not in html
    assert re.search(r"<dt>mIoU</dt>\s*<dd>59.2 <i>%", html), "of the night before"
    assert "data/2026-11-30-0000001d</code> waits for a decision" in render_nights(made_up(), "r")


def test_few_and_many_nights() -> None:
    assert "No night is recorded here yet." in render_nights([], "r")
    (first,) = made_up(1)
    one = render_nights([first], "r")
    assert rows(one) and "<polyline" not in one, "one night is no series"
    many = [first] * (MAX_NIGHTS + 7)
    html = render_nights(many, "r")
    assert len(rows(html)) == MAX_NIGHTS and f"the latest of {MAX_NIGHTS + 7}" in html


def test_nights_that_measured_nothing_say_so() -> None:
    nights = [
        dataclasses.replace(each, night=dataclasses.replace(each.night, figures=NightFigures())) for each in made_up(2)
    ]
    html = render_nights(nights, "r")
    assert "<polyline" not in html
    assert "mIoU on the frozen test set, %: not measured" in html and html.count(">not measured</dd>") == 5
    assert {cell for row in rows(html) for cell in row[3:8]} == {"–"}


def test_a_page_needs_nothing_else_and_trusts_no_name() -> None:
    nights = made_up(2)
    hostile = dataclasses.replace(nights[1].night, night="<script>alert(1)</script>", base='"><img src=x>')
    html = render_nights([nights[0], dataclasses.replace(nights[1], night=hostile)], "<b>")
    assert (
        "<script" not in html and "<img" not in html and "<b>" not in html.partition("<body>")[2].partition("<nav>")[0]
    )
    assert not re.search(r"(src|href)=\"(?!#)", html)
