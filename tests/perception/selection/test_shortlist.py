import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from perception.errors import InputError
from perception.selection import shortlist as module
from perception.selection.settings import Quota, SelectionSettings
from perception.selection.shortlist import labelled_rows, random_priorities, shortlist, shortlist_files


def pool(frames=300, seed=0, ties=False):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 5, frames) / 4 if ties else generator.random(frames)
    return pd.DataFrame(
        {
            "frame_id": [f"f{index:04d}" for index in generator.permutation(frames)],
            "score": scores,
            "embedding": list(generator.normal(size=(frames, 4)).astype(np.float32)),
            "time_of_day": np.where(generator.random(frames) < 0.1, "night", "day"),
            "class_share": list(generator.dirichlet(np.full(3, 0.2), frames).astype(np.float32)),
        }
    )


STRATEGIES = ("top_n", "k_centre", "kmeans_plus_plus", "core_set", "random")
NIGHT = Quota(minimum_share=0.5, column="time_of_day", value="night")
PERSON = Quota(minimum_share=0.2, class_id=2, class_share=0.9)


@pytest.mark.parametrize("ties", [False, True])
def test_keeps_the_highest_scores_and_of_equal_ones_the_lowest_frame_ids(ties):
    frames = pool(ties=ties)
    found = shortlist(frames, SelectionSettings(budget_frames=10, shortlist_frames=60, strategy="top_n"))
    expected = sorted(zip(-frames["score"], frames["frame_id"], strict=True))[:60]
    assert found["frame_id"].tolist() == sorted(frame_id for _, frame_id in expected)


def test_every_quota_has_its_own_best_frames():
    frames = pool()
    found = shortlist(frames, SelectionSettings(budget_frames=10, shortlist_frames=20, quotas=(NIGHT, PERSON)))
    best = frames.nlargest(20, "score")["frame_id"]
    night = frames[frames["time_of_day"] == "night"].nlargest(20, "score")["frame_id"]
    person = frames[[row[2] >= 0.9 for row in frames["class_share"]]].nlargest(20, "score")["frame_id"]
    assert set(found["frame_id"]) == {*best, *night, *person}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("quotas", [(), (NIGHT, PERSON)])
@pytest.mark.parametrize("ties", [False, True])
def test_shortlist_of_shortlists_is_the_shortlist(strategy, quotas, ties):
    settings = SelectionSettings(budget_frames=10, shortlist_frames=40, strategy=strategy, quotas=quotas, seed=3)
    frames, labelled = pool(ties=ties), ["f0003", "f0200"]
    whole = shortlist(frames, settings, labelled)
    shards = [shortlist(frames.iloc[index::7], settings, labelled) for index in range(7)]
    pd.testing.assert_frame_equal(shortlist(pd.concat(shards), settings, labelled), whole)
    assert not set(labelled) & set(whole["frame_id"])


@pytest.mark.parametrize("quotas", [(), (NIGHT, PERSON)])
@pytest.mark.parametrize("rows", [7, 64, 10_000])
def test_files_give_the_same_shortlist_as_a_table(tmp_path, monkeypatch, rows, quotas):
    monkeypatch.setattr(module, "BATCH_ROWS", rows)
    frames = pool(ties=True)
    settings = SelectionSettings(budget_frames=10, shortlist_frames=30, quotas=quotas)
    paths = [tmp_path / f"shard{index}.parquet" for index in range(3)]
    for index, path in enumerate(paths):
        frames.iloc[index::3].to_parquet(path, row_group_size=50)
    found = shortlist_files(paths, settings, ["f0001"])
    expected = shortlist(frames, settings, ["f0001"])
    assert found["frame_id"].tolist() == expected["frame_id"].tolist()
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(expected["embedding"]))


def test_files_may_be_prepared_batch_by_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 16)
    frames = pool(ties=False)
    settings = SelectionSettings(budget_frames=10, shortlist_frames=30, quotas=(NIGHT,))
    frames.drop(columns="time_of_day").to_parquet(tmp_path / "scores.parquet")
    facts = frames.set_index("frame_id")["time_of_day"]

    def prepare(rows):
        inside = rows[rows["frame_id"] > "f0010"]
        return inside.assign(time_of_day=facts.loc[inside["frame_id"]].to_numpy(), score=2 * inside["score"])

    found = shortlist_files([tmp_path / "scores.parquet"], settings, ["f0100"], prepare)
    later = frames[frames["frame_id"] > "f0010"]
    expected = shortlist(later.assign(score=2 * later["score"]), settings, ["f0100"])
    pd.testing.assert_frame_equal(found[["frame_id", "score"]], expected[["frame_id", "score"]])
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(expected["embedding"]))


def test_labelled_rows_are_found_in_all_files(tmp_path):
    frames = pool(ties=False)
    for part in range(2):
        frames.iloc[part::2].to_parquet(tmp_path / f"{part}.parquet")
    wanted = frames["frame_id"].sample(20, random_state=0)
    found = labelled_rows(sorted(tmp_path.glob("*.parquet")), set(wanted)).set_index("frame_id")
    expected = frames.set_index("frame_id").loc[wanted]
    np.testing.assert_array_equal(np.stack(found.loc[wanted, "embedding"]), np.stack(expected["embedding"]))
    assert sorted(found.index) == sorted(wanted)


def test_random_priorities_are_uniform_and_belong_to_the_frame():
    frame_ids = pd.Series([f"frame{index}" for index in range(20_000)])
    found = random_priorities(frame_ids, seed=1)
    assert found.min() >= 0 and found.max() < 1
    counts, _ = np.histogram(found, bins=20, range=(0, 1))
    assert np.square(counts - 1000).sum() / 1000 < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    np.testing.assert_array_equal(random_priorities(frame_ids[::-1], seed=1), found[::-1])
    assert np.corrcoef(found, random_priorities(frame_ids, seed=2))[0, 1] == pytest.approx(0, abs=0.03)


def test_frame_in_two_shards_is_refused():
    frames = pd.concat([pool(), pool().iloc[:1].assign(score=0.99)])
    with pytest.raises(InputError, match="comes more than once"):
        shortlist(frames, SelectionSettings(budget_frames=10))


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.1])
def test_scores_that_cannot_be_ranked_are_refused_by_name(score):
    frames = pool()
    frames.loc[5, "score"] = score
    with pytest.raises(InputError, match=f"frame {frames['frame_id'][5]} has score"):
        shortlist(frames, SelectionSettings(budget_frames=10))


@pytest.mark.parametrize("column", ["frame_id", "score", "time_of_day", "class_share"])
def test_missing_columns_are_refused_by_name(column):
    settings = SelectionSettings(budget_frames=10, quotas=(NIGHT, PERSON))
    with pytest.raises(InputError, match=f"no column '{column}'"):
        shortlist(pool().drop(columns=column), settings)


def test_unreadable_and_empty_files_are_refused(tmp_path):
    settings = SelectionSettings(budget_frames=10)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for path in (tmp_path / "broken.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            shortlist_files([path], settings)
    pool().iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="hold no frames"):
        shortlist_files([tmp_path / "empty.parquet"], settings)


def test_selection_does_without_torch():
    code = "import sys, perception.selection.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
