"""Cron as Kubeflow's scheduler reads it: six fields, seconds first, in the one time zone of the server.

The scheduler (robfig/cron 1.2) has no time zone in an expression; a start in an hour that a change of clocks skips is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

ZONE_VARIABLE = "CRON_SCHEDULE_TIMEZONE"  # of the scheduler's environment
_FIELDS = ("second", "minute", "hour", "day", "month", "weekday")
_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES = {
    4: ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    5: ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
_LONGEST_WAIT_DAYS = 8 * 366  # for the 29th of February over a century's end
_YEAR_DAYS = 366


@dataclass(frozen=True)
class Cron:
    """Hold what each field of an expression allows."""

    text: str
    values: tuple[tuple[int, ...], ...]  # by field, in the order of _FIELDS

    def starts(self, after: datetime) -> Iterator[datetime]:
        """Yield the starts after an instant, in its time zone, as far ahead as a start can be."""
        zone = after.tzinfo
        for number in range(_LONGEST_WAIT_DAYS):
            day = after.date() + timedelta(days=number)
            if not self._has(day):
                continue
            for hour in self.values[2]:
                for minute in self.values[1]:
                    start = datetime(day.year, day.month, day.day, hour, minute, self.values[0][0], tzinfo=zone)
                    if start > after and start.astimezone(UTC).astimezone(zone) == start:
                        yield start

    def first(self, count: int, after: datetime) -> list[datetime]:
        """Return the first starts after an instant, in its time zone."""
        return list(islice(self.starts(after), count))

    def _has(self, day: date) -> bool:
        fields = self.text.split()
        by_day, by_weekday = day.day in self.values[3], day.isoweekday() % 7 in self.values[5]
        anything = any(field[0] in "*?" for field in (fields[3], fields[5]))
        return day.month in self.values[4] and (by_day and by_weekday if anything else by_day or by_weekday)


def parse_cron(text: str) -> Cron:
    """Read an expression; raises ValueError with the rule that it breaks."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"must have six fields: {' '.join(_FIELDS)}")
    values = tuple(_allowed(field, position) for position, field in enumerate(fields))
    if not fields[0].isdigit():
        raise ValueError("must begin with one second, such as 0; else a night would start every few seconds")
    cron = Cron(" ".join(fields), values)
    if not cron.first(1, datetime(2001, 1, 1, tzinfo=UTC)):
        raise ValueError("names a day that never comes")
    return cron


def translated(cron: Cron, home: ZoneInfo, server: ZoneInfo, now: datetime) -> Cron:
    """Return the expression whose starts in the server's zone are those of `cron` at home, as clocks stand at the next one.

    Raises ValueError where no expression says it.
    """
    (start,) = cron.first(1, now.astimezone(home))
    minutes = _difference_minutes(start, home, server)
    if not minutes:
        return cron
    second, _, hours_field, day, month, weekday = cron.text.split()
    hours, wheel = cron.values[2], 24 * 60
    shifted = [hour * 60 + minute + minutes for hour in hours for minute in cron.values[1]]
    clock = {(total % wheel // 60, total % 60) for total in shifted}
    new_hours, new_minutes = sorted({hour for hour, _ in clock}), sorted({minute for _, minute in clock})
    if len(clock) != len(new_hours) * len(new_minutes):
        raise ValueError("names hours and minutes that no single expression names in the server's zone; name one hour")
    days = {total // wheel for total in shifted}
    if days != {0} and (day not in ("*", "?") or month != "*"):
        raise ValueError(
            "names days that are others in the server's zone; choose an hour that is on the same day there"
        )
    if days != {0} and weekday not in ("*", "?"):
        if len(days) > 1:
            raise ValueError("names hours of different days in the server's zone; name one hour")
        weekday = _listed(sorted((each + min(days)) % 7 for each in cron.values[5]))
    hour = "*" if hours_field == "*" and minutes % 60 == 0 else _listed(new_hours)
    return parse_cron(" ".join((second, _listed(new_minutes), hour, day, month, weekday)))


def next_change(home: ZoneInfo, server: ZoneInfo, after: datetime) -> date | None:
    """Return the first day within a year on which the clocks of two zones differ by another time than after `after`."""
    now = _difference_minutes(after, home, server)
    days = (after + timedelta(days=number) for number in range(1, _YEAR_DAYS))
    return next((day.astimezone(home).date() for day in days if _difference_minutes(day, home, server) != now), None)


def _difference_minutes(moment: datetime, home: ZoneInfo, server: ZoneInfo) -> int:
    """Return by how many minutes the server's clock is ahead of the one at home."""
    offsets = [moment.astimezone(zone).utcoffset() or timedelta() for zone in (server, home)]
    return round((offsets[0] - offsets[1]).total_seconds() / 60)


def _listed(values: list[int]) -> str:
    return ",".join(str(value) for value in values)


def _allowed(field: str, position: int) -> tuple[int, ...]:
    return tuple(sorted({value for item in field.split(",") for value in _item(item, position)}))


def _item(item: str, position: int) -> range:
    (lowest, highest), matched = _RANGES[position], re.fullmatch(r"(\*|\?|\w+(?:-\w+)?)(?:/(\d+))?", item)
    if matched is None:
        raise ValueError(f"{item!r} is no cron field")
    numbers = [] if matched[1] in "*?" else [_number(word, position) for word in matched[1].split("-")]
    known = [number for number in numbers if number is not None and lowest <= number <= highest]
    if known != numbers:
        raise ValueError(f"{item!r} must lie in {lowest}..{highest}")
    if known != sorted(known):
        raise ValueError(f"{item!r} ends before it begins")
    if matched[2] is not None and not int(matched[2]):
        raise ValueError(f"{item!r} has a step of 0")
    first = known[0] if known else lowest
    last = known[-1] if known and (len(known) > 1 or not matched[2]) else highest
    return range(first, last + 1, int(matched[2] or 1))


def _number(word: str, position: int) -> int | None:
    names = _NAMES.get(position, [])
    if word.upper() in names:
        return names.index(word.upper()) + (1 if position == 4 else 0)
    return int(word) if word.isdigit() else None
