from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perception.selection.reasons import RULES
from perception.versioning import review as review_module
from perception.versioning.policy import data_objections, network_objections
from perception.versioning.recorded import Decision, Proposal
from perception.versioning.records import Version
from perception.versioning.review import History, Side, review_facts
from perception.versioning.settings import ReviewSettings

NOTHING_KNOWN = History(decisions=(), champion=None, current=None, signed=False, versions=())


def version(tag, frames, test_set="e" * 64):
    return Version(
        tag=tag, commit="c" * 40, manifest_sha256="a" * 64, parent=None, run="night", published_by="Nightdrive",
        frames=len(frames), splits={}, test_set_sha256=test_set, new_bytes=10, files_sha256="f" * 64,
    )  # fmt: skip


def evaluation(miou, **by_condition):
    return {
        "miou": miou, "miou_by_condition": by_condition, "frames": 40, "frames_by_condition": dict.fromkeys(by_condition, 20),
        "iou_by_class": {"road": miou}, "promotion": {"decision": "promote", "reason": "good"},
    }  # fmt: skip


def side(frames, tag="data/x-aaaaaaaa", hashes=None, figures=None, **evidence):
    if figures:
        evidence = {"evaluation": figures, "gates": [{"suite": "curate", "decision": "pass", "failed": []}], **evidence}
    found = Proposal(tag=tag, manifest_sha256="a" * 64, model_sha256="b" * 64, evidence=evidence) if evidence else None
    profile = pd.DataFrame({"frame_id": frames["frame_id"], "dhash": hashes}) if hashes else pd.DataFrame()
    return Side(version=version(tag, frames), frames=frames, profile=profile, proposal=found)


@pytest.fixture
def frames(tools):
    train = tools.make_frames([f"d{k % 3}_{k}" for k in range(12)])
    return pd.concat([train, tools.make_frames([f"t{k}_{k}" for k in range(4)], split="test")], ignore_index=True)


def test_changes_name_every_frame(frames):
    head = frames.drop(index=[0, 1]).reset_index(drop=True)
    head.loc[0, "label_sha256"] = "9" * 64
    head.loc[head.index[-1], "split"] = "val"
    facts = review_facts(side(frames), side(head, "data/y-aaaaaaaa"), NOTHING_KNOWN, ReviewSettings())
    assert facts["changes"]["removed"] == {"total": 2, "ids": ["d0_0", "d1_1"]}
    assert facts["changes"]["relabelled"]["ids"] == ["d2_2"]
    assert facts["changes"]["moved"]["rows"] == [{"frame_id": "t3_3", "base_split": "test", "head_split": "val"}]
    assert facts["answers"]["changed"] == "16 frames before, 14 now: 2 removed, 1 relabelled, 1 moved."


def test_a_first_version_says_what_it_holds(frames):
    head = side(frames)
    head = replace(head, version=replace(head.version, splits={"test": 4, "train": 12}))
    nothing = replace(side(frames.head(0)), version=None)
    facts = review_facts(nothing, head, NOTHING_KNOWN, ReviewSettings())
    assert facts["answers"]["changed"] == "First version, all of it new: 16 frames, 4 test and 12 train."


@pytest.mark.parametrize(("random", "ending"), [(0.3, "30.0%."), (0.4, "40.0%: choosing did not pay tonight.")])
def test_the_story_of_the_selection_says_whether_it_paid(frames, random, ending):
    story = {
        "strategy": "k_centre", "measure": "ensemble_entropy", "budget_frames": 3, "pool_frames": 90, "selected_frames": 3,
        "miou_selected": [0.4], "miou_random": [random],
    }  # fmt: skip
    facts = review_facts(side(frames), side(frames, selection=story), NOTHING_KNOWN, ReviewSettings())
    assert facts["answers"]["chosen"].startswith(
        "3 of 90 by k_centre on ensemble_entropy, the most uncertain that are unlike"
    )
    assert facts["answers"]["chosen"].endswith(ending)


def test_every_strategy_of_a_selection_is_said_in_words():
    assert review_module._IN_WORDS.keys() == RULES.keys()


