import numpy as np
import pytest

from perception.adaptation.pseudo import PseudoQuality
from perception.adaptation.trust import TrustRule, decide_trust
from perception.errors import InputError

NAN = float("nan")
FOREGROUND = (False, True, True, True, True, True)
KNOWN = (1, 2, 3, 4)


def quality(precision, right_px=(10,) * 6) -> PseudoQuality:
    values = np.array(precision, np.float64)
    return PseudoQuality(0.5, 0.5, np.full(6, 0.5), values, np.zeros(6, np.int64), np.array(right_px, np.int64))


def decided(rule: TrustRule):
    plain = quality([0.9, 0.5, NAN, 0.8, 0.2, 0.1])
    detector = quality([0.9, 0.6, 0.4, 0.7, NAN, NAN])
    return {each.class_id: each for each in decide_trust(rule, KNOWN, FOREGROUND, plain, detector)}


def test_measured_trust_needs_evidence_that_beats_the_segmentation():
    found = decided(TrustRule(classes="measured", least_precision=0.3))
    assert {name for name, each in found.items() if each.trusted} == {1, 2}
    assert found[1].reason == "60.0% of its mask pixels are right, of the segmentation's 50.0%"
    assert found[2].reason == "40.0% of its mask pixels are right, the segmentation says none"
    assert found[3].reason == "70.0% of its mask pixels are right, of the segmentation's 80.0%"
    assert found[4].reason.startswith("the detector found none") and found[4].precision_detector is None
    assert found[5].reason == "the detector was not taught this class"


def test_a_class_must_be_right_often_enough():
    found = decided(TrustRule(classes="measured", least_precision=0.5))
    assert {name for name, each in found.items() if each.trusted} == {1}
    assert found[2].reason == "40.0% of its mask pixels are right, below the least 50%"


def test_a_few_right_pixels_do_not_replace_many():
    plain, detector = quality([0.2] * 6, right_px=[0, 100, 100, 0, 0, 0]), quality([0.9] * 6, [0, 49, 50, 1, 0, 0])
    found = {each.class_id: each for each in decide_trust(TrustRule(), KNOWN, FOREGROUND, plain, detector)}
    assert {name for name, each in found.items() if each.trusted} == {2, 3, 4}
    assert found[1].reason == "its masks are right on 49 px only, the segmentation on 100 px"


def test_all_is_the_papers_rule_and_none_switches_it_off():
    assert {name for name, each in decided(TrustRule(classes="all")).items() if each.trusted} == set(KNOWN)
    assert not any(each.trusted for each in decided(TrustRule(classes="none")).values())


@pytest.mark.parametrize("wrong", [{"classes": "some"}, {"least_precision": 1.5}])
def test_bad_rules_are_refused(wrong):
    with pytest.raises(InputError):
        TrustRule(**wrong)
