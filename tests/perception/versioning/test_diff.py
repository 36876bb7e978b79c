import numpy as np
import pandas as pd
import pytest

from perception.data.manifest import write_manifest
from perception.errors import InputError
from perception.versioning.diff import diff_files, diff_manifests

CLASSES = ("road", "person", "train")


def random_manifest(tools, random, ids, label_version=""):
    frames = tools.make_frames(ids, version=label_version)
    n = len(frames)
    frames["split"] = random.choice(["train", "val", "test"], n)
    frames["time_of_day"] = random.choice(np.array(["day", "night", None], object), n)
    frames["weather"] = random.choice(np.array(["clear", "rain"], object), n)
    for name in CLASSES:
        frames[f"px_{name}"] = random.integers(0, 900, n) * (random.random(n) < 0.5)
    return frames


def slow_diff(base, head):
    """The same by loops over dictionaries."""
    old, new = ({row["frame_id"]: row for row in t.astype(object).to_dict("records")} for t in (base, head))

    def differs(frame_id, *columns):
        a, b = old[frame_id], new[frame_id]
        return any(a[c] != b[c] and not (pd.isna(a[c]) and pd.isna(b[c])) for c in columns)

    both = sorted(old.keys() & new.keys())
    conditions = ("time_of_day", "weather", "scene")
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "relabelled": [i for i in both if differs(i, "label_sha256")],
        "changed_image": [i for i in both if differs(i, "image_sha256")],
        "changed_conditions": [i for i in both if differs(i, *conditions)],
        "moved": [(i, old[i]["split"], new[i]["split"]) for i in both if differs(i, "split")],
        "same": sum(not differs(i, "label_sha256", "image_sha256", "split", *conditions) for i in both),
    }


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_loop_over_frames(tools, seed):
    random = np.random.default_rng(seed)
    ids = [f"drive{k // 7}_{k}" for k in range(120)]
    base = random_manifest(tools, random, random.permutation(ids)[:90])
    head = random_manifest(tools, random, random.permutation(ids)[:80])
    head.loc[::5, "label_sha256"] = tools.digest("new label")
    head.loc[3, ["label_sha256", "label_uri"]] = None
    head.loc[::9, "image_sha256"] = tools.digest("new image")
    found, expected = diff_manifests(base, head), slow_diff(base, head)
    for kind in ("added", "removed", "relabelled", "changed_image", "changed_conditions"):
        assert list(getattr(found, kind)) == expected[kind], kind
    assert list(found.moved.itertuples(index=False, name=None)) == expected["moved"]
    assert found.same == expected["same"]
    assert found.counts() == {
        "base": 90, "head": 80, "same": expected["same"],
        **{kind: len(expected[kind]) for kind in expected if kind != "same"},
    }  # fmt: skip


def test_tables_equal_pandas_group_counts(tools):
    random = np.random.default_rng(7)
    base = random_manifest(tools, random, [f"drive{k // 5}_{k}" for k in range(60)])
    head = random_manifest(tools, random, [f"drive{k // 5}_{k}" for k in range(10, 80)])
    found = diff_manifests(base, head)
    for side, frames in (("base", base), ("head", head)):
        pixels = frames[[f"px_{name}" for name in CLASSES]].sum()
        for name in CLASSES:
            assert found.classes.loc[name, f"{side}_share"] == pytest.approx(pixels[f"px_{name}"] / pixels.sum())
            assert found.classes.loc[name, f"{side}_frames"] == (frames[f"px_{name}"] > 0).sum()
        assert found.splits[side].to_dict() == frames["split"].value_counts().to_dict()
        cells = frames.assign(time_of_day=frames["time_of_day"].fillna("unknown"))
        grouped = cells.groupby(["time_of_day", "weather", "scene"])
        assert found.conditions[side].to_dict() == grouped.size().to_dict()
        for name in CLASSES:
            shown = grouped[f"px_{name}"].agg(lambda pixels: int((pixels > 0).sum())).to_dict()
            assert found.class_conditions.loc[name][side].to_dict() == shown
    assert (found.conditions["delta"] == found.conditions["head"] - found.conditions["base"]).all()
    np.testing.assert_allclose(found.classes["delta_share"], found.classes["head_share"] - found.classes["base_share"])
    counts = [frames["drive_id"].value_counts() for frames in (base, head)]
    changed = {d for d in counts[0].index.union(counts[1].index) if counts[0].get(d, 0) != counts[1].get(d, 0)}
    assert set(found.drives.index) == changed
    assert (found.base_drives, found.head_drives) == (12, 14)


