"""The no-regression rule on simulated nights whose truth is known, and on cases small enough to see through."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perception.errors import InputError
from perception.metrics import comparison
from perception.metrics.comparison import RegressionRule, compare, seed_spread
from perception.metrics.confusion import mean_iou
from perception.metrics.contract import Clause, Contract, Exemption
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.verdict import decide

CLASSES = ("road", "building", "sky", "vegetation", "car", "person", "pole", "sign")
SHARES = np.array([0.3, 0.22, 0.15, 0.2, 0.08, 0.015, 0.02, 0.015])
RECALL = np.array([0.95, 0.85, 0.95, 0.85, 0.8, 0.5, 0.45, 0.5])
TIMES = ("day", "twilight", "night", "artificial_light", "backlit")
WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
PIXELS = 20_000


def drive_facts(drives, generator):
    return pd.DataFrame(
        {
            "drive_id": [f"d{number:04d}" for number in range(drives)],
            "time_of_day": generator.choice(TIMES, drives),
            "weather": generator.choice(WEATHERS, drives),
            "scene": "urban",
            "frames": 2,
        }
    )


def simulate(facts, scene_seed, network_seed):
    """Draw per-drive confusion matrices: a drive is hard for every network; a network differs a little in each class."""
    scene, network = np.random.default_rng(scene_seed), np.random.default_rng(network_seed)
    logit = np.log(RECALL / (1 - RECALL)) + network.normal(0, 0.04, len(CLASSES))  # what a seed changes
    counts = np.zeros((len(facts), len(CLASSES), len(CLASSES)), np.int64)
    for row in range(len(facts)):
        labelled = scene.multinomial(PIXELS, scene.dirichlet(30 * SHARES))
        hardness = scene.normal(0, 0.5) + scene.normal(0, 0.3, len(CLASSES))
        recall = 1 / (1 + np.exp(-(logit + hardness + network.normal(0, 0.25, len(CLASSES)))))
        for k, total in enumerate(labelled):
            others = SHARES * (np.arange(len(CLASSES)) != k)
            counts[row, k] = network.multinomial(
                total, others / others.sum() * (1 - recall[k]) + recall[k] * (others == 0)
            )
    frames = pd.DataFrame({"frame_id": facts.drive_id, "drive_id": facts.drive_id})
    return SegmentationScore(groups=facts, counts=counts, frames=frames)


def worsened(score, rows, points):
    """Turn the same share of right pixels wrong in every class of some drives until their mIoU is that much lower."""
    before, low, high = mean_iou(score.counts[rows].sum(axis=0)), 0.0, 0.5
    for _ in range(20):
        share = 0.5 * (low + high)
        counts = score.counts.copy()
        lost = np.rint(np.diagonal(counts[rows], axis1=1, axis2=2) * share).astype(np.int64)
        for k in range(len(CLASSES)):
            counts[rows, k, k] -= lost[:, k]
            counts[rows, k, (k + 1) % len(CLASSES)] += lost[:, k]
        fallen = before - mean_iou(counts[rows].sum(axis=0))
        low, high = (share, high) if fallen < points else (low, share)
    assert fallen == pytest.approx(points, abs=2e-4)
    return replace(score, counts=counts)


def resampled(score, drawn):
    groups = score.groups.iloc[drawn].reset_index(drop=True)
    return replace(
        score, groups=groups.assign(drive_id=[f"d{n:05d}" for n in range(len(drawn))]), counts=score.counts[drawn]
    )


TONIGHT = date(2026, 11, 30)
CONTRACT = Contract(
    clauses=(
        Clause(
            figures=("overall", "time_of_day=*", "weather=*"),
            share=1,
            least=0.02,
            most=0.02,
            minimum_drives=8,
            origin="a test",
        ),
        Clause(figures=("class=*",), share=1, least=0.05, most=0.05, minimum_drives=8, origin="a test"),
        Clause(figures=("scene=*",), share=1, least=0.02, most=0.02, required=False, origin="a test"),
    )
)
CLAUSES = CONTRACT.named({}, dict.fromkeys(CLASSES, True))


def verdict(champion, challenger, rule, contract=CONTRACT):
    clauses = contract.named({}, dict.fromkeys(CLASSES, True))
    return decide({"champion": compare(champion, challenger, CLASSES, clauses, rule)}, contract, TONIGHT)


def outcomes(champion, challenger, rule, clauses=CLAUSES):
    return {each.name: each.outcome for each in compare(champion, challenger, CLASSES, clauses, rule).judgements}


def refusals(champion, challenger, nights, drives, rule, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(nights):
        drawn = generator.integers(0, len(champion.groups), drives)
        found.append(verdict(resampled(champion, drawn), resampled(challenger, drawn), rule))
    return found


@pytest.fixture(scope="module")
def facts():
    return drive_facts(600, np.random.default_rng(0))


RULE = RegressionRule()


def test_networks_that_differ_by_their_seed_are_refused_in_at_most_five_per_cent_of_nights(facts):
    champion, challenger = simulate(facts, 1, 2), simulate(facts, 1, 3)
    verdicts = refusals(champion, challenger, 120, 250, RULE)
    assert sum(verdict.decision == "refuse" for verdict in verdicts) <= 6
    assert sum(verdict.decision == "promote" for verdict in verdicts) >= 20


def test_three_points_worse_in_one_condition_is_refused_in_at_least_95_per_cent_and_named(facts):
    champion = simulate(facts, 1, 2)
    rows = (facts.time_of_day == "night").to_numpy(bool)
    challenger = worsened(simulate(facts, 1, 3), rows, 0.03)
    verdicts = refusals(champion, challenger, 120, 250, RULE)
    named = [v.decision == "refuse" and any("time_of_day=night" in reason for reason in v.reasons) for v in verdicts]
    assert sum(named) >= 114


def shaken(score, network_seed, spread):
    """Turn right pixels wrong, or wrong ones right, by an amount that each class of a network has for itself."""
    shares = np.random.default_rng(network_seed).normal(0, spread, len(CLASSES))
    counts = score.counts.copy()
    for k, share in enumerate(shares):
        wrong = (k + 1) % len(CLASSES)
        source, target = (k, wrong) if share > 0 else (wrong, k)
        moved = np.rint(np.minimum(abs(share), 1) * counts[:, k, source]).astype(np.int64)
        counts[:, k, source] -= moved
        counts[:, k, target] += moved
    return replace(score, counts=counts)


def test_margins_follow_the_measured_spread_between_seeds(facts):
    base = simulate(facts, 1, 2)
    networks = [shaken(base, seed, 0.08) for seed in range(14)]
    rule = replace(RULE, seed_spread=seed_spread(networks[2:], CLASSES, CLAUSES))
    assert sum(v.decision == "refuse" for v in refusals(networks[0], networks[1], 10, 250, RULE)) > 5, (
        "a case that matters"
    )
    verdicts = refusals(networks[0], networks[1], 60, 250, rule)
    assert sum(each.decision == "refuse" for each in verdicts) <= 3
    assert not any(each.decision == "promote" for each in verdicts), "what may be released stays as the contract says"
    lost = networks[1].counts.copy()
    lost[:, 0, 1] += lost[:, 0, 0] // 2  # half of the road
    lost[:, 0, 0] -= lost[:, 0, 0] // 2
    assert verdict(networks[0], replace(networks[1], counts=lost), rule).decision == "refuse"


def test_the_spread_between_seeds_is_the_standard_deviation_drawn_to_that_of_its_kind(facts):
    networks = [simulate(facts.head(80), 1, seed) for seed in range(3)]
    spread = seed_spread(networks, CLASSES, CLAUSES)
    found = [compare(networks[0], network, CLASSES, CLAUSES, RULE) for network in networks]
    figures = [{each.name: each.challenger for each in one.judgements} for one in found]
    conditions = {name for name in figures[0] if name != "overall" and not name.startswith("class=")}
    seen = {name for name in conditions if name != "scene=urban"}  # all frames are urban: there are no others
    assert set(spread) == set(figures[0]) | {f"{name} apart" for name in seen}
    for kind in (True, False):
        names = [name for name in figures[0] if name.startswith("class=") is kind]
        own = {name: np.var([values[name] for values in figures], ddof=1) for name in names}
        for name in names:
            expected = np.sqrt((own[name] + np.mean(list(own.values()))) / 2)
            assert spread[name] == pytest.approx(expected), name
    same = seed_spread([networks[0], networks[0]], CLASSES, CLAUSES)
    assert set(same.values()) == {0.0}
    with pytest.raises(InputError, match="needs two networks"):
        seed_spread(networks[:1], CLASSES, CLAUSES)
    with pytest.raises(InputError, match=r"seed_spread.overall = -1"):
        RegressionRule(seed_spread={"overall": -1.0})


def test_the_same_network_twice_is_promoted(facts):
    champion = simulate(facts.head(100), 1, 2)
    found = compare(champion, champion, CLASSES, CLAUSES, RULE)
    assert {each.outcome for each in found.judgements} == {"no worse"}
    assert all(each.difference == 0 for each in found.judgements)
    assert verdict(champion, champion, RULE).decision == "promote"


def test_a_lost_class_is_refused_by_name(facts):
    champion = simulate(facts.head(200), 1, 2)
    counts = champion.counts.copy()
    counts[:, 5, 1] += counts[:, 5, 5]  # persons are seen as buildings
    counts[:, 5, 5] = 0
    found = verdict(champion, replace(champion, counts=counts), RULE)
    assert found.decision == "refuse"
    assert outcomes(champion, replace(champion, counts=counts), RULE)["class=person"] == "worse"


def test_a_class_that_is_hardly_found_may_lose_a_share_of_that_only(facts):
    champion = simulate(facts.head(200), 1, 2)
    faint, gone = champion.counts.copy(), champion.counts.copy()
    faint[:, 5, 1] += faint[:, 5, 5] - faint[:, 5, 5] // 20
    faint[:, 5, 5] //= 20
    gone[:, 5, 1] += gone[:, 5, 5]
    gone[:, 5, 5] = 0
    before, after = replace(champion, counts=faint), replace(champion, counts=gone)
    assert outcomes(before, after, RULE)["class=person"] == "no worse", "within five points, as there are hardly three"
    ours = Contract().named({}, dict.fromkeys(CLASSES, True))
    (person,) = (j for j in compare(before, after, CLASSES, ours, RULE).judgements if j.name == "class=person")
    assert person.outcome == "worse" and person.margin == pytest.approx(max(0.01, person.champion / 4))


def test_what_is_surely_above_the_champion_is_better(facts):
    champion = simulate(facts.head(200), 1, 2)
    counts = champion.counts.copy()
    counts[:, 5, 5] += counts[:, 5].sum(axis=1) - counts[:, 5, 5]  # every person is found
    counts[:, 5, [0, 1, 2, 3, 4, 6, 7]] = 0
    found = verdict(champion, replace(champion, counts=counts), RULE)
    assert outcomes(champion, replace(champion, counts=counts), RULE)["class=person"] == "better"
    assert found.decision == "promote" and "better in" in found.reason and "class=person" in found.reason


def test_a_test_set_of_few_drives_is_not_enough_evidence(facts):
    champion, challenger = simulate(facts.head(5), 1, 2), simulate(facts.head(5), 1, 3)
    found = verdict(champion, challenger, RULE)
    assert found.decision == "not_enough_evidence" and found.judged == ()
    assert "overall (5 of 8)" in found.reason


def test_a_small_test_set_holds_and_says_how_many_drives_would_tell(facts):
    champion, challenger = simulate(facts.head(100), 1, 2), simulate(facts.head(100), 1, 9)
    tight = tuple(replace(each, least=0.002, most=0.002) for each in CONTRACT.clauses)
    found = verdict(champion, challenger, RULE, Contract(clauses=tight))
    assert found.decision == "hold"
    clauses = Contract(clauses=tight).named({}, dict.fromkeys(CLASSES, True))
    opened = [j for j in compare(champion, challenger, CLASSES, clauses, RULE).judgements if j.outcome == "open"]
    assert any(each.drives_needed and each.drives_needed > each.drives for each in opened)
    assert "drives would tell" in found.reason


def test_as_many_drives_as_are_said_to_be_needed_show_it_in_four_of_five_cases():
    random, shown = np.random.default_rng(3), 0
    drives = comparison._drives_needed(comparison._Loss(0.02, 0.01, 99.0, np.zeros(0)), 100, 0.95)
    for _ in range(2000):
        values = random.normal(0.02, 0.1, drives)  # a spread that gives 100 drives an error of 0.01
        shown += values.mean() - stats.t.ppf(0.95, drives - 1) * values.std(ddof=1) / np.sqrt(drives) > 0
    assert 0.77 <= shown / 2000 <= 0.83


def test_a_condition_without_enough_drives_holds_the_release_and_is_named(facts):
    few = facts.head(120).copy()
    few.loc[few.index[3:], "weather"] = few.weather.iloc[3:].replace("snow", "clear")
    few.loc[few.index[:3], "weather"] = "snow"
    champion = simulate(few, 1, 2)
    found = verdict(champion, champion, RULE)
    assert found.decision == "not_enough_evidence" and found.not_judged == ("weather=snow",)
    assert "weather=snow (3 of 8)" in found.reason
    assert "weather=snow" not in found.judged and "weather=rain" in found.judged


def test_an_exemption_lets_a_gap_pass_on_its_nights_and_is_told(facts):
    near = facts.head(200)
    near = near.assign(weather=near.weather.replace("snow", "clear"))
    champion = simulate(near, 1, 2)
    signed = {
        "figure": "weather=snow",
        "by": "Ada Lovelace",
        "reason": "it is July",
        "first_night": TONIGHT,
        "nights": 2,
    }
    for first, decision in ((TONIGHT, "promote"), (date(2026, 11, 29), "promote"), (date(2026, 11, 28), "not_enough_evidence"),
                            (date(2026, 12, 1), "not_enough_evidence")):  # fmt: skip
        contract = replace(CONTRACT, exemptions=(Exemption(**signed | {"first_night": first}),))
        found = verdict(champion, champion, RULE, contract)
        assert found.decision == decision and found.not_judged == ("weather=snow",)
        assert ("Ada Lovelace: it is July" in found.reason) is (decision == "promote")


def test_a_reference_release_holds_what_the_champion_lets_pass(facts):
    near = facts.head(400)
    reference = simulate(near, 1, 2)
    every = np.ones(len(near), bool)
    champion, challenger = worsened(reference, every, 0.015), worsened(reference, every, 0.03)
    against = {name: compare(other, challenger, CLASSES, CLAUSES, RULE) for name, other in
               (("the champion", champion), ("the reference release", reference))}  # fmt: skip
    alone = decide({"the champion": against["the champion"]}, CONTRACT, TONIGHT)
    both = decide(against, CONTRACT, TONIGHT)
    assert alone.decision == "promote"
    assert both.decision == "refuse" and "of the reference release" in both.reason


def test_the_judged_difference_is_that_of_the_miou(facts):
    champion, challenger = simulate(facts.head(80), 1, 2), simulate(facts.head(80), 1, 3)
    found = compare(champion, challenger, CLASSES, CLAUSES, RULE)
    overall = next(each for each in found.judgements if each.name == "overall")
    assert overall.difference == pytest.approx(challenger.miou() - champion.miou(), abs=1e-12)
    assert overall.lower < overall.difference < overall.upper


def test_scores_of_different_frames_are_refused(facts):
    champion = simulate(facts.head(20), 1, 2)
    with pytest.raises(InputError, match="same frames"):
        compare(champion, simulate(facts.head(21), 1, 2), CLASSES, CLAUSES, RULE)
    with pytest.raises(InputError, match="confidence"):
        RegressionRule(confidence=0.3)


def lifted(score, generator, night_points=0.0):
    """Turn one share of right pixels wrong in every class and condition alike; by night so many points more."""
    counts, share = score.counts.copy(), generator.uniform(0.0, 0.1)
    night = (score.groups.time_of_day == "night").to_numpy(bool)
    lost = (counts[:, range(len(CLASSES)), range(len(CLASSES))] * share).astype(np.int64)
    for k in range(len(CLASSES)):
        counts[:, k, k] -= lost[:, k]
        counts[:, k, (k + 1) % len(CLASSES)] += lost[:, k]
    moved = replace(score, counts=counts)
    return worsened(moved, night, night_points) if night_points else moved


def test_a_condition_that_is_set_apart_is_refused_although_seeds_lift_all_conditions_by_more(facts):
    """Seeds move everything together by several points, so that margins grow far beyond a loss in one condition."""
    generator, near = np.random.default_rng(5), facts.head(400)
    networks = [lifted(simulate(near, 1, 10 + seed), generator) for seed in range(6)]
    spread = seed_spread(networks, CLASSES, CLAUSES)
    assert spread["time_of_day=night"] > 3 * spread["time_of_day=night apart"]
    champion = networks[0]
    worse = worsened(champion, (near.time_of_day == "night").to_numpy(bool), 0.04)
    unaware = {name: each for name, each in spread.items() if not name.endswith(" apart")}
    assert verdict(champion, worse, replace(RULE, seed_spread=unaware)).decision == "hold"
    aware = replace(RULE, seed_spread=spread)
    refused = [j for j in compare(champion, worse, CLASSES, CLAUSES, aware).judgements if j.outcome == "worse"]
    assert [each.name for each in refused] == ["time_of_day=night"]
    assert refused[0].margin == 0.02 and refused[0].apart < -refused[0].apart_margin
    assert "more than on all other frames, where it may be" in verdict(champion, worse, aware).reason
    for other in networks[1:]:
        assert verdict(champion, other, aware).decision != "refuse"


def test_how_far_a_condition_lies_apart_is_its_difference_less_that_of_all_other_frames(facts):
    near = facts.head(200)
    champion, challenger = simulate(near, 1, 2), simulate(near, 1, 3)
    rule = replace(RULE, seed_spread={"time_of_day=night apart": 0.01})
    (night,) = (
        each for each in compare(champion, challenger, CLASSES, CLAUSES, rule).judgements if each.apart is not None
    )
    rows = (near.time_of_day == "night").to_numpy(bool)
    slow = [
        mean_iou(challenger.counts[part].sum(axis=0)) - mean_iou(champion.counts[part].sum(axis=0))
        for part in (rows, ~rows)
    ]
    assert night.name == "time_of_day=night" and night.apart == pytest.approx(slow[0] - slow[1])
