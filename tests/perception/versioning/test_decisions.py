import hashlib
import json
import re

import pandas as pd
import pytest

from perception.errors import InputError
from perception.versioning.audit import audit
from perception.versioning.decisions import Stale, promote, reject, rollback, set_reference
from perception.versioning.models import champion, fetch_network, propose, read_proposal, reference, reference_at
from perception.versioning.registry import create_registry, publish, resolve


@pytest.fixture(scope="module")
def versions(tools, tmp_path_factory):
    """Three versions, each built on the one before: the second keeps the first's test set, the third changes it."""
    root = tmp_path_factory.mktemp("decisions")
    create_registry(root / "registry.git", str(root / "remote"))
    train, test = [f"d0_{k}" for k in range(4)], ["d9_0", "d9_1"]
    published = []
    for run, count, test_ids in (("one", 2, test), ("two", 4, test), ("three", 4, test[:1])):
        frames = pd.concat([tools.make_frames(train[:count]), tools.make_frames(test_ids, split="test")])
        parent = published[-1].tag if published else None
        folder = tools.make_folder(root / run, frames, {})
        published.append(publish(root / "registry.git", run, folder, parent=parent))
    return root / "registry.git", *published


@pytest.fixture
def fresh(versions, tools, tmp_path):
    """A copy of the registry in which nothing was decided yet; the data stay where they are."""
    tools.git(tmp_path, "clone", "-q", "--mirror", str(versions[0]), "registry.git")
    return tmp_path / "registry.git", *versions[1:]


def approve(registry, version, names=("Ada Lovelace",), reason="reviewed the page", **options):
    return promote(
        registry, version.tag, manifest_sha256=version.manifest_sha256[:12], names=names, reason=reason, **options
    )


def decided(registry):
    return [entry.decision for entry in audit(str(registry)).decisions]


def test_promotion_moves_the_pointer_and_is_written_down(fresh, tools):
    registry, one, two, _ = fresh
    assert resolve(registry) is None
    done = approve(registry, one)
    assert (done.action, done.tag, done.names, done.previous) == ("promote", one.tag, ("Ada Lovelace",), None)
    assert resolve(registry) == one
    assert approve(registry, one) is None, "promoting what is current is no second decision"
    approve(registry, two, reason="more nights")
    assert resolve(registry, "current") == two
    assert [(d.action, d.tag, d.reason) for d in decided(registry)] == [
        ("promote", one.tag, "reviewed the page"),
        ("promote", two.tag, "more nights"),
    ]
    trailers = tools.git(registry, "log", "-1", "--format=%(trailers)", "main").splitlines()
    assert trailers == [
        "Decision: promote",
        "Decided-By: Ada Lovelace",
        f"Manifest-Sha256: {two.manifest_sha256}",
        f"Previous: {one.tag}",
    ]
    assert json.loads(tools.git(registry, "show", "main:current.json"))["manifest_sha256"] == two.manifest_sha256


def test_approval_is_bound_to_the_manifest_that_was_reviewed(fresh):
    registry, one, two, _ = fresh
    with pytest.raises(InputError, match="was reviewed"):
        promote(registry, one.tag, manifest_sha256=two.manifest_sha256, names=["Ada"], reason="wrong page")
    with pytest.raises(InputError, match="8 hex digits"):
        promote(registry, one.tag, manifest_sha256="", names=["Ada"], reason="no page")
    assert resolve(registry) is None


def test_a_changed_test_set_needs_two_people(fresh):
    registry, one, two, three = fresh
    assert two.test_set_sha256 != three.test_set_sha256
    approve(registry, one)
    approve(registry, two)
    with pytest.raises(InputError, match="changes the test set"):
        approve(registry, three)
    with pytest.raises(InputError, match="one person twice"):
        approve(registry, three, names=("Ada Lovelace", "ada  lovelace"))
    assert resolve(registry) == two
    approve(registry, three, names=("Ada Lovelace", "Charles Babbage"))
    assert resolve(registry) == three


def test_an_equal_test_set_needs_one(fresh):
    registry, one, two, _ = fresh
    assert one.test_set_sha256 == two.test_set_sha256
    approve(registry, one)
    approve(registry, two)
    assert resolve(registry) == two


def test_whoever_published_cannot_approve(fresh):
    registry, one, _, _ = fresh
    with pytest.raises(InputError, match="cannot approve it too"):
        approve(registry, one, names=("nightdrive",))