def test_thin_cells_are_counted_on_what_networks_learn_from(frames):
    frames["px_road"] = 10
    frames["px_bus"] = np.where(frames["split"] == "test", 5, 0)
    facts = review_facts(side(frames.head(0)), side(frames), NOTHING_KNOWN, ReviewSettings(least_frames=5))
    thin = {(cell["class"], cell["condition"]): cell["frames"] for cell in facts["balance"]["thin"]}
    assert thin == {("bus", c): 0 for c in ("scene=urban", "time_of_day=day", "weather=clear")}


def test_leaks_of_every_kind_are_found(frames):
    clean = ["%016x" % (0x1111111111111111 * k) for k in range(16)]
    facts = review_facts(side(frames), side(frames, hashes=clean), NOTHING_KNOWN, ReviewSettings(near_bits=2))
    assert facts["answers"]["leaking"].startswith("No: no drive")
    alike = [*clean[:15], "%016x" % (0x1111111111111111 * 2 ^ 1)]
    leaking = frames.copy()
    leaking.loc[12, "drive_id"] = "d0"
    leaking.loc[13, "image_sha256"] = leaking.loc[3, "image_sha256"]
    facts = review_facts(side(frames), side(leaking, hashes=alike), NOTHING_KNOWN, ReviewSettings(near_bits=2))
    leakage = facts["leakage"]
    assert leakage["drives"] == [{"drive_id": "d0", "splits": {"test": 1, "train": 4}}]
    assert leakage["equal_images"] == 1
    [pair] = leakage["pairs"]
    assert (pair["train"], pair["held_out"], pair["distance_bits"]) == ("d2_2", "t3_3", 1)
    assert "1 drives lie in two splits" in facts["answers"]["leaking"]
    assert (
        "was not measured"
        in review_facts(side(frames), side(frames), NOTHING_KNOWN, ReviewSettings())["answers"]["leaking"]
    )


def test_groups_of_alike_training_images_are_counted(frames):
    hashes = ["0" * 16] * 3 + ["%016x" % (0x0F0F0F0F0F0F0F0F ^ (0xFFFF << (4 * k))) for k in range(13)]
    facts = review_facts(side(frames), side(frames, hashes=hashes), NOTHING_KNOWN, ReviewSettings(near_bits=1))
    assert facts["leakage"]["groups"] == {"groups": 1, "frames": 3, "largest": 3}


def test_the_worst_condition_comes_first_and_is_named(frames):
    base = side(frames, figures=evaluation(0.5, **{"time_of_day=day": 0.6, "time_of_day=night": 0.4}))
    head = side(
        frames, "data/y-aaaaaaaa", figures=evaluation(0.51, **{"time_of_day=day": 0.65, "time_of_day=night": 0.35})
    )
    facts = review_facts(base, head, NOTHING_KNOWN, ReviewSettings())
    assert [row["name"] for row in facts["model"]["conditions"]] == ["time_of_day=night", "overall", "time_of_day=day"]
    assert facts["model"]["worse"] == [], "a difference of two nights is no judgement"
    assert "lowest: time of day: night -5.0 points" in facts["answers"]["worse"]
    other = replace(base, version=replace(base.version, test_set_sha256="d" * 64))
    facts = review_facts(other, head, NOTHING_KNOWN, ReviewSettings())
    assert facts["model"]["against"] is None
    assert "the test set changed" in facts["answers"]["worse"]
    assert facts["approval"]["names_needed"] == 2


def test_the_champion_of_the_same_night_is_what_a_network_is_compared_with(frames):
    figures = evaluation(0.5, **{"weather=rain": 0.3}) | {
        "miou_champion": 0.49,
        "comparison": {
            "champion_miou_by_condition": {"weather=rain": 0.36}, "champion_iou_by_class": {"road": 0.7},
            "judgements": [{"name": "weather=rain", "lower": -0.09, "upper": -0.03, "outcome": "worse"}],
        },
    }  # fmt: skip
    facts = review_facts(side(frames), side(frames, figures=figures), NOTHING_KNOWN, ReviewSettings())
    assert facts["model"]["against"].startswith("the champion")
    assert facts["model"]["worse"] == ["weather=rain"]
    assert "weather: rain -6.0 points" in facts["answers"]["worse"]
    assert [facts["model"]["conditions"][0][key] for key in ("low", "high", "outcome")] == [-0.09, -0.03, "worse"]
    assert facts["model"]["classes"] == [{"name": "road", "base": 0.7, "head": 0.5}]


