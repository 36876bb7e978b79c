import hashlib
import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from perception.errors import InputError
from perception.versioning.decisions import promote
from perception.versioning.registry import create_registry, fetch, publish
from perception.versioning.upkeep import RetentionPolicy, apply_retention, plan_retention, scrub, versions


def object_path(remote, content):
    name = hashlib.md5(content).hexdigest()
    return remote / "files" / "md5" / name[:2] / name[2:]


@pytest.fixture(scope="module")
def kept(tools, tmp_path_factory):
    """Three versions on one remote: the first was approved, the last holds a shard of the second."""
    root = tmp_path_factory.mktemp("upkeep")
    registry = root / "registry.git"
    create_registry(registry, str(root / "remote"))
    shards = {name: name.encode() * 5000 for name in ("a.tar", "b.tar", "b2.tar", "c.tar")}
    folders = [
        tools.make_folder(root / "one", tools.make_frames(["d0_0"]), {"a.tar": shards["a.tar"]}),
        tools.make_folder(root / "two", tools.make_frames(["d0_1"]), {n: shards[n] for n in ("b.tar", "b2.tar")}),
        tools.make_folder(
            root / "three", tools.make_frames(["d0_2"]), {"c.tar": shards["c.tar"]}, {"b.tar": shards["b.tar"]}
        ),
    ]
    one, two = (publish(registry, folder.name, folder) for folder in folders[:2])
    three = publish(registry, "three", folders[2], parent=two.tag)
    promote(registry, one.tag, manifest_sha256=one.manifest_sha256, names=["Ada Lovelace"], reason="first")
    return SimpleNamespace(root=root, registry=registry, remote=root / "remote", shards=shards, three=(one, two, three))


def test_versions_are_listed_oldest_first(kept):
    assert versions(kept.registry) == list(kept.three)


def test_a_scrub_of_a_whole_remote_is_clean(kept):
    report = scrub(kept.registry, sample=None, seed=0)
    assert report.is_clean
    assert report.versions == 3
    assert report.objects == len(report.checked) == len([p for p in kept.remote.rglob("*") if p.is_file()])
    assert report.unknown_objects == 0
    few = scrub(kept.registry, sample=2, seed=1)
    assert len(few.checked) == 2 + 3, "two drawn ones, and the three lists of files"


def test_a_scrub_names_what_is_damaged_missing_and_unknown(kept):
    damaged, missing = (object_path(kept.remote, kept.shards[name]) for name in ("a.tar", "c.tar"))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    whole = missing.read_bytes()
    missing.unlink()
    stray = kept.remote / "files" / "md5" / "00" / ("0" * 30)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left by a killed call")
    try:
        report = scrub(kept.registry, sample=None, seed=0)
        assert list(report.damaged.values()) == [f"{kept.three[0].tag} shards/a.tar"]
        assert list(report.missing.values()) == [f"{kept.three[2].tag} shards/c.tar"]
        assert (report.unknown_objects, report.unknown_bytes) == (1, 21)
        assert not report.is_clean
    finally:
        damaged.write_bytes(kept.shards["a.tar"])
        missing.write_bytes(whole)
        stray.unlink()


def test_retention_keeps_what_is_young_approved_or_newest(kept):
    plan = plan_retention(kept.registry, RetentionPolicy())
    assert plan.retired == plan.objects == ()
    assert set(plan.kept) == {version.tag for version in kept.three}
    later = datetime.now(UTC) + timedelta(days=60)
    plan = plan_retention(kept.registry, RetentionPolicy(), now=later)
    one, two, three = kept.three
    assert plan.retired == (two.tag,)
    assert plan.kept == {one.tag: "named by current.json", three.tag: "newest"}
    freed = object_path(kept.remote, kept.shards["b2.tar"])
    assert freed.parent.name + freed.name in plan.objects
    shared = object_path(kept.remote, kept.shards["b.tar"])
    assert shared.parent.name + shared.name not in plan.objects, "the third version needs it"
    assert freed.exists(), "a dry run changes nothing"


def test_retention_is_refused_from_a_shallow_clone(kept, tools, tmp_path):
    tools.git(tmp_path, "clone", "-q", "--depth", "1", kept.registry.as_uri(), "shallow")
    tools.git(tmp_path / "shallow", "fetch", "-q", "--depth", "1", "origin", "refs/tags/*:refs/tags/*")
    with pytest.raises(InputError, match="shallow clone"):
        plan_retention(tmp_path / "shallow", RetentionPolicy(), now=datetime.now(UTC) + timedelta(days=60))


def test_retention_removes_what_was_planned_and_nothing_else(kept, tools, tmp_path):
    later = datetime.now(UTC) + timedelta(days=60)
    one, two, three = kept.three
    tools.git(tmp_path, "clone", "-q", "--mirror", str(kept.registry), "registry.git")
    registry = tmp_path / "registry.git"
    plan = plan_retention(registry, RetentionPolicy(), now=later)
    with pytest.raises(InputError, match="new dry run"):
        apply_retention(registry, RetentionPolicy(), plan_sha256="0" * 64, name="Ada", reason="space", now=later)
    other = kept.remote / "files" / "md5" / "11" / ("1" * 30)
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"of another registry")
    os.utime(other, (0, 0))
    done = apply_retention(registry, RetentionPolicy(), plan_sha256=plan.sha256, name="Ada", reason="space", now=later)
    assert done == plan
    assert other.exists()
    assert not object_path(kept.remote, kept.shards["b2.tar"]).exists()
    fetch(registry, three, tmp_path / "three")
    with pytest.raises(InputError, match=r"retired by Ada \(space\)"):
        fetch(registry, two, tmp_path / "two")
    assert versions(registry) == [one, three]
    assert tools.git(registry, "rev-parse", f"{two.tag}^{{commit}}") == two.commit, "the record of the version stays"
    orphan = tools.make_folder(tmp_path / "f", tools.make_frames(["d7_7"]), {}, {"b2.tar": kept.shards["b2.tar"]})
    with pytest.raises(InputError, match=r"no frames\.dvc"):
        publish(registry, "late", orphan, parent=two.tag)


def test_policies_are_checked():
    with pytest.raises(InputError, match="keep_days = 0: must be at least 1"):
        RetentionPolicy(keep_days=0)
