import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from perception.adaptation.detector import ForegroundDetector
from perception.adaptation.foreground import Foreground
from perception.adaptation.foreground_training import rare_class_draw
from perception.adaptation.fusion import fuse, pseudo_ground_truth
from perception.adaptation.label_pool import (
    Labeller,
    count_by_drive,
    find_thresholds,
    label_frames,
    measure_quality,
    predictions,
)
from perception.adaptation.pseudo import (
    class_thresholds,
    confidence_histogram,
    precision_interval,
    pseudo_labels,
    pseudo_quality,
    quality_of_counts,
)
from perception.data.loading import FrameSet, LoadSettings
from perception.data.store import open_store
from perception.data.taxonomies import load_taxonomy
from perception.models.registry import build_network

HEIGHT, WIDTH, FRAMES = 16, 24, 5
TAXONOMY = load_taxonomy("camvid11")
CLASSES = len(TAXONOMY.classes)
KNOWN = tuple(np.flatnonzero(TAXONOMY.foreground).tolist())


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return made_pool(tmp_path_factory.mktemp("store"))


def made_pool(folder):
    """Five labelled frames of noise, and networks that see something in them."""
    store, rng, rows = open_store(str(folder)), np.random.default_rng(0), []
    for number in range(FRAMES):
        image = store.put(png(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)), "png")
        label = store.put(png(rng.choice([0, 1, 3, 8, 9, 255], (HEIGHT, WIDTH)).astype(np.uint8)), "png")
        rows.append({
            "frame_id": f"f{number}", "image_uri": image.uri, "label_uri": label.uri, "label_sha256": label.sha256,
            "label_taxonomy": "camvid11", "height_px": HEIGHT, "width_px": WIDTH, "instances_uri": None,
        })  # fmt: skip
    frame_rows = pd.DataFrame(rows)
    frames = FrameSet(frame_rows, store, LoadSettings(height_px=HEIGHT, width_px=WIDTH, taxonomy="camvid11"))
    torch.manual_seed(2)
    detector = ForegroundDetector(len(KNOWN), width=0.25)
    detector.heat.out.bias.data += 4.0
    detector.shape.out.bias.data[-1] += 4.0
    network = build_network("ERFNet", seed=1, classes=CLASSES, width=0.25)
    return network, Foreground(detector, KNOWN), frame_rows, frames, store


def labeller(pool, trusted=None) -> Labeller:
    network, detector, _, frames, _ = pool
    flags = TAXONOMY.foreground if trusted is None else trusted
    return Labeller(network, find_thresholds(network, frames, 0.6, 0.9, 2), flags, detector)


def test_thresholds_are_those_of_all_frames_at_once(pool):
    network, _, _, frames, _ = pool
    everything = [probabilities for probabilities, _ in predictions(labeller(pool), frames, FRAMES)]
    histogram = confidence_histogram((pseudo_labels(each, 0.0) for each in everything), CLASSES)
    assert np.array_equal(find_thresholds(network, frames, 0.6, 0.9, 2), class_thresholds(histogram, 0.6, 0.9))


def test_with_every_class_trusted_the_label_is_the_papers(pool):
    ours = labeller(pool)
    pasted = 0
    for probabilities, instances in predictions(ours, pool[3], 2):
        plain, confidence = pseudo_labels(probabilities, ours.thresholds)
        label, said = ours.label(probabilities, instances)
        assert np.array_equal(label, pseudo_ground_truth(plain, instances, TAXONOMY.foreground))
        assert np.array_equal(said, confidence)
        pasted += len(instances.scores)
    assert pasted > 0


def test_with_no_class_trusted_the_label_is_the_segmenters(pool):
    ours = labeller(pool, (False,) * CLASSES)
    for probabilities, instances in predictions(ours, pool[3], 2):
        assert np.array_equal(ours.label(probabilities, instances)[0], pseudo_labels(probabilities, ours.thresholds)[0])


@pytest.mark.parametrize("class_id", KNOWN)
def test_a_trusted_class_comes_from_masks_and_from_nothing_else(pool, class_id):
    trusted = tuple(each == class_id for each in range(CLASSES))
    ours = labeller(pool, trusted)
    for probabilities, instances in predictions(ours, pool[3], 2):
        label = ours.label(probabilities, instances)[0]
        inside = (
            instances.masks[instances.classes == class_id].any(axis=0)
            if len(instances.scores)
            else np.zeros(label.shape, bool)
        )
        plain = pseudo_labels(probabilities, ours.thresholds)[0]
        assert np.array_equal(label == class_id, inside)
        outside = ~inside & (plain != class_id)
        assert np.array_equal(label[outside], plain[outside])
        assert (label[~inside & (plain == class_id)] == 255).all()


