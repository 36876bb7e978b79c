import configparser
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from blake3 import blake3

from perception.errors import InputError
from perception.versioning import registry as registry_module
from perception.versioning.processes import RegistryError
from perception.versioning.registry import create_registry, fetch, publish, resolve


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- creating


def test_the_registry_commits_settings_that_cannot_corrupt(registry, tools):
    config = configparser.ConfigParser()
    config.read_string("\n".join(line.strip() for line in tools.git(registry, "show", "main:.dvc/config").splitlines()))
    assert config["core"]["analytics"] == config["core"]["check_update"] == "false"
    assert config["core"]["autostage"] == "true"
    assert config["cache"]["type"].strip('"') == "reflink,copy"
    assert config["'remote \"store\"'"]["verify"] == "true"


def test_creating_again_changes_nothing_and_another_remote_is_refused(registry, tools, tmp_path):
    before = tools.git(registry, "rev-parse", "main")
    create_registry(registry, str(tmp_path / "remote"))
    assert tools.git(registry, "rev-parse", "main") == before
    with pytest.raises(InputError, match="keeps its data at"):
        create_registry(registry, str(tmp_path / "elsewhere"))


def test_a_registry_is_not_made_from_something_else(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        create_registry(tmp_path / "file", str(tmp_path / "remote"))
    with pytest.raises(InputError, match="full"):
        create_registry(tmp_path / "full", str(tmp_path / "remote"))
    with pytest.raises(InputError, match="must be a folder or s3"):
        create_registry(tmp_path / "new", "ftp://host/x")
    assert not (tmp_path / "new").exists()


def test_an_empty_repository_behind_a_url_becomes_a_registry(tmp_path):
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", tmp_path / "forge.git"], check=True)
    url = (tmp_path / "forge.git").as_uri()
    create_registry(url, str(tmp_path / "remote"))
    create_registry(url, str(tmp_path / "remote"))
    assert resolve(url) is None


def test_data_tags_are_write_once_on_the_server(published, tools, tmp_path):
    tools.git(tmp_path, "clone", "-q", str(published.registry), "clone")
    clone = tmp_path / "clone"
    tag = published.first.tag
    tools.git(clone, "tag", "-f", tag, "main")
    moved = tools.git(clone, "push", "--force", "origin", f"refs/tags/{tag}", check=False)
    deleted = tools.git(clone, "push", "origin", f":refs/tags/{tag}", check=False)
    assert moved.startswith("1")
    assert "write-once" in moved
    assert deleted.startswith("1")
    assert tools.git(published.registry, "rev-parse", f"{tag}^{{commit}}") == published.first.commit


# --- publishing and fetching


def test_a_fetched_version_is_what_was_published_byte_by_byte(published, tmp_path):
    version = fetch(published.registry, published.first.tag, tmp_path / "out")
    assert version == published.first
    expected, found = contents(published.first_folder), contents(tmp_path / "out")
    assert found.keys() - expected.keys() == {"files.json", "run.json"}
    assert {name: found[name] for name in expected} == expected
    record = json.loads(found["run.json"])
    assert record["commit"] == published.first.commit
    assert record["manifest_sha256"] == hashlib.sha256(expected["manifest.parquet"]).hexdigest()
    assert record["facts"] == {"code_commit": "abc123"}
    assert record["frames"] == 6
    assert record["splits"] == {"train": 6}


def test_a_child_version_holds_its_parents_shards_without_uploading_them_again(published, tmp_path):
    assert published.second.parent == published.first.tag
    fetch(published.registry, "night-2", tmp_path / "out")
    found = contents(tmp_path / "out" / "shards")
    assert found == {name: published.shards[name] for name in ("b.tar", "c.tar")}
    assert not (tmp_path / "out" / "card.json").exists(), "a file of the parent that the child does not have stayed"
    sizes = [len(content) for content in published.shards.values()]
    stored = [p.stat().st_size for p in published.remote.rglob("*") if p.is_file()]
    assert sorted(size for size in stored if size > 50_000) == sorted(sizes)


def test_only_what_is_asked_for_is_fetched(published, tmp_path):
    fetch(published.registry, published.second, tmp_path / "out", files=["manifest.parquet"])
    assert set(contents(tmp_path / "out")) == {"manifest.parquet", "files.json", "run.json"}
    with pytest.raises(InputError, match="missing on the remote"):
        fetch(published.registry, published.second, tmp_path / "out")


def test_publishing_again_gives_the_same_version_and_moves_nothing(published, tools):
    before = tools.remote_objects(published.remote), tools.git(published.registry, "rev-parse", "main")
    assert publish(published.registry, "night-1", published.first_folder) == published.first
    assert (tools.remote_objects(published.remote), tools.git(published.registry, "rev-parse", "main")) == before


def test_commits_and_tags_say_which_run_manifest_and_parent(published, tools):
    message = tools.git(published.registry, "log", "-1", "--format=%(trailers)", published.second.commit)
    assert message.splitlines() == [
        "Run-Id: night-2",
        f"Manifest-Sha256: {published.second.manifest_sha256}",
        f"Parent: {published.first.tag}",
    ]
    assert tools.git(published.registry, "cat-file", "-t", published.second.tag) == "tag"
    assert published.second.tag == f"data/night-2-{published.second.manifest_sha256[:8]}"


def test_plain_dvc_can_read_a_version_without_this_program(published, tools, tmp_path):
    tools.git(tmp_path, "clone", "-q", "--branch", published.second.tag, str(published.registry), "clone")
    folder = tmp_path / "clone" / published.second.folder
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "CI": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q", "frames.dvc"], cwd=folder, env=environment, check=True)
    assert (folder / "frames" / "shards" / "b.tar").read_bytes() == published.shards["b.tar"]


def test_resolving(published, registry):
    assert resolve(registry) is None
    assert resolve(published.registry) is None
    assert resolve(published.registry, "night-1") == resolve(published.registry, published.first.tag) == published.first
    for revision, words in (("night-9", "no version night-9"), ("night", "no version"), ("main; rm", "must be")):
        with pytest.raises(InputError, match=words):
            resolve(published.registry, revision)
    with pytest.raises(InputError, match="no current version yet"):
        fetch(registry, "current", registry.parent / "out")


@pytest.mark.parametrize("prefix", ["", "refs/tags/"])
def test_a_branch_that_is_called_like_a_version_is_never_taken_for_it(registry, tools, tmp_path, prefix):
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    version = publish(registry, "night-1", folder)
    tools.git(registry, "update-ref", f"refs/heads/{prefix}{version.tag}", "main~1")
    assert resolve(registry, "night-1") == resolve(registry, version.tag) == version
    assert resolve(registry, version.tag) == version, "a branch was taken for the tag"


def test_hooks_of_a_registry_that_belongs_to_another_user_do_not_run(registry, tools, tmp_path, monkeypatch):
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    hook = registry / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\nenv >{tmp_path / 'stolen'}\n")
    hook.chmod(0o755)
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    else:
        os.chown(registry, 12345, -1)
    for call in (lambda: publish(registry, "night-1", folder), lambda: resolve(registry)):
        with pytest.raises(InputError, match=r"belongs to another user.*safe\.directory"):
            call()
    assert not (tmp_path / "stolen").exists(), "a stranger's hook was given our environment"
    (tmp_path / "gitconfig").write_text(f"[safe]\n\tdirectory = {registry}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert publish(registry, "night-1", folder).run == "night-1"
    (tmp_path / "gitconfig").write_text(f"[safe]\n\tdirectory = {registry}\n\tdirectory =\n")
    with pytest.raises(InputError, match="belongs to another user"):
        resolve(registry)


def test_a_registry_that_is_not_there_is_named(tmp_path, published):
    with pytest.raises(
        InputError, match=r"registry /.*/nowhere\.git: there is no such folder; correct the path, or run"
    ):
        resolve(tmp_path / "nowhere.git")
    with pytest.raises(InputError, match="nowhere"):
        publish(tmp_path / "nowhere.git", "r", published.first_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"/empty: must be a git repository that has 'main', .*; correct the path"):
        resolve(tmp_path / "empty")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", tmp_path / "plain.git"], check=True)
    with pytest.raises(InputError, match="plain"):
        publish(tmp_path / "plain.git", "r", published.first_folder)


def test_a_destination_with_something_else_is_left_alone(published, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something other"):
        fetch(published.registry, published.first, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("run", ["", "../x", "a b", "-x", "x.lock", "a/b", "x" * 101])
def test_run_names_that_git_or_paths_would_misread_are_refused(registry, published, run):
    with pytest.raises(InputError, match="run"):
        publish(registry, run, published.first_folder)


def test_content_that_a_version_cannot_hold_is_refused(registry, tools, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.parquet"):
        publish(registry, "r", tmp_path)
    folder = tools.make_folder(tmp_path / "linked", tools.make_frames(["d0_0"]), {})
    (folder / "shards" / "x.tar").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="link"):
        publish(registry, "r", folder)
    folder = tools.make_folder(tmp_path / "reserved", tools.make_frames(["d0_0"]), {})
    (folder / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json"):
        publish(registry, "r", folder)
    folder = tools.make_folder(tmp_path / "invalid", tools.make_frames(["d0_0"]), {})
    pd.DataFrame({"frame_id": ["x"]}).to_parquet(folder / "manifest.parquet")
    with pytest.raises(InputError, match="column"):
        publish(registry, "r", folder)
    folder = tools.make_folder(tmp_path / "torn", tools.make_frames(["d0_0"]), {"s.tar": b"whole"})
    (folder / "shards" / "s.tar").write_bytes(b"who")
    with pytest.raises(InputError, match=r"s\.tar is not the shard"):
        publish(registry, "r", folder)
    for name in (".dvcignore", "other.dvc", "a b.txt"):
        folder = tools.make_folder(tmp_path / f"name{name}", tools.make_frames(["d0_0"]), {})
        (folder / name).write_text("")
        with pytest.raises(InputError, match="name must match"):
            publish(registry, "r", folder)
    assert tools.git(registry, "tag", "--list") == ""


def test_shards_that_nobody_holds_are_refused(published, tools, tmp_path):
    frames, listed = tools.make_frames(["d0_0"]), {"b.tar": published.shards["b.tar"]}
    folder = tools.make_folder(tmp_path / "orphan", frames, {}, listed)
    with pytest.raises(InputError, match="no parent is named"):
        publish(published.registry, "orphan", folder)
    with pytest.raises(InputError, match="not a version of registry"):
        publish(published.registry, "orphan", folder, parent="data/nobody-00000000")
    other = tools.make_folder(tmp_path / "other", frames, {}, {"b.tar": b"other bytes"})
    with pytest.raises(InputError, match="does not hold these bytes"):
        publish(published.registry, "orphan", other, parent=published.first.tag)
    assert "orphan" not in tools.git(published.registry, "tag", "--list")


def test_another_manifest_under_an_existing_tag_is_refused(published, monkeypatch):
    real = registry_module.file_sha256
    collision = published.first.manifest_sha256[:8] + "0" * 56

    def eight_equal_digits(path):
        return collision if path.name == "manifest.parquet" else real(path)

    monkeypatch.setattr(registry_module, "file_sha256", eight_equal_digits)
    with pytest.raises(InputError, match="write-once"):
        publish(published.registry, "night-1", published.first_folder)


def test_one_percent_more_frames_push_one_percent_more_bytes(registry, tools, tmp_path):
    shards = {f"s{k:02d}.tar": os.urandom(500_000) for k in range(40)}
    ids = [f"d{k}_{k}" for k in range(400)]
    first = publish(registry, "one", tools.make_folder(tmp_path / "one", tools.make_frames(ids), shards))
    before = tools.remote_objects(tmp_path / "remote")
    more = tools.make_frames([*ids, *(f"e{k}_{k}" for k in range(4))])
    folder = tools.make_folder(tmp_path / "two", more, {"t.tar": os.urandom(200_000)}, shards)
    publish(registry, "two", folder, parent=first.tag)
    after = tools.remote_objects(tmp_path / "remote")
    pushed = sum((tmp_path / "remote" / name).stat().st_size for name in after.keys() - before.keys())
    assert pushed - (folder / "manifest.parquet").stat().st_size <= 0.011 * 40 * 500_000
    assert {name: after[name] for name in before} == before, "an object that lay there was written again"


def test_a_registry_on_a_read_only_root_needs_only_its_scratch_folder(registry, tools, tmp_path, monkeypatch):
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"s.tar": b"x"})
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    opened = subprocess.run(
        [sys.executable, "-c", WRITES_ELSEWHERE, registry, folder, tmp_path / "out", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert opened.returncode == 0, opened.stderr
    assert opened.stdout.strip() == "", "written outside the folders that were given"


WRITES_ELSEWHERE = """
import os, sys
from pathlib import Path
place, folder, out, allowed = sys.argv[1:]
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not os.path.abspath(arguments[0]).startswith((allowed, "/dev/")):
            print(arguments[0])
from perception.versioning import registry
sys.dont_write_bytecode = True
sys.addaudithook(watch)
version = registry.publish(place, "night", Path(folder))
registry.fetch(place, version, Path(out))
"""


# --- damage


def damaged(remote, content, replacement):
    name = hashlib.md5(content).hexdigest()
    path = remote / "files" / "md5" / name[:2] / name[2:]
    path.chmod(0o644)
    path.write_bytes(replacement)
    return path


def test_an_object_corrupted_under_its_old_name_never_passes_and_is_mended_by_publishing(registry, tools, tmp_path):
    remote = tmp_path / "remote"
    shard = b"precious" * 5000
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"s.tar": shard})
    version = publish(registry, "night-1", folder)
    path = damaged(remote, shard, b"precioux" * 5000)
    with pytest.raises(InputError, match=r"shards/s\.tar of data/night-1-.* published"):
        fetch(registry, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publish(registry, "night-2", folder)
    assert path.read_bytes() == shard
    fetch(registry, version, tmp_path / "out")


def test_a_missing_object_is_named_as_such(registry, tools, tmp_path):
    shard = b"precious" * 5000
    version = publish(registry, "n", tools.make_folder(tmp_path / "f", tools.make_frames(["d0_0"]), {"s.tar": shard}))
    damaged(tmp_path / "remote", shard, b"").unlink()
    with pytest.raises(InputError, match="restore it from its backup"):
        fetch(registry, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("nightdrive-")] == []


def test_a_child_of_a_damaged_parent_is_not_published(registry, tools, tmp_path):
    shard = b"precious" * 5000
    parent = publish(registry, "n", tools.make_folder(tmp_path / "f", tools.make_frames(["d0_0"]), {"s.tar": shard}))
    damaged(tmp_path / "remote", shard, b"short")
    child = tools.make_folder(tmp_path / "g", tools.make_frames(["d0_0", "d0_1"]), {}, {"s.tar": shard})
    with pytest.raises(RegistryError, match=r"lacks or damaged shards/s\.tar"):
        publish(registry, "child", child, parent=parent.tag)
    assert "child" not in tools.git(registry, "tag", "--list")


def test_the_list_of_files_holds_both_hashes_of_each(published, tmp_path):
    fetch(published.registry, published.second, tmp_path / "out")
    found = contents(tmp_path / "out")
    listed = json.loads(found["files.json"])["files"]
    assert listed.keys() == found.keys() - {"files.json", "run.json"}
    for name, entry in listed.items():
        assert entry["sha256"] == hashlib.sha256(found[name]).hexdigest()
        assert entry["blake3"] == blake3(found[name]).hexdigest()
    # the specification's own test vector
    assert blake3(b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_a_version_from_before_blake3_is_checked_by_sha256_and_can_be_a_parent(registry, tools, tmp_path, monkeypatch):
    old, new = b"precious" * 5000, b"newer" * 5000
    folder = tools.make_folder(tmp_path / "f", tools.make_frames(["d0_0"]), {"old.tar": old})
    with monkeypatch.context() as before:
        real = registry_module.file_facts
        before.setattr(registry_module, "file_facts", lambda path: replace(real(path), blake3=None))
        parent = publish(registry, "n", folder)
    frames = tools.make_frames(["d0_0", "d0_1"])
    child = publish(
        registry, "c", tools.make_folder(tmp_path / "g", frames, {"new.tar": new}, {"old.tar": old}), parent=parent.tag
    )
    fetch(registry, child, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "files.json").read_text())["files"]
    assert ["blake3" in listed[f"shards/{name}.tar"] for name in ("old", "new")] == [False, True]
    damaged(tmp_path / "remote", old, b"precioux" * 5000)
    for version in (parent, child):
        with pytest.raises(InputError, match=r"shards/old\.tar of data/"):
            fetch(registry, version, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_fetched_files_that_were_edited_are_noticed(published, tmp_path):
    fetch(published.registry, published.second, tmp_path / "out")
    fetch(published.registry, published.second, tmp_path / "out")
    shard = tmp_path / "out" / "shards" / "c.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"shards/c\.tar"):
        fetch(published.registry, published.second, tmp_path / "out")


# --- killed, and many at once

KILLED = """
import os, signal, sys
from pathlib import Path
from perception.versioning import registry

place, folder, point = sys.argv[1:]
def die(*_, **__):
    os.killpg(0, signal.SIGKILL)
if point == "before the data is pushed":
    registry.push_files = die
elif point == "while the data is pushed":
    real = registry.put_files
    registry.put_files = lambda remote, files: (real(remote, dict(list(files.items())[:1])), die())
elif point == "before the list of files is pushed":
    registry.put_folder = die
elif point == "before the commit is pushed":
    registry._commit_version = die
elif point == "after the commit is pushed":
    real_push = registry.push_commit
    def push_and_die(*arguments, **named):
        real_push(*arguments, **named)
        die()
    registry.push_commit = push_and_die
registry.publish(place, "night", Path(folder))
"""


def test_kill_at_any_point_then_the_same_call_completes(registry, tools, tmp_path):
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"s.tar": b"shard" * 9000})
    head = tools.git(registry, "rev-parse", "main")
    for point in (
        "before the data is pushed",
        "while the data is pushed",
        "before the list of files is pushed",
        "before the commit is pushed",
    ):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, registry, folder, point], start_new_session=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert tools.git(registry, "tag", "--list") == "", "a version was visible before it was whole"
        assert tools.git(registry, "rev-parse", "main") == head
    command = [sys.executable, "-c", KILLED, registry, folder, "after the commit is pushed"]
    assert subprocess.run(command, start_new_session=True, check=False).returncode == -signal.SIGKILL
    version = publish(registry, "night", folder)
    assert tools.git(registry, "tag", "--list") == version.tag
    assert tools.git(registry, "rev-list", "--count", "main") == "2"
    fetch(registry, version, tmp_path / "out")
    assert (tmp_path / "out" / "shards" / "s.tar").read_bytes() == b"shard" * 9000


def test_eight_nights_at_once_all_land_in_one_line(registry, tools, tmp_path):
    def night(number):
        name = f"night-{min(number, 6)}"  # the last two are one run started twice
        frames = tools.make_frames([f"d{min(number, 6)}_{k}" for k in range(4)])
        shards = {f"{name}.tar": name.encode() * 4000}
        return publish(registry, name, tools.make_folder(tmp_path / f"frames{number}", frames, shards))

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(night, range(8)))
    assert versions[6] == versions[7]
    assert set(tools.git(registry, "tag", "--list").split()) == {version.tag for version in versions}
    assert tools.git(registry, "rev-list", "--min-parents=2", "main") == ""
    assert tools.git(registry, "rev-list", "--count", "main") == "8"
    assert len({version.commit for version in versions}) == 7
    for version in versions:
        assert version.commit in tools.git(registry, "rev-list", "main").split()
    runs = tools.git(registry, "ls-tree", "--name-only", "main", "datasets/runs/").split()
    assert sorted(runs) == sorted({version.folder for version in versions})
    fetch(registry, versions[3], tmp_path / "out")
    assert (tmp_path / "out" / "shards" / "night-3.tar").read_bytes() == b"night-3" * 4000


# --- surroundings

STRANGE_SURROUNDINGS = """
import os, pwd, sys
def no_entry(*_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = no_entry
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo") and not str(arguments[-1]).startswith("/"):
        open(os.environ["CALLS"], "a").write(f"{event} {arguments}\\n")
    if event == "subprocess.Popen" and "daemon" in str(arguments):
        open(os.environ["CALLS"], "a").write(f"{event} {arguments}\\n")
sys.addaudithook(watch)
"""


def test_no_user_no_home_no_writable_working_directory_no_egress(registry, tools, tmp_path, monkeypatch):
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"s.tar": b"x"})
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STRANGE_SURROUNDINGS)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.txt"))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.chdir("/proc")
    control = subprocess.run(
        [sys.executable, "-c", "import getpass; getpass.getuser()"], capture_output=True, check=False
    )
    assert b"getpwuid" in control.stderr, "the surroundings are not as strange as this test means them to be"
    version = publish(registry, "night", folder)
    fetch(registry, version, tmp_path / "out")
    assert not (tmp_path / "calls.txt").exists(), (tmp_path / "calls.txt").read_text()


def test_nothing_stays_behind_in_the_scratch_folder(registry, tools, tmp_path):
    scratch = tmp_path / "scratch"
    folder = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"s.tar": b"x"})
    publish(registry, "night", folder, scratch=scratch)
    shutil.rmtree(tmp_path / "remote")
    (tmp_path / "remote").write_text("not a folder")
    folder = tools.make_folder(tmp_path / "more", tools.make_frames(["d0_1"]), {"t.tar": b"y"})
    with pytest.raises(RegistryError, match="cannot be written"):
        publish(registry, "night", folder, scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert len(tools.git(registry, "tag", "--list").split()) == 1
