"""Time of day by the sun, against what almanacs say of known places."""

from datetime import UTC, datetime

import pytest

from perception.data.footage.sun import time_of_day


@pytest.mark.parametrize(
    ("time", "place", "expected"),
    [
        # On the equator at the equinox of March the sun rises at 6:04 and sets at 18:11 by true noon, twilight lasts 21 minutes.
        ("2026-03-20T05:38", (0.0, 0.0), "night"),
        ("2026-03-20T05:50", (0.0, 0.0), "twilight"),
        ("2026-03-20T06:08", (0.0, 0.0), "day"),
        ("2026-03-20T18:06", (0.0, 0.0), "day"),
        ("2026-03-20T18:20", (0.0, 0.0), "twilight"),
        ("2026-03-20T18:37", (0.0, 0.0), "night"),
        ("2026-06-21T00:00", (69.65, 18.96), "day"),  # Tromsø: the sun does not set
        ("2026-12-21T11:00", (69.65, 18.96), "twilight"),  # nor rise
        ("2026-06-21T03:25", (48.137, 11.575), "day"),  # Munich, 12 minutes after sunrise
        ("2026-12-21T03:25", (48.137, 11.575), "night"),
    ],
)
def test_the_suns_elevation_says_the_time_of_day(time: str, place: tuple[float, float], expected: str) -> None:
    assert time_of_day(datetime.fromisoformat(time).replace(tzinfo=UTC), place) == expected


def test_without_place_or_time_it_is_unknown() -> None:
    assert time_of_day(None, (0.0, 0.0)) is None
    assert time_of_day(datetime(2026, 1, 1, tzinfo=UTC), None) is None
