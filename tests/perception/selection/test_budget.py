import itertools

import numpy as np
import pandas as pd
import pytest

from perception.errors import InputError
from perception.selection.budget import choose_frames
from perception.selection.k_centre import k_centre
from perception.selection.settings import Quota, SelectionSettings
from perception.selection.shortlist import shortlist


def pool(frames=200, seed=0, dimension=6):
    """Drives of ten frames a second apart; one frame in eight at night."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "frame_id": [f"f{index:04d}" for index in range(frames)],
            "score": generator.random(frames),
            "embedding": list(generator.normal(size=(frames, dimension)).astype(np.float32)),
            "drive_id": [f"drive{index // 10}" for index in range(frames)],
            "timestamp_utc": pd.to_datetime(np.arange(frames), unit="s", utc=True),
            "time_of_day": np.where(generator.random(frames) < 0.125, "night", "day"),
            "class_share": list(generator.dirichlet(np.full(3, 0.2), frames).astype(np.float32)),
            "measure": "mutual_information",
        }
    )


def labelled_of(frames, count=10):
    return frames.iloc[:count][["frame_id", "embedding"]]


def settings_of(strategy="k_centre", **changes):
    return SelectionSettings(**({"budget_frames": 20, "shortlist_frames": 100, "strategy": strategy} | changes))


def ids(found):
    return found["frame_id"].tolist()


STRATEGIES = ("top_n", "k_centre", "kmeans_plus_plus", "core_set", "random")
NIGHT = Quota(minimum_share=0.3, column="time_of_day", value="night")
BUSY = {"duplicate_distance": 2.0, "duplicate_gap_s": 2.5, "duplicate_rule": "all", "quotas": (NIGHT,)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("extra", [{}, BUSY])
def test_rows_may_come_in_any_order_and_in_any_shards(strategy, extra):
    frames, settings = pool(), settings_of(strategy, **extra)
    labelled = labelled_of(frames)
    whole = choose_frames(frames, settings, labelled)
    shuffled = choose_frames(frames.sample(frac=1, random_state=1), settings, labelled.iloc[::-1])
    pd.testing.assert_frame_equal(whole, shuffled)
    shards = [shortlist(frames.iloc[index::4], settings, labelled["frame_id"]) for index in range(4)]
    pd.testing.assert_frame_equal(whole, choose_frames(pd.concat(shards), settings, labelled))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chooses_exactly_the_budget_never_twice_and_never_what_is_labelled(strategy):
    frames = pool()
    for budget in (1, 2, 50, 190):
        settings = settings_of(strategy, budget_frames=budget, shortlist_frames=200)
        found = choose_frames(frames, settings, labelled_of(frames))
        assert len(set(ids(found))) == len(found) == budget
        assert not set(ids(found)) & set(labelled_of(frames)["frame_id"])
        assert found["rank"].tolist() == list(range(1, budget + 1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seed_same_choice(strategy):
    frames, found = pool(), {}
    for seed in (0, 0, 1):
        found.setdefault(seed, []).append(ids(choose_frames(frames, settings_of(strategy, seed=seed))))
    assert found[0][0] == found[0][1]
    if strategy in ("random", "kmeans_plus_plus", "core_set"):
        assert found[0][0] != found[1][0]
    else:
        assert found[0][0] == found[1][0]


def test_top_n_takes_the_highest_scores_and_of_equal_ones_the_lowest_frame_ids():
    frames = pool()
    frames["score"] = (frames["score"] * 5).round() / 5
    expected = sorted(zip(-frames["score"], frames["frame_id"], strict=True))[:20]
    assert ids(choose_frames(frames, settings_of("top_n"))) == [frame_id for _, frame_id in expected]


@pytest.mark.parametrize("with_labelled", [False, True])
def test_k_centre_is_the_weighted_greedy_choice_over_the_shortlist(with_labelled):
    frames = pool()
    labelled = labelled_of(frames) if with_labelled else None
    known = np.stack(labelled["embedding"]) if with_labelled else None
    rest = frames.iloc[10:] if with_labelled else frames
    best = rest.nlargest(100, "score").sort_values("frame_id")
    rows, _ = k_centre(np.stack(best["embedding"]), 20, weights=best["score"].to_numpy(), labelled=known)
    found = choose_frames(frames, settings_of("k_centre"), labelled)
    assert ids(found) == best["frame_id"].iloc[rows].tolist()


def test_core_set_ignores_scores():
    frames = pool()
    found = choose_frames(frames, settings_of("core_set", shortlist_frames=200), labelled_of(frames))
    rows, _ = k_centre(np.stack(frames["embedding"].iloc[10:]), 20, labelled=np.stack(labelled_of(frames)["embedding"]))
    assert ids(found) == frames["frame_id"].iloc[10 + rows].tolist()
    changed = frames.assign(score=frames["score"].to_numpy()[::-1])
    assert ids(choose_frames(changed, settings_of("core_set"))) == ids(choose_frames(frames, settings_of("core_set")))


def test_random_takes_every_frame_equally_often():
    frames = pool(frames=40)
    counts = dict.fromkeys(frames["frame_id"], 0)
    for seed in range(100):
        for frame_id in ids(choose_frames(frames, settings_of("random", budget_frames=10, seed=seed))):
            counts[frame_id] += 1
    observed = np.array(list(counts.values()))
    assert np.square(observed - 25).sum() / 25 < 73  # chi-square, 39 degrees of freedom, p < 0.001


def test_random_does_not_need_embeddings_or_scores_that_differ():
    frames = pool().drop(columns="embedding").assign(score=0.0)
    found = choose_frames(frames, settings_of("random"))
    assert len(found) == 20
    assert found["nearest_distance"].isna().all()


def test_kmeans_plus_plus_draws_in_proportion_to_score_times_distance():
    frames = pd.DataFrame(
        {
            "frame_id": ["a", "b", "c", "d"],
            "score": [0.2, 0.1, 0.0, 0.3],
            "embedding": [[1.0], [6.0], [9.0], [2.0]],
        }
    )
    labelled = pd.DataFrame({"frame_id": ["z"], "embedding": [[0.0]]})
    counts = dict.fromkeys("abcd", 0)
    for seed in range(150):
        settings = settings_of("kmeans_plus_plus", budget_frames=1, seed=seed)
        counts[ids(choose_frames(frames, settings, labelled))[0]] += 1
    assert counts["c"] == 0
    for frame_id, weight in (("a", 0.2), ("b", 0.6), ("d", 0.6)):
        assert counts[frame_id] == pytest.approx(150 * weight / 1.4, abs=23)  # 3.8 standard deviations


def test_kmeans_plus_plus_never_takes_what_has_no_score_or_no_distance():
    frames = pool(frames=30)
    frames.loc[:9, "score"] = 0.0
    frames.at[20, "embedding"] = frames.at[25, "embedding"]
    found = choose_frames(frames, settings_of("kmeans_plus_plus"))
    assert len(found) == 19  # ten have no score, and of the two equal ones the other is at distance 0
    assert found["score"].min() > 0
    assert len({"f0020", "f0025"} & set(ids(found))) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("limits", ["distance", "gap", "any", "all"])
def test_no_two_chosen_frames_of_a_drive_are_near_duplicates(strategy, limits):
    frames = pool()
    distance = 3.0 if limits != "gap" else None
    gap = 2.5 if limits != "distance" else None
    settings = settings_of(
        strategy,
        budget_frames=60,
        shortlist_frames=200,
        duplicate_distance=distance or 0.0,
        duplicate_gap_s=gap or 0.0,
        duplicate_rule="all" if limits == "all" else "any",
    )
    found = choose_frames(frames, settings)
    assert len(found) > 20
    rows = frames.set_index("frame_id").loc[ids(found)]
    for (_, left), (_, right) in itertools.combinations(rows.iterrows(), 2):
        if left["drive_id"] == right["drive_id"]:
            apart = [] if distance is None else [np.linalg.norm(left["embedding"] - right["embedding"]) >= distance]
            if gap is not None:
                apart.append(abs((left["timestamp_utc"] - right["timestamp_utc"]).total_seconds()) >= gap)
            assert any(apart) if limits == "all" else all(apart)


@pytest.mark.parametrize("rule, chosen", [("any", ["a"]), ("all", ["a", "b", "c"])])
def test_rule_all_spares_frames_that_are_close_in_one_way_only(rule, chosen):
    frames = pd.DataFrame(
        {
            "frame_id": ["a", "b", "c", "d"],
            "score": [0.9, 0.8, 0.7, 0.6],
            "embedding": [[0.0], [9.0], [0.1], [0.1]],
            "timestamp_utc": pd.to_datetime([0, 1, 60, 1], unit="s", utc=True),
            "drive_id": "one",
        }
    )
    limits = {"duplicate_distance": 1.0, "duplicate_gap_s": 5.0, "duplicate_rule": rule}
    found = choose_frames(frames, settings_of("top_n", budget_frames=4, **limits))
    assert ids(found) == chosen


def test_near_duplicates_leave_fewer_frames_than_the_budget_when_nothing_else_is_there():
    frames = pool(frames=40)
    found = choose_frames(frames, settings_of("top_n", budget_frames=30, duplicate_gap_s=100.0))
    assert len(found) == 4  # one of each drive
    best = frames.loc[frames.groupby("drive_id")["score"].idxmax()].sort_values("score", ascending=False)
    assert ids(found) == best["frame_id"].tolist()


def test_frames_of_unknown_drive_or_time_duplicate_nothing():
    frames = pool(frames=40)
    frames["timestamp_utc"] = pd.NaT
    assert len(choose_frames(frames, settings_of("top_n", budget_frames=40, duplicate_gap_s=100.0))) == 40
    frames = pool(frames=40).assign(drive_id=None)
    assert len(choose_frames(frames, settings_of("top_n", budget_frames=40, duplicate_gap_s=100.0))) == 40


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gap_in_the_order_of_the_drive_needs_no_times_and_counts_from_labelled_frames(strategy):
    frames = pool(frames=200).assign(timestamp_utc=pd.NaT)
    frames["drive_place"] = frames.groupby("drive_id").cumcount()
    labelled, rest = frames.iloc[:6], frames.iloc[6:]
    settings = settings_of(strategy, budget_frames=30, shortlist_frames=194, duplicate_gap_frames=4)
    found = choose_frames(rest, settings, labelled[["frame_id", "embedding", "drive_id", "drive_place"]])
    assert len(found) > 15
    kept = frames.set_index("frame_id").loc[ids(found)]
    for one, other in itertools.chain(
        itertools.combinations(kept.itertuples(), 2), itertools.product(kept.itertuples(), labelled.itertuples())
    ):
        assert one.drive_id != other.drive_id or abs(one.drive_place - other.drive_place) >= 4


def test_labelled_frames_close_what_is_near_them_by_every_rule():
    frames = pd.DataFrame(
        {
            "frame_id": ["a", "b", "c", "d"],
            "score": [0.9, 0.8, 0.7, 0.6],
            "embedding": [[0.0], [9.0], [0.1], [0.1]],
            "timestamp_utc": pd.to_datetime([0, 1, 60, 1], unit="s", utc=True),
            "drive_id": ["one", "one", "one", "two"],
        }
    )
    known = frames.iloc[:1]
    limits = {"duplicate_distance": 1.0, "duplicate_gap_s": 5.0}
    for rule, chosen in (("any", ["d"]), ("all", ["b", "c", "d"])):
        found = choose_frames(frames, settings_of("top_n", budget_frames=3, duplicate_rule=rule, **limits), known)
        assert ids(found) == chosen
    # Without its drive a labelled frame is only never chosen again.
    bare = known[["frame_id", "embedding"]]
    assert ids(choose_frames(frames, settings_of("top_n", budget_frames=1, **limits), bare)) == ["b"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_quotas_get_their_share_and_no_frame_more_than_they_need(strategy):
    frames = pool(frames=400)
    person = Quota(minimum_share=0.25, class_id=2, class_share=0.95)
    plain = choose_frames(frames, settings_of(strategy))
    found = choose_frames(frames, settings_of(strategy, quotas=(NIGHT, person)))
    night = found["time_of_day"] == "night"
    persons = np.array([row[2] >= 0.95 for row in found["class_share"]])
    assert len(found) == 20
    assert night.sum() >= 6
    assert persons.sum() >= 5
    free = 20 - 6 - 5
    if strategy in ("top_n", "k_centre"):
        assert ids(found)[:free] == ids(plain)[:free]
    assert found["reason"].str.contains("due to quota").sum() <= 11


def test_top_n_with_a_quota_is_the_best_night_frames_and_the_best_others():
    frames = pool(frames=400)
    found = choose_frames(frames, settings_of("top_n", quotas=(NIGHT,)))
    free = frames.nlargest(20, "score")
    missing = 6 - (free["time_of_day"] == "night").sum()
    night = frames[(frames["time_of_day"] == "night") & ~frames["frame_id"].isin(free["frame_id"])]
    expected = {*night.nlargest(missing, "score")["frame_id"]}
    assert missing > 0
    assert expected <= set(ids(found))
    assert (found["time_of_day"] == "night").sum() == 6


def test_quota_asks_for_no_more_than_there_is():
    frames = pool()
    frames["time_of_day"] = "day"
    frames.loc[[50, 60], "time_of_day"] = "night"
    frames.loc[[70, 80], "time_of_day"] = None
    found = choose_frames(frames, settings_of("top_n", quotas=(NIGHT,)))
    assert len(found) == 20
    assert {"f0050", "f0060"} <= set(ids(found))


def test_cosine_compares_directions_only():
    frames = pool()
    scales = np.random.default_rng(5).uniform(0.1, 10, len(frames)).astype(np.float32)
    longer = frames.assign(embedding=[row * scale for row, scale in zip(frames["embedding"], scales, strict=True)])
    cosine = settings_of(metric="cosine")
    assert ids(choose_frames(longer, cosine)) == ids(choose_frames(frames, cosine))
    assert ids(choose_frames(longer, settings_of())) != ids(choose_frames(frames, settings_of()))


def test_reasons_name_score_distance_and_what_was_displaced():
    frames = pd.DataFrame(
        {
            "frame_id": ["a", "b", "c", "d"],
            "score": [0.9, 0.8, 0.7, 0.1],
            "embedding": [[0.0, 0.0], [0.0, 0.5], [3.0, 4.0], [1.0, 0.0]],
            "drive_id": "one",
            "measure": "mutual_information",
        }
    )
    labelled = pd.DataFrame({"frame_id": ["z"], "embedding": [[-12.0, 5.0]]})
    found = choose_frames(frames, settings_of("top_n", budget_frames=2, duplicate_distance=1.0), labelled)
    assert ids(found) == ["a", "c"]
    assert found["nearest_frame_id"].tolist() == ["z", "a"]
    assert found["nearest_distance"].tolist() == pytest.approx([13.0, 5.0])
    assert pd.isna(found["displaced_frame_id"][0])
    assert found["displaced_frame_id"][1] == "b"
    assert found["reason"].tolist() == [
        "mutual_information 0.9, place 1 of 4 on the shortlist; highest score left; "
        "13 from z, the nearest labelled or chosen frame; suppressed 1 near-duplicates",
        "mutual_information 0.7, place 3 of 4 on the shortlist; highest score left; "
        "5 from a, the nearest labelled or chosen frame; in place of b, a near-duplicate of a",
    ]


def test_nearest_distances_are_those_of_a_plain_search():
    frames = pool()
    found = choose_frames(frames, settings_of("k_centre"), labelled_of(frames))
    earlier = dict(labelled_of(frames).itertuples(index=False))
    points = frames.set_index("frame_id")["embedding"]
    for row in found.itertuples():
        distances = {name: np.linalg.norm(points[row.frame_id] - point) for name, point in earlier.items()}
        assert row.nearest_distance == pytest.approx(min(distances.values()), rel=1e-5)
        assert distances[row.nearest_frame_id] == pytest.approx(min(distances.values()), rel=1e-5)
        earlier[row.frame_id] = points[row.frame_id]


def test_displaced_frames_are_those_that_the_score_alone_would_have_chosen():
    frames = pool()
    found = choose_frames(frames, settings_of("k_centre"))
    best = set(frames.nlargest(20, "score")["frame_id"])
    assert set(found["displaced_frame_id"].dropna()) == best - set(ids(found))
    assert found["displaced_frame_id"].isna().sum() == len(best & set(ids(found)))


def test_budget_larger_than_the_pool_is_refused():
    frames = pool(frames=25)
    with pytest.raises(InputError, match="larger than the pool of 15 unlabelled frames"):
        choose_frames(frames, settings_of("top_n"), labelled_of(frames))


@pytest.mark.parametrize(
    "column, changes",
    [
        ("embedding", {}),
        ("drive_id", {"duplicate_gap_s": 1.0}),
        ("timestamp_utc", {"duplicate_gap_s": 1.0}),
        ("time_of_day", {"quotas": (NIGHT,)}),
    ],
)
def test_missing_columns_are_refused_by_name(column, changes):
    with pytest.raises(InputError, match=f"no column '{column}'"):
        choose_frames(pool().drop(columns=column), settings_of(**changes))


def test_embeddings_that_do_not_fit_are_refused():
    frames = pool()
    short = frames.copy()
    short.at[3, "embedding"] = np.zeros(2, np.float32)
    with pytest.raises(InputError, match="frame f0003 has an embedding of length 2, others 6"):
        choose_frames(short, settings_of(shortlist_frames=200))
    for value, metric in ((np.nan, "euclidean"), (0.0, "cosine")):
        wrong = frames.copy()
        wrong.at[3, "embedding"] = np.full(6, value, np.float32)
        with pytest.raises(InputError, match="frame f0003 has an embedding that is zero or not finite"):
            choose_frames(wrong, settings_of(shortlist_frames=200, metric=metric))
    with pytest.raises(InputError, match="labelled frames have embeddings of length 4, candidates of 6"):
        choose_frames(frames, settings_of(), labelled_of(pool(dimension=4)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_frames": 0},
        {"strategy": "best"},
        {"metric": "manhattan"},
        {"duplicate_rule": "both"},
        {"shortlist_frames": 19},
        {"duplicate_distance": -1.0},
        {"duplicate_gap_s": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        settings_of(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_share": 0.1},
        {"minimum_share": 0.1, "column": "weather"},
        {"minimum_share": 0.1, "column": "weather", "value": "fog", "class_id": 3},
        {"minimum_share": 0.0, "class_id": 3},
        {"minimum_share": 0.1, "class_id": 3, "class_share": 2.0},
    ],
)
def test_quotas_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=r"Quota\."):
        Quota(**wrong)
