import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import InputError
from perception.metrics.confusion import (
    confusion_matrix,
    frequency_weighted_iou,
    iou,
    mean_iou,
    pixel_accuracy,
)


def slow_confusion(labels, predictions, classes):
    counts = np.zeros((classes, classes), np.int64)
    for label, prediction in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if label != 255:
            counts[label, prediction] += 1
    return counts


def slow_iou(labels, predictions, class_id):
    judged = labels != 255
    a, b = (labels == class_id) & judged, (predictions == class_id) & judged
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan


def random_pair(seed, shape, classes, dtype=np.uint8):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes + 1, shape)
    labels[labels == classes] = 255
    return labels.astype(dtype), random.integers(0, classes, shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 255),
    st.sampled_from([(7, 11), (2, 5, 6), (0,), (1,), ()]),
    st.sampled_from([np.uint8, np.int64, np.int32, np.uint16]),
)
def test_equals_a_loop_over_pixels(seed, classes, shape, dtype):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes + 1, shape)
    labels = np.where(labels == classes, 255, labels).astype(dtype)
    predictions = np.asarray(random.integers(0, classes, shape)).astype(dtype)
    counts = confusion_matrix(labels, predictions, classes)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, slow_confusion(labels, predictions, classes))


def test_more_pixels_than_one_chunk_and_non_contiguous_views():
    labels, predictions = random_pair(3, (700, 600), 19)
    whole = confusion_matrix(labels, predictions, 19)
    np.testing.assert_array_equal(whole, slow_confusion(labels, predictions, 19))
    parts = confusion_matrix(labels[:, ::2], predictions[:, ::2], 19) + confusion_matrix(
        labels[:, 1::2], predictions[:, 1::2], 19
    )
    np.testing.assert_array_equal(whole, parts)


def test_inputs_stay_as_they_were():
    labels, predictions = random_pair(1, (9, 9), 5)
    before = labels.copy(), predictions.copy()
    confusion_matrix(labels, predictions, 5)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(predictions, before[1])


def test_iou_and_means_equal_set_arithmetic():
    labels, predictions = random_pair(5, (40, 50), 6)
    labels[labels == 4] = 255  # class 4 keeps predictions only
    predictions[predictions == 4] = 0
    labels[labels == 2], predictions[predictions == 2] = 0, 0
    counts = confusion_matrix(labels, predictions, 6)
    expected = np.array([slow_iou(labels, predictions, c) for c in range(6)])
    np.testing.assert_allclose(iou(counts), expected, rtol=0, atol=1e-15)
    assert np.isnan(iou(counts)).tolist() == [False, False, True, False, True, False]
    assert mean_iou(counts) == pytest.approx(np.nanmean(expected), abs=1e-15)
    judged = labels != 255
    assert pixel_accuracy(counts) == pytest.approx((labels == predictions)[judged].mean(), abs=1e-15)
    weights = np.array([(labels[judged] == c).mean() for c in range(6)])
    assert frequency_weighted_iou(counts) == pytest.approx(np.nansum(weights * expected), abs=1e-15)


def test_a_class_that_is_only_predicted_counts_as_zero_not_as_absent():
    counts = confusion_matrix(np.array([0, 0, 255]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(iou(counts), [0.5, 0.0, np.nan])
    assert mean_iou(counts) == 0.25


def test_nothing_judged_gives_nan():
    counts = confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2), int), 3)
    assert counts.sum() == 0
    for figure in (mean_iou, pixel_accuracy, frequency_weighted_iou):
        assert math.isnan(figure(counts))


@pytest.mark.parametrize(
    ("labels", "predictions", "classes", "words"),
    [
        ([0, 1], [0, 3], 3, "predictions hold class 3"),
        ([255], [7], 3, "predictions hold class 7"),
        ([0, 3], [0, 0], 3, "labels hold value 3"),
        ([254], [0], 3, "labels hold value 254"),
        ([0, -1], [0, 0], 3, "-1"),
        ([0, 256], [0, 0], 3, "256"),
        ([0.0], [0], 3, "float64"),
        ([0], [0, 1], 3, "shape"),
        ([0], [0], 0, "classes=0"),
        ([0], [0], 256, "classes=256"),
    ],
)
def test_bad_ids_are_refused_by_name(labels, predictions, classes, words):
    with pytest.raises(InputError, match=words):
        confusion_matrix(np.array(labels), np.array(predictions), classes)


def test_confusion_that_is_not_square_is_refused():
    with pytest.raises(InputError, match="square"):
        iou(np.zeros((2, 3), np.int64))
