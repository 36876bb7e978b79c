"""Time of day from place and time, by the elevation of the sun."""

from datetime import datetime

# The sun's upper edge on the horizon: 34' of refraction and 16' of its radius; and the end of civil twilight. Both as the US
# Naval Observatory defines them ("Rise, Set, and Twilight Definitions", aa.usno.navy.mil/faq/RST_defs).
SUNRISE_DEG = -0.833
CIVIL_TWILIGHT_DEG = -6.0


def time_of_day(timestamp_utc: datetime | None, place: tuple[float, float] | None) -> str | None:
    """Return day, twilight or night; None where time or place is unknown.

    Street lamps (artificial_light) and a low sun ahead (backlit) cannot be told from the sun's elevation alone.
    """
    if timestamp_utc is None or place is None:
        return None
    from astral import Observer
    from astral.sun import elevation

    degrees = elevation(Observer(*place), timestamp_utc, with_refraction=False)
    if degrees >= SUNRISE_DEG:
        return "day"
    return "twilight" if degrees >= CIVIL_TWILIGHT_DEG else "night"
