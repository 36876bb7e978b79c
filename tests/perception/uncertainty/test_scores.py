import math
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import ndimage
from torch import nn

from perception.errors import InputError
from perception.uncertainty import kernel, scores
from perception.uncertainty.ensemble import Ensemble, make_ensemble
from perception.uncertainty.scores import (
    Uncertainty,
    detection_uncertainty,
    heat_picture,
    largest_region,
    measure_bounds,
    reduce_maps,
    score_frames,
    score_table,
    uncertainty,
    uncertainty_from_probabilities,
)
from perception.uncertainty.settings import MEASURES, ScoreSettings

REDUCTIONS = ("mean", "max", "top_share", "region", "class_weighted")


class PixelNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Conv2d(6, classes, 1)

    def encode(self, images):
        return self.body(images).relu()

    def forward(self, images):
        return 8 * self.head(self.encode(images))


def random_logits(members=5, frames=3, classes=4, space=(6, 7), scale=4.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(members, frames, classes, *space, generator=generator, dtype=dtype)


def slow_measures(probabilities):
    """Measure one pixel from the definitions; probabilities: (member, class) list of lists."""

    def entropy(row):
        return -sum(p * math.log(p) for p in row if p > 0)

    members, classes = len(probabilities), len(probabilities[0])
    mean = [sum(row[c] for row in probabilities) / members for c in range(classes)]
    mean_entropy = sum(entropy(row) for row in probabilities) / members
    votes = [row.index(max(row)) for row in probabilities]
    spread = sum((row[c] - mean[c]) ** 2 for row in probabilities for c in range(classes)) / members
    return {
        "ensemble_entropy": entropy(mean),
        "mean_entropy": mean_entropy,
        "mutual_information": entropy(mean) - mean_entropy,
        "variance": spread,
        "variation_ratio": 1 - max(votes.count(c) for c in range(classes)) / members,
    }


def scenes(frames=6, seed=0):
    return torch.rand(frames, 3, 12, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("from_logits", [True, False])
def test_maps_equal_the_definitions_at_every_pixel(from_logits):
    logits = random_logits(space=(3, 2))
    probabilities = logits.softmax(2)
    found = uncertainty(logits) if from_logits else uncertainty_from_probabilities(probabilities)
    for frame, y, x in np.ndindex(3, 3, 2):
        expected = slow_measures(probabilities[:, frame, :, y, x].tolist())
        for name in MEASURES:
            assert found.maps[name][frame, y, x].item() == pytest.approx(expected[name], abs=1e-12)
    torch.testing.assert_close(found.mean_probabilities, probabilities.mean(0))
    assert torch.equal(found.predicted, probabilities.mean(0).argmax(1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("space", [(), (7,), (40, 50)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_compiled_code_gives_what_the_plain_form_gives(monkeypatch, space, from_logits, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    monkeypatch.setattr(scores, "BLOCK_PIXELS", 300)  # a frame of 40 x 50 is no multiple of it
    logits = random_logits(members=4, frames=37 if len(space) < 2 else 2, classes=19, space=space)
    measure = uncertainty if from_logits else uncertainty_from_probabilities
    exact = logits if from_logits else logits.softmax(2)
    values = exact.float()
    with torch.inference_mode():
        stacked = measure(values)
    one_by_one, plain = measure(iter(values)), measure(values.double())
    torch.set_num_threads(before)
    torch.testing.assert_close(stacked.mean_probabilities, plain.mean_probabilities.float(), rtol=0, atol=2e-7)
    for name in MEASURES:
        assert torch.equal(one_by_one.maps[name], stacked.maps[name])
        torch.testing.assert_close(stacked.maps[name].double(), plain.maps[name], rtol=0, atol=2e-6)
    assert not measure(values.requires_grad_()).maps["mutual_information"].requires_grad


def test_compiled_logarithm_and_exponential_are_exact_to_the_last_digits():
    values = np.geomspace(1.2e-38, 1, 100_000, dtype=np.float32)
    logarithms = np.array([kernel.logarithm(value) for value in values])
    np.testing.assert_allclose(logarithms, np.log(values.astype(np.float64)), rtol=1.5e-7, atol=1e-7)
    exponents = np.linspace(-87, 0, 100_000, dtype=np.float32)
    powers = np.array([kernel.exponential(value) for value in exponents])
    np.testing.assert_allclose(powers, np.exp(exponents.astype(np.float64)), rtol=1.5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_maps_asked_for_are_made(dtype):
    logits = random_logits(dtype=dtype)
    found = uncertainty(logits, ("mutual_information",))
    assert list(found.maps) == ["mutual_information"]
    assert torch.equal(found.maps["mutual_information"], uncertainty(logits).maps["mutual_information"])


@pytest.mark.parametrize("values", [math.nan, math.inf])
@pytest.mark.parametrize("measure", [uncertainty, uncertainty_from_probabilities])
def test_what_is_not_finite_stays_so(measure, values):
    logits = random_logits(dtype=torch.float32)
    logits[2, 1, 3, 4, 5] = values
    assert not measure(logits).maps["ensemble_entropy"][1, 4, 5].isfinite()


def test_classifiers_are_measured_like_pixels():
    logits = random_logits(space=(6,))
    as_images = uncertainty(logits)
    one_by_one = uncertainty(logits[..., 2])
    for name in MEASURES:
        torch.testing.assert_close(one_by_one.maps[name], as_images.maps[name][:, 2])


@pytest.mark.parametrize("members, classes", [(2, 5), (6, 3), (8, 19)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_measures_stay_within_their_bounds(members, classes, scale):
    found = uncertainty(random_logits(members, 2, classes, (9, 9), scale))
    for name, bound in measure_bounds(members, classes).items():
        assert found.maps[name].min() >= 0
        assert found.maps[name].max() <= bound + 1e-12, name
    whole, mean = found.maps["ensemble_entropy"], found.maps["mean_entropy"]
    torch.testing.assert_close(whole - mean, found.maps["mutual_information"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_members_that_agree_have_no_disagreement(scale):
    logits = random_logits(1, scale=scale).expand(6, -1, -1, -1, -1)
    found = uncertainty(logits)
    assert found.maps["variance"].abs().max() == 0
    assert found.maps["variation_ratio"].abs().max() == 0
    assert found.maps["mutual_information"].abs().max() < 1e-12
    torch.testing.assert_close(found.maps["ensemble_entropy"], found.maps["mean_entropy"], rtol=0, atol=1e-12)


def test_two_certain_members_of_different_opinion():
    found = uncertainty(torch.tensor([[[80.0, -80.0, -80.0]], [[-80.0, 80.0, -80.0]]]))
    assert found.maps["mutual_information"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert found.maps["variation_ratio"].item() == 0.5
    assert found.maps["variance"].item() == pytest.approx(0.5, abs=1e-6)
    assert found.maps["mean_entropy"].item() == pytest.approx(0, abs=1e-6)


def test_order_of_members_does_not_matter():
    logits = random_logits()
    found, again = uncertainty(logits), uncertainty(logits[[3, 1, 4, 0, 2]])
    for name in MEASURES:
        torch.testing.assert_close(found.maps[name], again.maps[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_floats_and_minus_infinity_are_safe(dtype):
    logits = random_logits(scale=10.0).to(dtype)
    logits[0, 0, 1] = -math.inf
    logits[1, 1, 0] = 60000.0
    found = uncertainty(logits)
    exact = uncertainty(logits.double())
    for name in MEASURES:
        assert found.maps[name].dtype == torch.float32
        assert found.maps[name].isfinite().all()
        if name != "variation_ratio":
            torch.testing.assert_close(found.maps[name].double(), exact.maps[name], rtol=1e-4, atol=1e-5)


def test_probabilities_of_zero_are_safe():
    probabilities = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = uncertainty_from_probabilities(probabilities)
    assert found.maps["mutual_information"].item() == pytest.approx(math.log(2))
    assert torch.equal(probabilities, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # left as they were


def test_one_member_after_the_other_is_read_and_let_go():
    alive = []

    def members():
        for seed in range(8):
            logits = random_logits(1, seed=seed)[0]
            alive.append(weakref.ref(logits))
            yield logits
            del logits
            assert sum(reference() is not None for reference in alive) <= 1

    uncertainty(members())
    assert len(alive) == 8


@pytest.mark.parametrize("measure", [uncertainty, uncertainty_from_probabilities, detection_uncertainty])
def test_no_member_is_refused(measure):
    with pytest.raises(InputError, match="no member"):
        measure([])


def test_detection_maps_take_each_class_by_itself():
    logits = random_logits(members=4, frames=2, classes=3, space=(5, 4))
    probabilities = logits.sigmoid()
    found = detection_uncertainty(logits)
    for frame, y, x in np.ndindex(2, 5, 4):
        cells = [slow_measures([[p, 1 - p] for p in probabilities[:, frame, c, y, x].tolist()]) for c in range(3)]
        for name in MEASURES:
            expected = max(cell[name] for cell in cells)
            assert found.maps[name][frame, y, x].item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(found.predicted, probabilities.mean(0).argmax(1))
    assert found.bounds["ensemble_entropy"] == pytest.approx(math.log(2))


def test_doubt_of_a_detector_is_greatest_at_one_half_and_symmetric():
    logits = torch.linspace(-9, 9, 181, dtype=torch.float64).reshape(1, 1, 1, 1, -1)
    entropy = detection_uncertainty(logits).maps["ensemble_entropy"].flatten()
    assert entropy.argmax().item() == 90
    assert entropy[90].item() == pytest.approx(math.log(2))
    torch.testing.assert_close(entropy, entropy.flip(0))


def found_with(values, predicted=None, classes=3):
    values = torch.as_tensor(values, dtype=torch.float64)
    predicted = torch.zeros(values.shape, dtype=torch.int64) if predicted is None else torch.as_tensor(predicted)
    probabilities = nn.functional.one_hot(predicted, classes).movedim(-1, 1).double()
    maps = dict.fromkeys(MEASURES, values)
    return Uncertainty(maps, probabilities, dict.fromkeys(MEASURES, 1.0))


def reduced(found, valid=None, **settings):
    return reduce_maps(found, ScoreSettings(**settings), valid)


@pytest.mark.parametrize("reduction", ["mean", "max", "top_share", "region"])
def test_constant_map_reduces_to_its_value(reduction):
    scores = reduced(found_with(torch.full((2, 5, 6), 0.7)), reduction=reduction)
    torch.testing.assert_close(scores, torch.full((2,), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_void_pixels_do_not_change_the_score(reduction):
    settings = {"reduction": reduction} | ({"class_weights": (1.0, 2.0, 3.0)} if reduction == "class_weighted" else {})
    values, predicted = torch.rand(2, 8, 9), torch.randint(0, 3, (2, 8, 9))
    valid = torch.ones(2, 8, 9, dtype=torch.bool)
    valid[:, 6:] = False
    expected = reduced(found_with(values[:, :6], predicted[:, :6]), **settings)
    torch.testing.assert_close(reduced(found_with(values, predicted), valid, **settings), expected)


def test_top_share_averages_the_most_uncertain_pixels():
    values = torch.arange(100.0).reshape(1, 10, 10)[:, torch.randperm(10)]
    assert reduced(found_with(values), reduction="top_share", top_share=0.05).item() == pytest.approx(97.0)
    assert reduced(found_with(values), reduction="top_share", top_share=0.001).item() == 99.0
    assert reduced(found_with(values), reduction="top_share", top_share=0.011).item() == 98.5  # rounded up to two
    assert reduced(found_with(values), reduction="top_share", top_share=0.07).item() == 96.0  # seven, not eight
    assert reduced(found_with(values), reduction="top_share", top_share=1.0).item() == pytest.approx(49.5)


def test_a_large_uncertain_region_beats_one_very_uncertain_pixel():
    values = torch.zeros(2, 20, 20)
    values[0, 3, 3] = 1.0
    values[1, 5:10, 5:10] = 0.5
    scores = reduced(found_with(values), reduction="region")
    assert scores.tolist() == pytest.approx([1 / 400, 12.5 / 400])
    assert reduced(found_with(values), reduction="max").tolist() == [1.0, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_largest_region_equals_an_independent_labelling(seed):
    generator = np.random.default_rng(seed)
    values, counted = generator.random((17, 23)), generator.random((17, 23)) < 0.9
    regions, count = ndimage.label((values > 0.6) & counted, structure=np.ones((3, 3)))
    expected = max(values[regions == index].sum() for index in range(1, count + 1)) / counted.sum()
    assert largest_region(values, counted, 0.6) == pytest.approx(expected)
    assert largest_region(values, counted, 2.0) == 0.0


def test_class_weights_count_the_pixels_of_important_classes():
    predicted = torch.tensor([[[0, 0], [0, 1]], [[1, 1], [1, 1]]])
    found = found_with(torch.full((2, 2, 2), 0.5), predicted)
    scores = reduced(found, reduction="class_weighted", class_weights=(0.0, 4.0, 1.0))
    assert scores.tolist() == pytest.approx([0.5, 2.0])
    with pytest.raises(InputError, match="2 weights, the network 3 classes"):
        reduced(found, reduction="class_weighted", class_weights=(0.0, 4.0))


def test_appended_certain_cells_change_the_mean_but_not_the_maximum():
    values = torch.rand(1, 4, 4)
    wider = torch.cat([values, torch.zeros(1, 4, 4)], 2)
    assert reduced(found_with(wider), reduction="max") == reduced(found_with(values), reduction="max")
    halved = reduced(found_with(values), reduction="mean") / 2
    torch.testing.assert_close(reduced(found_with(wider), reduction="mean"), halved)


def test_frame_without_valid_pixels_is_refused():
    with pytest.raises(InputError, match="no valid pixel"):
        reduced(found_with(torch.rand(1, 2, 2)), torch.zeros(1, 2, 2, dtype=torch.bool))


def batches_of(images, sizes):
    start = 0
    for size in sizes:
        yield [f"frame{index}" for index in range(start, start + size)], images[start : start + size]
        start += size


@pytest.mark.parametrize("reduction", ["mean", "max", "top_share", "region"])
def test_scores_do_not_depend_on_the_batches(reduction):
    committee, settings = make_ensemble(lambda _seed: PixelNet(), 3, seed=0), ScoreSettings(reduction=reduction)
    once = list(score_frames(committee, batches_of(scenes(), [6]), settings))
    apart = list(score_frames(committee, batches_of(scenes(), [1, 3, 2]), settings))
    assert [row.frame_id for row in once] == [row.frame_id for row in apart] == [f"frame{i}" for i in range(6)]
    for left, right in zip(once, apart, strict=True):
        assert left.score == pytest.approx(right.score, rel=1e-5, abs=1e-7)
        np.testing.assert_allclose(left.embedding, right.embedding, rtol=1e-5)


def test_rows_hold_the_means_the_classes_and_the_embedding():
    committee = make_ensemble(lambda _seed: PixelNet(), 4, seed=0)
    settings = ScoreSettings(measure="mutual_information")
    rows = list(score_frames(committee, batches_of(scenes(), [6]), settings))
    found = uncertainty(committee(scenes()))
    shares = nn.functional.one_hot(found.predicted, 4).float().mean((1, 2))
    for index, row in enumerate(rows):
        assert row.score == pytest.approx(found.maps["mutual_information"][index].mean().item(), rel=1e-4)
        for name in MEASURES:
            assert row.means[name] == pytest.approx(found.maps[name][index].mean().item(), rel=1e-4)
        np.testing.assert_allclose(row.class_share, shares[index], atol=1e-6)
        np.testing.assert_allclose(row.embedding, committee.embed(scenes())[index].detach(), rtol=1e-5)


def test_maps_and_progress_are_handed_out():
    committee = make_ensemble(lambda _seed: PixelNet(), 2, seed=0)
    maps, steps = {}, []
    rows = list(
        score_frames(
            committee,
            batches_of(scenes(), [4, 2]),
            ScoreSettings(),
            on_maps=lambda frame_id, found, bounds: maps.update({frame_id: (found, bounds)}),
            progress=lambda done, total: steps.append((done, total)),
            total_frames=6,
        )
    )
    assert steps == [(4, 6), (6, 6)]
    for row in rows:
        found, bounds = maps[row.frame_id]
        assert found["ensemble_entropy"].shape == (12, 16)
        assert found["ensemble_entropy"].mean() == pytest.approx(row.score, rel=1e-5)
        assert bounds["ensemble_entropy"] == pytest.approx(math.log(4))


@pytest.mark.parametrize("reduction", ["mean", "region"])
def test_output_that_is_not_finite_is_refused_by_name(reduction):
    committee = make_ensemble(lambda _seed: PixelNet(), 2, seed=0)
    images = scenes()
    images[3, 0, 5, 5] = math.nan
    with pytest.raises(InputError, match="frame frame3"):
        list(score_frames(committee, batches_of(images, [6]), ScoreSettings(reduction=reduction)))


def test_classifier_scores_come_from_the_same_function():
    def build(_seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 5))

    rows = list(score_frames(make_ensemble(build, 3, 0), batches_of(scenes(), [6]), ScoreSettings(), embeddings=False))
    assert len(rows) == 6
    assert all(row.embedding is None and row.class_share.sum() == 1 for row in rows)
    assert "embedding" not in score_table(rows, ScoreSettings(), "0" * 64)


def test_table_survives_parquet_with_its_types(tmp_path):
    committee = make_ensemble(lambda _seed: PixelNet(), 2, seed=0)
    settings = ScoreSettings(measure="variance", reduction="max")
    table = score_table(score_frames(committee, batches_of(scenes(), [3, 3]), settings), settings, "ab" * 32)
    table.to_parquet(tmp_path / "scores.parquet")
    schema = pq.read_schema(tmp_path / "scores.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32())
    assert schema.field("class_share").type == pa.list_(pa.float32())
    assert schema.field("score").type == pa.float64()
    assert set(table["measure"]) == {"variance"}
    assert set(table["reduction"]) == {"max"}
    assert set(table["model_sha256"]) == {"ab" * 32}
    assert table.shape[0] == 6


def test_single_network_has_doubt_but_no_disagreement():
    rows = list(score_frames(Ensemble([PixelNet()]), batches_of(scenes(), [6]), ScoreSettings()))
    for row in rows:
        assert row.means["mutual_information"] == pytest.approx(0, abs=1e-6)
        assert row.means["ensemble_entropy"] > 0


def test_picture_goes_from_dark_to_bright():
    picture = heat_picture(np.array([[0.0, 0.5, 1.0, 2.0]]), bound=1.0)
    assert picture.shape == (1, 4, 3)
    brightness = picture.astype(int).sum(2)[0]
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"measure": "entropy"},
        {"reduction": "median"},
        {"outputs": "tanh"},
        {"top_share": 0.0},
        {"region_threshold": 1.0},
        {"class_weights": (1.0,)},
        {"reduction": "class_weighted"},
        {"reduction": "class_weighted", "class_weights": (1.0, -1.0)},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        ScoreSettings(**wrong)
