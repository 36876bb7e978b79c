import numpy as np
import pytest

from perception.adaptation import pseudo
from perception.errors import InputError

CLASSES = 4


def probabilities(seed: int, height=9, width=11) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (CLASSES, height, width))
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=0)


@pytest.mark.parametrize("thresholds", [0.0, 0.6, (0.2, 0.9, 0.5, 1.0)])
def test_pseudo_labels_equal_a_slow_loop(thresholds):
    given = probabilities(0)
    label, confidence = pseudo.pseudo_labels(given, thresholds)
    limits = np.broadcast_to(thresholds, (CLASSES,))
    for position in np.ndindex(given.shape[1:]):
        values = [given[index][position] for index in range(CLASSES)]
        best = values.index(max(values))
        assert label[position] == (best if values[best] >= limits[best] else 255)
        assert confidence[position] == np.float32(values[best])
    assert label.dtype == np.uint8 and confidence.dtype == np.float32


def test_equal_probabilities_go_to_the_lower_class():
    label, _ = pseudo.pseudo_labels(np.full((CLASSES, 1, 1), 0.25), 0.25)
    assert label.item() == 0


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), 1.5, (0.1, 0.2, -0.3, 0.4), float("nan")])
def test_bad_thresholds_are_refused(thresholds):
    with pytest.raises(InputError, match="thresholds"):
        pseudo.pseudo_labels(probabilities(0), thresholds)


def histogram_of(seeds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = [pseudo.pseudo_labels(probabilities(seed), 0.0) for seed in seeds]
    labels = np.concatenate([label.ravel() for label, _ in pairs])
    confidences = np.concatenate([confidence.ravel() for _, confidence in pairs])
    return pseudo.confidence_histogram(pairs, CLASSES), labels, confidences


def test_confidence_histogram_counts_every_pixel_once():
    histogram, labels, confidences = histogram_of(range(5))
    for index in range(CLASSES):
        expected, _ = np.histogram(confidences[labels == index], bins=pseudo.BINS, range=(0, 1))
        assert histogram[index].sum() == expected.sum()
        assert np.abs(np.cumsum(histogram[index]) - np.cumsum(expected)).max() <= 1  # ties at float32 bin edges
    ignored = [(np.full((2, 2), 255, np.uint8), np.ones((2, 2)))]
    assert pseudo.confidence_histogram(ignored, CLASSES).sum() == 0


@pytest.mark.parametrize("kept_share", [0.1, 0.5, 0.93, 1.0])
def test_class_thresholds_keep_the_share_of_each_class(kept_share):
    histogram, labels, confidences = histogram_of(range(60))
    thresholds = pseudo.class_thresholds(histogram, kept_share, highest=1.0)
    for index in range(CLASSES):
        own = confidences[labels == index]
        kept = (own >= thresholds[index]).mean()
        assert kept >= kept_share
        assert (own >= thresholds[index] + 2 / pseudo.BINS).mean() < kept_share  # the highest bin edge that keeps it
        assert abs(thresholds[index] - np.quantile(own, 1 - kept_share)) < 0.02


def test_class_thresholds_have_a_ceiling_and_an_answer_for_absent_classes():
    counts = np.zeros((CLASSES, pseudo.BINS), dtype=np.int64)
    counts[0, 990] = 100  # very sure
    counts[1, 300] = 100
    thresholds = pseudo.class_thresholds(counts, 0.5, highest=0.9)
    assert thresholds.tolist() == [0.9, 0.3, 0.9, 0.9]
    with pytest.raises(InputError, match="kept share"):
        pseudo.class_thresholds(counts, 0.0)


def test_quality_equals_a_slow_loop():
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(6):
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 7))  # class 3 never occurs
        guess = rng.choice(np.array([0, 1, 255], np.uint8), (6, 7))  # class 2 is never said
        pairs.append((label, guess))
    label = np.concatenate([a.ravel() for a, _ in pairs]).tolist()
    guess = np.concatenate([b.ravel() for _, b in pairs]).tolist()
    judged = [(a, b) for a, b in zip(label, guess, strict=True) if a != 255]
    said = [(a, b) for a, b in judged if b != 255]
    quality = pseudo.pseudo_quality(pairs, CLASSES)
    assert quality.coverage == pytest.approx(len(said) / len(judged), abs=1e-12)
    assert quality.precision == pytest.approx(sum(a == b for a, b in said) / len(said), abs=1e-12)
    for index in range(CLASSES):
        own = [b for a, b in judged if a == index]
        named = [a for a, b in said if b == index]
        coverage = sum(b != 255 for b in own) / len(own) if own else np.nan
        precision = sum(a == index for a in named) / len(named) if named else np.nan
        assert quality.coverage_by_class[index] == pytest.approx(coverage, abs=1e-12, nan_ok=True)
        assert quality.precision_by_class[index] == pytest.approx(precision, abs=1e-12, nan_ok=True)
    assert np.isnan(quality.precision_by_class[2]) and np.isnan(quality.coverage_by_class[3])


