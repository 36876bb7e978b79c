"""Our own checks on small tables whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perception.quality.checks import (
    class_pixels,
    class_pixels_fill,
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
