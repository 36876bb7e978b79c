"""The frame profile against slow, obvious versions."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from perception.data.taxonomies import label_lookup, load_taxonomy
from perception.errors import InputError
from perception.quality.profile import hash_values, label_facts, near_duplicate_pairs, near_values, profile_frame


def picture(height: int = 48, width: int = 90, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.uniform(0, 255, (height, width, 3)), (4, 4, 0))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma, as Pillow rounds it."""
    return np.asarray(Image.fromarray(image).convert("L")).astype(float)


def test_facts_of_an_image_equal_slow_versions():
    image = picture()
    facts = profile_frame(image, None, None)
    gray = luma(image)
    assert (facts["width_px"], facts["height_px"]) == (90, 48)
    assert facts["brightness_mean"] == pytest.approx(gray.mean(), abs=0.1)
    assert facts["contrast_std"] == pytest.approx(gray.std(), abs=0.1)
    edges = ndimage.convolve(gray, [[0, 1, 0], [1, -4, 1], [0, 1, 0]], mode="mirror")
    assert facts["sharpness"] == pytest.approx(edges.var(), rel=0.1)
    assert facts["void_fraction"] is None and facts["unknown_label_px"] is None
    assert not any(name.startswith("px_") for name in facts)


def test_sharpness_falls_with_blur_and_is_zero_on_a_flat_image():
    image = np.random.default_rng(0).integers(0, 256, (48, 90, 3), dtype=np.uint8)
    blurred = ndimage.gaussian_filter(image, (2, 2, 0))
    assert profile_frame(blurred, None, None)["sharpness"] < 0.5 * profile_frame(image, None, None)["sharpness"]
    flat = profile_frame(np.full((20, 30, 3), 77, np.uint8), None, None)
    assert (flat["sharpness"], flat["contrast_std"], flat["brightness_mean"]) == (0, 0, pytest.approx(77, abs=0.5))


def test_difference_hash_says_where_the_luma_rises():
    ramp = np.tile(np.arange(0, 252, 4, dtype=np.uint8), (32, 1))
    image = np.repeat(ramp[:, :, None], 3, axis=2)
    assert profile_frame(image, None, None)["dhash"] == "f" * 16
    assert profile_frame(np.ascontiguousarray(image[:, ::-1]), None, None)["dhash"] == "0" * 16
    half = image.copy()
    half[16:] = half[16:, ::-1]
    assert profile_frame(half, None, None)["dhash"] == "f" * 8 + "0" * 8


def test_difference_hash_survives_size_and_light_but_not_another_scene():
    image = picture(240, 360, seed=3)
    smaller = np.asarray(Image.fromarray(image).resize((180, 120), Image.Resampling.BOX))
    darker = (image * 0.8).astype(np.uint8)
    other = picture(240, 360, seed=4)
    hashes = [profile_frame(each, None, None)["dhash"] for each in (image, smaller, darker, other)]
    distance = [bin(int(hashes[0], 16) ^ int(each, 16)).count("1") for each in hashes]
    assert max(distance[:3]) <= 4 < 12 < distance[3]


@pytest.mark.parametrize("name", ["cityscapes19", "camvid11", "gta5"])
def test_class_counts_equal_a_count_pixel_by_pixel(name):
    taxonomy = load_taxonomy(name)
    rng = np.random.default_rng(1)
    label = rng.choice(np.flatnonzero(taxonomy.raw != 254), size=(40, 60)).astype(np.uint8)
    label[0, :3] = np.flatnonzero(taxonomy.raw == 254)[0]
    facts = profile_frame(np.zeros((40, 60, 3), np.uint8), label, taxonomy)
    for index, class_name in enumerate(taxonomy.classes):
        assert facts[f"px_{class_name}"] == sum(taxonomy.raw[value] == index for value in label.ravel())
    assert facts["unknown_label_px"] == 3
    assert (facts["label_min"], facts["label_max"]) == (label.min(), label.max())
    counted = sum(value for key, value in facts.items() if key.startswith("px_"))
    assert facts["void_fraction"] == pytest.approx(1 - counted / label.size, abs=1e-12)


def test_classes_can_be_counted_in_another_taxonomy():
    source, target = load_taxonomy("camvid11"), load_taxonomy("cityscapes19")
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    facts = label_facts(label, source, target)
    mapped = label_lookup("camvid11", "cityscapes19")[label]
    for index, name in enumerate(target.classes):
        assert facts[f"px_{name}"] == (mapped == index).sum()
    assert facts["void_fraction"] == pytest.approx((mapped == 255).mean())


def test_counts_of_a_huge_label_are_exact():
    label = np.zeros((4097, 4097), np.uint8)
    assert label_facts(label, load_taxonomy("cityscapes19"))["px_road"] == 4097**2


def test_label_and_taxonomy_come_together():
    with pytest.raises(InputError, match="alone"):
        profile_frame(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), None)
    with pytest.raises(InputError, match="no pixels"):
        label_facts(np.zeros((0, 4), np.uint8), load_taxonomy("cityscapes19"))


def slow_pairs(a: list[str], b: list[str], limit: int) -> list[tuple[int, int, int]]:
    found = []
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            distance = bin(int(left, 16) ^ int(right, 16)).count("1")
            if distance <= limit:
                found.append((i, j, distance))
    return found


@pytest.mark.parametrize("limit", [0, 1, 4, 9, 31])
def test_near_duplicates_equal_every_pair_compared(limit):
    rng = np.random.default_rng(limit)
    a = [f"{value:016x}" for value in rng.integers(0, 2**64, 60, dtype=np.uint64)]
    b = [f"{value:016x}" for value in rng.integers(0, 2**64, 30, dtype=np.uint64)]
    for k in range(40):  # flip k // 2 bits, and repeat some hashes on both sides
        flipped = int(a[k], 16)
        for bit in rng.choice(64, k // 2, replace=False):
            flipped ^= 1 << int(bit)
        b.append(f"{flipped:016x}")
    a += a[:5]
    b += b[-5:]
    assert [tuple(row) for row in near_duplicate_pairs(a, b, limit)] == slow_pairs(a, b, limit)


def test_near_duplicates_do_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(5)
    a, b = (np.unique(rng.integers(0, 2**12, 300, dtype=np.uint64)) for _ in range(2))
    whole = near_values(a, b, 3)
    monkeypatch.setattr("perception.quality.profile._BLOCK_PAIRS", 7)
    assert len(whole) > 100
    np.testing.assert_array_equal(near_values(a, b, 3), whole)


def test_nothing_is_near_nothing():
    assert near_duplicate_pairs([], ["0" * 16], 4).shape == (0, 3)
    assert near_duplicate_pairs(["f" * 16], ["0" * 16], 4).shape == (0, 3)


def test_what_is_no_hash_is_refused():
    with pytest.raises(InputError, match="'xyz'"):
        hash_values(["0" * 16, "xyz"])
    with pytest.raises(InputError, match="'g"):
        hash_values(["g" * 16])
    with pytest.raises(InputError, match="max_distance"):
        near_duplicate_pairs(["0" * 16], ["0" * 16], 64)
