"""A registry as nights wrote it before records had a format number: stored whole, brought forward, worked with."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from perception.errors import InputError
from perception.versioning.audit import audit
from perception.versioning.decisions import promote
from perception.versioning.lineage import reproduce
from perception.versioning.migrate import migrate
from perception.versioning.models import champion, fetch_network, read_proposal
from perception.versioning.records import FORMAT
from perception.versioning.registry import resolve
from perception.versioning.repository import restore_registry
from perception.versioning.upkeep import scrub, versions

FIRST, SECOND, THIRD = "data/first-30cdcefc", "data/second-e4c05032", "data/third-6d080c94"


@pytest.fixture
def older(tmp_path: Path) -> str:
    """Three versions with a network each: two were promoted, then rolled back to the first; the third was rejected."""
    with tarfile.open(Path(__file__).parent / "older" / "unnumbered.tar.gz") as stored:
        stored.extractall(tmp_path, filter="data")
    restore_registry(tmp_path / "registry.git", tmp_path / "registry.bundle", str(tmp_path / "remote"))
    return str(tmp_path / "registry.git")


def test_an_older_registry_asks_to_be_brought_forward(older):
    for read in (resolve, champion, lambda registry: read_proposal(registry, FIRST), audit):
        with pytest.raises(InputError, match=r"has no format number: .* make migrate"):
            read(older)


def test_it_is_brought_forward_in_one_commit_and_is_what_it_was(older, tools, tmp_path):
    commits = int(tools.git(Path(older), "rev-list", "--count", "main"))
    assert migrate(older) == 1 + 1 + 4 + 3 + 3, "pointers, decisions, networks, proposals"
    assert int(tools.git(Path(older), "rev-list", "--count", "main")) == commits + 1
    assert migrate(older) == 0
    assert [version.tag for version in versions(older)] == [FIRST, SECOND, THIRD]
    assert (resolve(older).tag, champion(older).tag) == (FIRST, FIRST)
    found = audit(older)
    decided = [(each.decision.action, each.decision.tag) for each in found.decisions]
    assert decided == [("promote", FIRST), ("promote", SECOND), ("rollback", FIRST), ("reject", THIRD)]
    assert found.problems == (), "a format number that was added is no change of what was decided"
    assert scrub(older, sample=None, seed=0).is_clean
    assert reproduce(older, SECOND, tmp_path / "second").version.parent == FIRST
    assert fetch_network(older, tmp_path / "champion").files.keys() == {"model.onnx"}
    promote(older, SECOND, manifest_sha256=SECOND[-8:], names=["Ada Lovelace"], reason="it was the lamp", release=True)
    assert (resolve(older).tag, champion(older).tag) == (SECOND, SECOND)


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("current.json", resolve),
        ("champion.json", champion),
        ("decisions/", audit),
        (f"datasets/runs/{FIRST.removeprefix('data/')}/proposal.json", lambda registry: read_proposal(registry, FIRST)),
    ],
)
def test_records_of_a_newer_version_are_refused_by_name(older, tools, tmp_path, path, read):
    migrate(older)
    tools.git(tmp_path, "clone", "-q", older, "work")
    file = tmp_path / "work" / path
    file = sorted(file.iterdir())[0] if path.endswith("/") else file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": FORMAT + 1}))
    signed = ["-c", "user.name=A", "-c", "user.email=a@x"]
    subprocess.run(["git", "-C", tmp_path / "work", *signed, "commit", "-qam", "from the future"], check=True)
    tools.git(tmp_path / "work", "push", "-q", "origin", "HEAD:main")
    with pytest.raises(InputError, match=f"{path}.* has format {FORMAT + 1}, written by a newer Nightdrive"):
        read(older)