def test_a_version_that_was_not_built_on_what_is_current_is_refused_with_the_way_on(fresh, tools, tmp_path):
    registry, one, two, three = fresh
    with pytest.raises(Stale, match=f"built on {one.tag}, but none is current: .*; promote that one first"):
        approve(registry, two)
    approve(registry, one)
    with pytest.raises(Stale, match=f"make rebase VERSION={three.tag}"):
        approve(registry, three, names=("Ada Lovelace", "Charles Babbage"))
    orphan = publish(registry, "orphan", tools.make_folder(tmp_path / "orphan", tools.make_frames(["d0_0"]), {}))
    with pytest.raises(Stale, match=f"built on no version, but {one.tag} is current"):
        approve(registry, orphan)
    assert resolve(registry) == one


def test_rollback_moves_the_pointer_back_and_runs_nothing(fresh, tools):
    registry, one, two, three = fresh
    with pytest.raises(InputError, match="no current version"):
        rollback(registry, name="Ada", reason="too early")
    approve(registry, one)
    with pytest.raises(InputError, match="nothing to roll back to"):
        rollback(registry, name="Ada", reason="to what")
    approve(registry, two)
    tags = tools.git(registry, "tag", "--list")
    done = rollback(registry, name="Ada Lovelace", reason="night mIoU fell")
    assert (done.action, done.tag, done.previous) == ("rollback", one.tag, two.tag)
    assert resolve(registry) == one
    assert tools.git(registry, "tag", "--list") == tags
    with pytest.raises(InputError, match="never was current"):
        rollback(registry, name="Ada", reason="forward", revision=three.tag)
    rollback(registry, name="Ada", reason="it was the lamp", revision=two.tag)
    assert resolve(registry) == two
    assert rollback(registry, name="Ada", reason="no it was not").tag == one.tag


def test_a_rejected_version_cannot_be_promoted(fresh):
    registry, one, two, _ = fresh
    approve(registry, one)
    reject(
        registry, "two", manifest_sha256=two.manifest_sha256, name="Ada", reason="labels of night frames are shifted"
    )
    with pytest.raises(InputError, match="labels of night frames are shifted"):
        approve(registry, two)
    with pytest.raises(InputError, match="roll back first"):
        reject(registry, one.tag, manifest_sha256=one.manifest_sha256, name="Ada", reason="oops")
    assert [d.action for d in decided(registry)] == ["promote", "reject"]


@pytest.mark.parametrize(
    ("names", "reason", "words"),
    [
        ([], "fine", "at least one"),
        (["  "], "fine", "at least one"),
        (["Ada"], " ", "must say why"),
        (["A\x00"], "fine", "names"),
    ],
)
def test_decisions_need_names_and_reasons(fresh, names, reason, words):
    registry, one, _, _ = fresh
    with pytest.raises(InputError, match=words):
        approve(registry, one, names=names, reason=reason)


def test_a_moved_tag_is_noticed(fresh, tools):
    registry, one, two, _ = fresh
    approve(registry, one)
    tools.git(registry, "tag", "-f", one.tag, two.commit)
    with pytest.raises(InputError, match="moved"):
        resolve(registry)


def test_the_champion_is_a_pointer_beside_the_data(fresh, tmp_path):
    registry, one, _, _ = fresh
    assert champion(registry) is None
    assert fetch_network(registry, tmp_path / "none") is None
    model = tmp_path / "model"
    model.mkdir()
    (model / "network.onnx").write_bytes(b"onnx" * 1000)
    (model / "metrics.json").write_text("{}")
    propose(registry, one.tag, {}, model=model, facts={"code_commit": "abc"})
    approve(registry, one, reason="better at night", release=True)
    released = champion(registry)
    assert (released.tag, released.manifest_sha256) == (one.tag, one.manifest_sha256)
    assert (released.names, released.reason) == (("Ada Lovelace",), "better at night")
    assert released.facts == {"code_commit": "abc"}
    assert fetch_network(registry, tmp_path / "out") == released
    assert (tmp_path / "out" / "network.onnx").read_bytes() == b"onnx" * 1000
    with pytest.raises(InputError, match="not empty"):
        fetch_network(registry, tmp_path / "out")
    with pytest.raises(InputError, match="must be a file or a folder"):
        propose(registry, one.tag, {}, model=tmp_path / "absent")


# --- data and network together


