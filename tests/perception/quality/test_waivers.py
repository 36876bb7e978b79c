"""Waivers are a reviewed file, read strictly."""

from datetime import date

import pytest
import yaml

from perception.errors import InputError
from perception.quality.waivers import WAIVERS_FILE, load_waivers

ENTRY = {
    "suite": "ingest",
    "id": "drive_in_one_split",
    "applies_to": "camvid",
    "reason": "as published",
    "who": "perception team",
    "granted": date(2026, 11, 23),
    "expires": date(2027, 11, 23),
}


def written(tmp_path, *entries):
    path = tmp_path / "waivers.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def test_the_shipped_waivers_are_about_the_published_split_of_camvid():
    waivers = load_waivers(WAIVERS_FILE)
    assert {(waiver.suite, waiver.id, waiver.applies_to) for waiver in waivers} == {
        ("ingest", "drive_in_one_split", "camvid"),
        ("curate", "drive_in_one_split", "camvid"),
    }
    assert all((waiver.granted, waiver.expires) == (ENTRY["granted"], ENTRY["expires"]) for waiver in waivers)


def test_no_waivers_is_a_good_file(tmp_path):
    path = tmp_path / "waivers.yaml"
    path.write_text("# none\n")
    assert load_waivers(path) == ()
    assert load_waivers(written(tmp_path)) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expires": None}, "expires = None: must be a date"),
        ({"expires": "2027-11-23"}, "must be a date such as"),
        ({"expires": date(2026, 1, 1)}, "before it is granted"),
        ({"who": " "}, "who = ' ': must be a text that is not empty"),
        ({"reason": 3}, "reason = 3: must be text"),
        ({"suite": "ingset"}, "does not exist"),
        ({"id": "drive_in_one_spilt"}, "does not exist"),
        ({"until": "forever"}, "unknown parameter 'until'"),
    ],
)
def test_a_faulty_waiver_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        load_waivers(written(tmp_path, ENTRY | change))
    assert "entry 1" in str(caught.value) and "\n" not in str(caught.value)


def test_a_waiver_without_an_end_is_refused(tmp_path):
    endless = {key: value for key, value in ENTRY.items() if key != "expires"}
    with pytest.raises(InputError, match="'expires' is missing"):
        load_waivers(written(tmp_path, endless))


def test_a_doubled_waiver_is_refused(tmp_path):
    with pytest.raises(InputError, match="twice"):
        load_waivers(written(tmp_path, ENTRY, ENTRY))


def test_what_is_no_list_is_refused(tmp_path):
    path = tmp_path / "waivers.yaml"
    path.write_text("suite: ingest\n")
    with pytest.raises(InputError, match="not a list"):
        load_waivers(path)
