import cv2
import numpy as np
import pytest

from perception.errors import InputError
from perception.metrics.boundary import band_width_px, boundary_tallies
from perception.metrics.confusion import iou_of_tallies


def mask_to_boundary(mask, dilation_ratio=0.02):
    """The reference implementation that accompanies the paper (bowenc0221/boundary-iou-api), word for word."""
    h, w = mask.shape
    img_diag = np.sqrt(h**2 + w**2)
    dilation = round(dilation_ratio * img_diag)
    if dilation < 1:
        dilation = 1
    new_mask = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((3, 3), dtype=np.uint8)
    new_mask_erode = cv2.erode(new_mask, kernel, iterations=dilation)
    mask_erode = new_mask_erode[1 : h + 1, 1 : w + 1]
    return mask - mask_erode


def blobs(seed, shape, classes):
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    return np.stack([cv2.GaussianBlur(each, (0, 0), 6) for each in noise]).argmax(0).astype(np.uint8)


@pytest.mark.parametrize("shape", [(60, 90), (128, 256), (3, 40)])
def test_equals_the_papers_code_class_by_class(shape):
    classes = 5
    labels, predictions = blobs(0, shape, classes), blobs(1, shape, classes)
    predictions[:, : shape[1] // 2] = labels[:, : shape[1] // 2]
    labels[: shape[0] // 6, :7] = 255
    judged = labels != 255
    counts = boundary_tallies(labels, predictions, classes)
    for class_id in range(classes):
        truth = mask_to_boundary(((labels == class_id) & judged).astype(np.uint8)) > 0
        guess = mask_to_boundary(((predictions == class_id) & judged).astype(np.uint8)) > 0
        assert counts[:, class_id].tolist() == [(truth & guess).sum(), truth.sum(), guess.sum()]
        if (truth | guess).any():
            value = (truth & guess).sum() / (truth | guess).sum()
            assert iou_of_tallies(counts)[class_id] == pytest.approx(value, abs=1e-15)


def test_a_large_objects_inside_cannot_hide_a_ragged_outline():
    labels = np.zeros((200, 200), np.uint8)
    labels[40:160, 40:160] = 1
    ragged = np.zeros_like(labels)
    ragged[46:154, 46:154] = 1
    counts = boundary_tallies(labels, ragged, 2)
    assert (labels == ragged)[labels == 1].mean() > 0.8
    assert iou_of_tallies(counts)[1] < 0.1


def test_band_is_two_per_cent_of_the_diagonal():
    assert band_width_px(1024, 2048) == 46
    assert band_width_px(10, 10) == 1
    with pytest.raises(InputError, match="ratio"):
        band_width_px(10, 10, 0.0)
    with pytest.raises(InputError, match="labels are"):
        boundary_tallies(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
