"""KITTI's AP against a slow, literal reading of the development kit, and on a case small enough to count by hand."""

import numpy as np
import pytest

from perception.errors import InputError
from perception.metrics.kitti import KittiDetections, KittiLabels, kitti_ap, recall_thresholds

MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION = [40, 25, 25], [0, 1, 2], [0.15, 0.3, 0.5]
MIN_OVERLAP = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}


def box_overlap(a, b, criterion=-1):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    inter, a_area, b_area = w * h, (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inter / (a_area + b_area - inter) if criterion == -1 else inter / a_area


def clean(kind, labels, found, difficulty):
    ignored_gt, ignored_det, n_gt = [], [], 0
    for k, name in enumerate(labels.kinds):
        height = labels.boxes[k][3] - labels.boxes[k][1]
        if name == kind:
            valid = 1
        elif (kind, name) in (("pedestrian", "person_sitting"), ("car", "van")):
            valid = 0
        else:
            valid = -1
        ignore = (
            labels.occlusion[k] > MAX_OCCLUSION[difficulty]
            or labels.truncation[k] > MAX_TRUNCATION[difficulty]
            or height <= MIN_HEIGHT[difficulty]
        )
        if valid == 1 and not ignore:
            ignored_gt.append(0)
            n_gt += 1
        elif valid == 0 or (ignore and valid == 1):
            ignored_gt.append(1)
        else:
            ignored_gt.append(-1)
    for k, name in enumerate(found.kinds):
        height = int(abs(found.boxes[k][1] - found.boxes[k][3]))
        ignored_det.append(1 if height < MIN_HEIGHT[difficulty] else 0 if name == kind else -1)
    return ignored_gt, ignored_det, n_gt


def statistics(kind, labels, found, ignored_gt, ignored_det, compute_fp, thresh):
    least, nothing = MIN_OVERLAP[kind], -10000000
    tp = fp = fn = 0
    scores, assigned = [], [False] * len(found.kinds)
    below = [compute_fp and found.scores[j] < thresh for j in range(len(found.kinds))]
    for i in range(len(labels.kinds)):
        if ignored_gt[i] == -1:
            continue
        det, valid, best, took_ignored = -1, nothing, 0.0, False
        for j in range(len(found.kinds)):
            if ignored_det[j] == -1 or assigned[j] or below[j]:
                continue
            overlap = box_overlap(found.boxes[j], labels.boxes[i])
            if not compute_fp and overlap > least and found.scores[j] > valid:
                det, valid = j, found.scores[j]
            elif compute_fp and overlap > least and (overlap > best or took_ignored) and ignored_det[j] == 0:
                best, det, valid, took_ignored = overlap, j, 1, False
            elif compute_fp and overlap > least and valid == nothing and ignored_det[j] == 1:
                det, valid, took_ignored = j, 1, True
        if valid == nothing and ignored_gt[i] == 0:
            fn += 1
        elif valid != nothing and (ignored_gt[i] == 1 or ignored_det[det] == 1):
            assigned[det] = True
        elif valid != nothing:
            tp += 1
            scores.append(found.scores[det])
            assigned[det] = True
    if compute_fp:
        for j in range(len(found.kinds)):
            if not (assigned[j] or ignored_det[j] in (-1, 1) or below[j]):
                fp += 1
        for k, name in enumerate(labels.kinds):
            if name != "dontcare":
                continue
            for j in range(len(found.kinds)):
                if assigned[j] or ignored_det[j] in (-1, 1) or below[j]:
                    continue
                if box_overlap(found.boxes[j], labels.boxes[k], 0) > least:
                    assigned[j] = True
                    fp -= 1
    return tp, fp, fn, scores


def slow_kitti_ap(labels, found, kind, difficulty, positions):
    cleaned = [clean(kind, a, b, difficulty) for a, b in zip(labels, found, strict=True)]
    n_gt = sum(each[2] for each in cleaned)
    if n_gt == 0:
        return float("nan")
    v = []
    for a, b, (gt, det, _) in zip(labels, found, cleaned, strict=True):
        v += statistics(kind, a, b, gt, det, False, 0)[3]
    v.sort(reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(v):
        left = (i + 1) / n_gt
        right = (i + 2) / n_gt if i < len(v) - 1 else left
        if (right - recall) < (recall - left) and i < len(v) - 1:
            continue
        thresholds.append(score)
        recall += 1 / 40.0
    precision = [0.0] * 41
    for t, threshold in enumerate(thresholds):
        tp = fp = 0
        for a, b, (gt, det, _) in zip(labels, found, cleaned, strict=True):
            one = statistics(kind, a, b, gt, det, True, threshold)
            tp, fp = tp + one[0], fp + one[1]
        precision[t] = tp / (tp + fp) if tp + fp else 0.0
    precision = [max(precision[i:]) for i in range(41)]
    return sum(precision[1:]) / 40 if positions == 40 else sum(precision[i] for i in range(0, 41, 4)) / 11


KINDS = ("car", "van", "pedestrian", "person_sitting", "cyclist", "dontcare", "truck")


def scene(random):
    count = int(random.integers(2, 9))
    corner, size = random.uniform(0, 300, (count, 2)), random.uniform(15, 110, (count, 2))
    boxes = np.hstack([corner, corner + size])
    labels = KittiLabels(
        kinds=[str(each) for each in random.choice(KINDS, count, p=[0.35, 0.1, 0.2, 0.1, 0.1, 0.1, 0.05])],
        boxes=boxes,
        truncation=random.choice([0.0, 0.1, 0.2, 0.4, 0.6], count),
        occlusion=random.integers(0, 4, count),
    )
    seen = random.random(count) < 0.8
    extra = random.uniform(0, 300, (3, 2))
    extra = np.hstack([extra, extra + random.uniform(15, 110, (3, 2))])
    copies = boxes[seen] + random.normal(0, 2, (seen.sum(), 4))
    twins = boxes[seen][:2] + random.normal(0, 3, (min(2, seen.sum()), 4))
    all_boxes = np.vstack([copies, twins, extra])
    likely = [
        {"van": "car", "dontcare": "car", "person_sitting": "pedestrian", "truck": "car"}.get(k, k)
        for k in labels.kinds
    ]
    kinds = [k for k, s in zip(likely, seen, strict=True) if s]
    kinds = [*kinds, *kinds[:2], *random.choice(["car", "pedestrian", "cyclist"], 3).tolist()]
    return labels, KittiDetections(kinds=kinds, boxes=all_boxes, scores=random.random(len(kinds)))


@pytest.mark.parametrize("kind", ["car", "pedestrian", "cyclist"])
@pytest.mark.parametrize("positions", [11, 40])
def test_equals_a_literal_reading_of_the_development_kit(kind, positions):
    random = np.random.default_rng(positions)
    labels, found = zip(*(scene(random) for _ in range(90)), strict=True)
    ours = kitti_ap(labels, found, kind, positions)
    for difficulty, name in enumerate(("easy", "moderate", "hard")):
        expected = slow_kitti_ap(labels, found, kind, difficulty, positions)
        assert ours[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name
    assert 0.01 < ours["hard"] < 0.95


def test_a_case_counted_by_hand():
    """Two cars, one hidden: easy wants one and finds it; a false alarm scores above it; one lies in a dontcare region."""
    labels = KittiLabels(
        kinds=["car", "car", "van", "dontcare"],
        boxes=np.array([[0, 0, 100, 50], [200, 0, 300, 50], [400, 0, 500, 50], [600, 0, 800, 200]], float),
        truncation=np.zeros(4),
        occlusion=np.array([0, 2, 0, 0]),
    )
    found = KittiDetections(
        kinds=["car"] * 5,
        boxes=np.array(
            [[0, 0, 100, 50], [200, 0, 300, 50], [400, 0, 500, 50], [620, 20, 720, 80], [900, 0, 999, 60]], float
        ),
        scores=np.array([0.5, 0.6, 0.9, 0.8, 0.7]),
    )
    # Easy: one object counts, found at 0.5 together with the false alarm at 0.7: precision 1/2 at its one threshold,
    # which is recall position 0 of 40. The hidden car, the van and the detection in the region excuse themselves.
    easy = kitti_ap([labels], [found], "car", 11)["easy"]
    assert easy == pytest.approx((1 / 2) / 11)
    # Hard: both cars count; hits at 0.6 and 0.5, precision 1/2 and 2/3; the envelope is 2/3 at positions 0 and 1.
    assert kitti_ap([labels], [found], "car", 40)["hard"] == pytest.approx((2 / 3) / 40)
    assert np.isnan(kitti_ap([labels], [found], "cyclist")["easy"])


def test_thresholds_are_the_scores_nearest_to_each_recall():
    scores = np.linspace(1, 0, 400, endpoint=False)
    chosen = recall_thresholds(scores, 400)
    assert len(chosen) == 41
    assert chosen == sorted(chosen, reverse=True)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="kind='bus'"):
        kitti_ap([], [], "bus")
    with pytest.raises(InputError, match="recall_positions=10"):
        kitti_ap([], [], "car", 10)