def test_a_manifest_against_itself_is_empty(tools):
    frames = random_manifest(tools, np.random.default_rng(0), ["d0_0", "d0_1", "d1_0"])
    found = diff_manifests(frames, frames.sample(frac=1, random_state=1))
    assert found.same == 3
    assert found.drives.empty


def test_against_nothing_everything_is_added(tools):
    frames = random_manifest(tools, np.random.default_rng(0), ["d0_0", "d0_1"])
    found = diff_manifests(frames.iloc[:0], frames)
    assert found.added == ("d0_0", "d0_1")
    assert found.classes["base_share"].isna().all()
    assert diff_manifests(frames.iloc[:0], frames.iloc[:0]).same == 0


def test_a_class_column_that_only_one_side_has_is_unknown_on_the_other(tools):
    base = tools.make_frames(["d0_0"], px_road=10)
    head = tools.make_frames(["d0_0"], px_road=5, px_train=5)
    found = diff_manifests(base, head)
    assert np.isnan(found.classes.loc["train", "base_share"])
    assert found.classes.loc["train", "head_share"] == 0.5
    assert found.classes.loc["road", "delta_share"] == -0.5


def test_conditions_are_those_that_frames_are_judged_by(tools, tmp_path):
    base = random_manifest(tools, np.random.default_rng(0), [f"d0_{n}" for n in range(6)]).assign(weather="clear")
    tags = [None, "fog", "clear", None, "rain", None]
    tagged = base.assign(tagged_weather=pd.Series(tags, base.index, dtype=object), tag_drop="batch-1/ada/2026-12-01")
    for side, name in ((base, "base"), (tagged, "head")):
        write_manifest(side, tmp_path / f"{name}.parquet")
    for diff in (diff_manifests(base, tagged), diff_files(tmp_path / "base.parquet", tmp_path / "head.parquet")):
        assert sorted(diff.changed_conditions) == sorted(base.frame_id.iloc[[1, 4]])
        counts = diff.conditions.groupby(level="weather").sum()["head"].to_dict()
        assert {name: counts[name] for name in ("clear", "fog", "rain")} == {"clear": 4, "fog": 1, "rain": 1}


def test_files_give_the_same_difference(tools, tmp_path):
    random = np.random.default_rng(1)
    base = random_manifest(tools, random, ["d0_0", "d0_1", "d1_0"])
    head = random_manifest(tools, random, ["d0_1", "d1_0", "d1_1"])
    for name, frames in (("base", base), ("head", head)):
        write_manifest(frames, tmp_path / f"{name}.parquet")
    from_files, from_frames = (
        diff_files(tmp_path / "base.parquet", tmp_path / "head.parquet"),
        diff_manifests(base, head),
    )
    assert from_files.counts() == from_frames.counts()
    pd.testing.assert_frame_equal(from_files.class_conditions, from_frames.class_conditions)
    with pytest.raises(InputError, match=r"nothing\.parquet"):
        diff_files(tmp_path / "nothing.parquet", tmp_path / "head.parquet")


def test_bad_manifests_are_refused(tools):
    frames = tools.make_frames(["d0_0", "d0_1"])
    with pytest.raises(InputError, match="head manifest lacks column split"):
        diff_manifests(frames, frames.drop(columns="split"))
    twice = tools.make_frames(["d0_1", "d0_0", "d0_1"])
    with pytest.raises(InputError, match="base manifest holds frame_id d0_1 more than once"):
        diff_manifests(twice, frames)
