import itertools
import math
from xml.etree import ElementTree

import pytest

from perception.reporting import charts


def parsed(markup) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


def test_bar_length_is_the_share_of_the_maximum():
    root = parsed(
        charts.horizontal_bars([charts.Bar(label="car", value=0.5, reference=0.75, whole=1.0)], title="t", maximum=2.0)
    )
    widths = {each.get("class"): each.get("width") for each in root.iter("rect")}
    assert widths == {"track": "100%", "whole": "50.00%", "s0": "25.00%"}
    assert root.find(".//line").get("x1") == "37.50%"
    assert root.find(".//caption").text == "t"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_value_says_so_and_draws_nothing(missing):
    root = parsed(charts.horizontal_bars([charts.Bar(label="train", value=missing)], title="t", maximum=1.0))
    assert root.find(".//td").text == "not measured"
    assert root.find(".//rect") is None
    grouped = parsed(
        charts.grouped_bars([charts.Group(label="a", values=(missing, 0.2))], ("x", "y"), title="t", maximum=1.0)
    )
    assert [each.get("class") for each in grouped.findall(".//tbody//rect")] == ["s1"]
    assert "x not measured, y 20.0" in grouped.find(".//title").text
    assert grouped.find(".//td[@class='n']").text == "– · 20.0"


def test_zero_is_drawn_as_zero_and_not_as_missing():
    text = str(charts.horizontal_bars([charts.Bar(label="a", value=0.0)], title="t", maximum=1.0))
    assert "not measured" not in text and "0.0" in text


def test_labels_are_escaped():
    bars = [charts.Bar(label="<script>", value=1.0, note="&", reference=1.0)]
    root = parsed(charts.horizontal_bars(bars, title="<b>", maximum=1.0, reference_name="champion"))
    assert root.find(".//script") is None
    assert root.find(".//th").text.startswith("<script>")
    assert "champion 100.0" in root.find(".//title").text


def test_line_chart_puts_points_in_proportion():
    series = [charts.Series(name="loss", points=((1, 4.0), (2, 2.0), (3, math.nan), (5, 0.0)))]
    root = parsed(charts.line_chart(series, title="loss", x_label="epoch"))
    points = [tuple(map(float, pair.split(","))) for pair in root.find(".//polyline").get("points").split()]
    assert points == [(0.0, 0.0), (25.0, 50.0), (100.0, 100.0)]
    assert [each.text for each in root.iter("text")][:5] == ["0", "1", "2", "3", "4"]


def test_line_chart_of_one_point_and_of_none():
    root = parsed(charts.line_chart([charts.Series(name="l", points=((1, 0.5),))], title="t", x_label="epoch"))
    assert len(root.find(".//polyline").get("points").split()) == 2
    assert "not measured" in charts.line_chart(
        [charts.Series(name="l", points=((1, math.nan),))], title="t", x_label="e"
    )


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.412, 0.431), (-3.0, 17.0), (1e-6, 5e-6), (120.0, 9_400.0), (2.0, 2.0), (0.0, 0.0)]
)
def test_ticks_are_round_even_and_enclose(low, high):
    ticks = charts.round_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    steps = {round(b - a, 12) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1
    step = steps.pop()
    assert round(step / 10 ** math.floor(math.log10(step)), 6) in (1, 2, 5)


def test_whiskers_span_the_interval_and_are_said():
    bar = charts.Bar(label="car", value=0.5, interval=(0.4, 0.7))
    root = parsed(charts.horizontal_bars([bar], title="t", maximum=1.0))
    whisker = root.find(".//line[@class='whisker']")
    assert (whisker.get("x1"), whisker.get("x2")) == ("40.00%", "70.00%")
    assert root.find(".//title").text == "car: 50.0, 40.0 to 70.0"


def test_a_grid_hatches_what_is_not_known():
    cells = [
        [
            charts.Cell(value=0.25, text="25", described="day: 25 %", faint=True),
            charts.Cell(value=None, text="", described="fog: unknown"),
        ]
    ]
    root = parsed(charts.grid(["day"], ["clear", "fog"], cells, title="mIoU"))
    known, unknown = root.findall(".//tbody/tr/td")
    assert known.get("style") == "--share:25%" and known.get("class") == "thin" and known.text == "25"
    assert unknown.get("class") == "unseen" and unknown.get("title") == "fog: unknown"
    assert unknown.find("span").text == "fog: unknown"  # a screen reader hears it too


def test_reliability_bars_reach_the_accuracy_and_an_empty_bin_has_none():
    root = parsed(charts.reliability_diagram([(0.2, 0.5, 0.3), (None, None, 0.0)], title="t"))
    bars = root.findall(".//rect[@class='s0']")
    assert [bar.get("height") for bar in bars] == ["50.00%"]
    assert root.find(".//title").text == "sure 20.0 %: right 50.0 %"