def decision(action, tag, **more):
    return Decision(
        action=action, tag=tag, manifest_sha256="a" * 64, names=("Ada Lovelace",), reason="labels shifted", previous=None,
        decided_utc="2026-11-24T06:30:00.000000+00:00", **more,
    )  # fmt: skip


def test_who_approved(frames):
    head = side(frames)
    facts = review_facts(side(frames.head(0)), head, NOTHING_KNOWN, ReviewSettings())
    assert facts["answers"]["approved"] == "Nobody yet; one person decides."
    rejected = replace(NOTHING_KNOWN, decisions=[decision("reject", head.version.tag)])
    facts = review_facts(side(frames), head, rejected, ReviewSettings())
    assert facts["answers"]["approved"] == "Rejected by Ada Lovelace on 2026-11-24 06:30 UTC: labels shifted"
    current = replace(NOTHING_KNOWN, decisions=[decision("promote", head.version.tag)], current=head.version.tag)
    assert review_facts(side(frames), head, current, ReviewSettings())["approval"]["state"] == "current"


# --- when no person is needed


@pytest.fixture
def harmless(frames, tools):
    """A version that the policy may release: one frame more, all gates passed, the verdict promotes the network."""
    more = pd.concat([frames, tools.make_frames(["d9_0"])], ignore_index=True)
    figures = evaluation(0.5, **{"time_of_day=day": 0.6})
    return side(frames, figures=figures), side(more, "data/y-aaaaaaaa", figures=figures)


def why(base, head, history=NOTHING_KNOWN):
    facts = review_facts(base, head, history, ReviewSettings(near_bits=2))
    return data_objections(facts), network_objections(facts)


def test_a_harmless_version_raises_no_objection(harmless):
    base, head = harmless
    assert why(base, head) == ([], [])
    assert why(replace(base, version=None, proposal=None, frames=base.frames.head(0)), head) == ([], []), (
        "the first one"
    )


def test_every_rule_can_object_alone(harmless):
    base, head = harmless
    evidence = dict(head.proposal.evidence)

    def with_evidence(**more):
        return replace(head, proposal=replace(head.proposal, evidence=evidence | more))

    refused = [{"suite": "evaluate", "decision": "refuse", "failed": []}]
    unknown = {"decision": "not_enough_evidence", "reason": "no frame says its weather"}
    of_data = [
        (replace(head, frames=head.frames.drop(index=3)), "1 frames removed"),
        (replace(head, version=replace(head.version, test_set_sha256="d" * 64)), "the test set changed"),
    ]
    of_network = [
        (with_evidence(evaluation=None), "the verdict is missing: nothing was judged"),
        (
            with_evidence(evaluation=evidence["evaluation"] | {"promotion": unknown}),
            "the verdict is not_enough_evidence: no frame says its weather",
        ),
    ]
    of_both = [
        (with_evidence(gates=refused), "gate evaluate refused"),
        (with_evidence(gates=[]), "no gate judged it"),
        (replace(head, proposal=None), "no gate judged it"),
    ]
    for theirs, words in of_data + of_both:
        assert any(words in reason for reason in why(base, theirs)[0]), words
    for theirs, words in of_network + of_both:
        assert any(words in reason for reason in why(base, theirs)[1]), words
    assert not any(why(base, theirs)[1] for theirs, _ in of_data)
    assert not any(why(base, theirs)[0] for theirs, _ in of_network)
    rejected = replace(NOTHING_KNOWN, decisions=[decision("reject", head.version.tag)])
    assert "somebody rejected it" in why(base, head, rejected)[0]
