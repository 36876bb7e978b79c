import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from perception.data.manifest import read_manifest
from perception.errors import InputError
from perception.versioning.asked import Asked, read_box, read_moments
from perception.versioning.growing import open_book
from perception.versioning.ledger import events_of, record_events
from perception.versioning.lineage import lineage, record_taught, reproduce, reproduce_commands
from perception.versioning.models import propose
from perception.versioning.nights import Night, Used, record_night
from perception.versioning.pool import ARRIVALS, FRAMES, take_in
from perception.versioning.registry import publish

WHEN = datetime(2026, 11, 30, 3, tzinfo=UTC)


def test_a_run_is_reproduced_and_proved(published, tmp_path):
    found = reproduce(published.registry, "night-1", tmp_path / "out")
    assert found.version == published.first
    assert found.manifest_sha256 == published.first.manifest_sha256
    assert found.files == len([p for p in published.first_folder.rglob("*") if p.is_file()])
    assert found.bytes == published.first.new_bytes
    with pytest.raises(InputError, match="proves nothing"):
        reproduce(published.registry, "night-1", tmp_path / "out")


def test_the_printed_commands_work_in_a_shell_without_this_program(published, tmp_path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "CI": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }
    commands = reproduce_commands(published.registry, published.second)
    for command in commands:
        subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True)
    manifest = tmp_path / "night-2" / published.second.folder / "frames" / "manifest.parquet"
    assert len(read_manifest(manifest)) == published.second.frames
    manifest.chmod(0o644)
    manifest.write_bytes(b"something else")
    assert subprocess.run(commands[-1], shell=True, cwd=tmp_path, env=environment, capture_output=True).returncode == 1


def test_a_frame_tells_every_version_that_used_it(published):
    held = lineage(published.registry, Asked(frames=("drive1_3", "drive0_0"))).held
    assert list(zip(held.tag, held.frame_id, strict=True)) == [
        (published.first.tag, "drive0_0"),
        (published.first.tag, "drive1_3"),
        (published.second.tag, "drive1_3"),
    ]
    assert not held.current.any()
    found = lineage(published.registry, Asked(drives=("drive2",)))
    assert found.frame_ids == ["drive2_6", "drive2_7", "drive2_8"] and set(found.held.tag) == {published.second.tag}
    assert not found.touches_test_set
    assert lineage(published.registry, Asked(frames=("nobody",))).frame_ids == []
    with pytest.raises(InputError, match="name what is meant"):
        Asked()


def test_a_network_that_went_on_from_one_inherits_what_that_learned_from(registry, tools, tmp_path):
    shas = []
    for night, drive in enumerate(("drive0", "drive1", "drive2", "drive3")):
        frames = tools.make_frames([f"{drive}_{number}" for number in range(4)])
        folder = tools.make_folder(tmp_path / drive, frames, {"a.tar": drive.encode() * 900})
        version = publish(registry, f"night-{night}", folder)
        (tmp_path / "model.onnx").write_bytes(drive.encode())
        facts = {"started_from_model": shas[-1]} if night in (1, 2) else {}
        shas.append(propose(registry, version.tag, {}, model=tmp_path / "model.onnx", facts=facts).model_sha256)
    pseudo = pd.DataFrame({"frame_id": ["drive9_0"], "drive_id": ["drive9"], "label_source": ["pseudo"]})
    record_taught(registry, shas[2], pseudo, when=WHEN)
    for drive, heirs, clean in (
        ("drive0", shas[:3], None),
        ("drive1", shas[1:3], shas[0]),
        ("drive3", shas[3:], None),
    ):
        found = lineage(registry, Asked(drives=(drive,)))
        assert [each.model.model_sha256 for each in found.learnt] == heirs
        assert [each.depth for each in found.learnt] == list(range(len(heirs)))
        assert set(found.clean_ancestor.values()) == {clean}


def arrive(registry, tools, night, ids, **columns):
    """Let frames arrive and be opened for annotation."""
    frames = tools.make_frames(ids, split="pool", **columns)
    frames["source_sha256"] = [tools.digest(each) for each in ids]
    files = frames[["source", "source_sha256", "label_sha256", "frame_id"]].assign(signature="1", reason=None)
    files["object"], files["outcome"] = frames.frame_id, "new"
    return take_in(open_book(registry), night, WHEN, {ARRIVALS: files, FRAMES: frames})


def test_a_pseudo_label_that_taught_a_network_and_all_that_a_night_did_with_a_frame_are_told(registry, tools, tmp_path):
    book = arrive(registry, tools, "night-1", ["a_0", "a_1"], latitude=48.1, longitude=11.5, timestamp_utc=WHEN)
    arrive(registry, tools, "night-2", ["b_0"], latitude=52.5, longitude=13.4, timestamp_utc=WHEN + timedelta(days=1))
    opened = events_of("opened", ["a_0"], batch="batch-1", when=WHEN, due=WHEN.date())
    back = [events_of(event, ["a_0"], batch="batch-1", when=WHEN, who="Ada") for event in ("returned", "accepted")]
    record_events(open_book(registry), "night-1-labels", "labels", pd.concat([opened, *back]), when=WHEN)
    version = publish(
        registry, "night-1", tools.make_folder(tmp_path / "v", tools.make_frames(["c_0"]), {"a.tar": b"a"})
    )
    (tmp_path / "model.onnx").write_bytes(b"weights")
    model = propose(registry, version.tag, {}, model=tmp_path / "model.onnx").model_sha256
    assert "recorded nothing" in lineage(registry, Asked(frames=("a_1",))).learnt[0].why[0], "not told is not clean"
    rows = pd.DataFrame({"frame_id": ["a_1"], "drive_id": ["a"], "label_source": ["pseudo"]})
    record_taught(registry, model, rows, when=WHEN)
    used = Used(arrivals=book.entries[-1].number, labels=0, erasures=0, parameters="p", code="c")
    for number, status in ((1, "done"), (2, "done"), (3, "nothing_new")):
        row = {"date": (WHEN + timedelta(days=number)).date(), "profile": "smoke", "base": None, "used": used}
        record_night(registry, Night(night=f"night-{number}", status=status, **row))
    found = lineage(registry, Asked(drives=("a",)))
    assert found.frame_ids == ["a_0", "a_1"] and found.arrived == {"night-1": 2}
    assert found.scored == ("night-1", "night-2")
    assert found.events.event.tolist() == ["opened", "returned", "accepted"]
    assert [each.why for each in found.learnt] == [("taught by them with labels of kind pseudo",)]
    assert lineage(registry, Asked(frames=("a_0",))).learnt == ()
    for asked, names in (
        (Asked(annotator="Ada"), ["a_0"]),
        (Asked(annotator="Bob"), []),
        (Asked(between=read_moments("2026-12-01T00:00,2026-12-01T12:00")), ["b_0"]),
        (Asked(within=read_box("48,11,49,12")), ["a_0", "a_1"]),
        (Asked(within=read_box("48,11,53,14"), frames=("a_1", "b_0")), ["a_1", "b_0"]),
    ):
        assert lineage(registry, asked).frame_ids == names


@pytest.mark.parametrize("text", ["", "yesterday,today", "2026-12-02,2026-12-01", "2026-12-01"])
def test_moments_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="BETWEEN="):
        read_moments(text)


@pytest.mark.parametrize("text", ["", "1,2,3", "5,0,4,1", "0,0,95,1", "a,b,c,d"])
def test_boxes_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="WITHIN="):
        read_box(text)
