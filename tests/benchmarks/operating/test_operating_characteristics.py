"""A sample of the simulated fleet: that the verdict keeps its word, and that the world is what it says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.operating.command import study_of
from benchmarks.operating.page import NAME, write_results
from benchmarks.operating.studies import DRAWN, FILLED, Cell, Study, at_the_margin, equal_networks, months, run_study
from benchmarks.operating.world import CLASSES, World, draw_fleet, logit_losses, population, with_share
from perception.errors import InputError
from perception.metrics.confusion import iou_of_tallies, mean_iou, tallies

SAMPLE = Study(repeats=40, workers=1)


def test_a_loss_at_the_margin_is_hardly_ever_promoted():
    for figure, share in (("weather=fog", 0.05), ("overall", None)):
        (cell,) = at_the_margin(
            SAMPLE, np.random.default_rng(0), figure=figure, share=share, drives=240, test_set=FILLED
        )
        assert cell.share <= 0.05 + 2 * 0.035, (figure, cell.share)


def test_a_test_set_that_lacks_a_condition_promotes_nothing():
    (cell,) = at_the_margin(
        SAMPLE, np.random.default_rng(0), figure="weather=fog", share=0.01, drives=48, test_set=DRAWN
    )
    assert cell.share == 0.0


def test_equal_networks_are_mostly_promoted():
    (cell,) = equal_networks(SAMPLE, np.random.default_rng(1), drives=240)
    assert cell.share >= 0.7


def test_small_losses_do_not_add_up_over_the_months():
    (cell,) = months(replace(SAMPLE, nights=50), np.random.default_rng(2), trend=-0.5, year=0)
    assert cell.share == 1.0
    assert len(cell.about["levels"]) >= 13 and cell.about["levels"][-1] <= 0.5


def test_the_world_has_the_shares_and_losses_that_were_asked_for():
    world = with_share(World(), "weather=fog", 0.2)
    fleet = draw_fleet(world, 3000, np.random.default_rng(3))
    shares = fleet.groups.weather.value_counts(normalize=True)
    assert shares["fog"] == pytest.approx(0.2, abs=0.03) and shares["clear"] == pytest.approx(
        0.8 * 0.5 / 0.95, abs=0.03
    )
    (amount,) = logit_losses(population(world, "weather=fog", 0.0), "weather=fog", [0.05])
    before, after = (fleet.score(np.random.default_rng(4), loss) for loss in (0.0, fleet.loss("weather=fog", amount)))
    for rows, fall in ((fleet.rows("weather=fog"), 0.05), (~fleet.rows("weather=fog"), 0.0)):
        fallen = mean_iou(before.counts[rows].sum(axis=0)) - mean_iou(after.counts[rows].sum(axis=0))
        assert fallen == pytest.approx(fall, abs=0.005)
    filled = draw_fleet(World(), 100, np.random.default_rng(5), least=20)
    assert set(filled.groups.weather.value_counts()) == set(filled.groups.time_of_day.value_counts()) == {20}


@pytest.mark.parametrize("figure", ["class=person", "weather=fog"])
def test_the_loss_is_planted_at_the_margin_of_the_test_sets_that_were_filled_up(figure):
    generator, drives = np.random.default_rng(6), 100
    truth = population(World(), figure, SAMPLE.least / drives)
    margin = min(SAMPLE.clauses[figure].share * truth.expected(figure), SAMPLE.clauses[figure].most)
    (amount,) = logit_losses(truth, figure, [margin])
    counts = np.zeros((2, 11, 11))
    for _ in range(60):
        fleet = draw_fleet(World(), drives, generator, least=SAMPLE.least)
        networks = (fleet.score(generator), fleet.score(generator, fleet.loss(figure, amount)))
        counts += [score.counts[fleet.rows(figure)].sum(axis=0) for score in networks]
    iou = iou_of_tallies(tallies(counts))
    champion, challenger = iou[:, CLASSES.index("person")] if "class" in figure else iou.mean(axis=1)
    assert champion - challenger == pytest.approx(margin, abs=0.002)
    assert champion == pytest.approx(truth.expected(figure), abs=0.01)


def test_a_study_gives_the_same_with_one_process_or_two_and_its_page_tells_every_part(tmp_path):
    small = "repeats=1 years=1 nights=2 trends=[-0.5] drives=[100] falls=[0,5] workers=1 shares=[0.2]"
    study = study_of([*(f"study.{each}" for each in small.split()), "world.frames_per_drive=1"])
    cells = run_study(study)
    assert run_study(replace(study, workers=2)) == cells
    text = write_results(study, cells, "make operating-characteristics", 0.5, tmp_path).read_text()
    for words in ("filled up", "points a night", "correlation 0.8", "| 500 |", f"{NAME}.svg", "-0.5"):
        assert words in text, words
    assert (tmp_path / f"{NAME}.svg").exists() and (tmp_path / f"{NAME}.json").exists()


def test_a_share_has_its_standard_error():
    assert Cell(study="a", about={}, share=0.05, repeats=475).error == pytest.approx(0.01, abs=1e-4)
    with pytest.raises(InputError, match=r"must be study\.NAME"):
        study_of(["repeats=3"])
