import contextlib
import dataclasses
import functools
import io

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perception.adaptation import detector_training as training
from perception.adaptation.detector import DetectorOutput, ForegroundDetector, boxes_from_sides, detect, place_centers
from perception.adaptation.detector_training import DetectionAugment, TargetSettings
from perception.errors import InputError
from perception.training.loop import TrainSettings, fit

CLASS_IDS = (11, 13)
CHANNELS = training.class_channels(CLASS_IDS)


def encoded(instances, **settings):
    return training.encode_targets(np.asarray(instances, np.uint16), CHANNELS, 2, TargetSettings(**settings))


def three_things() -> np.ndarray:
    """A car, a person before it, a far person too small to learn, and a wall that is no foreground."""
    instances = np.zeros((64, 96), np.uint16)
    instances[:10] = 3001
    instances[20:50, 10:70] = 13001
    instances[24:48, 30:38] = 11001
    instances[56:58, 80:82] = 11002
    return instances


def test_targets_hold_boxes_centres_and_masks():
    target = encoded(three_things())
    assert target["boxes"][:2].tolist() == [[10, 20, 70, 50], [30, 24, 38, 48]]  # largest first
    assert (target["boxes"][2:] == 0).all() and (target["places"][2:] == -1).all()
    assert target["places"][:2].tolist() == [(35 // 4) * 24 + 40 // 4, (36 // 4) * 24 + 34 // 4]
    assert (target["heat"] == 1.0).sum() == 2
    assert target["heat"][1, 35 // 4, 40 // 4] == 1.0 and target["heat"][0, 36 // 4, 34 // 4] == 1.0
    instances = three_things()
    assert np.array_equal(target["numbers"], np.where(instances == 13001, 1, np.where(instances == 11001, 2, 0)))


def test_places_that_train_a_box_lead_back_to_it():
    target = encoded(three_things())
    used = torch.from_numpy(target["side_weights"] > 0)
    sides = torch.from_numpy(target["sides"]).permute(1, 2, 0)[used]
    places = place_centers(16, 24, torch.device("cpu")).permute(1, 2, 0)[used]
    found = {tuple(box) for box in boxes_from_sides(sides, places).tolist()}
    assert found == {(10.0, 20.0, 70.0, 50.0), (30.0, 24.0, 38.0, 48.0)}
    assert (target["sides"][:, target["side_weights"] > 0] > 0).all()


def test_each_instance_weighs_the_same_however_large():
    instances = np.zeros((64, 96), np.uint16)
    instances[4:40, 4:60] = 13001
    instances[50:58, 80:84] = 11001
    target = encoded(instances)
    rows = np.arange(16)[:, None] < 11
    assert target["side_weights"][np.broadcast_to(rows, (16, 24))].sum() == pytest.approx(1, abs=1e-5)
    assert target["side_weights"].sum() == pytest.approx(2, abs=1e-5)


def test_too_small_and_too_many_are_not_judged():
    target = encoded(three_things())
    assert np.argwhere(target["judged"] == 0).tolist() == [[14, 20]]
    few = encoded(three_things(), most_instances=1)
    assert few["places"].shape == (1,)
    assert few["judged"][24 // 4 : 48 // 4, 30 // 4 : 38 // 4].max() == 0
    assert (few["heat"][0] == 0).all()


def test_two_things_at_one_place_keep_the_smaller():
    instances = np.zeros((32, 32), np.uint16)
    instances[4:28, 4:28] = 13001
    instances[14:18, 14:18] = 11001
    target = encoded(instances)
    assert target["places"][:2].tolist() == [-1, (16 // 4) * 8 + 16 // 4]


def test_frame_without_instances_is_all_background():
    target = encoded(np.zeros((32, 32)))
    assert target["heat"].max() == 0 and target["judged"].min() == 1 and (target["places"] == -1).all()


def batch_of(instances, images=None) -> training.DetectionBatch:
    target = encoded(instances)
    if images is None:
        images = torch.rand(1, 3, *np.asarray(instances).shape)
    return training.DetectionBatch(images=images, **{name: torch.from_numpy(v[None]) for name, v in target.items()})


def said(batch) -> DetectorOutput:
    """The output that says exactly what the targets say, with masks left open."""
    heat = torch.where(batch.heat >= 1, 12.0, -12.0)
    sides = torch.where(batch.side_weights[:, None] > 0, batch.sides, torch.ones_like(batch.sides))
    frames, _, rows, columns = batch.heat.shape
    return DetectorOutput(
        heat, sides, torch.zeros(frames, 97, rows, columns), torch.zeros(frames, 8, 2 * rows, 2 * columns)
    )


def test_losses_vanish_when_everything_is_right_and_grow_when_not():
    batch = batch_of(three_things())
    right = said(batch)
    assert training.heat_loss(right.heat, batch) < 1e-6
    assert training.box_loss(right.sides, batch).abs() < 1e-6
    assert training.heat_loss(-right.heat, batch) > 10
    assert 0.1 < training.box_loss(right.sides * 1.3, batch) < 1
    open_masks = training.mask_loss(right, batch)
    right.controllers[:, -1] = 8.0  # every point belongs to the mask: right inside the person, wrong in the margin
    assert training.mask_loss(right, batch) != open_masks


def test_giou_equals_its_definition():
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.1, 20, (2, 40, 4))
    fast = training._giou_from_sides(torch.from_numpy(first), torch.from_numpy(second))
    for index in range(40):
        (l1, t1, r1, b1), (l2, t2, r2, b2) = first[index], second[index]
        area_1, area_2 = (l1 + r1) * (t1 + b1), (l2 + r2) * (t2 + b2)
        shared = (min(l1, l2) + min(r1, r2)) * (min(t1, t2) + min(b1, b2))
        around = (max(l1, l2) + max(r1, r2)) * (max(t1, t2) + max(b1, b2))
        union = area_1 + area_2 - shared
        assert fast[index].item() == pytest.approx(shared / union - (around - union) / around, abs=1e-9)


def test_heat_loss_equals_the_formula():
    rng = np.random.default_rng(1)
    batch = batch_of(three_things())
    logits = torch.from_numpy(rng.normal(0, 2, batch.heat.shape).astype(np.float32))
    total = 0.0
    for position in np.ndindex(tuple(batch.heat.shape)):
        p, target = 1 / (1 + np.exp(-logits[position].item())), batch.heat[position].item()
        if target >= 1:
            total -= (1 - p) ** 2 * np.log(p)
        elif batch.judged[position[0], position[2], position[3]] > 0:
            total -= (1 - target) ** 4 * p**2 * np.log(1 - p)
    assert training.heat_loss(logits, batch).item() == pytest.approx(total / 2, rel=1e-4)


def test_every_parameter_learns_and_empty_frames_do_no_harm():
    torch.manual_seed(0)
    network = ForegroundDetector(classes=2, width=0.5)
    training.detection_loss(network, batch_of(three_things())).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # A bias before a batch normalisation does not matter, so its gradient may be zero.
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, name
    loss = training.detection_loss(network, batch_of(np.zeros((64, 96))))
    loss.backward()
    assert torch.isfinite(loss)


def test_padding_that_spares_a_gpu_the_waiting_changes_no_mask_loss():
    torch.manual_seed(0)
    network = ForegroundDetector(2, 0.5).eval()
    frames = [three_things(), np.zeros((64, 96), np.uint16), np.roll(three_things(), 9, axis=1)]
    images = [np.random.default_rng(n).integers(0, 256, (64, 96, 3), np.uint8) for n in range(3)]
    batch = training._batch([(image, encoded(each)) for image, each in zip(images, frames, strict=True)], 3)
    output = network(batch.images)
    counted, padded = (training.mask_loss(output, batch, padded=each) for each in (False, True))
    torch.testing.assert_close(counted, padded)
    one, other = (
        torch.autograd.grad(each, list(network.mask.parameters()), retain_graph=True) for each in (counted, padded)
    )
    torch.testing.assert_close(one, other)


def test_values_outside_the_frame_belong_to_nothing():
    numbers = torch.ones(1, 4, 6, dtype=torch.int16)
    points = torch.tensor([[[-0.1, 1.0], [5.9, 3.9], [6.1, 1.0], [2.0, 4.2]]])
    assert training._values_at(numbers, torch.tensor([0]), points).tolist() == [[0, 1, 0, 0]]


def test_grid_covers_the_box_and_its_margin():
    points = training.grid_points(torch.tensor([[10.0, 20.0, 30.0, 24.0]]))[0]
    assert points.shape == (400, 2)
    assert torch.allclose(points.mean(dim=0), torch.tensor([20.0, 22.0]))
    assert torch.allclose(points.amax(dim=0), torch.tensor([20 + 12.5 * 0.95, 22 + 2.5 * 0.95]))


# --- batches and augmentation


@functools.cache
def shapes_frame(index: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Discs (persons) and squares (cars) of random colour over noise."""
    rng = np.random.default_rng([77, index])
    image = rng.integers(90, 150, (size, size, 3)).astype(np.uint8)
    instances = np.zeros((size, size), np.uint16)
    rows, columns = np.mgrid[0:size, 0:size]
    for number in range(1, int(rng.integers(2, 4)) + 1):
        radius, (x, y) = int(rng.integers(6, 12)), rng.integers(8, size - 8, 2)
        disc = rng.random() < 0.5
        away = np.hypot(columns - x, rows - y) if disc else np.maximum(abs(columns - x), abs(rows - y))
        image[away <= radius] = rng.choice([20, 235], 3)
        instances[away <= radius] = (11 if disc else 13) * 1000 + number
    return image, instances


def test_batches_hold_every_frame_once_and_depend_on_seed_and_epoch_alone():
    frames = range(7)

    def epoch(number, seed=3, workers=0):
        augment = DetectionAugment()
        return list(
            training.detection_batches(
                shapes_frame, frames, CLASS_IDS, 3, seed=seed, epoch=number, augment=augment, workers=workers
            )
        )

    first, again, later = epoch(0), epoch(0, workers=2), epoch(1)
    assert [len(batch.images) for batch in first] == [3, 4]  # a last batch of one frame joins the one before
    for a, b in zip(first, again, strict=True):
        for field in dataclasses.fields(a):
            assert torch.equal(getattr(a, field.name), getattr(b, field.name))
    assert not torch.equal(first[0].images, later[0].images)
    plain = list(training.detection_batches(shapes_frame, frames, CLASS_IDS, 3, seed=3, epoch=0, augment=None))
    seen = {batch.images[i].numpy().tobytes() for batch in plain for i in range(len(batch.images))}
    wanted = {(shapes_frame(i)[0].transpose(2, 0, 1).astype(np.float32) / 255).tobytes() for i in frames}
    assert seen == wanted


@pytest.mark.parametrize("padded", [False, True])
def test_a_share_of_a_batch_is_loaded_alone_and_may_be_empty(padded, monkeypatch):
    loaded = []

    def load(index):
        loaded.append(index)
        return shapes_frame(index)

    def epoch(load, share):
        return list(
            training.detection_batches(load, range(7), CLASS_IDS, 3, seed=3, epoch=0, augment=None, share=share)
        )

    whole = epoch(shapes_frame, slice(None))
    for rank in range(4):
        share = slice(rank, None, 4)
        loaded.clear()
        for own, batch in zip(epoch(load, share), whole, strict=True):
            for field in dataclasses.fields(batch):
                assert torch.equal(getattr(own, field.name), getattr(batch, field.name)[share])
        assert len(loaded) == 2
    torch.manual_seed(0)
    empty, monkeyed = epoch(load, slice(3, None, 4))[0], training.mask_loss
    assert len(empty.images) == 0
    monkeypatch.setattr(training, "mask_loss", lambda output, given: monkeyed(output, given, padded=padded))
    loss = training.detection_loss(ForegroundDetector(len(CLASS_IDS), width=0.5), empty)
    loss.backward()
    assert loss.item() == 0


def test_batches_refuse_nothing_to_learn_and_odd_sizes():
    with pytest.raises(InputError, match="no frames"):
        list(training.detection_batches(shapes_frame, [], CLASS_IDS, 2, seed=0, epoch=0, augment=None))
    with pytest.raises(InputError, match="multiples of 8"):
        list(
            training.detection_batches(
                lambda i: shapes_frame(i, size=60), [0, 1], CLASS_IDS, 2, seed=0, epoch=0, augment=None
            )
        )


def test_random_textures_touch_instances_alone():
    image, instances = shapes_frame(0)
    painted = training.randomize_textures(image, instances, 1.0, np.random.default_rng(0))
    assert np.array_equal(painted[instances == 0], image[instances == 0])
    for value in np.unique(instances[instances > 0]):
        assert (painted[instances == value] != image[instances == value]).mean() > 0.5
    untouched = training.randomize_textures(image, instances, 0.0, np.random.default_rng(0))
    assert np.array_equal(untouched, image)


def test_augmentation_moves_image_and_instances_together():
    image, instances = shapes_frame(1)
    image = np.where(instances[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, axis=2)[..., :3]
    settings = DetectionAugment(color_jitter=0.0, sensor=0.0, texture_share=0.0)
    for seed in range(8):
        moved, things = training.augmented(image, instances, settings, np.random.default_rng(seed))
        assert moved.shape == image.shape and things.dtype == np.uint16
        assert ((moved[..., 0] > 127) == (things > 0)).mean() > 0.97
        assert set(np.unique(things)) <= set(np.unique(instances))


@pytest.mark.parametrize(
    "wrong", [{"scale_range": (2.0, 1.0)}, {"color_jitter": 1.0}, {"sensor": -1.0}, {"texture_share": 1.5}]
)
def test_bad_augmentation_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DetectionAugment(**wrong)


# --- learning


def average_precision(network, frames, kind: str) -> float:
    """AP at IoU 0.5 as pycocotools computes it; kind: bbox or segm."""
    truths, results = [], []
    for index in frames:
        image, instances = shapes_frame(index)
        for value in np.unique(instances[instances > 0]):
            mask = coco_mask.encode(np.asfortranarray((instances == value).astype(np.uint8)))
            truths.append(
                {
                    "id": len(truths) + 1, "image_id": index, "category_id": int(value) // 1000, "iscrowd": 0,
                    "segmentation": mask, "bbox": coco_mask.toBbox(mask).tolist(), "area": int(coco_mask.area(mask)),
                }
            )  # fmt: skip
        (found,) = detect(network, torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)), CLASS_IDS)
        for row, mask in enumerate(found.instances.masks):
            encoded_mask = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            x0, y0, x1, y1 = found.boxes[row].tolist()
            result = {"image_id": index, "category_id": int(found.instances.classes[row])}
            result |= {"score": float(found.instances.scores[row])}
            results.append(
                result | ({"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "bbox" else {"segmentation": encoded_mask})
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": index, "height": 64, "width": 64} for index in frames],
        "annotations": truths,
        "categories": [{"id": each} for each in CLASS_IDS],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def test_detector_learns_shapes_through_the_training_loop():
    torch.manual_seed(1)
    network = ForegroundDetector(classes=2, width=0.5)
    settings = TrainSettings(
        epochs=8, batch_frames=8, learning_rate=5e-3, weight_decay=1e-4, schedule="poly", seed=0, max_grad_norm=10.0
    )
    augment = DetectionAugment(scale_range=(1.0, 1.0), texture_share=0.0)

    def batches(epoch):
        return training.detection_batches(shapes_frame, range(64), CLASS_IDS, 8, seed=0, epoch=epoch, augment=augment)

    records = fit(network, batches, settings, loss=training.detection_loss, iterations_per_epoch=8)
    assert records[-1].loss < 0.5 * records[0].loss
    fresh = range(1000, 1030)
    assert average_precision(network, fresh, "bbox") > 0.45
    assert average_precision(network, fresh, "segm") > 0.45
