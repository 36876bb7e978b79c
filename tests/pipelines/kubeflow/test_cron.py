"""Cron as the server reads it: compared with a slow search second by second, and translated between time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipelines.kubeflow.cron import Cron, next_change, parse_cron, translated

BERLIN, KOLKATA, NEW_YORK, UNIVERSAL = (
    ZoneInfo(name) for name in ("Europe/Berlin", "Asia/Kolkata", "America/New_York", "UTC")
)


def slow_starts(cron: Cron, after: datetime, count: int) -> list[datetime]:
    """Search minute by minute of real time, the fields compared with the clock on the wall."""
    fields, found, moment = cron.text.split(), [], after.astimezone(UTC).replace(second=0) + timedelta(minutes=1)
    while len(found) < count:
        wall = moment.astimezone(after.tzinfo)
        clock = wall.minute in cron.values[1] and wall.hour in cron.values[2] and wall.month in cron.values[4]
        day, weekday = wall.day in cron.values[3], wall.isoweekday() % 7 in cron.values[5]
        restricted = "*" not in (fields[3], fields[5])
        if clock and (day or weekday if restricted else day and weekday):
            found.append(wall)
        moment += timedelta(minutes=1)
    return found


@pytest.mark.parametrize(
    "text", ["0 0 21 * * *", "0 */20 3-5 * * MON-FRI", "0 15 2 13 * FRI", "0 30 6 1,15 JAN-MAR *", "0 5/30 0 * * 0"]
)
@pytest.mark.parametrize("zone", [UNIVERSAL, BERLIN])
def test_starts_are_those_of_a_search_minute_by_minute(text: str, zone: ZoneInfo) -> None:
    after, cron = datetime(2026, 3, 1, 7, 30, tzinfo=zone), parse_cron(text)
    assert cron.first(6, after) == slow_starts(cron, after, 6)


def test_an_hour_that_a_change_of_clocks_skips_has_no_start() -> None:
    starts = parse_cron("0 30 2 * * *").first(2, datetime(2026, 3, 28, 12, tzinfo=BERLIN))
    assert [start.day for start in starts] == [30, 31], "2:30 does not exist on March 29"


@pytest.mark.parametrize(
    ("text", "home", "server", "wanted"),
    [
        ("0 0 21 * * *", BERLIN, UNIVERSAL, "0 0 20 * * *"),
        ("0 0 21 * * *", UNIVERSAL, UNIVERSAL, "0 0 21 * * *"),
        ("0 0 0 * * MON", BERLIN, UNIVERSAL, "0 0 23 * * 0"),
        ("0 0 0 ? * */3", BERLIN, UNIVERSAL, "0 0 23 ? * 2,5,6"),
        ("0 0 23 * * SAT", NEW_YORK, UNIVERSAL, "0 0 4 * * 0"),
        ("0 15 3 * * *", KOLKATA, UNIVERSAL, "0 45 21 * * *"),
        ("0 15 */6 * * *", KOLKATA, UNIVERSAL, "0 45 0,6,12,18 * * *"),
        ("0 */30 * * * *", BERLIN, UNIVERSAL, "0 0,30 * * * *"),
    ],
)
def test_a_translation_starts_at_the_same_instants(text: str, home: ZoneInfo, server: ZoneInfo, wanted: str) -> None:
    now, cron = datetime(2026, 1, 10, 12, tzinfo=UTC), parse_cron(text)
    there = translated(cron, home, server, now)
    assert there.text == wanted
    assert there.first(8, now.astimezone(server)) == cron.first(8, now.astimezone(home))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 0 1 * *", "names days that are others in the server's zone"),
        ("0 0 0 */2 * *", "names days that are others in the server's zone"),
        ("0 0 0,12 * * MON", "names hours of different days"),
        ("0 0,20,40 3 * * *", "no single expression names"),
    ],
)
def test_what_no_expression_says_in_the_servers_zone_is_refused(text: str, said: str) -> None:
    home = KOLKATA if "," in text.split()[1] else BERLIN
    with pytest.raises(ValueError, match=said):
        translated(parse_cron(text), home, UNIVERSAL, datetime(2026, 1, 10, tzinfo=UTC))


def test_the_next_change_of_clocks_is_where_the_zones_begin_to_differ_otherwise() -> None:
    january = datetime(2026, 1, 10, 12, tzinfo=UTC)
    assert str(next_change(BERLIN, UNIVERSAL, january)) == "2026-03-29"
    assert str(next_change(BERLIN, NEW_YORK, january)) == "2026-03-08", "America changes its clocks three weeks earlier"
    assert next_change(KOLKATA, UNIVERSAL, january) is None


def test_the_29th_of_february_is_waited_for() -> None:
    starts = parse_cron("0 0 0 29 2 *").first(2, datetime(2026, 1, 10, tzinfo=UTC))
    assert [start.year for start in starts] == [2028, 2032]
