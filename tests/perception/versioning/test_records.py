"""What a version's record says stands in commands that people paste, so it says nothing but what a version is."""

from dataclasses import asdict

import pytest

from perception.errors import InputError
from perception.versioning import records


@pytest.mark.parametrize(
    "change",
    [
        {"run": "night-1; touch x"},
        {"run": "night-2"},
        {"manifest_sha256": "SHA; touch x"},
        {"manifest_sha256": "SHA`touch x`" + "0" * 44},
        {"tag": "data/other-00000000"},
        {"frames": "many"},
        {"facts": ["a"]},
        {"manifest_sha256": 7},
        {"parent": {}},
    ],
    ids=str,
)
def test_a_record_that_says_something_else_is_refused(published, monkeypatch, change):
    version = published.first
    good = {name: value for name, value in asdict(version).items() if name != "commit"} | {"format": 1}
    change = {
        name: value.replace("SHA", version.manifest_sha256[:8]) if isinstance(value, str) else value
        for name, value in change.items()
    }
    monkeypatch.setattr(records, "read_json", lambda *_: dict(good))
    assert records.version_of(None, version.tag, version.commit) == version
    monkeypatch.setattr(records, "read_json", lambda *_: good | change)
    with pytest.raises(InputError, match="restore it"):
        records.version_of(None, version.tag, version.commit)


@pytest.mark.parametrize("record", [[], 7, "x", {}, {"format": "new"}], ids=repr)
def test_a_record_of_another_shape_is_refused(published, monkeypatch, record):
    monkeypatch.setattr(records, "read_json", lambda *_: record)
    with pytest.raises(InputError, match="restore it"):
        records.version_of(None, published.first.tag, published.first.commit)
