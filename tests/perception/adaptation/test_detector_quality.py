import numpy as np
import pytest
import torch

from perception.adaptation import detector_quality
from perception.adaptation.detector import Detections, ForegroundDetector
from perception.adaptation.detector_quality import judge_detector, labelled_objects
from perception.adaptation.foreground import Foreground
from perception.adaptation.fusion import Instances

PERSON, CAR = 11, 13


def scene() -> np.ndarray:
    instances = np.zeros((24, 32), np.uint16)
    instances[2:12, 3:9] = 13001
    instances[10:22, 14:30] = 13002
    instances[1:8, 20:24] = 11001
    instances[22:24, 0:3] = 11002  # too small to learn
    instances[0, 30:] = 14001  # a class that the detector does not know
    return instances


class Frames:
    def __len__(self) -> int:
        return 1

    def load(self, index):
        assert index == 0
        return np.zeros((24, 32, 3), np.uint8), scene()


def test_objects_are_listed_with_their_boxes_and_the_small_ones_as_crowd():
    found = labelled_objects(scene(), (PERSON, CAR), 12)
    assert found.class_ids.tolist() == [0, 0, 1, 1]
    assert found.boxes.tolist() == [[20, 1, 24, 8], [0, 22, 3, 24], [3, 2, 9, 12], [14, 10, 30, 22]]
    assert found.crowd.tolist() == [False, True, False, False]
    assert [mask.sum() for mask in found.masks] == [28, 6, 60, 192]


def said(masks, classes, scores) -> Detections:
    masks = np.asarray(masks, bool).reshape(-1, 24, 32)
    boxes = np.array([detector_quality._box(mask) for mask in masks], np.float32).reshape(-1, 4)
    return Detections(Instances(masks, np.array(classes, np.uint8), np.array(scores, np.float32)), boxes)


@pytest.mark.parametrize(
    ("shown", "classes", "scores", "person", "car"),
    [
        ((11001, 13001, 13002), (0, 1, 1), (0.9, 0.8, 0.7), 1.0, 1.0),
        ((11001, 11002, 13001, 13002), (0, 0, 1, 1), (0.5, 0.9, 0.8, 0.7), 1.0, 1.0),  # the small one is excused
        ((13002,), (1,), (0.7,), 0.0, 51 / 101),  # one of two cars: COCO's 101 recalls up to a half
        ((11001, 13001), (1, 0), (0.9, 0.8), 0.0, 0.0),  # each taken for the other
    ],
)
def test_figures_of_scenes_that_can_be_counted_by_hand(monkeypatch, shown, classes, scores, person, car):
    found = said([scene() == value for value in shown], classes, scores)
    monkeypatch.setattr(detector_quality, "detect", lambda *_: iter([found]))
    detector = Foreground(ForegroundDetector(2, width=0.25), (PERSON, CAR))
    quality = judge_detector(detector, Frames())
    for each in (quality.boxes, quality.masks):
        assert each.by_class[0].tolist() == pytest.approx([person, car])
        assert each.ap50 == pytest.approx((person + car) / 2)
    assert quality.frames == 1


def test_a_real_detector_is_judged_on_all_that_it_finds():
    torch.manual_seed(0)
    network = ForegroundDetector(2, width=0.25)
    network.heat.out.bias.data += 4.0
    network.shape.out.bias.data[-1] += 4.0
    quality = judge_detector(Foreground(network, (PERSON, CAR)), Frames())
    assert quality.boxes.by_class.shape == (10, 2) and not np.isnan(quality.masks.ap50)
