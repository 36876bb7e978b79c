import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.adaptation.fusion import FusionSettings, Instances, fuse, paste, pseudo_ground_truth
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError

CLASSES = 19
FOREGROUND = load_taxonomy("cityscapes19").foreground


def instances(masks, classes, scores) -> Instances:
    return Instances(np.asarray(masks, dtype=bool), np.asarray(classes, np.uint8), np.asarray(scores, np.float64))


def none(shape) -> Instances:
    return instances(np.zeros((0, *shape)), [], [])


def slow_canvas(shape, found, kept=lambda _: True):
    """The rule of the paper, pixel by pixel: best score first, a taken pixel is never taken again."""
    canvas = np.full(shape, -1, dtype=int)
    order = sorted(range(len(found.scores)), key=lambda index: (-found.scores[index], found.classes[index]))
    for index in order:
        if not kept(index):
            continue
        for row in range(shape[0]):
            for column in range(shape[1]):
                if found.masks[index, row, column] and canvas[row, column] == -1:
                    canvas[row, column] = found.classes[index]
    return canvas


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width, count = draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(st.integers(0, 6))
    masks = rng.random((count, height, width)) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    scores = rng.choice([0.0, 0.01, 0.5, 0.5, 0.9, 1.0], count)  # ties on purpose
    segmentation = rng.integers(0, CLASSES, (height, width), dtype=np.uint8)
    return segmentation, instances(masks, rng.integers(0, CLASSES, count), scores)


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_fusion_and_pseudo_ground_truth_equal_a_slow_loop(scene):
    segmentation, found = scene
    canvas = slow_canvas(segmentation.shape, found)
    fused, truth = fuse(segmentation, found), pseudo_ground_truth(segmentation, found, FOREGROUND)
    assert fused.dtype == truth.dtype == np.uint8
    for position in np.ndindex(segmentation.shape):
        if canvas[position] >= 0:
            assert fused[position] == truth[position] == canvas[position]
        else:
            assert fused[position] == segmentation[position]
            assert truth[position] == (255 if FOREGROUND[segmentation[position]] else segmentation[position])


@settings(max_examples=100, deadline=None)
@given(scenes(), st.randoms(use_true_random=False))
def test_order_of_instances_never_matters(scene, random):
    segmentation, found = scene
    order = list(range(len(found.scores)))
    random.shuffle(order)
    shuffled = Instances(found.masks[order], found.classes[order], found.scores[order])
    assert np.array_equal(fuse(segmentation, found), fuse(segmentation, shuffled))


@settings(max_examples=100, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_thresholds_equal_leaving_instances_out(scene, threshold):
    segmentation, found = scene
    by_class = tuple(0.6 if index % 2 else 0.0 for index in range(CLASSES))
    chosen = FusionSettings(score_threshold=threshold, class_score_thresholds=by_class)
    canvas = slow_canvas(
        segmentation.shape,
        found,
        kept=lambda index: found.scores[index] >= threshold and found.scores[index] >= by_class[found.classes[index]],
    )
    expected = np.where(canvas >= 0, canvas, segmentation)
    assert np.array_equal(fuse(segmentation, found, chosen), expected)


def test_no_instance_leaves_the_segmentation():
    segmentation = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(fuse(segmentation, none((3, 4))), segmentation)


def test_higher_score_wins_the_overlap_and_a_weak_one_still_pastes():
    segmentation = np.zeros((1, 3), np.uint8)
    found = instances([[[1, 1, 0]], [[0, 1, 0]], [[0, 0, 1]]], [13, 11, 18], [0.4, 0.8, 0.01])
    assert fuse(segmentation, found).tolist() == [[13, 11, 18]]
    assert fuse(segmentation, found, FusionSettings(score_threshold=0.5)).tolist() == [[0, 11, 0]]


def test_full_mask_hides_and_empty_mask_changes_nothing():
    segmentation = np.full((2, 2), 7, np.uint8)
    found = instances([np.ones((2, 2)), np.zeros((2, 2))], [13, 11], [0.2, 0.9])
    assert (fuse(segmentation, found) == 13).all()
    assert (paste((2, 2), found) == 13).all()


def test_equal_scores_go_to_the_lower_class_id():
    found = instances(np.ones((2, 1, 1)), [13, 11], [0.5, 0.5])
    assert fuse(np.zeros((1, 1), np.uint8), found).item() == 11


def test_pseudo_ground_truth_keeps_ignored_pixels_ignored():
    segmentation = np.array([[255, 0, 13]], np.uint8)
    assert pseudo_ground_truth(segmentation, none((1, 3)), FOREGROUND).tolist() == [[255, 0, 255]]


def test_foreground_and_background_split_the_19_classes_as_in_the_paper():
    names = load_taxonomy("cityscapes19").classes
    background = {name for name, is_foreground in zip(names, FOREGROUND, strict=True) if not is_foreground}
    assert background == {
        "road", "sidewalk", "building", "wall", "fence", "pole", "vegetation", "terrain", "sky"
    }  # fmt: skip
    assert sum(FOREGROUND) == 10


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda: instances(np.zeros((1, 2, 2)), [1, 2], [0.5, 0.5]), "1 masks, 2 classes"),
        (lambda: instances(np.zeros((1, 2, 2)), [1], [float("nan")]), "not finite"),
        (lambda: Instances(np.zeros((2, 2), bool), np.zeros(1, np.uint8), np.zeros(1)), "instance, height, width"),
        (lambda: Instances(np.zeros((1, 2, 2), bool), np.zeros(1, np.int64), np.zeros(1)), "uint8 class ids"),
        (lambda: fuse(np.zeros((3, 3), np.uint8), none((2, 2))), "at one size"),
        (lambda: FusionSettings(score_threshold=1.2), "must be at most 1"),
        (lambda: pseudo_ground_truth(np.full((1, 1), 30, np.uint8), none((1, 1)), FOREGROUND), "class 30"),
        (
            lambda: fuse(
                np.zeros((1, 1), np.uint8),
                instances(np.ones((1, 1, 1)), [5], [0.5]),
                FusionSettings(class_score_thresholds=(0.1, 0.2)),
            ),
            "class 5 has no score threshold",
        ),
    ],
)
def test_bad_input_is_refused(found, message):
    with pytest.raises(InputError, match=message):
        found()