def test_quality_is_that_of_the_labels_frame_by_frame(pool):
    frames, ways = pool[3], [labeller(pool), labeller(pool, (False,) * CLASSES)]
    for ours, quality in zip(ways, measure_quality(ways, frames, 2), strict=True):
        pairs = [
            (frames.load(index)[1], ours.label(*each)[0]) for index, each in enumerate(predictions(ours, frames, 3))
        ]
        expected = pseudo_quality(pairs, CLASSES)
        assert (quality.coverage, quality.precision) == (expected.coverage, expected.precision)
        assert np.array_equal(quality.precision_by_class, expected.precision_by_class, equal_nan=True)


def test_counts_by_drive_add_up_to_the_quality_and_drives_give_its_interval(pool):
    frames, ours = pool[3], labeller(pool)
    drive_of = np.arange(len(frames)) % 2
    (counts,) = count_by_drive([ours], frames, drive_of, 2)
    pairs = [(frames.load(index)[1], ours.label(*each)[0]) for index, each in enumerate(predictions(ours, frames, 3))]
    for drive in range(2):
        expected = pseudo_quality([pair for pair, of in zip(pairs, drive_of, strict=True) if of == drive], CLASSES)
        assert quality_of_counts(counts[drive]).precision == pytest.approx(expected.precision, nan_ok=True)
    assert quality_of_counts(counts.sum(axis=0)).coverage == pseudo_quality(pairs, CLASSES).coverage


def test_the_interval_of_precision_holds_it_and_needs_two_drives():
    rates, held, generator = 0.8, 0, np.random.default_rng(0)
    for _ in range(200):
        right = generator.binomial(1000, generator.beta(8, 2, 20))
        counts = np.zeros((20, 2, 3), np.int64)
        counts[:, 0, 0], counts[:, 1, 0] = right, 1000 - right
        low, high = precision_interval(counts)
        held += low <= rates <= high
    assert 0.9 <= held / 200 <= 0.99
    assert precision_interval(counts[:1]) is precision_interval(np.zeros((4, 2, 3), np.int64)) is None


def test_labelled_frames_carry_their_labels_and_are_counted(pool):
    _, _, rows, frames, store = pool
    ours = labeller(pool)
    made = label_frames(ours, frames, rows, store, batch_frames=2)
    again = FrameSet(made.manifest, store, frames.settings)
    for index, (probabilities, instances) in enumerate(predictions(ours, frames, 2)):
        label = ours.label(probabilities, instances)[0]
        assert np.array_equal(again.load(index)[1], label)
        facts = made.table.iloc[index]
        fused = fuse(probabilities.argmax(axis=0).astype(np.uint8), instances)
        for class_id, name in enumerate(TAXONOMY.classes):
            assert facts[f"px_{name}"] == (label == class_id).sum()
            assert facts[f"fused_px_{name}"] == (fused == class_id).sum()
            own = [m for m, c in zip(instances.masks, instances.classes, strict=True) if c == class_id]
            assert facts[f"detected_px_{name}"] <= (np.any(own, axis=0).sum() if own else 0)
        assert sum(facts[f"detected_px_{name}"] for name in TAXONOMY.classes) == instances.masks.any(axis=0).sum()
        assert facts.ignore_fraction == pytest.approx((label == 255).mean())
    assert set(made.manifest.label_source) == {"pseudo"} and made.manifest.instances_uri.isna().all()


def test_frames_with_rare_classes_are_drawn_more_often(pool):
    class OneRare:
        settings = pool[3].settings

        def __len__(self) -> int:
            return 40

        def load(self, index):
            label = np.zeros((4, 4), np.uint8)
            if index == 7:
                label[0] = 8
            return None, label

    many = pd.DataFrame({"frame_id": [f"f{index}" for index in range(40)]})
    drawn = rare_class_draw(many, OneRare(), 0.5, seed=3)
    assert len(drawn) == 40 and drawn.equals(rare_class_draw(many, OneRare(), 0.5, seed=3))
    times = (drawn.frame_id == "f7").sum()
    assert 20 < times < 40
    assert drawn[drawn.frame_id != "f7"].frame_id.value_counts().max() == 1  # systematic: no other frame comes twice
