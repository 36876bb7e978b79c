"""Streaming evaluation: every slice, drive and interval is a sum of one matrix a drive and condition."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

from perception.errors import InputError
from perception.metrics.boundary import boundary_tallies
from perception.metrics.confusion import confusion_matrix, iou_of_tallies, mean_iou, merge_classes, tallies
from perception.metrics.figures import (
    IntervalSettings,
    boundary_figures,
    calibration_figures,
    overall_figures,
    slice_figures,
)
from perception.metrics.segmentation import evaluate_frames, torch_predictor
from perception.metrics.slices import cell_slices, column_slices, domain_grid

CLASSES, SIZE = 4, (12, 16)
SETTINGS = IntervalSettings(minimum_frames=3, minimum_drives=2)


class Frames:
    """Frames whose image's red channel is the label and whose green channel is what the network will say."""

    def __init__(self, count, seed=0):
        random = np.random.default_rng(seed)
        self.labels = random.integers(0, CLASSES, (count, *SIZE)).astype(np.uint8)
        self.labels[random.random(self.labels.shape) < 0.1] = 255
        self.shown = random.integers(0, CLASSES, (count, *SIZE)).astype(np.uint8)

    def __len__(self):
        return len(self.labels)

    def load(self, index):
        return np.stack([self.labels[index], self.shown[index], self.shown[index]]), self.labels[index]

    def full_label(self, index):
        return self.labels[index]


def predict(images):
    shown = np.rint(images[:, 1] * 255).astype(int)
    return (np.eye(CLASSES, dtype=np.float32)[shown] * 2).transpose(0, 3, 1, 2)


@pytest.fixture
def judged():
    about = pd.DataFrame(
        {
            "frame_id": [f"f{k}" for k in range(12)],
            "drive_id": [f"d{k // 3}" for k in range(12)],
            "time_of_day": ["day"] * 6 + ["night"] * 6,
            "weather": ["rain", "clear", None] * 4,
            "scene": "urban",
            "camera": ["left", "right"] * 6,
        }
    )
    frames = Frames(12)
    kept = {}
    score = evaluate_frames(
        frames, about, predict, CLASSES, batch_frames=5, columns=("time_of_day", "weather", "camera"), boundary=True,
        calibration=True, on_frame=lambda frame_id, prediction: kept.update({frame_id: prediction}),
    )  # fmt: skip
    return score, frames, about, kept


def test_every_slice_is_what_counting_its_frames_alone_gives(judged):
    score, frames, about, kept = judged
    np.testing.assert_array_equal(np.stack(list(kept.values())), frames.shown)
    for cut in (*column_slices(score.groups, score.columns), *cell_slices(score.groups, score.columns)):
        rows = np.logical_and.reduce([(about[column] == value).to_numpy(bool) for column, value in cut.where.items()])
        alone = confusion_matrix(frames.labels[rows], frames.shown[rows], CLASSES)
        np.testing.assert_array_equal(score.counts[cut.rows].sum(axis=0), alone)
        assert score.groups.frames[cut.rows].sum() == rows.sum()
    assert score.confusion.sum() == (frames.labels != 255).sum()
    assert score.miou_by_slice()["camera=left"] == mean_iou(
        confusion_matrix(frames.labels[::2], frames.shown[::2], CLASSES)
    )
    assert score.frames_by_slice()["weather=rain"] == 4


def test_outlines_and_confidence_are_summed_too(judged):
    score, frames, *_ = judged
    alone = sum(boundary_tallies(frames.labels[k], frames.shown[k], CLASSES) for k in range(12))
    np.testing.assert_array_equal(score.boundary.sum(axis=0), alone)
    total = score.reliability.sum(axis=0)
    judged_pixels = frames.labels != 255
    assert total[0].sum() == judged_pixels.sum()
    assert total[1].sum() == (frames.labels == frames.shown)[judged_pixels].sum()
    sure = np.exp(2) / (np.exp(2) + CLASSES - 1)
    assert total[2].sum() == pytest.approx(sure * judged_pixels.sum(), rel=1e-5)
    figures = calibration_figures(score, SETTINGS)
    right = (frames.labels == frames.shown)[judged_pixels].mean()
    assert figures["error"] == pytest.approx(abs(right - sure), rel=1e-4)


