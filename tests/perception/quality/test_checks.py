"""Our own checks on small tables whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perception.quality.checks import (
    class_mix_kept,
    class_pixels,
    class_pixels_fill,
    class_pixels_right,
    class_shares,
    class_shares_near,
    group_on_one_side,
    group_share,
    near_duplicates,
    values_finite,
    values_present,
)

SIDES = {"train": ["pool", "train"], "val": ["val"], "test": ["test"]}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_what_is_not_finite_is_found(bad):
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, bad, 3.0]})
    outcome = values_finite(table, ["a", "b"])
    assert not outcome.success and outcome.positions.tolist() == [1]
    assert outcome.observed == "1 of 3 rows lack a finite number: b in 1"
    assert values_finite(table.drop(index=1), ["a", "b"]).success


def test_missing_integers_are_not_finite():
    table = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
    assert values_finite(table, ["a"]).positions.tolist() == [1]


def test_missing_values_name_their_columns():
    table = pd.DataFrame({"a": ["x", None, "z"], "b": [None, None, 1.0]})
    outcome = values_present(table, ["a", "b"])
    assert outcome.count == 2 and outcome.observed == "2 of 3 rows lack a value: a in 1, b in 2"
    assert [set(values) for values in outcome.values] == [{"b"}, {"a", "b"}]


def test_drive_on_two_sides_names_the_smaller_side_first():
    table = pd.DataFrame(
        {"drive_id": ["a"] * 4 + ["b"] * 2, "split": ["train", "pool", "train", "val", "test", "test"]}
    )
    outcome = group_on_one_side(table, "drive_id", "split", SIDES)
    assert not outcome.success and outcome.count == 4
    assert outcome.positions[0] == 3
    assert outcome.observed == "1 of 2 on two sides: a (train 3, val 1)"


def test_pool_and_train_are_one_side():
    table = pd.DataFrame({"drive_id": ["a", "a", "b"], "split": ["train", "pool", "val"]})
    assert group_on_one_side(table, "drive_id", "split", SIDES).success


def test_drives_in_one_split_equal_a_slow_version():
    rng = np.random.default_rng(2)
    table = pd.DataFrame(
        {"drive_id": rng.integers(0, 40, 120).astype(str), "split": rng.choice(["pool", "train", "val", "test"], 120)}
    )
    side = {value: name for name, values in SIDES.items() for value in values}
    wrong = [
        k for k in range(len(table)) if len({side[s] for s in table.split[table.drive_id == table.drive_id[k]]}) > 1
    ]
    assert sorted(group_on_one_side(table, "drive_id", "split", SIDES).positions) == wrong


def test_no_group_is_nothing_looked_at():
    table = pd.DataFrame({"drive_id": [None, None], "split": ["train", "val"]}, dtype=object)
    assert group_on_one_side(table, "drive_id", "split", SIDES).evaluated == 0
    assert group_share(table, "drive_id", 0.5).evaluated == 0


def test_group_share():
    table = pd.DataFrame({"drive_id": list("aaab")})
    assert group_share(table, "drive_id", 0.75).success
    outcome = group_share(table, "drive_id", 0.7)
    assert not outcome.success and outcome.positions.tolist() == [0, 1, 2]
    assert outcome.observed == "largest: a 3 of 4, b 1 of 4"


def test_divergence_is_that_of_scipy_and_names_the_furthest_class():
    table = pd.DataFrame({"px_road": [30, 20], "px_person": [40, None], "px_sky": [5, 5]})
    assert class_shares(table, "px_") == {"person": 0.4, "road": 0.5, "sky": 0.1}
    reference = {"road": 0.5, "person": 0.1, "sky": 0.4}
    expected = stats.entropy([0.4, 0.5, 0.1], [0.1, 0.5, 0.4])
    for limit, passes in ((expected - 1e-9, False), (expected + 1e-9, True)):
        outcome = class_shares_near(table, "px_", reference, 1e-6, limit)
        assert outcome.success is passes
    assert outcome.observed.startswith(f"{expected:.4f} nats; furthest: person 40.000% against 10.000%")


def test_divergence_of_a_class_that_the_reference_never_saw():
    table = pd.DataFrame({"px_road": [50], "px_train": [50]})
    few = pd.DataFrame({"px_road": [99_999], "px_train": [1]})
    assert class_shares_near(table, "px_", {"road": 1.0}, 1e-4, 0.2).observed.split("furthest: ")[1].startswith("train")
    assert not class_shares_near(table, "px_", {"road": 1.0}, 1e-4, 0.2).success
    assert class_shares_near(few, "px_", {"road": 1.0}, 1e-4, 0.2).success


def test_divergence_without_pixels_looked_at_nothing():
    for table in (pd.DataFrame({"px_road": [np.nan]}), pd.DataFrame({"a": [1]})):
        outcome = class_shares_near(table, "px_", {"road": 1.0}, 1e-4, 0.2)
        assert outcome.evaluated == 0 and not outcome.success


def test_class_pixels():
    table = pd.DataFrame({"px_road": [30, 20], "px_person": [0, 4]})
    assert class_pixels(table, "px_", ["road", "person"], 4).success
    outcome = class_pixels(table, "px_", ["road", "person", "train"], 5)
    assert not outcome.success and outcome.observed == "2 of 3 classes below: person 4, train 0"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_fill_the_frame(dtype):
    size = 2048 * 1024
    void = np.array([0, 1, 777_777], dtype=np.int64)
    table = pd.DataFrame({"px_a": size - void, "void": (void / size).astype(dtype), "w": 2048, "h": 1024})
    assert class_pixels_fill(table, "px_", "void", "w", "h").success
    table.loc[1, "px_a"] += 1
    assert class_pixels_fill(table, "px_", "void", "w", "h").positions.tolist() == [1]
    table["px_a"] = np.nan
    assert class_pixels_fill(table, "px_", "void", "w", "h").count == 3


def test_near_duplicates_name_the_nearest_image():
    table = pd.DataFrame(
        {
            "frame_id": ["a", "b", "c", "d", "e"],
            "split": ["pool", "train", "val", "test", "test"],
            "dhash": ["00000000000000ff", "0000000000000f0f", "0000000000000f07", "ffffffffffffffff", None],
        }
    )
    sides = {"train": ["pool", "train"], "test": ["val", "test"]}
    outcome = near_duplicates(table, "dhash", "split", sides, 4)
    assert outcome.positions.tolist() == [2]
    assert outcome.values == ({"nearest_in_train": "b", "distance_bits": 1},)
    assert outcome.evaluated == 2
    assert near_duplicates(table, "dhash", "split", sides, 0).success
    assert near_duplicates(table.head(2), "dhash", "split", sides, 4).evaluated == 0


def test_a_mix_of_classes_that_is_kept_and_one_that_is_not():
    reference = {"road": 0.9, "car": 0.06, "person": 0.03, "train": 0.01}  # of things alone: 60, 30 and 10 %
    kept = pd.DataFrame({"d_car": [300, 250], "d_person": [200, 150], "d_train": [60, 40]})
    outcome = class_mix_kept(kept, "d_", reference, 0.2, 0.25, 4.0)
    assert outcome.success and outcome.evaluated == 1000
    mixed_up = pd.DataFrame({"d_car": [100, 0], "d_person": [300, 0], "d_train": [0, 600]})
    outcome = class_mix_kept(mixed_up, "d_", reference, 0.2, 0.25, 4.0)
    assert not outcome.success
    assert outcome.observed == "collapsed: car 10.0% against 60.0%; swollen: train 60.0% against 10.0%"
    assert class_mix_kept(mixed_up, "d_", reference, 0.2, 0.1, 6.0).success
    assert class_mix_kept(mixed_up, "d_", reference, 0.61, 0.25, 4.0).success, (
        "no class is large enough to be looked at"
    )
    for empty in (kept * 0, kept.drop(columns=list(kept))):
        assert class_mix_kept(empty, "d_", reference, 0.2, 0.25, 4.0).evaluated == 0


def test_right_pixels_are_a_share_of_those_whose_quality_is_known():
    table = pd.DataFrame({"d_car": [60, 20], "r_car": [40.0, 8.0], "d_bus": [10, 10], "r_bus": [1.0, 1.0]})
    outcome = class_pixels_right(table, "d_", "r_", 0.5)
    assert outcome.success and outcome.evaluated == 100
    assert outcome.observed == "50.0% right; most wrong pixels: car 60.0% of 80 px, bus 10.0% of 20 px"
    assert not class_pixels_right(table, "d_", "r_", 0.51).success
    unknown = table.assign(r_car=np.nan)
    assert class_pixels_right(unknown, "d_", "r_", 0.2).observed.startswith("10.0% right; most wrong pixels: bus")
    assert class_pixels_right(unknown.assign(r_bus=np.nan), "d_", "r_", 0.2).evaluated == 0
    assert class_pixels_right(table * 0, "d_", "r_", 0.2).evaluated == 0
