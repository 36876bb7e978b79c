import numpy as np
import pytest

from perception.errors import InputError
from perception.metrics.calibration import (
    calibration_error,
    calibration_interval,
    reliability_counts,
    reliability_curve,
    sample_step,
)


def slow_calibration_error(confidence, right, bins):
    total = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [k for k, c in enumerate(confidence) if low <= c < high or (index == bins - 1 and c == 1.0)]
        if inside:
            accuracy = sum(right[k] for k in inside) / len(inside)
            sure = sum(confidence[k] for k in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sure)
    return total


def test_equals_the_definition_and_torchmetrics_like_binning():
    random = np.random.default_rng(0)
    confidence = random.random(3000).astype(np.float32)
    right = random.random(3000) < confidence**2
    counts = np.stack([reliability_counts(confidence[k::2], right[k::2], 10) for k in range(2)])
    assert calibration_error(counts) == pytest.approx(slow_calibration_error(confidence.tolist(), right, 10), abs=1e-9)


def test_counts_add_up_and_a_certain_prediction_is_in_the_last_bin():
    first = reliability_counts(np.array([1.0, 0.5], np.float32), np.array([True, False]))
    second = reliability_counts(np.array([0.99], np.float32), np.array([True]))
    both = reliability_counts(np.array([1.0, 0.5, 0.99], np.float32), np.array([True, False, True]))
    np.testing.assert_allclose(first + second, both)
    assert both[0, -1] == 2
    sure, accuracy = reliability_curve(both)
    assert (sure[7], accuracy[7]) == (0.5, 0.0)
    assert np.isnan(sure[0])


def test_a_network_that_is_right_as_often_as_it_is_sure_has_no_error():
    random, errors, covered = np.random.default_rng(1), [], 0
    for _ in range(200):
        confidence = random.uniform(0.3, 1.0, (20, 300)).astype(np.float32)
        counts = np.stack([reliability_counts(each, random.random(300) < each) for each in confidence])
        errors.append(calibration_error(counts))
        low, _ = calibration_interval(counts, 0.95)
        covered += low == 0.0
    plain = np.abs((counts[:, 1] - counts[:, 2]).sum(axis=0)).sum() / counts[:, 0].sum()
    assert plain > 0.01, "what chance alone adds to the plain sum"
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(200)
    assert covered >= 0.93 * 200
    certain = np.stack([reliability_counts(np.ones(9, np.float32), np.zeros(9, bool))] * 2)
    assert calibration_error(certain) == 1.0
    assert np.isnan(calibration_error(np.zeros((2, 3, 15))))
    assert np.isnan(calibration_error(certain[:1])), "one drive says nothing of chance"


def test_the_interval_of_an_error_covers_it():
    random, covered = np.random.default_rng(2), 0
    for _ in range(300):
        confidence = random.uniform(0.5, 1.0, (12, 400)).astype(np.float32)
        hard = random.normal(0.1, 0.05, (12, 1))  # right less often than sure, by drive
        counts = np.stack(
            [reliability_counts(c, random.random(400) < c - h) for c, h in zip(confidence, hard, strict=True)]
        )
        low, high = calibration_interval(counts, 0.95)
        covered += low <= 0.1 <= high
    assert 0.92 * 300 <= covered <= 0.99 * 300


def test_bad_confidences_are_refused():
    with pytest.raises(InputError, match="confidence spans"):
        reliability_counts(np.array([1.5], np.float32), np.array([True]))
    with pytest.raises(InputError, match="shape"):
        reliability_counts(np.array([0.5], np.float32), np.array([True, False]))


def test_the_grid_keeps_to_its_number_of_pixels():
    assert sample_step(80, 160) == 1
    step = sample_step(1024, 2048)
    assert (1024 / step) * (2048 / step) <= 200_000 < (1024 / (step - 1)) * (2048 / (step - 1))


def test_a_frame_without_a_judged_pixel_counts_nothing_and_others_add_to_it():
    counts = reliability_counts(np.zeros(0, np.float32), np.zeros(0, bool))
    counts += reliability_counts(np.array([0.5], np.float32), np.array([True]))
    assert counts.sum(axis=1).tolist() == [1.0, 1.0, 0.5]