@pytest.fixture
def proposed(fresh, tmp_path):
    """The same registry, with a network proposed for the first two versions."""
    registry, one, two, three = fresh
    for version in (one, two):
        (tmp_path / version.run).mkdir()
        (tmp_path / version.run / "model.onnx").write_bytes(version.run.encode() * 100)
        propose(registry, version.tag, {"figure": 1}, model=tmp_path / version.run, facts={"run": version.run})
    return registry, one, two, three


def test_a_proposal_releases_nothing_and_the_same_call_changes_nothing(proposed, tools, tmp_path):
    registry, one, _, three = proposed
    assert champion(registry) is resolve(registry) is None
    head = tools.git(registry, "rev-parse", "main")
    found = propose(registry, one.tag, {"figure": 1}, model=tmp_path / "one", facts={"run": "one"})
    assert tools.git(registry, "rev-parse", "main") == head
    assert read_proposal(registry, one.tag) == found
    assert read_proposal(registry, three.tag) is None
    assert propose(registry, one.tag, {"figure": 2}).evidence == {"figure": 2}


def test_promotion_releases_the_proposed_network_and_rollback_takes_both_back(proposed, tools, tmp_path):
    registry, one, two, three = proposed
    with pytest.raises(InputError, match="no network was proposed"):
        approve(registry, three, release=True, data=False)
    approve(registry, one, release=True)
    first = champion(registry)
    assert (first.tag, first.names, first.facts) == (one.tag, ("Ada Lovelace",), {"run": "one"})
    commits = int(tools.git(registry, "rev-list", "--count", "main"))
    done = approve(registry, two, release=True)
    assert int(tools.git(registry, "rev-list", "--count", "main")) == commits + 1, "one commit moves both"
    assert champion(registry).model_sha256 == done.model_sha256 != first.model_sha256
    rollback(registry, name="Ada Lovelace", reason="night mIoU fell")
    assert champion(registry).model_sha256 == first.model_sha256
    assert fetch_network(registry, tmp_path / "out").model_sha256 == first.model_sha256
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"one" * 100
    rollback(registry, name="Ada Lovelace", reason="it was the lamp", revision=two.tag)
    assert champion(registry).model_sha256 == done.model_sha256


def test_data_can_be_promoted_without_the_network(proposed):
    registry, one, two, _ = proposed
    approve(registry, one, release=True)
    before = champion(registry)
    approve(registry, two)
    assert champion(registry) == before


def judged_against(tmp_path, registry, version, champion_bytes, reference_bytes=b""):
    """Propose another network for a version, with a verdict that compared it with a champion and a reference release."""
    champion = hashlib.sha256(champion_bytes).hexdigest() if champion_bytes else None
    evaluation = {
        "comparison": {"champion_sha256": champion} if champion else None,
        "promotion": {
            "decision": "promote",
            "reference": hashlib.sha256(reference_bytes).hexdigest() if reference_bytes else None,
        },
    }
    (tmp_path / "other").mkdir(exist_ok=True)
    (tmp_path / "other" / "model.onnx").write_bytes(b"other")
    return propose(registry, version.tag, {"evaluation": evaluation}, model=tmp_path / "other").model_sha256


def test_a_network_is_released_alone_and_taken_back_alone(proposed, tmp_path):
    registry, one, _, _ = proposed
    approve(registry, one, release=True)
    first = champion(registry).model_sha256
    other = judged_against(tmp_path, registry, one, b"one" * 100)
    done = approve(registry, one, release=True, data=False)
    assert (done.action, done.tag, done.previous, done.model_sha256) == ("release", one.tag, one.tag, other)
    assert (resolve(registry), champion(registry).model_sha256) == (one, other)
    assert approve(registry, one, release=True, data=False) is None, "it is the champion already"
    taken_back = rollback(registry, name="Ada Lovelace", reason="night mIoU fell")
    assert (taken_back.tag, taken_back.model_sha256) == (one.tag, first)
    assert (resolve(registry), champion(registry).model_sha256) == (one, first)
    assert audit(str(registry)).problems == ()