def test_intervals_rest_on_drives_not_on_frames(judged):
    score, frames, about, _ = judged
    figures = overall_figures(score, "abcd", {"ab": (0, 1), "c": (2,)}, SETTINGS)
    assert figures["drives"] == 4
    by_drive = np.stack(
        [confusion_matrix(frames.labels[3 * k : 3 * k + 3], frames.shown[3 * k : 3 * k + 3], CLASSES) for k in range(4)]
    )
    left_out = special.logit([mean_iou(np.delete(by_drive, k, axis=0).sum(axis=0)) for k in range(4)])
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum())
    whole = special.logit(mean_iou(by_drive.sum(axis=0)))
    assert figures["miou_interval"] == pytest.approx([special.expit(whole - half), special.expit(whole + half)])
    one_drive = evaluate_frames(frames, about.assign(drive_id="d"), predict, CLASSES, columns=())
    assert overall_figures(one_drive, "abcd", {}, SETTINGS)["miou_interval"] is None
    assert boundary_figures(one_drive, "abcd", SETTINGS) is None


def test_categories_are_counted_as_one_class(judged):
    score, frames, *_ = judged
    figures = overall_figures(score, "abcd", {"ab": (0, 1), "c": (2,)}, SETTINGS)
    merged = np.array([0, 0, 1, 2], np.uint8)
    label = np.where(frames.labels == 255, 255, merged[np.minimum(frames.labels, 3)])
    counts = confusion_matrix(np.where(label == 2, 255, label), merged[frames.shown], 3)
    # As in cityscapesScripts, a pixel of no category is judged by nobody.
    kept = counts[:2, :2]
    expected = iou_of_tallies(tallies(kept))
    assert list(figures["iou_by_category"].values()) == pytest.approx(expected.tolist())
    with pytest.raises(InputError, match="twice"):
        merge_classes(score.confusion, [[0, 1], [1]])


def test_slices_come_worst_first_and_few_are_unknown(judged):
    rows = slice_figures(judged[0], IntervalSettings(minimum_frames=5, minimum_drives=2))
    known = [row for row in rows if row["known"]]
    assert {row["name"] for row in known} == {"time_of_day=day", "time_of_day=night", "camera=left", "camera=right"}
    assert [row["miou"] for row in known] == sorted(row["miou"] for row in known)
    assert rows[: len(known)] == known


def test_a_column_that_is_not_there_is_refused(judged):
    with pytest.raises(InputError, match="slice column 'lens'"):
        evaluate_frames(judged[1], judged[2], predict, CLASSES, columns=("lens",))


def test_the_domain_has_a_cell_for_what_no_frame_shows(judged):
    groups = judged[0].groups.assign(scene="urban")
    grid = domain_grid(groups)
    assert len(grid) == 75
    assert grid.frames.sum() == 8  # those whose weather is known
    rain = grid[(grid.time_of_day == "day") & (grid.weather == "rain") & (grid.scene == "urban")]
    assert rain.frames.tolist() == [2] and rain.drives.tolist() == [2]


def test_a_predictor_runs_in_evaluation_mode_and_leaves_the_network_in_its_own() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, CLASSES, 1), torch.nn.Dropout(0.5))
    network[1].eval()
    images = np.random.default_rng(0).random((2, 3, *SIZE), dtype=np.float32)
    predict = torch_predictor(network)
    logits = predict(images)
    assert np.array_equal(logits, predict(images)) and network.training and not network[1].training
    with torch.no_grad():
        assert np.array_equal(logits, network.eval()(torch.from_numpy(images)).numpy())
