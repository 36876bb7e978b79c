"""The page of a season: what its nights learned from how many labels, beside the same nights with another choice of frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception.reporting import charts
from perception.reporting.page import template_environment

Curve = Sequence[tuple[int, float]]  # of each night that was measured: labels, mIoU
SHARE = 0.95  # of what all labels give


@dataclass(frozen=True, kw_only=True)
class SeasonNight:
    """What is shown of one night; None: not measured, or not reached."""

    night: str
    status: str
    base: str | None  # data version that it started from
    new_frames: int | None
    labels: int | None  # real frames with a label that its network learned from
    miou: float | None
    verdict: str | None


def curve(nights: Sequence[SeasonNight]) -> Curve:
    """Return labels and mIoU of the nights that have both."""
    return [(each.labels, each.miou) for each in nights if each.labels is not None and each.miou is not None]


def labels_to_reach(learned: Curve, target: float) -> int | None:
    """Return the labels of the first night whose mIoU is the target or above; None where no night's is."""
    return next((labels for labels, miou in learned if miou >= target), None)


def reached(
    arms: Mapping[str, Sequence[SeasonNight]], everything: Sequence[SeasonNight]
) -> tuple[float, dict[str, int | None]]:
    """Return the mIoU that all labels give, and by arm the labels with which it reaches SHARE of that; NaN: not measured."""
    learned = curve(everything)
    full = learned[-1][1] if learned else math.nan
    return full, {name: labels_to_reach(curve(nights), SHARE * full) for name, nights in arms.items()}


def render_season(title: str, arms: Mapping[str, Sequence[SeasonNight]], everything: Sequence[SeasonNight]) -> str:
    """Render a season as one HTML file that needs nothing else; everything: the nights of the arm with all labels."""
    full, needed = reached(arms, everything)
    lines = [charts.Series(name=name, points=tuple(curve(nights))) for name, nights in arms.items()]
    shown = [labels for nights in arms.values() for labels, _ in curve(nights)]
    if shown:
        ends = tuple((float(labels), full) for labels in (min(shown), max(shown)))
        lines.append(charts.Series(name="all labels", points=ends))
    chart = charts.line_chart(lines, title="mIoU on the frozen test set", x_label="labels")
    return (
        template_environment()
        .get_template("season.html")
        .render(title=title, arms=arms, chart=chart, full=full, needed=needed, share=SHARE)
    )
