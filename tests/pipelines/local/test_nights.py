"""Which night `make run` goes on with."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perception.errors import InputError
from pipelines.local.nights import open_night

NOW = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)


def ended(folder: Path, status: str, age_s: int = 0) -> None:
    (folder / "summary.json").write_text(json.dumps({"status": status}))
    moment = (folder / "night.json").stat().st_mtime - age_s
    os.utime(folder / "night.json", (moment, moment))


def test_a_new_night_is_named_by_its_day_and_the_latest_that_has_not_ended_goes_on(tmp_path: Path) -> None:
    first, date = open_night(tmp_path, "demo", "", NOW)
    assert (first.name, date) == ("2026-11-30", "2026-11-30")
    tomorrow = NOW + timedelta(days=1)
    assert open_night(tmp_path, "demo", "", tomorrow) == (first, "2026-11-30"), "it was stopped, and goes on"
    for status in ("failed", "refused"):
        ended(first, status)
        assert open_night(tmp_path, "demo", "", tomorrow)[0] == first
    ended(first, "done", age_s=20)
    second, date = open_night(tmp_path, "demo", "", NOW)
    assert (second.name, date) == ("2026-11-30-2", "2026-11-30")
    ended(second, "nothing_new", age_s=10)
    (tmp_path / "latest").symlink_to("2026-11-30")
    assert open_night(tmp_path, "demo", "", tomorrow)[0].name == "2026-12-01"


def test_another_profile_and_a_named_night_are_nights_of_their_own(tmp_path: Path) -> None:
    demo, _ = open_night(tmp_path, "demo", "", NOW)
    smoke, _ = open_night(tmp_path, "smoke", "", NOW)
    assert (demo.name, smoke.name) == ("2026-11-30", "2026-11-30-2")
    named, _ = open_night(tmp_path, "demo", "trial", NOW)
    assert named.name == "trial" and open_night(tmp_path, "smoke", "", NOW)[0] == smoke
    for name in ("../x", "latest"):
        with pytest.raises(InputError, match="must be letters"):
            open_night(tmp_path, "demo", name, NOW)