def test_the_reference_release_is_a_network_that_was_released_and_only_people_move_it(proposed, tools, tmp_path):
    registry, one, two, _ = proposed
    ada = {"names": ("Ada Lovelace",), "reason": "as driven in spring"}
    with pytest.raises(InputError, match="no champion yet"):
        set_reference(registry, **ada)
    assert reference(registry) is None
    approve(registry, one, release=True)
    first = champion(registry)
    with pytest.raises(InputError, match="never was the champion"):
        set_reference(registry, revision=two.tag, **ada)
    with pytest.raises(InputError, match="cannot approve it too"):
        set_reference(registry, names=("nightdrive",), reason="by itself")
    done = set_reference(registry, **ada)
    assert (done.action, done.tag, done.reference_sha256, done.model_sha256) == (
        "reference", one.tag, first.model_sha256, None,
    )  # fmt: skip
    trailers = tools.git(registry, "log", "-1", "--format=%(trailers)", "main").splitlines()
    assert trailers[0] == "Decision: reference" and f"Reference-Sha256: {first.model_sha256}" in trailers
    assert set_reference(registry, **ada) is None, "it is so already"
    approve(registry, two, release=True)
    assert reference(registry).model_sha256 == first.model_sha256 != champion(registry).model_sha256
    assert fetch_network(registry, tmp_path / "out", reference_at).reason == "as driven in spring"
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"one" * 100
    assert set_reference(registry, **ada).tag == two.tag
    assert set_reference(registry, revision=one.tag, **ada).previous == two.tag
    assert audit(str(registry)).problems == ()
    rollback(registry, name="Ada", reason="night mIoU fell")
    assert (resolve(registry), champion(registry).model_sha256) == (one, first.model_sha256), (
        "data and network, not alone"
    )


def test_a_verdict_from_before_the_reference_moved_does_not_count(proposed, tmp_path):
    registry, one, two, _ = proposed
    approve(registry, one, release=True)
    judged_against(tmp_path, registry, two, b"one" * 100)
    set_reference(registry, names=("Ada Lovelace",), reason="as driven in spring")
    with pytest.raises(Stale, match="judged against another reference release than the one of today"):
        approve(registry, two, release=True)
    judged_against(tmp_path, registry, two, b"one" * 100, b"one" * 100)
    assert approve(registry, two, release=True).model_sha256 == champion(registry).model_sha256


def test_a_verdict_against_another_champion_does_not_count(proposed, tmp_path):
    registry, one, two, _ = proposed
    approve(registry, one, release=True)
    for seen in (b"", b"the one before"):
        judged_against(tmp_path, registry, two, seen)
        with pytest.raises(Stale, match="judged against another champion"):
            approve(registry, two, release=True)
    assert approve(registry, two).model_sha256 is None, "its data can be promoted all the same"


# --- history that can be checked


def test_a_sound_history_has_no_problem(proposed):
    registry, one, two, _ = proposed
    approve(registry, one, release=True)
    approve(registry, two)
    rollback(registry, name="Ada", reason="too early")
    found = audit(str(registry))
    assert [entry.decision.action for entry in found.decisions] == ["promote", "promote", "rollback"]
    assert not found.signed and {entry.signer for entry in found.decisions} == {None}
    assert found.problems == ()


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("decisions", ("Ada Lovelace", "Eve"), "after it was written"),
        ("decisions", None, "removed a decision"),
        ("current.json", ("ada", "eve"), "moved by hand"),
        ("champion.json", ("model_sha256", "other"), "champion.json names .* no decision released"),
        ("reference.json", ("model_sha256", "other"), "reference.json names .* no decision released"),
    ],
)
def test_a_history_that_was_tampered_with_says_so(proposed, tools, tmp_path, path, change, words):
    registry, one, two, _ = proposed
    approve(registry, one, release=True)
    set_reference(registry, names=("Ada Lovelace",), reason="as driven in spring")
    approve(registry, two, release=True)
    if path == "reference.json":
        set_reference(registry, names=("Ada Lovelace",), reason="as driven in summer")
    tools.git(tmp_path, "clone", "-q", str(registry), "work")
    work = tmp_path / "work"
    target = sorted((work / "decisions").iterdir())[0] if path == "decisions" else work / path
    if change is None:
        target.unlink()
    elif path == "decisions":
        target.write_text(target.read_text().replace(*change))
    else:
        tools.git(work, "checkout", "-q", "HEAD~1", "--", path)
    tools.git(work, "-c", "user.name=Eve", "-c", "user.email=e@x", "commit", "-qam", "fix")
    tools.git(work, "push", "-q", "origin", "HEAD:main")
    assert any(re.search(words, problem) for problem in audit(str(registry)).problems)