def test_quality_of_silent_pseudo_labels_is_no_precision_rather_than_zero():
    quality = pseudo.pseudo_quality([(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))], CLASSES)
    assert quality.coverage == 0.0 and np.isnan(quality.precision)
    assert np.isnan(pseudo.pseudo_quality([], CLASSES).coverage)


def test_quality_refuses_what_does_not_fit():
    label = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match="at one size"):
        pseudo.pseudo_quality([(label, label[:1])], CLASSES)
    with pytest.raises(InputError, match="class id above 3"):
        pseudo.pseudo_quality([(label, label + 9)], CLASSES)
    with pytest.raises(InputError, match="class id above 3"):
        pseudo.pseudo_quality([(label + 4, label)], CLASSES)


def test_collapse_names_lost_classes_only():
    reference, now = [0.5, 0.3, 0.2, 0.0], [0.75, 0.149, 0.101, 0.0]
    assert pseudo.collapsed_classes(reference, now, ratio=0.5) == [1]
    assert pseudo.collapsed_classes(reference, reference, ratio=1.0) == []
    assert pseudo.collapsed_classes(reference, [1.0, 0.0, 0.0, 0.0], ratio=0.1) == [1, 2]
    with pytest.raises(InputError, match="same classes"):
        pseudo.collapsed_classes([0.5, 0.5], reference, ratio=0.5)
    with pytest.raises(InputError, match="collapse ratio"):
        pseudo.collapsed_classes(reference, now, ratio=0.0)


def test_prior_drift_is_a_distance():
    rng = np.random.default_rng(5)
    a, b, c = (pseudo.class_prior(rng.random(CLASSES)) for _ in range(3))
    assert pseudo.prior_drift(a, a) == 0.0
    assert pseudo.prior_drift([1, 0], [0, 1]) == 1.0
    assert pseudo.prior_drift(a, b) == pytest.approx(pseudo.prior_drift(b, a))
    assert pseudo.prior_drift(a, c) <= pseudo.prior_drift(a, b) + pseudo.prior_drift(b, c) + 1e-12


def test_class_prior_sums_to_one_and_refuses_nothing_to_share():
    assert pseudo.class_prior([1, 3]).tolist() == [0.25, 0.75]
    for counts in ([0, 0], [2, -1]):
        with pytest.raises(InputError, match="pixel counts"):
            pseudo.class_prior(counts)


def test_rare_class_weights_follow_the_formula():
    counts = np.array([[900, 0, 0], [800, 100, 0], [700, 0, 50], [0, 0, 0]])
    weights = pseudo.rare_class_weights(counts, temperature=0.1)
    share = counts.sum(axis=0) / counts.sum()
    draw = np.exp((1 - share) / 0.1)
    draw /= draw.sum()
    assert weights.sum() == pytest.approx(1.0)
    assert weights == pytest.approx([draw[0] / 3, draw[0] / 3 + draw[1], draw[0] / 3 + draw[2], 0.0])
    assert weights[2] > weights[0]
    absent = pseudo.rare_class_weights(np.array([[5, 0], [5, 0]]))
    assert absent == pytest.approx([0.5, 0.5])
    with pytest.raises(InputError, match="no frame"):
        pseudo.rare_class_weights(np.zeros((2, 3), dtype=int))
