"""The page that shows the nights of a registry as a series: what was reached, what waits, what it cost, what people decided."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from perception.metrics.differences import paired_difference
from perception.metrics.slices import CONDITIONS
from perception.reporting import charts
from perception.reporting.page import short_count, template_environment
from perception.versioning.trend import ListedNight

MAX_NIGHTS = 120  # the latest; a page of more says less


def render_nights(listed: Sequence[ListedNight], registry: str) -> str:
    """Render the nights, oldest first, as one HTML file without scripts; registry: where they were read."""
    shown = listed[-MAX_NIGHTS:]
    environment = template_environment()
    environment.filters["hours"] = lambda seconds: f"{seconds / 3600:.2f}"
    figures = [each.night.figures for each in shown]
    costs, last = [each.cost for each in figures if each.cost is not None], _last_known(shown)
    return environment.get_template("nights.html").render(
        nights=shown[::-1],
        left_out=len(listed) - len(shown),
        registry=registry,
        chart=_charts(shown, last.get("currency", "")),
        last=last,
        fresh=_fresh(listed),
        cost=(sum(costs), last["currency"], len(costs)) if costs else None,
    )


def _last_known(shown: Sequence[ListedNight]) -> dict[str, Any]:
    """Return the latest value of each figure that any night knows: what a night did not get to is as it was before."""
    known: dict[str, Any] = {}
    for each in shown:
        known |= {name: value for name, value in vars(each.night.figures).items() if value is not None}
    return known


def _charts(shown: Sequence[ListedNight], currency: str) -> dict[str, Any]:
    return {
        "miou": _chart(shown, "mIoU on the frozen test set, %", {"mIoU": lambda night: _hundred(night.miou)}),
        "since": _since(shown),
        "conditions": [_by_condition(shown, column) for column in CONDITIONS],
        "pool": _chart(shown, "Frames that wait in the pool", _figure("pool_frames")),
        "new": _chart(shown, "Files that arrived, a night", _figure("new_frames")),
        "labels": _chart(shown, "Training frames with a label by people", _figure("human_labels")),
        "annotators": _chart(shown, "Frames at annotators", _figure("frames_at_annotators")),
        "cost": _chart(shown, f"{currency} a night", _figure("cost"), "{:g}".format),
        "hours": _chart(shown, "Hours of work, a night", {"hours": lambda night: _hours(night.seconds)}, "{:g}".format),
    }


def _since(shown: Sequence[ListedNight]) -> Markup | None:
    """Draw how far mIoU has come since the latest reference release, over the nights that were judged against it; None: none was."""
    judged = [each for each in shown if each.night.figures.reference]
    if not judged:
        return None
    latest = judged[-1].night.figures.reference
    names = {"": "since the reference", "_lower_95": "surely at least", "_upper_95": "surely at most"}

    def points(name: str) -> Callable[[Any], float | None]:
        return lambda figures: _hundred(getattr(figures, name)) if figures.reference == latest else None

    lines = {words: points(f"miou_since_reference{end}") for end, words in names.items()}
    return _chart(shown, "mIoU since the reference release, points", lines, "{:+g}".format)


def _fresh(listed: Sequence[ListedNight]) -> tuple[int, int, str] | None:
    """Return how many frames of fresh footage judged in how many nights, and by how many points the night's network was right more
    often than that night's champion, with its interval over nights; None: none did.
    """
    figures = [each.night.figures for each in listed]
    judged = [each for each in figures if each.fresh_accuracy is not None and each.fresh_accuracy_champion is not None]
    if not judged:
        return None
    ours, theirs = (
        [100 * getattr(each, name) for each in judged] for name in ("fresh_accuracy", "fresh_accuracy_champion")
    )
    return (
        sum(each.fresh_frames or 0 for each in judged),
        len(judged),
        paired_difference(ours, theirs).words(1, "night"),
    )


def _figure(name: str) -> dict[str, Callable[[Any], Any]]:
    return {name: lambda figures: getattr(figures, name)}


def _by_condition(shown: Sequence[ListedNight], column: str) -> Markup:
    measured = [each.night.figures.miou_by_condition or {} for each in shown]
    known = {name for row in measured for name, miou in row.items() if miou is not None}
    names = sorted(name for name in known if name.startswith(f"{column}=") and "," not in name)
    lines = {name.partition("=")[2].replace("_", " "): _condition(name) for name in names}
    return _chart(shown, f"mIoU by {column.replace('_', ' ')}, %", lines)


def _condition(name: str) -> Callable[[Any], float | None]:
    return lambda figures: _hundred((figures.miou_by_condition or {}).get(name))


def _chart(
    shown: Sequence[ListedNight],
    title: str,
    lines: dict[str, Callable[[Any], float | None]],
    number: Callable[[float], str] = short_count,
) -> Markup:
    """Draw a line a figure over the nights; a night that did not measure it has no point."""
    series = []
    for name, of in lines.items():
        values = ((place, of(each.night.figures)) for place, each in enumerate(shown, start=1))
        series.append(
            charts.Series(name=name, points=tuple((place, value) for place, value in values if value is not None))
        )
    ends = (f"{shown[0].night.date:%Y-%m-%d}", f"{shown[-1].night.date:%Y-%m-%d}") if shown else None
    return charts.line_chart(series, title=title, ends=ends, number=number)


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600.0
