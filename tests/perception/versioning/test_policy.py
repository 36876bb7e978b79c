import hashlib
import json

import pandas as pd
import pytest

from perception.data.store import open_store
from perception.versioning.audit import audit
from perception.versioning.decisions import Stale
from perception.versioning.models import champion, propose
from perception.versioning.policy import POLICY_NAME, release_by_policy, told
from perception.versioning.registry import create_registry, publish, resolve
from perception.versioning.review_sides import review
from perception.versioning.settings import ReleasePolicy

GATES = [{"suite": "curate", "decision": "pass", "failed": []}]
UNATTENDED = ReleasePolicy(data="when_gates_pass", network="when_verdict_promotes")


@pytest.fixture
def nights(tools, tmp_path):
    """A registry, and what publishes and proposes a night there: run, training frames, parent, gates and verdict."""
    registry = str(tmp_path / "registry.git")
    create_registry(registry, str(tmp_path / "remote"))

    def night(run, count, parent=None, *, decision="promote", gates=GATES):
        frames = [tools.make_frames([f"d0_{k}" for k in range(count)]), tools.make_frames(["t_0"], split="test")]
        folder = tools.make_folder(tmp_path / run, pd.concat(frames), {})
        version = publish(registry, run, folder, parent=parent and parent.tag)
        (tmp_path / f"model-{run}").mkdir()
        (tmp_path / f"model-{run}" / "model.onnx").write_bytes(run.encode())
        released = champion(registry)
        evaluation = {
            "miou": 0.5, "miou_by_condition": {}, "frames": 1, "frames_by_condition": {}, "iou_by_class": {},
            "promotion": {"decision": decision, "reason": "as it was told"},
            "comparison": {"champion_sha256": released.files["model.onnx"]} if released else None,
        }  # fmt: skip
        propose(registry, version.tag, {"gates": gates, "evaluation": evaluation}, model=tmp_path / f"model-{run}")
        return version

    return registry, night


def facts_of(registry, version):
    return review(registry, version.tag, store=open_store(f"{registry}.store"))[0]


def released(registry):
    network = champion(registry)
    return resolve(registry), network.tag if network else None


def test_by_default_people_decide(nights):
    registry, night = nights
    facts = facts_of(registry, night("one", 1))
    assert release_by_policy(registry, facts, ReleasePolicy()) is None
    assert told(facts, ReleasePolicy()) == [
        f"left to a person, the {what}: by hand, as the policy says" for what in ("data", "network")
    ]
    assert released(registry) == (None, None)


def test_the_policy_signs_with_its_text_and_its_hash(nights, tools):
    registry, night = nights
    one = night("one", 1)
    done = release_by_policy(registry, facts_of(registry, one), UNATTENDED)
    assert done.names == (POLICY_NAME,)
    assert json.loads(done.policy) == {"data": "when_gates_pass", "network": "when_verdict_promotes"}
    assert done.policy_sha256 == hashlib.sha256(done.policy.encode()).hexdigest()
    assert released(registry) == (one, one.tag)
    assert tools.git(registry, "log", "-1", "--format=%an", "main") == POLICY_NAME
    assert f"Policy-Sha256: {done.policy_sha256}" in tools.git(registry, "log", "-1", "--format=%(trailers)", "main")
    assert audit(registry).problems == ()


def test_data_and_network_are_released_separately(nights):
    registry, night = nights
    one = night("one", 1)
    release_by_policy(registry, facts_of(registry, one), UNATTENDED)
    two = night("two", 2, one, decision="not_enough_evidence")
    assert release_by_policy(registry, facts_of(registry, two), UNATTENDED).action == "promote"
    assert released(registry) == (two, one.tag)
    three = night("three", 3, two)
    only = ReleasePolicy(network="when_verdict_promotes")
    assert release_by_policy(registry, facts_of(registry, three), only).action == "release"
    assert released(registry) == (two, three.tag)
    refused = night("refused", 4, two, gates=[{"suite": "adapt", "decision": "refuse", "failed": []}])
    assert release_by_policy(registry, facts_of(registry, refused), UNATTENDED) is None
    assert released(registry) == (two, three.tag)


def test_a_stale_night_releases_nothing(nights):
    registry, night = nights
    one = night("one", 1)
    release_by_policy(registry, facts_of(registry, one), UNATTENDED)
    two, late = night("two", 2, one), night("late", 3, one)
    release_by_policy(registry, facts_of(registry, two), UNATTENDED)
    with pytest.raises(Stale):
        release_by_policy(registry, facts_of(registry, late), UNATTENDED)
    with pytest.raises(Stale, match="judged against another champion"):
        release_by_policy(registry, facts_of(registry, late), ReleasePolicy(network="when_verdict_promotes"))
    assert released(registry) == (two, two.tag)
