"""A registry that is gone comes back from its backup: versions, ledger, champion and nights as before."""

import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.scale.pool_nights import tables_of
from perception.errors import InputError
from perception.versioning.audit import audit
from perception.versioning.backup import backup
from perception.versioning.decisions import promote
from perception.versioning.growing import open_book
from perception.versioning.ledger import events_of, read_events, record_events
from perception.versioning.models import champion, fetch_network, propose
from perception.versioning.nights import Night, Used, read_nights, record_night
from perception.versioning.pool import sort_arrivals, take_in
from perception.versioning.registry import fetch, resolve
from perception.versioning.upkeep import scrub, versions
from pipelines.commands.program import main
from tests.faults.commands import published

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> str:
    """Two versions, one of them released with its network; a night's arrivals, a batch at annotators, the night's row."""
    place = str(tmp_path / "registry.git")
    tags = published(tmp_path, {"first": range(2), "second": range(3)})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"network")
    propose(place, tags["first"], {}, model=tmp_path / "model")
    sha256 = tags["first"].rpartition("-")[2]
    promote(place, tags["first"], manifest_sha256=sha256, names=["Ada"], reason="good", release=True)
    names = ["source", "object", "signature", "source_sha256", "frame_id", "label_sha256", "reason"]
    rows = [("fleet", f"{k}.jpg", "1:1", f"{k:064x}", f"frame{k}", None, None) for k in range(3)]
    arrivals = sort_arrivals(pd.DataFrame(rows, columns=names, dtype=object), pd.DataFrame(columns=[*names, "outcome"]))
    book = take_in(open_book(place), "2026-11-30", WHEN, tables_of(arrivals))
    opened = events_of("opened", ["frame1"], batch="b", when=WHEN, due=date(2026, 12, 14))
    record_events(book, "2026-11-30-labels", "labels", opened, when=WHEN)
    used = Used(arrivals=1, labels=0, erasures=0, parameters="p", code="c")
    record_night(
        place, Night(night="2026-11-30", date=WHEN.date(), profile="demo", base=None, status="done", used=used)
    )
    return place


def state_of(place: str):
    book = open_book(place)
    return (
        versions(place), resolve(place), champion(place), read_nights(place), book.entries,
        read_events(book).to_dict("records"), audit(place).decisions, audit(place).problems,
    )  # fmt: skip


def test_everything_comes_back_at_another_place(registry, tmp_path, capsys):
    before = state_of(registry)
    assert main(["backup", "--registry", registry, "--out", str(tmp_path / "carried")]) == 0
    blobs = (tmp_path / "carried" / "blobs.txt").read_text().splitlines()
    assert f"the store's own {len(blobs)} blobs" in capsys.readouterr().out
    for gone in ("registry.git", "remote"):
        shutil.rmtree(tmp_path / gone)
    new = ["--registry", str(tmp_path / "new.git"), "--remote", str(tmp_path / "new")]
    assert main(["restore", "--from", str(tmp_path / "carried"), *new]) == 0
    place = str(tmp_path / "new.git")
    assert state_of(place) == before
    assert scrub(place, sample=None, seed=0).is_clean
    fetch(place, "current", tmp_path / "data")
    assert fetch_network(place, tmp_path / "network") == before[2]
    second = before[0][1]
    promote(place, second.tag, manifest_sha256=second.manifest_sha256, names=["Ada"], reason="life goes on")


def test_at_the_same_place_not_a_commit_is_added(registry, tools, tmp_path):
    done = backup(registry, tmp_path / "carried")
    for gone in ("registry.git", "remote"):
        shutil.rmtree(tmp_path / gone)
    assert main(["restore", "--from", str(tmp_path / "carried"), "--registry", registry]) == 0
    assert tools.git(Path(registry), "rev-parse", "main") == done.commit


def test_what_is_not_whole_is_neither_written_nor_taken(registry, tmp_path, capsys):
    done = backup(registry, tmp_path / "carried")
    with pytest.raises(InputError, match="back up into a new folder"):
        backup(registry, tmp_path / "carried")
    into = ["restore", "--from", str(tmp_path / "carried"), "--registry", str(tmp_path / "new.git")]
    into += ["--remote", str(tmp_path / "new")]

    def refused(words: str) -> None:
        assert main(into) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "new.git").exists()

    objects = sorted(path for path in (tmp_path / "carried" / "remote").rglob("*") if path.is_file())
    assert len(objects) == done.objects
    whole = objects[0].read_bytes()
    objects[0].chmod(0o644)
    objects[0].write_bytes(whole + b"x")
    refused("is damaged; take another backup")
    objects[0].unlink()
    refused("1 objects are missing")
    objects[0].write_bytes(whole)
    bundle = tmp_path / "carried" / "registry.bundle"
    bundle.write_bytes(bundle.read_bytes() + b"x")
    refused("is not what was backed up (sha256)")
    (tmp_path / "carried" / "backup.json").unlink()
    refused("has no backup.json, so it is no whole backup")
    lost = next(path for path in (tmp_path / "remote").rglob("*") if path.is_file())
    lost.unlink()
    with pytest.raises(InputError, match="lost"):
        backup(registry, tmp_path / "another")
    assert not (tmp_path / "another").exists()
