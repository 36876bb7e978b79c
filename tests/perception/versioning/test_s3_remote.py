import os

import pytest

from perception.errors import InputError, Unreachable
from perception.versioning.decisions import promote
from perception.versioning.models import champion, fetch_network, propose
from perception.versioning.registry import create_registry, fetch, publish, resolve
from perception.versioning.remote import S3Remote
from perception.versioning.upkeep import scrub

pytestmark = pytest.mark.s3


@pytest.fixture
def over_s3(s3_server, monkeypatch, tmp_path):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    create_registry(tmp_path / "registry.git", f"s3://{s3_server.bucket}/{tmp_path.name}")
    return tmp_path / "registry.git"


def test_versions_and_models_live_on_a_real_server(over_s3, tools, tmp_path):
    shards = {"a.tar": b"a" * 70_000, "b.tar": b"b" * 70_000}
    first = publish(
        over_s3, "one", tools.make_folder(tmp_path / "one", tools.make_frames(["d0_0"]), {"a.tar": shards["a.tar"]})
    )
    child = tools.make_folder(
        tmp_path / "two", tools.make_frames(["d0_0", "d0_1"]), {"b.tar": shards["b.tar"]}, {"a.tar": shards["a.tar"]}
    )
    second = publish(over_s3, "two", child, parent=first.tag)
    assert publish(over_s3, "two", child, parent=first.tag) == second
    fetch(over_s3, second, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "shards").iterdir()} == shards
    (tmp_path / "network.onnx").write_bytes(b"network" * 1000)
    propose(over_s3, second.tag, {}, model=tmp_path / "network.onnx")
    promote(over_s3, first.tag, manifest_sha256=first.manifest_sha256, names=["Ada"], reason="good")
    promote(over_s3, second.tag, manifest_sha256=second.manifest_sha256, names=["Ada"], reason="good", release=True)
    assert resolve(over_s3) == second
    assert fetch_network(over_s3, tmp_path / "model") == champion(over_s3)
    assert (tmp_path / "model" / "network.onnx").read_bytes() == b"network" * 1000
    report = scrub(over_s3, sample=None, seed=0)
    assert report.is_clean
    assert report.versions == 2
    assert sum(size == 70_000 for size in [p.stat().st_size for p in (tmp_path / "out" / "shards").iterdir()]) == 2


def test_no_key_lies_in_the_registry(over_s3, s3_server, tools):
    everything = tools.git(over_s3, "grep", "-I", "-e", ".", "main")
    assert s3_server.secret_key not in everything
    assert s3_server.endpoint not in everything


def test_a_server_that_is_gone_makes_nothing_visible_and_the_same_call_completes_later(
    over_s3, s3_server, tools, tmp_path, monkeypatch
):
    folder = tools.make_folder(tmp_path / "one", tools.make_frames(["d0_0"]), {"a.tar": b"a" * 70_000})
    monkeypatch.setenv("NIGHTDRIVE_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="cannot be reached"):
        publish(over_s3, "one", folder)
    assert tools.git(over_s3, "tag", "--list") == ""
    monkeypatch.setenv("NIGHTDRIVE_S3_ENDPOINT", s3_server.endpoint)
    fetch(over_s3, publish(over_s3, "one", folder), tmp_path / "out")
    assert (tmp_path / "out" / "shards" / "a.tar").read_bytes() == b"a" * 70_000


def test_keys_that_may_only_read_can_fetch_and_not_publish(over_s3, s3_server, tools, tmp_path, monkeypatch):
    version = publish(over_s3, "one", tools.make_folder(tmp_path / "one", tools.make_frames(["d0_0"]), {"a.tar": b"a"}))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader_secret_key)
    fetch(over_s3, version, tmp_path / "out")
    other = tools.make_folder(tmp_path / "two", tools.make_frames(["d0_1"]), {"b.tar": b"b" * 1000})
    with pytest.raises(InputError, match=r"[Dd]enied|Forbidden|forbidden|may not do this"):
        publish(over_s3, "two", other)
    assert tools.git(over_s3, "tag", "--list") == version.tag


def test_a_server_killed_in_mid_publish_shows_nothing_and_the_same_call_completes_after_its_restart(
    s3_to_kill, tools, tmp_path, monkeypatch
):
    for name, value in s3_to_kill.server.environment().items():
        monkeypatch.setenv(name, value)
    registry, shards = tmp_path / "registry.git", {f"s{k}.tar": os.urandom(300_000) for k in range(5)}
    create_registry(registry, f"s3://{s3_to_kill.server.bucket}/killed")
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), shards)
    real, uploads = S3Remote.upload, []

    def upload_until_killed(self, name, source):
        uploads.append(name)
        if len(uploads) == 4:
            s3_to_kill.kill()
        real(self, name, source)

    monkeypatch.setattr(S3Remote, "upload", upload_until_killed)
    with pytest.raises(Unreachable, match="cannot be reached"):
        publish(registry, "night", folder)
    assert tools.git(registry, "tag", "--list") == ""
    assert tools.git(registry, "rev-list", "--count", "main") == "1"
    monkeypatch.setattr(S3Remote, "upload", real)
    s3_to_kill.restart()
    version = publish(registry, "night", folder)
    fetch(registry, version, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "shards").iterdir()} == shards
    assert scrub(registry, sample=None, seed=0).is_clean
