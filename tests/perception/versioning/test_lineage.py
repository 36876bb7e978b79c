import os
import subprocess
import sys
from pathlib import Path

import pytest

from perception.data.manifest import read_manifest
from perception.errors import InputError
from perception.versioning.lineage import (
    deletion_impact,
    frame_history,
    reproduce,
    reproduce_commands,
)
from perception.versioning.models import propose
from perception.versioning.registry import publish


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
    history = frame_history(published.registry, frame_ids=["drive1_3", "drive0_0"])
    assert list(zip(history["tag"], history["frame_id"], strict=True)) == [
        (published.first.tag, "drive0_0"),
        (published.first.tag, "drive1_3"),
        (published.second.tag, "drive1_3"),
    ]
    assert not history["current"].any()
    history = frame_history(published.registry, drive_ids=["drive2"])
    assert sorted(history["frame_id"]) == ["drive2_6", "drive2_7", "drive2_8"]
    assert deletion_impact(published.registry, history)["versions"] == [published.second.tag]
    nobody = frame_history(published.registry, frame_ids=["nobody"])
    assert deletion_impact(published.registry, nobody)["versions"] == []
    with pytest.raises(InputError, match="needs frame ids"):
        frame_history(published.registry)


def test_a_network_that_went_on_from_one_inherits_what_that_learned_from(registry, tools, tmp_path):
    shas = []
    for night, drive in enumerate(("drive0", "drive1", "drive2", "drive3")):
        frames = tools.make_frames([f"{drive}_{number}" for number in range(4)])
        folder = tools.make_folder(tmp_path / drive, frames, {"a.tar": drive.encode() * 900})
        version = publish(registry, f"night-{night}", folder)
        (tmp_path / "model.onnx").write_bytes(drive.encode())
        facts = {"started_from_model": shas[-1]} if night in (1, 2) else {}
        shas.append(propose(registry, version.tag, {}, model=tmp_path / "model.onnx", facts=facts).model_sha256)
    for drive, heirs in (("drive0", shas[:3]), ("drive1", shas[1:3]), ("drive3", shas[3:])):
        impact = deletion_impact(registry, frame_history(registry, drive_ids=[drive]))
        assert impact["models"] == sorted(sha256[:16] for sha256 in heirs)
