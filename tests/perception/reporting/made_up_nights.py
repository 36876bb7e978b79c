"""Thirty nights that nobody ran: some refused, one failed, one with nothing new, one stopped before it measured anything."""

import math
from datetime import date, timedelta

from perception.metrics.slices import CONDITIONS, DOMAIN
from perception.versioning.nights import Night, NightFigures, Used
from perception.versioning.trend import ListedNight

ENDED = {7: "refused", 12: "nothing_new", 19: "failed"}


def made_up(count: int = 30) -> list[ListedNight]:
    """Return so many nights, oldest first."""
    return [_night(number) for number in range(count)]


def _night(number: int) -> ListedNight:
    status = ENDED.get(number, "done")
    day = date(2026, 11, 1) + timedelta(days=number)
    version = f"data/{day}-{number:08x}" if status == "done" else None
    night = Night(
        night=str(day),
        date=day,
        profile="nightly",
        base=f"data/{day - timedelta(days=1)}-{number - 1:08x}" if number else None,
        version=version,
        status=status,
        used=Used(arrivals=number, labels=number, erasures=0, parameters="p", code="c"),
        figures=_figures(number, status),
    )
    decision = None
    if version:
        decision = {29: "proposed", 28: "current", 20: "rejected"}.get(number, "was current")
    return ListedNight(night=night, decision=decision)


def _figures(number: int, status: str) -> NightFigures:
    taken = {
        "pool_frames": 8000 + 700 * number,
        "new_frames": 900 + 150 * (number % 5),
        "repeated_frames": 3,
        "rejected_frames": number % 3,
        "seconds": 900.0,
        "cost": 4.0,
        "currency": "EUR",
    }
    if status != "done":
        return NightFigures(**taken)
    miou = 0.42 + 0.2 * (1 - math.exp(-number / 10)) + 0.006 * math.sin(5 * number)
    by_condition = {
        f"{column}={value}": miou - 0.04 * place + 0.01 * math.sin(number + place)
        for column in CONDITIONS
        for place, value in enumerate(DOMAIN[column])
    }
    worst = min(by_condition, key=lambda name: by_condition[name])
    return NightFigures(
        **taken | {"seconds": 24_000.0 + 600 * (number % 7), "cost": 96.0 + 3 * (number % 7)},
        labelled_frames=180,
        human_labels=500 + 180 * number,
        frames_at_annotators=200 + 20 * (number % 6),
        chosen_frames=200,
        miou=miou,
        miou_by_condition=by_condition | {"weather=fog": None},
        worst_condition=worst,
        verdict="hold" if number % 6 == 5 else "promote",
        reference="ab" * 32 if number >= 10 else None,
        miou_since_reference=miou - 0.54 if number >= 10 else None,
        miou_since_reference_lower_95=miou - 0.55 if number >= 10 else None,
        miou_since_reference_upper_95=miou - 0.53 if number >= 10 else None,
    )
