"""AP against COCOeval run on the same objects by hand, and KITTI's AP against a slow reading of its development kit."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perception.errors import InputError
from perception.metrics.detection import Objects, average_precision

CLASSES, SIZE = 3, (60, 80)


def boxes_and_masks(random, number):
    corner = random.uniform(0, 45, (number, 2))
    size = random.uniform(6, 30, (number, 2))
    boxes = np.hstack([corner, np.minimum(corner + size, [SIZE[1], SIZE[0]])])
    masks = np.zeros((number, *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top : bottom + 1, left : right + 1] = True
    return boxes, masks


def frames(seed, number):
    random = np.random.default_rng(seed)
    labels, found = [], []
    for _ in range(number):
        count = int(random.integers(0, 6))
        boxes, masks = boxes_and_masks(random, count)
        ids = random.integers(0, CLASSES - 1, count)  # the last class has no object
        labels.append(Objects(boxes=boxes, class_ids=ids, crowd=random.random(count) < 0.15, masks=masks))
        moved = boxes + random.normal(0, 2.0, boxes.shape)
        extra, extra_masks = boxes_and_masks(random, int(random.integers(0, 4)))
        all_boxes = np.vstack([moved, extra])
        all_masks = np.concatenate([np.roll(masks, 1, axis=2), extra_masks])
        all_ids = np.concatenate([ids, random.integers(0, CLASSES, len(extra))])
        scores = np.round(random.random(len(all_ids)), 1)  # ties
        found.append(Objects(boxes=all_boxes, class_ids=all_ids, scores=scores, masks=all_masks))
    return labels, found


def by_cocoeval(labels, found, kind):
    images = [{"id": k + 1, "height": SIZE[0], "width": SIZE[1]} for k in range(len(labels))]
    truth, guess = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for coco, given in ((truth, labels), (guess, found)):
            rows = []
            for frame, objects in enumerate(given, start=1):
                for k, (x, y, right, bottom) in enumerate(objects.boxes.tolist()):
                    row = {"id": len(rows) + 1, "image_id": frame, "category_id": int(objects.class_ids[k]),
                           "bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y),
                           "iscrowd": int(objects.crowd[k]) if objects.crowd is not None else 0}  # fmt: skip
                    if objects.scores is not None:
                        row["score"] = float(objects.scores[k])
                    if kind == "segm":
                        row["segmentation"] = run_lengths.encode(np.asfortranarray(objects.masks[k].astype(np.uint8)))
                        row["area"] = float(run_lengths.area(row["segmentation"]))
                    rows.append(row)
            coco.dataset = {"images": images, "categories": [{"id": k} for k in range(CLASSES)], "annotations": rows}
            coco.createIndex()
        judge = COCOeval(truth, guess, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, -1]  # overlap, recall, class
    by_class = np.where(precision[:, :, :] == -1, np.nan, precision).mean(axis=1)
    return judge.stats, by_class


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools(kind):
    labels, found = frames(3, 24)
    stats, by_class = by_cocoeval(labels, found, kind)
    ours = average_precision(labels, found, CLASSES, masks=kind == "segm")
    assert ours.ap == pytest.approx(stats[0], abs=1e-12)
    assert ours.ap50 == pytest.approx(stats[1], abs=1e-12)
    np.testing.assert_allclose(ours.by_class, by_class, atol=1e-12)
    assert np.isnan(ours.by_class[:, 2]).all()


def test_perfect_detections_have_ap_one_and_none_have_zero():
    labels, _ = frames(7, 5)
    plain = [Objects(boxes=each.boxes, class_ids=each.class_ids) for each in labels]
    right = [Objects(boxes=each.boxes, class_ids=each.class_ids, scores=np.ones(len(each.boxes))) for each in labels]
    assert average_precision(plain, right, CLASSES).ap == pytest.approx(1.0)
    nothing = [Objects(boxes=np.zeros((0, 4)), class_ids=np.zeros(0, int), scores=np.zeros(0))] * 5
    assert average_precision(plain, nothing, CLASSES).ap == 0.0


def test_bad_input_is_refused():
    labels, found = frames(1, 2)
    with pytest.raises(InputError, match="lengths 2, 1"):
        average_precision(labels, found[:1], CLASSES)
    bare = [Objects(boxes=each.boxes, class_ids=each.class_ids) for each in found]
    with pytest.raises(InputError, match="no scores"):
        average_precision(labels, bare, CLASSES)
    with pytest.raises(InputError, match="no masks"):
        average_precision(
            [Objects(boxes=np.array([[0, 0, 5, 5]]), class_ids=np.array([0]))] * 2,
            found,
            CLASSES,
            masks=True,
        )
